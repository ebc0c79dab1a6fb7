"""`python -m training.gpu_check`: embedding, M-Net and the trainer's step on a GPU against the CPU.

It reads nothing but this repository and draws its crops. Beside torch it needs torchvision, numpy,
pillow, pydantic, safetensors, tensorboard and typer; FAISS, the service and a network are not used.
Without a GPU it computes little on the CPU, so that the script itself can be tested.
"""

from __future__ import annotations

import copy
import json
import platform
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import torch
import typer
from torch.nn import functional
from torch.utils.benchmark import Timer

from model.artefact import Artefact, load_artefact, resolve_artefact
from model.embedder import Embedder, EmbedderConfig
from model.metric_network import PairScorer
from model.precision import choose_device
from model.runtimes import DtypeName, TorchRuntime
from training.batches import Batch
from training.datasets.record import CropRecord
from training.datasets.synthetic import draw_people
from training.recipe import Recipe, read_recipe
from training.run import Run, prepare_run
from training.step import TrainingStep

DTYPES: dict[DtypeName, torch.dtype] = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class Sizes(NamedTuple):
    """How much is computed.

    Attributes:
        crops: of a forward pass.
        compared: crops, or gallery features, that the CPU computes as well.
        queries, gallery: features whose pairs are scored.
        seconds: that each figure is measured for.
        recipe, settings: of the trainer's step.
    """

    crops: int
    compared: int
    queries: int
    gallery: int
    seconds: float
    recipe: str
    settings: tuple[str, ...]


SMALL_STEP = (
    *("preprocessing.height=64", "preprocessing.width=32"),
    *("sampling.identities=4", "sampling.images=2"),
)
GPU_SIZES = Sizes(256, 64, 64, 65_536, 3.0, "gmn-r50", ())
CPU_SIZES = Sizes(4, 4, 16, 256, 0.1, "small-gmn", SMALL_STEP)


class Row(NamedTuple):
    """One figure.

    Attributes:
        per_second: crops or pairs.
        peak_mib: of the device's memory; None on a CPU.
        difference: from the CPU's result in float32; its name has what it is.
    """

    what: str
    precision: str
    per_second: float
    peak_mib: float | None
    difference: dict[str, float]


@dataclass(frozen=True)
class Bench:
    """A device, and how much is measured on it."""

    device: torch.device
    sizes: Sizes

    def row(
        self,
        what: str,
        precision: str,
        count: int,
        call: Callable[[], object],
        difference: dict[str, float],
    ) -> Row:
        """Measures a call that computes `count` crops or pairs."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        timer = Timer("call()", globals={"call": call}, num_threads=torch.get_num_threads())
        pace = count / timer.blocked_autorange(min_run_time=self.sizes.seconds).median
        peak = None
        if self.device.type == "cuda":
            peak = round(torch.cuda.max_memory_allocated(self.device) / 2**20, 1)
        return Row(what, precision, round(pace, 1), peak, difference)


def check(device: torch.device, sizes: Sizes, artefact: str = "bundled") -> Iterator[Row]:
    """Compares with the CPU and measures, each in float32 and bfloat16.

    Args:
        artefact: with M-Net; on a GPU its embedder has the papers' ResNet-50 with random weights
            beside it.
    """
    bench, loaded = Bench(device, sizes), load_artefact(resolve_artefact(artefact))
    recipe = read_recipe(sizes.recipe, [*sizes.settings, "initial_weights=none"])
    records = draw_people(5, 2, 2 * recipe.sampling.identities).records
    yield from _embedding(bench, loaded, records)
    if device.type != "cpu":
        torch.manual_seed(0)
        resnet = Embedder(EmbedderConfig(backbone="resnet50")).eval()
        yield from _embedding(bench, replace(loaded, embedder=resnet), records)
    yield from _pairs(bench, loaded)
    yield from _steps(bench, recipe, records)


def _embedding(bench: Bench, artefact: Artefact, records: Sequence[CropRecord]) -> Iterator[Row]:
    """Crops a second as the service embeds them, and the least cosine with the CPU's features."""
    preprocessing, size = artefact.description.preprocessing, bench.sizes.crops
    compared = records[: bench.sizes.compared]
    crops = np.stack([preprocessing.resize(one.decode()) for one in compared])
    with torch.inference_mode():
        expected = artefact.embedder(preprocessing.normalise(torch.from_numpy(crops)))
    many = crops[np.arange(size) % len(crops)]
    for precision in DTYPES:
        runtime = TorchRuntime(artefact, precision, bench.device)
        found = torch.from_numpy(runtime.embed(crops))
        cosines = {"least cosine": float(functional.cosine_similarity(found, expected).min())}
        name = f"embedding, {artefact.embedder.config.backbone}, {size} crops at once"
        yield bench.row(name, precision, size, partial(runtime.embed, many), cosines)


