"""`gmn score`: writes M-Net's score of every pair of two feature files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from training.commands.progress import progress_bar

FEATURES = "Features, from gmn embed: a file or a folder."


def score(
    artefact: Annotated[
        str,
        typer.Argument(metavar="ARTEFACT", help="A .safetensors file, or a name such as bundled."),
    ],
    query: Annotated[
        Path, typer.Option(metavar="A", help="Features, from gmn embed: a file or folder.")
    ],
    gallery: Annotated[
        Path, typer.Option(metavar="B", help="Features, from gmn embed: a file or folder.")
    ],
    out: Annotated[Path, typer.Option(metavar="FILE", help="Where to write, a .npy file.")],
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
) -> None:
    """Writes M-Net's score of every query against every gallery feature, (Q, G) float32.

    Example: gmn score bundled --query a.npz --gallery b.npz --out scores.npy
    """
    from model.artefact import load_artefact, resolve_artefact
    from model.feature_file import read_features
    from model.precision import choose_device
    from training.evaluation.files import replacing
    from training.evaluation.scoring import write_mnet_scores

    loaded = load_artefact(resolve_artefact(artefact))
    network = loaded.require_metric_network(artefact)
    files = read_features(query), read_features(gallery)
    for file in files:
        file.check_against(loaded)
    queries, candidates = (file.features for file in files)
    with progress_bar("Scoring", len(queries)) as progress, replacing(out) as beside:
        write_mnet_scores(
            beside,
            network.to(choose_device(device)),
            queries,
            candidates,
            progress,
        )
    Console(stderr=True, highlight=False, markup=False, soft_wrap=True).print(
        f"{out}: {len(queries):,} × {len(candidates):,} scores"
    )
