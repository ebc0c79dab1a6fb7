"""`gmn evaluate`: measures an artefact on labelled crops."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console

from model.problems import InputProblem
from training.commands.progress import progress_bar
from training.commands.train import PluginOption

if TYPE_CHECKING:
    from training.datasets.record import Dataset
    from training.evaluation.evaluate import EvaluationSettings
    from training.evaluation.protocol_report import ProtocolReport
    from training.evaluation.results import EvaluationReport
    from training.evaluation.searches import Search
    from training.seen import Candidate


ProtocolName = Literal["single", "lodo", "P1", "P2", "P3"]

ArtefactNames = Annotated[
    list[str],
    typer.Argument(
        metavar="ARTEFACT",
        help="A .safetensors file, a run's folder, or a name such as bundled; for a protocol "
        "several, or the folder that gmn train --protocol lodo wrote.",
    ),
]
DataSpecs = Annotated[
    list[str],
    typer.Option(metavar="SPEC", help="KIND:PATH, such as cuhk01:/data/cuhk01; repeatable."),
]
Protocol = Annotated[
    ProtocolName,
    typer.Option(
        help="single: one artefact on every set. lodo: every set by the artefact that was not "
        "trained on it, and the average. P1, P2, P3: the same on the sets of these protocols.",
    ),
]
SplitOption = Annotated[
    Literal["all", "held-out"],
    typer.Option(help="All people, or those that the artefact's training held out."),
]
Scorings = Annotated[
    str | None,
    typer.Option(
        help="Comma-separated: cosine, mnet, fused; k_reciprocal re-ranks cosine by common "
        "neighbours. Without it those of the artefact.",
        show_default=False,
    ),
]
PeerFiles = Annotated[
    list[Path] | None,
    typer.Option(metavar="FILE", help="A model to stand beside, .xml or .onnx; repeatable."),
]
OutFolder = Annotated[
    Path | None, typer.Option(metavar="DIR", help="Write report.html and report.json here.")
]
Premise = Annotated[
    bool | None,
    typer.Option(
        "--premise/--no-premise",
        help="Measure the domain gap in instance and in pair space; without a word it is "
        "measured for --out where two domains have 20 people each.",
        show_default=False,
    ),
]
NoPictures = Annotated[
    bool, typer.Option("--no-pictures", help="Leave people out of the page's rank lists.")
]
People = Annotated[
    int | None,
    typer.Option(
        "--people",
        min=2,
        help="Search for at most so many people of each set, or of each of its random splits; "
        "always the same ones.",
        show_default=False,
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]


def evaluate(
    artefacts: ArtefactNames,
    data: DataSpecs,
    protocol: Protocol = "single",
    split: SplitOption = "all",
    scoring: Scorings = None,
    peer: PeerFiles = None,
    out: OutFolder = None,
    premise: Premise = None,
    no_pictures: NoPictures = False,
    people: People = None,
    as_json: AsJson = False,
    device: Device = "auto",
    plugins: PluginOption = None,
) -> None:
    """Measures an artefact on labelled crops: ranking, false alarms, calibration.

    A set with query and gallery splits is searched in them, a small one in the random splits
    that papers draw, any other across its cameras. Every figure has a 95% bootstrap interval. The
    page in --out shows crops of the data, unless --no-pictures; the JSON never does.

    Example: gmn evaluate bundled --data cuhk01:/data/cuhk01 --out report

    Example: gmn evaluate runs/all --protocol lodo --data cuhk01:/data/cuhk01 --data synthetic:7
    """
    from model.artefact import load_artefact
    from model.precision import choose_device
    from training.commands.rendering import render_protocol, render_report
    from training.datasets.registry import read_datasets
    from training.evaluation.evaluate import EvaluationSettings
    from training.evaluation.evaluate import evaluate as measure
    from training.evaluation.files import make_folder
    from training.evaluation.peers import Peer
    from training.evaluation.report import write_protocol_report, write_report

    settings = EvaluationSettings(
        scorings=None if scoring is None else _scorings(scoring),
        held_out=split == "held-out",
        peers=[Peer(file) for file in peer or []],
        premise=premise,
        page=out is not None,
        pictures=out is not None and not no_pictures,
        device=choose_device(device),
        people=people,
    )
    files = _files(artefacts, plugins)
    _check(protocol, files, settings)
    if out is not None:
        make_folder(out)
    datasets = read_datasets(data)
    console = Console(quiet=as_json)
    report: EvaluationReport | ProtocolReport
    if protocol == "single":
        ((name, file),) = files.items()
        report, pictures = measure(load_artefact(file), datasets, settings, name, progress_bar)
        if out is not None:
            write_report(out, report, pictures)
        render_report(report, console, out)
    else:
        report, pictures = _by_protocol(protocol, files, datasets, settings)
        if out is not None:
            write_protocol_report(out, report, pictures)
        render_protocol(report, console, out)
    if as_json:
        typer.echo(report.model_dump_json(indent=2))


def _files(artefacts: list[str], plugins: list[Path] | None) -> dict[str, Path]:
    """Artefacts by name, after the plug-ins that their backbones are of."""
    from training.plugins import load_plugins
    from training.seen import artefact_files

    load_plugins(plugins or ())
    return artefact_files(artefacts)


def _check(protocol: ProtocolName, files: dict[str, Path], settings: EvaluationSettings) -> None:
    """Refuses several artefacts for one measurement, and what a protocol decides itself."""
    if protocol == "single" and len(files) > 1:
        raise InputProblem(
            f"{', '.join(files)}: {len(files)} artefacts; name one, or let --protocol lodo choose "
            "for every set"
        )
    if protocol != "single" and settings.held_out:
        raise InputProblem(
            f"--protocol {protocol}: measures every set by the artefact that has not seen it; "
            "leave out --split held-out"
        )


def _by_protocol(
    protocol: ProtocolName,
    files: dict[str, Path],
    datasets: Sequence[Dataset],
    settings: EvaluationSettings,
) -> tuple[ProtocolReport, list[Search]]:
    """Return every set by the artefact that has not seen it."""
    from model.artefact import load_artefact, shipped_artefacts
    from training.datasets.protocols import PROTOCOLS
    from training.evaluation.evaluate import evaluate as measure
    from training.evaluation.protocol_report import run_protocol
    from training.seen import Candidate

    loaded = {name: load_artefact(file) for name, file in files.items()}
    candidates = [
        Candidate(name, files[name], own.description, own.training) for name, own in loaded.items()
    ]
    pictures: list[Search] = []

    def measure_one(candidate: Candidate, dataset: Dataset) -> EvaluationReport:
        # By its file's name a report finds its artefact again.
        named = candidate.name if candidate.name in shipped_artefacts() else candidate.path
        artefact = loaded[candidate.name]
        report, own = measure(artefact, [dataset], settings, str(named), progress_bar)
        pictures.extend(own)
        return report

    return run_protocol(PROTOCOLS[protocol], candidates, datasets, measure_one), pictures


def _scorings(asked: str) -> list[str]:
    from training.evaluation.evaluate_search import RANKINGS

    names = [name.strip() for name in asked.split(",") if name.strip()]
    unknown = [name for name in names if name not in RANKINGS]
    if unknown or not names:
        wrong = unknown[0] if unknown else "nothing"
        raise InputProblem(f"--scoring names {wrong}; choose of {', '.join(RANKINGS)}")
    return [scoring for scoring in RANKINGS if scoring in names]
