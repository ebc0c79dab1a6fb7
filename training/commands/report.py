"""`gmn report`: one page that shows a run, or compares several."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

if TYPE_CHECKING:
    from training.evaluation.report import ActivationMaps
    from training.evaluation.runs import Group


def report(
    runs: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN…",
            help="A folder made by gmn train or gmn evaluate --out, or NAME=FOLDER.",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where to write the page.")] = Path(
        "report"
    ),
    maps: Annotated[
        str | None,
        typer.Option(
            metavar="SPEC",
            help="Draw every model's activation maps over crops of this data set.",
            show_default=False,
        ),
    ] = None,
    crops: Annotated[int, typer.Option(min=1, max=100, help="How many crops to draw over.")] = 8,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
) -> None:
    """Shows one run on a page, or compares several.

    A comparison has every figure with its interval, paired differences over the same queries, and
    the settings that differ. Folders of one artefact count as one model, and models whose recipes
    differ in the seed alone as one with a spread. The first model is what the others differ from.
    The page loads nothing from elsewhere; the numbers are in the JSON beside it. With --maps it
    shows people of that set.

    Example: gmn report baseline=runs/baseline full=runs/full --out runs/compared
    """
    from training.evaluation.comparison_page import write_comparison
    from training.evaluation.files import make_folder
    from training.evaluation.report import report_page, write_texts
    from training.evaluation.runs import group_runs, read_run

    folders = [read_run(run) for run in runs]
    groups = group_runs(folders)
    make_folder(out)
    drawn = _maps(groups, maps, crops, device) if maps else None
    if len(folders) > 1:
        write_comparison(out, groups, drawn)
    else:
        only = folders[0]
        page = report_page(only.report, maps=drawn)
        numbers = only.report.model_dump_json(indent=2) + "\n"
        write_texts(out, {"report.json": numbers, "report.html": page})
    Console().print(f"Report: {out / 'report.html'}", markup=False, soft_wrap=True)


def _maps(groups: Sequence[Group], spec: str, crops: int, device: str) -> ActivationMaps:
    from model.precision import choose_device
    from training.datasets.registry import read_dataset
    from training.evaluation.activation_maps import choose_crops, draw_maps
    from training.evaluation.report import ActivationMaps

    records = choose_crops(read_dataset(spec), crops)
    chosen = choose_device(device)
    return ActivationMaps(
        records,
        # Seeds of one recipe look alike; the first stands for them.
        {
            group.name: draw_maps(group.first.load_artefact().on(chosen), records)
            for group in groups
        },
    )
