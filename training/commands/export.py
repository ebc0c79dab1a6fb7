"""`gmn export`: an artefact in, ONNX graphs out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from training.commands.train import PluginOption


def export(
    artefact: Annotated[
        str,
        typer.Argument(metavar="ARTEFACT", help="A .safetensors file, or a name such as bundled."),
    ],
    onnx: Annotated[
        Path,
        typer.Option(
            metavar="DIR",
            help="Where to write embedder.onnx, pair_scorer.onnx and preprocessing.json.",
        ),
    ],
    plugins: PluginOption = None,
) -> None:
    """Writes an artefact's networks as ONNX graphs, for programs without PyTorch.

    The graphs are run by ONNX Runtime and compared with PyTorch before they are kept.

    Example: gmn export bundled --onnx runs/bundled-onnx
    """
    from model.artefact import resolve_artefact
    from training.onnx_export import export_onnx
    from training.plugins import load_plugins

    load_plugins(plugins or ())
    parity = export_onnx(resolve_artefact(artefact), onnx)
    typer.echo(
        f"{onnx}: embedder.onnx, pair_scorer.onnx and preprocessing.json\n"
        f"compared with PyTorch on {parity.crops} drawn crops and {parity.pairs} pairs of them: "
        f"{parity.summary()}"
    )
