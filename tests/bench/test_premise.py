"""The results page's premise is that of the kept JSON."""

from __future__ import annotations

import json

from bench.premise import markdown
from bench.tables import RESULTS, page_of


def test_the_page_shows_what_the_json_holds() -> None:
    page = page_of("premise").read_text(encoding="utf-8")
    assert markdown(json.loads((RESULTS / "premise.json").read_text(encoding="utf-8"))) in page


def test_a_gap_is_told_in_both_spaces_beside_what_chance_shows() -> None:
    space = {
        "classifier": {"mean": 0.9, "low": 0.8, "high": 0.95},
        "mmd": 0.02,
        "mmd_by_chance": 0.001,
    }
    gap = {"domains": ["lobby", "roof"], "instance": space, "pair": {**space, "mmd": 0.005}}
    assert markdown({"gaps": [gap]}).splitlines()[2:] == [
        "| lobby – roof | instance | 90.0 [80.0, 95.0] | 20.00 | 1.00 | 20.0 |",
        "| lobby – roof | pair | 90.0 [80.0, 95.0] | 5.00 | 1.00 | 5.0 |",
    ]
