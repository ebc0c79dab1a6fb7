"""The README's tables, written from evaluation reports and never by hand.

`python -m bench.figures ablation 'cls + tri=runs/base/cuhk01/report.json' …` keeps the reports'
figures in `docs/figures/ablation.json` and writes the table between the README's markers
`<!-- ablation -->` and `<!-- /ablation -->`.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

from model.problems import InputProblem

ROOT = Path(__file__).parents[1]
FIGURES = ROOT / "docs" / "figures"
README = ROOT / "README.md"
METRICS = {"Rank-1": "rank_1", "mAP": "mAP"}
UNSEEN, HELD_OUT, SEEN = "unseen domain", "held-out identities", "seen in training"


def condense(label: str, report: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of one report: one per data set and ranking, a ready-made peer's among them.

    Args:
        label: what the report's artefact is called in the table.
        report: what `gmn evaluate --out` wrote to `report.json`.
    """
    trained_on = {data["name"] for data in report["provenance"]["data"]}
    rows = []
    for dataset in report["datasets"]:
        people = HELD_OUT if report["split"] == "held-out" else SEEN
        if dataset["name"] not in trained_on:
            people = UNSEEN
        for peer, rankings in ((False, dataset["scorings"]), (True, dataset["peers"])):
            for name, found in rankings.items():
                metrics = {
                    title: [found["metrics"][key][end] for end in ("mean", "low", "high")]
                    for title, key in METRICS.items()
                }
                rows.append(
                    {
                        "model": name if peer else label,
                        "data": dataset["name"],
                        "people": "training data unknown" if peer else people,
                        "queries": dataset["queries"],
                        "gallery": dataset["gallery"],
                        "identities": dataset["identities"],
                        "scoring": "cosine" if peer else name,
                        "metrics": metrics,
                    }
                )
    return rows


def markdown(rows: list[dict[str, Any]]) -> str:
    """A table with a row per model and data set, and a column per metric and scoring."""
    scorings = list(dict.fromkeys(row["scoring"] for row in rows))
    groups: dict[tuple[str, str], dict[str, dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["data"], row["model"]), {})[row["scoring"]] = row
    columns = [(title, scoring) for title in METRICS for scoring in scorings]
    lines = [
        "| data | model | " + " | ".join(f"{title} {scoring}" for title, scoring in columns) + " |",
        "|---|---|" + "---|" * len(columns),
    ]
    for (data, model), by_scoring in sorted(groups.items(), key=lambda entry: entry[0][0]):
        some = next(iter(by_scoring.values()))
        cells = [
            _percent(by_scoring[scoring]["metrics"][title]) if scoring in by_scoring else "–"
            for title, scoring in columns
        ]
        lines.append(f"| {data}, {some['people']} | {model} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def replace_table(text: str, name: str, table: str) -> str:
    """The README with the table between its two markers replaced.

    Raises:
        InputProblem: when the markers are not there.
    """
    pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
    if not pattern.search(text):
        raise InputProblem(f"README.md has no markers <!-- {name} --> and <!-- /{name} -->")
    return pattern.sub(lambda found: f"{found[1]}{table}\n{found[2]}", text)


def main(arguments: list[str]) -> None:
    """Writes one table from `NAME LABEL=REPORT…`."""
    name, *sources = arguments
    rows = []
    for source in sources:
        label, _, path = source.partition("=")
        rows += condense(label, json.loads(Path(path).read_text(encoding="utf-8")))
    FIGURES.mkdir(parents=True, exist_ok=True)
    (FIGURES / f"{name}.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    text = README.read_text(encoding="utf-8")
    README.write_text(replace_table(text, name, markdown(rows)), encoding="utf-8")


def _percent(interval: list[float]) -> str:
    mean, low, high = (100 * value for value in interval)
    return f"{mean:.1f} [{low:.1f}, {high:.1f}]"


if __name__ == "__main__":
    main(sys.argv[1:])
