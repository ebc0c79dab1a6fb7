"""`gmn calibrate`: fits an artefact's probabilities and operating points anew."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from model.problems import InputProblem
from training.commands.progress import progress_bar

if TYPE_CHECKING:
    from model.artefact import Artefact, Description
    from model.calibration import Calibration
    from training.datasets.record import Dataset
    from training.evaluation.embedding import SearchFeatures
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
    from model.precision import choose_device
    from training.datasets.registry import read_datasets
    from training.evaluation.files import make_folder

    source = resolve_artefact(artefact)
    if out is None and artefact in shipped_artefacts():
        raise InputProblem(f"{artefact} stays as it ships; name a file with --out")
    loaded = load_artefact(source)
    target = out or source
    make_folder(target.parent)
    chosen = choose_device(device)
    on_device = loaded.on(chosen)
    searches = [(dataset, _unseen(loaded, dataset)) for dataset in read_datasets(data)]
    features = [_embed(on_device, dataset, search) for dataset, search in searches]
    calibration = _fit(str(source), on_device, searches, features, target.parent)
    description = replace_calibration(source, target, calibration, on_device.metric_network)
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


def _embed(artefact: Artefact, dataset: Dataset, search: Search) -> SearchFeatures:
    from training.evaluation.embedding import embed_search

    with progress_bar(f"Embedding {dataset.name}", len(search.records)) as bar:
        return embed_search(artefact.embedder, artefact.description.preprocessing, search, bar)


def _fit(
    name: str,
    artefact: Artefact,
    searches: Sequence[tuple[Dataset, Search]],
    features: Sequence[SearchFeatures],
    folder: Path,
) -> Calibration:
    import numpy as np

    from model.collapse import refuse_collapse
    from training.evaluation.calibration import calibrate_searches, settle_zero
    from training.evaluation.embedding import spaced
    from training.evaluation.pair_scores import open_scores

    some = np.concatenate([spaced(own.gallery) for own in features])
    refuse_collapse(name, some, artefact.metric_network)
    data = ", ".join(
        f"{'held-out ' if search.held_out else ''}identities of {dataset.name}"
        for dataset, search in searches
    )
    if artefact.metric_network is not None:
        labelled = [
            (own, search.labels()) for (_, search), own in zip(searches, features, strict=True)
        ]
        settle_zero(artefact.metric_network, labelled)
    with ExitStack() as opened:
        domains = [
            opened.enter_context(
                open_scores(artefact.metric_network, own, search.labels(), progress_bar, folder)
            )
            for (_, search), own in zip(searches, features, strict=True)
        ]
        return calibrate_searches(domains, data)


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
