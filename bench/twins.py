"""What an artefact does on cameras it never saw, measured on its twins and written into it.

`python -m bench.twins bundled.safetensors runs/without-cuhk01/unseen/report.json …`: a twin is
trained by the same recipe with one domain left out, and its report is of that domain. The figures
go into the artefact's provenance, each under the domain's name and that it was left out.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from model.artefact import add_metrics, load_artefact
from model.problems import InputProblem

OF_THE_RUN = (
    *("initial_weights", "initial_weights_data", "initial_weights_terms"),
    *("name", "description", "terms"),
)


def main(arguments: Sequence[str]) -> None:
    """Adds the figures of twins' reports to an artefact.

    Raises:
        InputProblem: for a report of another recipe, or of a domain that its twin was trained on.
    """
    artefact, *reports = (Path(argument) for argument in arguments)
    recipe = load_artefact(artefact).description.provenance.recipe
    figures: dict[str, Any] = {}
    for report in reports:
        figures |= unseen_figures(json.loads(report.read_text(encoding="utf-8")), recipe)
    add_metrics(artefact, artefact, figures)


def unseen_figures(report: dict[str, Any], recipe: dict[str, Any]) -> dict[str, Any]:
    """A report's metrics by "DOMAIN, left out of a twin": mean and ends of the 95% interval.

    Args:
        report: of a twin, on domains that were left out of its training.
        recipe: of the artefact whose twin it should be.
    """
    twin = report["provenance"]["recipe"]
    differing = [
        name for name in recipe if name not in OF_THE_RUN and twin.get(name) != recipe[name]
    ]
    if differing:
        raise InputProblem(
            f"the report's artefact was trained otherwise ({', '.join(differing)}), so it is no "
            "twin; train one with --leave-out and the same recipe"
        )
    trained_on = {data["name"] for data in report["provenance"]["data"]}
    figures = {}
    for dataset in report["datasets"]:
        if dataset["name"] in trained_on:
            raise InputProblem(f"the twin was trained on {dataset['name']}, which is not unseen")
        figures[f"{dataset['name']}, left out of a twin"] = {
            "protocol": dataset["protocol"],
            **{name: dataset[name] for name in ("queries", "gallery", "identities")},
            **{
                scoring: {
                    name: [round(figure[end], 4) for end in ("mean", "low", "high")]
                    for name, figure in found["metrics"].items()
                }
                for scoring, found in dataset["scorings"].items()
            },
        }
    return figures


if __name__ == "__main__":
    main(sys.argv[1:])
