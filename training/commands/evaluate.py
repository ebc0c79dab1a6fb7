"""`gmn evaluate`: measures an artefact on labelled crops."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from model.calibration import SCORINGS, Scoring
from model.problems import InputProblem
from training.commands.progress import progress_bar
from training.commands.rendering import render_report

if TYPE_CHECKING:
    from model.artefact import Artefact
    from training.datasets.record import Dataset
    from training.evaluation.pictures import SearchPictures
    from training.evaluation.protocols import Search
    from training.evaluation.results import EvaluationReport, PremiseResult


class Split(StrEnum):
    """Which people of a data set are searched for."""

    ALL = "all"
    HELD_OUT = "held-out"


def evaluate(
    artefact: Annotated[
        str, typer.Argument(metavar="ARTEFACT", help="A .safetensors file, or the word bundled.")
    ],
    data: Annotated[
        list[str],
        typer.Option(metavar="SPEC", help="KIND:PATH, such as cuhk01:/data/cuhk01; repeatable."),
    ],
    split: Annotated[
        Split,
        typer.Option(help="All people, or those that the artefact's training held out."),
    ] = Split.ALL,
    scoring: Annotated[str, typer.Option(help="Comma-separated: cosine, mnet, fused.")] = ",".join(
        SCORINGS
    ),
    peer: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="A model to stand beside, .xml or .onnx; repeatable."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write report.html and report.json here.")
    ] = None,
    premise: Annotated[
        bool | None,
        typer.Option(
            "--premise/--no-premise",
            help="Measure the domain gap in instance and in pair space; without a word it is "
            "measured for --out where two domains have 20 people each.",
            show_default=False,
        ),
    ] = None,
    no_pictures: Annotated[
        bool, typer.Option("--no-pictures", help="Leave people out of the page's rank lists.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
) -> None:
    """Measures an artefact on labelled crops: ranking, false alarms, calibration.

    A set with query and gallery splits is searched as it says; any other across its cameras. Every
    figure has a 95% bootstrap interval. The page in --out shows crops of the data, unless
    --no-pictures; the JSON never does.

    Example: gmn evaluate bundled --data cuhk01:/data/cuhk01 --out report
    """
    from model.artefact import Artefact, load_artefact, resolve_artefact
    from model.precision import choose_device
    from training.datasets.registry import read_datasets
    from training.evaluation.evaluating import build_report, evaluate_search
    from training.evaluation.files import make_folder
    from training.evaluation.peers import Peer
    from training.evaluation.report_page import write_report

    scorings = _scorings(scoring)
    loaded = load_artefact(resolve_artefact(artefact))
    if out is not None:
        make_folder(out)
    peers = [Peer(file) for file in peer or []]
    searches = [(dataset, _search(dataset, split, loaded)) for dataset in read_datasets(data)]
    chosen = choose_device(device)
    on_device = Artefact(
        loaded.description, loaded.embedder.to(chosen), loaded.metric_network.to(chosen)
    )
    results = [
        evaluate_search(on_device, dataset, search, scorings, peers, progress_bar)
        for dataset, search in searches
    ]
    report = build_report(artefact, loaded.description, split.value, results, chosen)
    report = report.model_copy(update={"premise": _premise(on_device, searches, premise, out)})
    if out is not None:
        write_report(out, report, [] if no_pictures else _pictures(searches, report))
    if as_json:
        typer.echo(report.model_dump_json(indent=2))
    else:
        render_report(report, Console(), out)


def _premise(
    artefact: Artefact,
    searches: Sequence[tuple[Dataset, Search]],
    asked: bool | None,
    out: Path | None,
) -> PremiseResult | None:
    """The domain gap, where it is asked for, or nobody said no and the page has a place for it."""
    from training.evaluation.premise import measure_premise, sample_couples

    if asked is False or (asked is None and out is None):
        return None
    couples = sample_couples([record for _, search in searches for record in search.records])
    if asked is None and not couples:
        return None
    crops = sum(4 * len(own) for own in couples.values())
    with progress_bar("Measuring the domain gap", crops) as bar:
        return measure_premise(artefact, couples, progress=bar)


def _pictures(
    searches: Sequence[tuple[Dataset, Search]], report: EvaluationReport
) -> list[SearchPictures]:
    from training.evaluation.pictures import picture_rank_lists

    return [
        picture_rank_lists(search, result.rank_lists)
        for (_, search), result in zip(searches, report.datasets, strict=True)
    ]


def _scorings(asked: str) -> list[Scoring]:
    names = [name.strip() for name in asked.split(",") if name.strip()]
    unknown = [name for name in names if name not in SCORINGS]
    if unknown or not names:
        wrong = unknown[0] if unknown else "nothing"
        raise InputProblem(f"--scoring names {wrong}; choose of {', '.join(SCORINGS)}")
    return [scoring for scoring in SCORINGS if scoring in names]


def _search(dataset: Dataset, split: Split, artefact: Artefact) -> Search:
    from training.evaluation.protocols import held_out_people, whole_set

    if split is Split.ALL:
        return whole_set(dataset)
    return held_out_people(dataset, artefact.description.provenance.held_out)
