"""`gmn embed`: writes the features of a data set."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from training.commands.progress import progress_bar
from training.evaluation.files import replacing


def embed(
    artefact: Annotated[
        str, typer.Argument(metavar="ARTEFACT", help="A .safetensors file, or the word bundled.")
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
    from model.artefact import load_artefact, resolve_artefact
    from model.precision import choose_device
    from training.datasets.registry import read_dataset
    from training.evaluation.embedding import embed_records
    from training.evaluation.feature_file import write_features

    loaded = load_artefact(resolve_artefact(artefact))
    records = read_dataset(data).records
    chosen = choose_device(device)
    with replacing(out) as beside:
        with progress_bar("Embedding", len(records)) as progress:
            features = embed_records(
                loaded.embedder.to(chosen),
                loaded.description.preprocessing,
                records,
                bfloat16=bfloat16,
                progress=progress,
            )
        write_features(beside, features, records, loaded.description.embedding_fingerprint)
    Console(stderr=True, highlight=False, markup=False, soft_wrap=True).print(
        f"{out}: {features.shape[0]:,} features of {features.shape[1]:,} dimensions"
    )
