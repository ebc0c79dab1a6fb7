"""The premise's table and figure on the results page, written from an evaluation report.

`python -m bench.premise runs/premise/report.json`, of a report made with `gmn evaluate --premise`,
keeps the gaps in `docs/results/premise.json` and the two spaces as `docs/figures/premise-*.svg`,
and writes the table between the page's markers `<!-- premise -->` and `<!-- /premise -->`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.ablation import RESULTS
from bench.figures import FIGURES, replace_table
from bench.results import PAGE
from training.evaluation.figures import projection_figure
from training.evaluation.results import Projection

KEPT = RESULTS / "premise.json"
SVG = 'xmlns="http://www.w3.org/2000/svg"'


def table(premise: dict[str, Any]) -> str:
    """Both spaces' gaps in Markdown, a line for two domains in one space."""
    lines = [
        "| domains | space | domain classifier's accuracy, % | MMD²·10³ | by chance | ratio |",
        "|---|---|---|---|---|---|",
    ]
    for gap in premise["gaps"]:
        for space in ("instance", "pair"):
            found = gap[space]
            mean, low, high = (100 * found["classifier"][end] for end in ("mean", "low", "high"))
            mmd, chance = 1e3 * found["mmd"], 1e3 * found["mmd_by_chance"]
            lines.append(
                f"| {' – '.join(gap['domains'])} | {space} | {mean:.1f} [{low:.1f}, {high:.1f}] "
                f"| {mmd:.2f} | {chance:.2f} | {mmd / chance:.1f} |"
            )
    return "\n".join(lines)


def condense(premise: dict[str, Any]) -> dict[str, Any]:
    """What of a report's premise is kept: everything but the points of the figure."""
    return {name: premise[name] for name in ("pair_feature", "people", "points", "gaps")}


def main(arguments: Sequence[str]) -> None:
    """Writes table and figures from the report that is named."""
    (source,) = arguments
    premise = json.loads(Path(source).read_text(encoding="utf-8"))["premise"]
    KEPT.write_text(json.dumps(condense(premise), indent=1) + "\n", encoding="utf-8")
    for found in premise["projections"]:
        drawn = projection_figure(Projection.model_validate(found)).svg
        # Inside a page the element needs no name space, as a file it does.
        named = drawn if SVG in drawn else drawn.replace("<svg", f"<svg {SVG}", 1)
        FIGURES.mkdir(parents=True, exist_ok=True)
        (FIGURES / f"premise-{found['space']}.svg").write_text(named, encoding="utf-8")
    page = replace_table(PAGE.read_text(encoding="utf-8"), "premise", table(condense(premise)))
    PAGE.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