@torch.inference_mode()
def _pairs(bench: Bench, artefact: Artefact) -> Iterator[Row]:
    """Pairs a second, and the largest difference from the CPU's scores."""
    network, sizes = artefact.require_metric_network(), bench.sizes
    torch.manual_seed(0)
    queries = torch.randn(sizes.queries, network.dimension)
    # Half of the gallery is near the queries, as crops of one person are.
    gallery = torch.randn(sizes.gallery, network.dimension)
    gallery[::2] = 0.5 * gallery[::2] + queries[torch.arange(len(gallery[::2])) % len(queries)]
    compared = gallery[: sizes.compared]
    expected = PairScorer(network).scores(queries, compared)
    network = copy.deepcopy(network).to(bench.device)
    queries, gallery, compared = (one.to(bench.device) for one in (queries, gallery, compared))
    for precision, dtype in DTYPES.items():
        scorer = PairScorer(network, dtype)
        difference = (scorer.scores(queries, compared).cpu() - expected).abs().max()
        found = {
            "largest difference": float(difference),
            "standard deviation of scores": float(expected.std()),
        }
        count = sizes.queries * sizes.gallery
        name = f"M-Net, {sizes.queries} queries with {sizes.gallery} candidates"
        yield bench.row(name, precision, count, partial(scorer.scores, queries, gallery), found)


def _steps(bench: Bench, recipe: Recipe, records: Sequence[CropRecord]) -> Iterator[Row]:
    """Crops a second of whole steps on one batch that is at hand, and the first step's gradient."""
    with tempfile.TemporaryDirectory() as folder:

        def prepared(precision: str, device: str) -> Run:
            chosen = recipe.model_copy(update={"precision": precision})
            run = prepare_run(chosen, records, Path(folder), device_name=device)
            run.networks.train()
            return run

        expected, gradient = _first_step(prepared("float32", "cpu"))
        for precision in DTYPES:
            run = prepared(precision, bench.device.type)
            loss, found = _first_step(run)
            run = prepared(precision, bench.device.type)
            batch = _batch(run)
            step = partial(TrainingStep(run).train, batch, 0)
            difference = {
                "loss, relative": abs(loss - expected) / abs(expected),
                "cosine of the gradients": float(functional.cosine_similarity(found, gradient, 0)),
            }
            name = f"step of {recipe.name}, {len(batch.labels)} crops"
            yield bench.row(name, precision, len(batch.labels), step, difference)


def _batch(run: Run) -> Batch:
    return run.batches.make(0, 0, run.sampler.epoch(0)[0], run.processes)


def _first_step(run: Run) -> tuple[float, torch.Tensor]:
    """Loss and gradient, one vector on the CPU, of a run's first batch."""
    terms = TrainingStep(run).gradients(_batch(run), seed=1).terms
    gradients = [
        one.grad.flatten().cpu() for one in run.networks.parameters() if one.grad is not None
    ]
    return float(sum(terms.values())), torch.cat(gradients)


def main(
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    out: Annotated[Path | None, typer.Option(help="Writes the figures there as JSON.")] = None,
) -> None:
    """Prints the figures as rows of a Markdown table."""
    chosen = choose_device(device)
    on_gpu = chosen.type == "cuda"
    name = torch.cuda.get_device_name(chosen) if on_gpu else f"CPU, {platform.machine()}"
    typer.echo(f"{name}, torch {torch.__version__}")
    if not on_gpu:
        typer.echo("No GPU is used: the CPU computes little, and its figures are of no GPU.")
    typer.echo("| what | precision | per second | peak, MiB | difference from the CPU in float32 |")
    typer.echo("|---|---|---|---|---|")

    rows = []
    for row in check(chosen, GPU_SIZES if on_gpu else CPU_SIZES):
        found = ", ".join(f"{name} {value:.3g}" for name, value in row.difference.items())
        peak = "–" if row.peak_mib is None else f"{row.peak_mib:,.0f}"
        cells = (row.what, row.precision, f"{row.per_second:,.0f}", peak, found)
        typer.echo("| " + " | ".join(cells) + " |")
        rows.append(row._asdict())
    if out is not None:
        figures = {"device": name, "torch": torch.__version__, "rows": rows}
        out.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
