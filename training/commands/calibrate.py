"""`gmn calibrate`: fits an artefact's probabilities and operating points anew."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from model.problems import InputProblem
from training.commands.progress import progress_bar

if TYPE_CHECKING:
    from model.artefact import Artefact, Description
    from training.datasets.record import Dataset
    from training.evaluation.searches import Search

GALLERY_SIZES = (100, 1_000, 10_000)
SHOWN = ("far_1e-2", "far_1e-3")


def calibrate(
    artefact: Annotated[
        str,
        typer.Argument(metavar="ARTEFACT", help="A .safetensors file, or a name such as bundled."),
    ],
    data: Annotated[
        list[str],
        typer.Option(metavar="SPEC", help="KIND:PATH, such as cuhk01:/data/cuhk01; repeatable."),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Where to write; without it the new calibration replaces the artefact's.",
            show_default=False,
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
) -> None:
    """Fits an artefact's probabilities and operating points anew, and writes them into it.

    People that the artefact was trained on are left out, as their crops show. The weights and the
    embedding fingerprint stay, so that galleries stay usable.

    Example: gmn calibrate bundled --data cuhk01:/data/cuhk01 --out mine.safetensors
    """
    from model.artefact import (
        load_artefact,
        replace_calibration,
        resolve_artefact,
        shipped_artefacts,
    )
    from model.collapse import refuse_collapse
    from model.metric_network import TorchPairScores
    from model.precision import choose_device
    from training.datasets.registry import read_datasets
    from training.evaluation.calibration import calibrated_scores
    from training.evaluation.embedding import embed_searches, gallery_samples
    from training.evaluation.files import make_folder

    source = resolve_artefact(artefact)
    if out is None and artefact in shipped_artefacts():
        raise InputProblem(f"{artefact} stays as it ships; name a file with --out")
    loaded = load_artefact(source)
    target = out or source
    make_folder(target.parent)
    on_device = loaded.on(choose_device(device))
    searches = {dataset.name: _unseen(loaded, dataset) for dataset in read_datasets(data)}
    preprocessing = loaded.description.preprocessing
    network = on_device.metric_network
    features = embed_searches(on_device.embedder, preprocessing, searches, progress_bar)
    pair_scores = TorchPairScores(network) if network else None
    refuse_collapse(str(source), gallery_samples(features.values()), pair_scores)
    people = ", ".join(
        f"{'held-out ' if search.held_out else ''}identities of {name}"
        for name, search in searches.items()
    )
    with calibrated_scores(
        network, features, searches, list(searches), people, progress_bar, target.parent
    ) as (calibration, _):
        description = replace_calibration(source, target, calibration, network)
    if as_json:
        typer.echo(description.calibration.model_dump_json(indent=2))
    else:
        _show(Console(), target, description)


def _unseen(artefact: Artefact, dataset: Dataset) -> Search:
    """A search for people that the artefact was not trained on; names a set that has others."""
    from training.seen import unseen_people

    search = unseen_people(dataset, artefact.description.provenance, artefact.training)
    if search.held_out:
        Console(stderr=True).print(
            f"{dataset.name}: the artefact was trained on some of these people, so only the "
            f"other {len({record.identity for record in search.records}):,} are used",
            markup=False,
            soft_wrap=True,
        )
    return search


def _show(console: Console, path: Path, description: Description) -> None:
    from training.evaluation.tables import Table

    calibration = description.calibration
    columns = ["scoring", "operating point", *(f"N = {size:,}" for size in GALLERY_SIZES)]
    rows = [
        [
            name,
            point,
            *(f"{calibration.operating_points(name, size)[point]:.3f}" for size in GALLERY_SIZES),
        ]
        for name in calibration.scorings
        for point in SHOWN
    ]
    table = Table("Thresholds in galleries of N crops", columns, rows, labels=2)
    console.print(table.rich(console.width))
    console.print(
        f"{path}: calibrated on {calibration.data}; embedding fingerprint "
        f"{description.embedding_fingerprint[:12]}… as before",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
