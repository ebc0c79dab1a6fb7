"""The results page's premise is that of the kept JSON."""

from __future__ import annotations

import json

from bench.premise import KEPT, table
from bench.results import PAGE


def test_the_page_shows_what_the_json_holds() -> None:
    assert table(json.loads(KEPT.read_text(encoding="utf-8"))) in PAGE.read_text(encoding="utf-8")


def test_a_gap_is_told_in_both_spaces_beside_what_chance_shows() -> None:
    space = {
        "classifier": {"mean": 0.9, "low": 0.8, "high": 0.95},
        "mmd": 0.02,
        "mmd_by_chance": 0.001,
    }
    gap = {"domains": ["lobby", "roof"], "instance": space, "pair": {**space, "mmd": 0.005}}
    assert table({"gaps": [gap]}).splitlines()[2:] == [
        "| lobby – roof | instance | 90.0 [80.0, 95.0] | 20.00 | 1.00 | 20.0 |",
        "| lobby – roof | pair | 90.0 [80.0, 95.0] | 5.00 | 1.00 | 5.0 |",
    ]
