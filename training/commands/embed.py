"""`gmn embed`: writes the features of a data set, by an artefact or by a ready-made model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from training.commands.progress import progress_bar
from training.evaluation.files import replacing

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from training.datasets.record import CropRecord


def embed(
    artefact: Annotated[
        str,
        typer.Argument(
            metavar="ARTEFACT",
            help="A .safetensors file, a name such as bundled, or a .xml or .onnx model.",
        ),
    ],
    data: Annotated[
        str, typer.Option(metavar="SPEC", help="KIND:PATH, such as cuhk01:/data/cuhk01.")
    ],
    out: Annotated[Path, typer.Option(metavar="FILE", help="Where to write, a .npz file.")],
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    bfloat16: Annotated[
        bool, typer.Option("--bfloat16", help="Run the backbone in bfloat16, faster where it can.")
    ] = False,
) -> None:
    """Writes the features of a data set.

    The file holds `features` (n, d) float32 as the embedder gives them, `paths`, `identities` and
    `cameras`, and opens with `numpy.load(FILE, allow_pickle=False)`.

    Example: gmn embed bundled --data cuhk01:/data/cuhk01 --out features.npz
    """
    from training.datasets.registry import read_dataset
    from training.evaluation.feature_file import write_features

    records = read_dataset(data).records
    with replacing(out) as beside:
        features, fingerprint = _features(artefact, records, device, bfloat16)
        write_features(beside, features, records, fingerprint)
    Console(stderr=True, highlight=False, markup=False, soft_wrap=True).print(
        f"{out}: {features.shape[0]:,} features of {features.shape[1]:,} dimensions"
    )


def _features(
    artefact: str, records: Sequence[CropRecord], device: str, bfloat16: bool
) -> tuple[NDArray[np.float32], str]:
    """Features `(n, d)` and what made them: an embedder's fingerprint, or a peer's name."""
    from model.artefact import load_artefact, resolve_artefact
    from model.precision import choose_device
    from training.evaluation import peers
    from training.evaluation.embedding import embed_records

    if Path(artefact).suffix in peers.SUFFIXES:
        peer = peers.Peer(Path(artefact))
        with progress_bar(f"Embedding with {peer.name}", len(records)) as progress:
            return peer.embed(records, progress), peer.name
    loaded = load_artefact(resolve_artefact(artefact))
    with progress_bar("Embedding", len(records)) as progress:
        features = embed_records(
            loaded.embedder.to(choose_device(device)),
            loaded.description.preprocessing,
            records,
            bfloat16=bfloat16,
            progress=progress,
        )
    return features, loaded.description.embedding_fingerprint
