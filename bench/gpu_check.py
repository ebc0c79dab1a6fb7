"""`python -m bench.gpu_check`: embedding, M-Net and the trainer's step on a GPU against the CPU.

It reads nothing but this repository and draws its crops. Beside torch it needs torchvision, numpy,
pillow, pydantic, safetensors, tensorboard and typer; FAISS, the service and a network are not used.
Without a GPU it computes little on the CPU, so that the script itself can be tested.
"""

from __future__ import annotations

import copy
import itertools
import json
import platform
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import torch
import typer
from torch.nn import functional
from torch.utils.benchmark import Timer

from model.architecture import EmbedderConfig
from model.artefact import Artefact, load_artefact, resolve_artefact
from model.embedder import Embedder
from model.metric_network import PairScorer
from model.precision import DtypeName, choose_device
from model.torch_runtime import TorchRuntime
from training.batches import Batch
from training.datasets.drawn import draw_people
from training.datasets.record import CropRecord
from training.recipe import Recipe, read_recipe
from training.run import prepare_run
from training.step import TrainingStep, gradients_of

DTYPES: dict[DtypeName, torch.dtype] = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class Sizes(NamedTuple):
    """The size of the check.

    Attributes:
        crops: crops of a forward pass.
        compared: crops, or gallery features, that the CPU computes as well.
        queries, gallery: features whose pairs are scored.
        seconds: duration of the measurement of each figure.
        recipe, settings: recipe of the trainer's step.
    """

    crops: int
    compared: int
    queries: int
    gallery: int
    seconds: float
    recipe: str
    settings: tuple[str, ...]


SMALL_STEP = (
    "preprocessing.height=64",
    "preprocessing.width=32",
    "sampling.identities=4",
    "sampling.images=2",
)
GPU_SIZES = Sizes(256, 64, 64, 65_536, 3.0, "gmn-r50", ())
CPU_SIZES = Sizes(4, 4, 16, 256, 0.1, "small-gmn", SMALL_STEP)


class Work(NamedTuple):
    """A call that computes `size` crops or pairs, and its difference from the CPU in float32."""

    what: str
    precision: str
    size: int
    call: Callable[..., object]
    arguments: tuple[Any, ...]
    difference: dict[str, float]


def check(
    device: torch.device,
    sizes: Sizes,
    artefact: str = "bundled",
) -> Iterator[dict[str, Any]]:
    """Compare with the CPU and measure, each in float32 and bfloat16.

    Args:
        artefact: with M-Net; on a GPU its embedder has the papers' ResNet-50 with random weights
            beside it.

    Yields:
        Crops or pairs a second, the peak of the device's memory, which is None on a CPU, and
        differences from the CPU's result by their names.
    """
    loaded = load_artefact(resolve_artefact(artefact))
    recipe = read_recipe(sizes.recipe, [*sizes.settings, "initial_weights=none"])
    records = draw_people(5, 2, 2 * recipe.sampling.identities).records
    on_gpu = device.type == "cuda"
    artefacts = [loaded]
    if on_gpu:
        torch.manual_seed(0)
        resnet = Embedder(EmbedderConfig(backbone="resnet50")).eval()
        artefacts.append(Artefact.of_networks(loaded.description, resnet, None))
    parts = [_embedding(device, sizes, network, records) for network in artefacts]
    parts += [_pairs(device, sizes, loaded), _steps(device, recipe, records)]
    for work in itertools.chain(*parts):
        if on_gpu:
            torch.cuda.reset_peak_memory_stats(device)
        timer = Timer(
            "work.call(*work.arguments)",
            globals={"work": work},
            num_threads=torch.get_num_threads(),
        )
        seconds = timer.blocked_autorange(min_run_time=sizes.seconds).median
        yield {
            "what": work.what,
            "precision": work.precision,
            "per_second": round(work.size / seconds, 1),
            "peak_mib": round(torch.cuda.max_memory_allocated(device) / 2**20) if on_gpu else None,
            "difference": work.difference,
        }


