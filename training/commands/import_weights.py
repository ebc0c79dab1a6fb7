"""`gmn import-weights`: published weights in, an artefact that scores by cosine out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from model.problems import InputProblem

FILE = "An OSNet: torchreid state dict (.pth), OpenVINO IR (.xml) or ONNX (.onnx)."
TRAINED_ON = "A data set that the publisher of the weights names, such as MSMT17; repeatable."
REFERENCE = "An .xml or .onnx of the same weights, to compare a state dict with."


def import_weights(
    file: Annotated[Path, typer.Argument(metavar="FILE", help=FILE)],
    out: Annotated[Path, typer.Option(metavar="ARTEFACT", help="Where to write.")],
    trained_on: Annotated[list[str] | None, typer.Option(metavar="NAME", help=TRAINED_ON)] = None,
    terms: Annotated[
        str, typer.Option(help="The weights' terms, such as 'Apache License 2.0'.")
    ] = "",
    reference: Annotated[Path | None, typer.Option(metavar="FILE", help=REFERENCE)] = None,
) -> None:
    """Makes an artefact of published OSNet weights, without M-Net.

    It ranks by cosine; gmn train with initial_weights=ARTEFACT adds M-Net, and gmn calibrate
    replaces its calibration, which is of drawn people.

    Example: gmn import-weights osnet_x0_25_msmt17.pth --trained-on MSMT17 --out osnet.safetensors
    """
    from training.import_weights import import_weights as write_artefact
    from training.provenance import command_line

    if out.suffix != ".safetensors":
        raise InputProblem(f"--out {out}: an artefact's name ends in .safetensors")
    description = write_artefact(
        file,
        out,
        documented_data=trained_on or (),
        terms=terms,
        reference=reference,
        command=command_line(),
    )
    config = description.embedder
    size = description.preprocessing
    compared = "not compared: a state dict holds no graph; name one with --reference"
    if parity := description.provenance.metrics.get("parity"):
        compared = (
            f"features of {parity['crops']} drawn crops against {parity['reference']}: cosine at "
            f"least {parity['least_cosine']:.6f}, largest difference "
            f"{parity['largest_difference']:.1e} of the largest entry"
        )
    typer.echo(
        f"{out}: {config.backbone}, {config.dimension} numbers a crop of "
        f"{size.height}×{size.width}\n{compared}"
    )
