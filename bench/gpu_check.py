"""`python -m bench.gpu_check`: embedding, M-Net and the trainer's step on a GPU against the CPU.

It reads nothing but this repository and draws its crops. Beside torch it needs torchvision, numpy,
pillow, pydantic, safetensors, tensorboard and typer; FAISS, the service and a network are not used.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import typer
from torch.utils.benchmark import Timer

from model.artefact import Artefact, load_artefact, resolve_artefact
from model.metric_network import PairScorer
from model.precision import DtypeName, choose_device
from model.runtimes import Probes
from model.torch_runtime import TorchRuntime
from training.batches import Batch
from training.datasets.drawn import draw_people
from training.recipe import read_recipe
from training.run import prepare_run
from training.step import TrainingStep, gradients_of

CROPS = 256
QUERIES = 64
GALLERY = 65_536
SECONDS = 3.0
RECIPE = "gmn-r50"
PRECISIONS: tuple[DtypeName, ...] = ("float32", "bfloat16")


class Work(NamedTuple):
    """A call that computes `size` crops or pairs, and its difference from the CPU in float32."""

    name: str
    size: int
    call: Callable[[], object]
    difference: dict[str, float]


def check(device: torch.device, artefact: str = "bundled") -> Iterator[dict[str, Any]]:
    """Compare a device with the CPU in float32, and measure it, in float32 and in bfloat16.

    M-Net scores pairs in float32 alone.

    Args:
        artefact: with M-Net.

    Yields:
        Crops or pairs a second, and differences from the CPU's result by their names.
    """
    loaded = load_artefact(resolve_artefact(artefact))
    for precision in PRECISIONS:
        works = [_embed(device, precision, loaded), _train(device, precision)]
        if precision == "float32":
            works.append(_score_pairs(device, loaded))
        for work in works:
            timer = Timer(
                "call()", globals={"call": work.call}, num_threads=torch.get_num_threads()
            )
            seconds = timer.blocked_autorange(min_run_time=SECONDS).median
            yield {
                "what": work.name,
                "precision": precision,
                "per_second": round(work.size / seconds, 1),
                "difference": work.difference,
            }


def _embed(
    device: torch.device,
    precision: DtypeName,
    artefact: Artefact,
) -> Work:
    probes = Probes(artefact)
    runtime = TorchRuntime(artefact, precision, str(device))
    crops = np.resize(probes.crops, (CROPS, *probes.crops.shape[1:]))
    return Work(
        f"embedding, {artefact.embedder.config.backbone}, {CROPS} crops at once",
        CROPS,
        lambda: runtime.embed(crops),
        {"least cosine": probes.least_cosine(runtime)},
    )


def _score_pairs(
    device: torch.device,
    artefact: Artefact,
) -> Work:
    network = artefact.require_metric_network()
    torch.manual_seed(0)
    queries = torch.randn(QUERIES, network.dimension)
    gallery = torch.randn(GALLERY, network.dimension)
    # Some crops are near the queries, as those of one person are.
    near = gallery[:QUERIES]
    near += 2 * queries
    expected = PairScorer(network).scores(queries, near)

    scorer = PairScorer(copy.deepcopy(network).to(device))
    queries = queries.to(device)
    gallery = gallery.to(device)
    scores = scorer.scores(queries, gallery[:QUERIES]).cpu()
    difference = (scores - expected).abs().max() / expected.std()
    return Work(
        f"M-Net, {QUERIES} queries with {GALLERY} candidates",
        QUERIES * GALLERY,
        lambda: scorer.scores(queries, gallery),
        {"largest difference, in standard deviations": float(difference)},
    )


def _train(
    device: torch.device,
    precision: DtypeName,
) -> Work:
    _, _, expected = _first_step("float32", "cpu")
    step, batch, gradient = _first_step(precision, device.type)
    crops = len(batch.labels)
    return Work(
        f"step of {RECIPE}, {crops} crops",
        crops,
        lambda: step.train(batch, 0),
        {"gradient, relative": float((gradient - expected).norm() / expected.norm())},
    )


def _first_step(precision: DtypeName, device: str) -> tuple[TrainingStep, Batch, torch.Tensor]:
    """Return the first step of a run, its batch, and its gradient as a vector on the CPU."""
    recipe = read_recipe(RECIPE, ["initial_weights=none", f"precision={precision}"])
    records = draw_people(5, 2, 2 * recipe.sampling.identities).records
    # The folder is for teachers, of which there are none.
    run = prepare_run(recipe, records, Path(), device_name=device)
    run.networks.train()
    batch = run.batches.make(0, 0, run.sampler.epoch(0)[0])
    step = TrainingStep(run)
    step.gradients(batch, seed=1)
    gradients = [gradient.flatten().cpu() for gradient in gradients_of(run.networks.parameters())]
    return step, batch, torch.cat(gradients)


def main() -> None:
    """Print the device and then each figure, a JSON object a line."""
    device = choose_device("cuda")
    typer.echo(json.dumps({"device": torch.cuda.get_device_name(device)}))
    for row in check(device):
        typer.echo(json.dumps(row))


if __name__ == "__main__":
    main()
