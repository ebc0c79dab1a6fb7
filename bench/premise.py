"""The premise's table and figure on the results page, written from an evaluation report.

`python -m bench.premise runs/premise/report.json`, of a report made with `gmn evaluate --premise`,
keeps the gaps in `docs/results/premise.json` and the two spaces as `docs/figures/premise-*.svg`,
and writes the table between the page's markers `<!-- premise -->` and `<!-- /premise -->`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from bench.tables import FIGURES, RESULTS, ends, percent, publish, table
from training.evaluation.figures import projection_figure
from training.evaluation.results import Projection

HEADER = (
    *("domains", "space", "domain classifier's accuracy, %"),
    *("MMD²·10³", "by chance", "ratio"),
)


def markdown(premise: dict[str, Any]) -> str:
    """Both spaces' gaps, a line for two domains in one space."""
    rows = []
    for gap in premise["gaps"]:
        for space in ("instance", "pair"):
            found = gap[space]
            accuracy = percent(ends(found["classifier"]))
            mmd, chance = 1e3 * found["mmd"], 1e3 * found["mmd_by_chance"]
            figures = (accuracy, f"{mmd:.2f}", f"{chance:.2f}", f"{mmd / chance:.1f}")
            rows.append((" – ".join(gap["domains"]), space, *figures))
    return table(HEADER, rows)


def main(source: Path) -> None:
    """Writes table and figures from a report."""
    premise = json.loads(source.read_text(encoding="utf-8"))["premise"]
    for found in premise.pop("projections"):
        drawn = projection_figure(Projection.model_validate(found)).svg
        # Inside a page the element needs no name space, as a file it does.
        named = drawn.replace("<svg", '<svg xmlns="http://www.w3.org/2000/svg"', 1)
        (FIGURES / f"premise-{found['space']}.svg").write_text(named, encoding="utf-8")
    publish("premise", markdown(premise), premise, RESULTS)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
