"""`gmn evaluate` and `gmn report`: measure a model, and show or compare runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from model.problems import InputProblem, legible
from training.commands.common import (
    DataSpecs,
    DeviceOption,
    JsonOption,
    PluginOption,
    progress_bar,
)

if TYPE_CHECKING:
    from training.evaluation.report import ActivationMaps
    from training.evaluation.runs import Group


def evaluate(
    artefact: Annotated[
        str,
        typer.Argument(
            metavar="ARTEFACT",
            help="A .safetensors file, a run's folder, a name such as bundled, or a ready-made "
            "model, .xml or .onnx, which ranks by cosine.",
        ),
    ],
    data: DataSpecs,
    split: Annotated[
        Literal["all", "held-out"],
        typer.Option(
            help="All people, or those that the artefact's training held out; for a ready-made "
            "model, those that recipes hold out by default."
        ),
    ] = "all",
    scoring: Annotated[
        str | None,
        typer.Option(
            help="Comma-separated rankings: cosine, mnet, centred, which is the cosine of vectors "
            "minus the mean of their camera in the gallery, or k_reciprocal, which re-ranks cosine "
            "by common neighbours. By default all scorings of the artefact.",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write report.html and report.json here.")
    ] = None,
    premise: Annotated[
        bool,
        typer.Option(
            "--premise", help="Measure the domain gap of the sets in instance and in pair space."
        ),
    ] = False,
    no_pictures: Annotated[
        bool, typer.Option("--no-pictures", help="Leave people out of the page's rank lists.")
    ] = False,
    people: Annotated[
        int | None,
        typer.Option(
            "--people",
            min=2,
            help="The largest number of people to search for in each set, or in each of its "
            "random splits; always the same people.",
        ),
    ] = None,
    as_json: JsonOption = False,
    device: DeviceOption = "auto",
    plugins: PluginOption = None,
) -> None:
    """Measures an artefact on labelled crops: ranking, false alarms, calibration.

    A set with query and gallery splits is searched in these, a small set in random splits as in
    the papers, and any other set across its cameras. Every figure has a 95% bootstrap interval.
    The page in --out shows crops of the data unless --no-pictures is given; the JSON shows none.
    gmn report compares the folders of several evaluations.

    Example: gmn evaluate bundled --data cuhk01:/data/cuhk01 --out report
    """
    from model.artefact import load_artefact, resolve_artefact
    from model.precision import choose_device
    from training.commands.rendering import render_report
    from training.datasets.registry import read_datasets
    from training.evaluation.evaluate import evaluate as measure
    from training.evaluation.files import make_folder
    from training.evaluation.peers import SUFFIXES, Peer
    from training.evaluation.report import write_report
    from training.plugins import load_plugins
    from training.run_folder import ARTEFACT_NAME

    scorings = None if scoring is None else _scorings(scoring)
    load_plugins(plugins or ())
    file = resolve_artefact(artefact)
    if file.is_dir():
        file = file / ARTEFACT_NAME
    model = Peer(file) if file.suffix in SUFFIXES else load_artefact(file)
    if out is not None:
        make_folder(out)
    report, searches = measure(
        model,
        read_datasets(data),
        artefact,
        scorings=scorings,
        held_out=split == "held-out",
        premise=premise,
        people=people,
        device=choose_device(device),
        progress_bar=progress_bar,
    )
    if out is not None:
        write_report(out, report, () if no_pictures else searches)
    if as_json:
        typer.echo(report.model_dump_json(indent=2))
    else:
        render_report(report, out)


def _scorings(asked: str) -> list[str]:
    from training.evaluation.evaluate_search import RANKINGS

    names = [name.strip() for name in asked.split(",") if name.strip()]
    unknown = [name for name in names if name not in RANKINGS]
    if unknown or not names:
        wrong = unknown[0] if unknown else "nothing"
        raise InputProblem(f"--scoring names {legible(wrong)}; name some of {', '.join(RANKINGS)}")
    return [scoring for scoring in RANKINGS if scoring in names]


def report(
    runs: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN…",
            help="A folder made by gmn train or gmn evaluate --out, or NAME=FOLDER.",
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
        ),
    ] = None,
    crops: Annotated[int, typer.Option(min=1, max=100, help="How many crops to draw over.")] = 8,
    device: DeviceOption = "auto",
) -> None:
    """Shows one run on a page, or compares several.

    A comparison has all figures with intervals, the differences to the first model, paired over the
    same queries, and the settings that differ. Folders of one artefact count as one model, and
    models whose recipes differ in the seed alone as one model with several seeds. The page loads
    nothing from elsewhere; a JSON beside it has the numbers. With --maps the page shows people of
    that data set.

    Example: gmn report baseline=runs/baseline full=runs/full --out runs/compared
    """
    from training.commands.common import print_tables
    from training.evaluation import charts
    from training.evaluation.compare import best_rankings, compare, comparison_tables
    from training.evaluation.files import make_folder
    from training.evaluation.report import write_page, write_report
    from training.evaluation.runs import group_runs, read_run

    folders = [read_run(run) for run in runs]
    groups = group_runs(folders)
    make_folder(out)
    drawn = _maps(groups, maps, crops, device) if maps else None
    if len(folders) > 1:
        comparison = compare(groups)
        tables = comparison_tables(comparison)
        write_page(
            out,
            "comparison",
            comparison,
            "tables.html",
            page="report",
            title=" · ".join(comparison.runs),
            summary="Differences are to the first model.",
            charts=[
                chart
                for dataset in comparison.datasets
                for chart in charts.compared(dataset, best_rankings(dataset))
            ],
            tables=tables,
            remarks=(),
            runs=comparison.runs,
            maps=drawn,
        )
        print_tables(tables)
    else:
        write_report(out, folders[0].report, maps=drawn)
    typer.echo(f"Report: {out / 'report.html'}")


def _maps(groups: Sequence[Group], spec: str, crops: int, device: str) -> ActivationMaps:
    from model.precision import choose_device
    from training.datasets.registry import read_dataset
    from training.evaluation.activation_maps import choose_crops, draw_maps
    from training.evaluation.report import ActivationMaps

    records = choose_crops(read_dataset(spec), crops)
    chosen = choose_device(device)
    return ActivationMaps(
        records,
        # Maps of a recipe's other seeds would look alike.
        {group.name: draw_maps(group.first.load_artefact(), records, chosen) for group in groups},
    )
