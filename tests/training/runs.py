"""Commands in this process, drawn data sets, and runs beside ones that are stopped and resumed."""

import io
from collections.abc import Iterable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import NamedTuple

from torch import nn

import gmn
from model.backbones import BackboneKind, register_backbone
from tests.conftest import DrawnCrop
from training.batches import Batch
from training.run import Run

FAST_BACKBONE = "embedder.backbone=four_convolutions"


def _four_convolutions(_stride: int) -> nn.Sequential:
    sizes = ((3, 8), (8, 16), (16, 24), (24, 32))
    stages = (
        nn.Sequential(nn.Conv2d(*size, 3, 2, 1), nn.BatchNorm2d(size[1]), nn.ReLU())
        for size in sizes
    )
    return nn.Sequential(*stages)


# Runs whose network does not matter take a hundredth of the time of MobileNet's.
register_backbone(
    "four_convolutions",
    BackboneKind(_four_convolutions, (8, 16, 24, 32), ("0", "1", "2", "3")),
)


class Ran(NamedTuple):
    """A command that has ended; the lines of its errors are joined."""

    status: int
    out: str
    err: str


def run_here(*words: object) -> Ran:
    out = io.StringIO()
    err = io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        status = gmn.run([str(word) for word in words])
    return Ran(status, out.getvalue(), " ".join(err.getvalue().split()))


def set_options(*settings: str) -> list[str]:
    return [word for setting in settings for word in ("--set", setting)]


def write_manifest(file: Path, crops: Iterable[DrawnCrop]) -> str:
    """Write the crops beside a manifest of them, and return its spec."""
    file.parent.mkdir(parents=True, exist_ok=True)
    rows = ["path,identity,camera"]
    for number, crop in enumerate(crops):
        image = file.with_name(f"{file.stem}-{number}.png")
        image.write_bytes(crop.png)
        rows.append(f"{image.name},{crop.identity},{crop.camera}")
    file.write_text("\n".join(rows))
    return f"manifest:{file}"


def first_batch(run: Run) -> Batch:
    return run.batches.make(0, 0, run.sampler.epoch(0)[0], run.processes)