def _embedding(
    device: torch.device,
    sizes: Sizes,
    artefact: Artefact,
    records: Sequence[CropRecord],
) -> Iterator[Work]:
    preprocessing = artefact.description.preprocessing
    compared = records[: sizes.compared]
    crops = np.stack([preprocessing.resize(record.decode()) for record in compared])
    with torch.inference_mode():
        expected = artefact.embedder(preprocessing.normalise(torch.from_numpy(crops)))
    many = crops[np.arange(sizes.crops) % len(crops)]
    what = f"embedding, {artefact.embedder.config.backbone}, {sizes.crops} crops at once"
    for precision in DTYPES:
        runtime = TorchRuntime(artefact, precision, str(device))
        cosines = functional.cosine_similarity(torch.from_numpy(runtime.embed(crops)), expected)
        difference = {"least cosine": float(cosines.min())}
        yield Work(what, precision, sizes.crops, runtime.embed, (many,), difference)


def _pairs(
    device: torch.device,
    sizes: Sizes,
    artefact: Artefact,
) -> Iterator[Work]:
    network = artefact.require_metric_network()
    torch.manual_seed(0)
    queries = torch.randn(sizes.queries, network.dimension)
    # Half of the gallery is near the queries, as crops of one person are.
    gallery = torch.randn(sizes.gallery, network.dimension)
    gallery[::2] = 0.5 * gallery[::2] + queries[torch.arange(len(gallery[::2])) % len(queries)]
    expected = PairScorer(network).scores(queries, gallery[: sizes.compared])
    network = copy.deepcopy(network).to(device)
    queries = queries.to(device)
    gallery = gallery.to(device)
    what = f"M-Net, {sizes.queries} queries with {sizes.gallery} candidates"
    for precision, dtype in DTYPES.items():
        scorer = PairScorer(network, dtype)
        scores = scorer.scores(queries, gallery[: sizes.compared]).cpu()
        difference = {
            "largest difference": float((scores - expected).abs().max()),
            "standard deviation of scores": float(expected.std()),
        }
        pairs = sizes.queries * sizes.gallery
        yield Work(what, precision, pairs, scorer.scores, (queries, gallery), difference)


def _steps(
    device: torch.device,
    recipe: Recipe,
    records: Sequence[CropRecord],
) -> Iterator[Work]:
    expected, gradient, _, _ = _first_step(
        recipe,
        records,
        "float32",
        "cpu",
    )
    crops = recipe.sampling.identities * recipe.sampling.images
    for precision in DTYPES:
        loss, found, step, batch = _first_step(
            recipe,
            records,
            precision,
            device.type,
        )
        difference = {
            "loss, relative": abs(loss - expected) / abs(expected),
            "cosine of the gradients": float(functional.cosine_similarity(found, gradient, 0)),
        }
        what = f"step of {recipe.name}, {crops} crops"
        yield Work(what, precision, crops, step.train, (batch, 0), difference)


def _first_step(
    recipe: Recipe,
    records: Sequence[CropRecord],
    precision: str,
    device: str,
) -> tuple[float, torch.Tensor, TrainingStep, Batch]:
    """Return loss and gradient, a vector on the CPU, of the first step of a run on its batch."""
    # The folder is for teachers, of which there are none.
    chosen = recipe.model_copy(update={"precision": precision})
    run = prepare_run(chosen, records, Path(), device_name=device)
    run.networks.train()
    batch = run.batches.make(
        0,
        0,
        run.sampler.epoch(0)[0],
        run.processes,
    )
    step = TrainingStep(run)
    terms = step.gradients(batch, seed=1).terms
    gradients = [gradient.flatten().cpu() for gradient in gradients_of(run.networks.parameters())]
    return float(sum(terms.values())), torch.cat(gradients), step, batch


def main(
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    out: Annotated[Path | None, typer.Option(help="Writes the figures there as JSON.")] = None,
) -> None:
    """Print the figures, a JSON object a line."""
    chosen = choose_device(device)
    on_gpu = chosen.type == "cuda"
    name = torch.cuda.get_device_name(chosen) if on_gpu else f"CPU, {platform.machine()}"
    typer.echo(f"{name}, torch {torch.__version__}")
    if not on_gpu:
        typer.echo("No GPU is used: the CPU computes little, and its figures are of no GPU.")
    rows = []
    for row in check(chosen, GPU_SIZES if on_gpu else CPU_SIZES):
        typer.echo(json.dumps(row))
        rows.append(row)
    if out is not None:
        figures = {"device": name, "torch": torch.__version__, "rows": rows}
        out.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
