"""`gmn evaluate`: measures an artefact on labelled crops."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from model.calibration import SCORINGS, Scoring
from model.problems import InputProblem
from training.commands.progress import progress_bar

if TYPE_CHECKING:
    import torch

    from model.artefact import Artefact
    from training.datasets.record import Dataset
    from training.evaluation.protocols import Search
    from training.evaluation.results import DatasetResult, EvaluationReport, Figure


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
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
) -> None:
    """Measures an artefact on labelled crops: ranking, false alarms, calibration.

    A set with query and gallery splits is searched as it says; any other across its cameras. Every
    figure has a 95% bootstrap interval.

    Example: gmn evaluate bundled --data cuhk01:/data/cuhk01 --out report
    """
    from model.artefact import Artefact, load_artefact, resolve_artefact
    from model.precision import choose_device
    from training.datasets.registry import read_datasets
    from training.evaluation.evaluating import evaluate_search
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
    report = _report(
        artefact,
        on_device,
        split,
        [
            evaluate_search(on_device, dataset, search, scorings, peers, progress_bar)
            for dataset, search in searches
        ],
        chosen,
    )
    if out is not None:
        write_report(out, report)
    if as_json:
        typer.echo(report.model_dump_json(indent=2))
    else:
        _render(report, Console(), out)


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


def _report(
    name: str,
    artefact: Artefact,
    split: Split,
    results: list[DatasetResult],
    device: torch.device,
) -> EvaluationReport:
    import torch

    from training.evaluation.results import EvaluationReport

    description = artefact.description
    return EvaluationReport(
        artefact=name,
        artefact_fingerprint=description.artefact_fingerprint,
        embedding_fingerprint=description.embedding_fingerprint,
        architecture=description.model_dump(
            mode="json", include={"embedder", "metric_network", "preprocessing"}
        ),
        calibration_data=description.calibration.data,
        provenance=description.provenance,
        split=split.value,
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        machine={
            "device": str(device),
            "processor": platform.machine(),
            "cores": str(os.cpu_count()),
            "torch": torch.__version__,
        },
        datasets=results,
    )


def _render(report: EvaluationReport, console: Console, out: Path | None) -> None:
    for result in report.datasets:
        console.print(
            f"\n[bold]{escape(result.name)}[/bold]  {escape(result.spec)}", soft_wrap=True
        )
        console.print(
            f"  {escape(result.protocol)}: {result.queries:,} queries, {result.gallery:,} gallery "
            f"crops, {result.identities:,} identities, {result.not_counted:,} queries not counted",
            soft_wrap=True,
        )
        if result.seen_in_training:
            console.print(
                "  [yellow]The artefact was trained on this set; --split held-out measures people "
                "it has not seen.[/yellow]",
                soft_wrap=True,
            )
        console.print(_metrics_table(result))
        if result.scorings:
            console.print(_operating_points_table(result))
    if out is not None:
        console.print(f"\nReport: {escape(str(out / 'report.html'))}", soft_wrap=True)


def _metrics_table(result: DatasetResult) -> Table:
    """The page and the JSON have an interval for every figure, a terminal for the two main ones."""
    table = Table(box=None, padding=(0, 1), title="%, with 95% interval", title_justify="left")
    table.add_column("", overflow="fold")
    for name in ("mAP", "Rank-1", "Rank-5", "Rank-10", "mINP"):
        table.add_column(name, justify="right", no_wrap=True)
    named = result.scorings | result.peers
    lines = [(name, scoring.metrics) for name, scoring in named.items()]
    for name, metrics in (*lines, *result.differences.items()):
        table.add_row(
            escape(name),
            _percent(metrics["mAP"]),
            _percent(metrics["rank_1"]),
            *(f"{100 * metrics[metric].mean:.1f}" for metric in ("rank_5", "rank_10", "mINP")),
        )
    return table


def _operating_points_table(result: DatasetResult) -> Table:
    table = Table(box=None, padding=(0, 2), title="Searches, %", title_justify="left")
    table.add_column("")
    for name in ("false alarms asked", "obtained", "people found"):
        table.add_column(name, justify="right")
    for name, scoring in result.scorings.items():
        for point in scoring.operating_points:
            table.add_row(
                f"{name} {point.name}",
                f"{100 * point.asked:g}",
                _percent(point.false_alarm_rate),
                _percent(point.detection_rate),
            )
    return table


def _percent(figure: Figure) -> str:
    return f"{100 * figure.mean:.1f} [dim]{100 * figure.low:.1f}…{100 * figure.high:.1f}[/dim]"
