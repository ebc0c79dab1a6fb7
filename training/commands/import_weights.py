"""`gmn import-weights`: published weights in, an artefact that scores by cosine out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from model.problems import InputProblem

Weights = Annotated[
    Path,
    typer.Argument(
        metavar="FILE",
        help="An OSNet: torchreid state dict (.pth), OpenVINO IR (.xml) or ONNX (.onnx).",
    ),
]
TrainedOn = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME",
        help="A data set that the publisher of the weights names, such as MSMT17; repeatable.",
        show_default=False,
    ),
]
CalibrationData = Annotated[
    list[str] | None,
    typer.Option(
        metavar="SPEC",
        help="KIND:PATH of people to calibrate on, repeatable; drawn people without it.",
        show_default=False,
    ),
]
Reference = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="An .xml or .onnx of the same weights, to compare a state dict with.",
        show_default=False,
    ),
]


def import_weights(
    file: Weights,
    out: Annotated[Path, typer.Option(metavar="ARTEFACT", help="Where to write.")],
    trained_on: TrainedOn = None,
    terms: Annotated[
        str, typer.Option(help="The weights' terms, such as 'Apache License 2.0'.")
    ] = "",
    data: CalibrationData = None,
    reference: Reference = None,
) -> None:
    """Makes an artefact of published OSNet weights, without M-Net.

    It ranks by cosine; gmn train with initial_weights=ARTEFACT adds M-Net.

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
        calibration_data=data or (),
        reference=reference,
        command=command_line(),
    )
    config, size = description.embedder, description.preprocessing
    compared = (
        "not compared with another runtime: a state dict holds no graph; name one with --reference"
    )
    if parity := description.provenance.metrics.get("parity"):
        compared = (
            f"features of {parity['crops']} drawn crops against {parity['reference']}: cosine at "
            f"least {parity['least_cosine']:.6f}, largest difference "
            f"{parity['largest_difference']:.1e} of the largest entry"
        )
    Console().print(
        f"{out}: {config.backbone}, {config.dimension} numbers a crop of "
        f"{size.height}×{size.width}\n{compared}\n"
        f"calibrated on {description.calibration.data}; gmn calibrate fits it to other people",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
