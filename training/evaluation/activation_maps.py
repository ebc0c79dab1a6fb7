"""Where an embedder looks: activation maps of its stages over crops (GMN's Figure 4, MSFL's 3, 4).

A map is the sum over channels of |activation|, divided by its length over the positions, as
attention transfer has it (Zagoruyko and Komodakis, ICLR 2017); MSFL's scales have theirs before
and after they are fused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from model.artefact import Artefact
from model.embedder import Embedder
from model.problems import InputProblem
from training.datasets.record import CropRecord, Dataset
from training.datasets.registry import showing_people
from training.evaluation.embedding import decoded_batches

STAGES = (1, 2, 3, 4)
CROPS = 8
COLOURS = "inferno"
OPACITY = 0.6


def choose_crops(dataset: Dataset, crops: int = CROPS) -> list[CropRecord]:
    """Return one crop each of people spaced evenly over a data set: the same ones every time.

    Raises:
        InputProblem: for a data set without anybody.
    """
    first: dict[str, CropRecord] = {}
    for record in showing_people(dataset.spec, dataset.records):
        first.setdefault(record.identity, record)
    people = sorted(first)
    if not people:
        raise InputProblem(f"{dataset.spec}: holds no person to draw maps of; name a further set")
    places = np.linspace(0, len(people) - 1, min(crops, len(people))).round().astype(int)
    return [first[people[place]] for place in places]


@torch.inference_mode()
def stage_maps(embedder: Embedder, batch: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return the map of every stage C_i, and of every scale P_i of MSFL before and after fusion.

    Args:
        embedder: in evaluation mode.
        batch: normalised crops `(B, 3, H, W)`.

    Returns:
        By name, `(B, h, w)` float32, each crop's of unit length over its positions.
    """
    outputs = embedder.features(batch, stages=STAGES).stages
    named = {f"stage {stage}": maps for stage, maps in zip(STAGES, outputs, strict=True)}
    config = embedder.config.multiscale
    if config is not None:
        parts = embedder.multiscale
        # The paper counts scales from the stem: its P2 belongs to stage 1.
        names = [f"P{stage + 1}" for stage in config.stages]
        if config.csip:
            named |= zip(names, parts.scales(outputs), strict=True)
        if config.msff:
            fused = [f"{name} fused" for name in names]
            named |= zip(fused, parts.pyramid(outputs), strict=True)
    return {name: _normalised(maps) for name, maps in named.items()}


def draw_maps(
    artefact: Artefact, records: Sequence[CropRecord]
) -> list[Mapping[str, NDArray[np.uint8]]]:
    """Return every crop with its maps laid over it.

    Args:
        artefact: on any device.
        records: the crops.

    Returns:
        Of each crop, by the name of its map, `(H, W, 3)` uint8 RGB at the network's input size;
        each map runs from its own least to its own greatest value.

    Raises:
        InputProblem: naming the crop that cannot be read.
    """
    preprocessing = artefact.description.preprocessing
    device = next(artefact.embedder.parameters()).device
    drawn: list[Mapping[str, NDArray[np.uint8]]] = []
    for crops in decoded_batches(records, preprocessing, len(records)):
        batch = preprocessing.normalise(torch.from_numpy(crops).to(device))
        maps = {
            name: values.cpu().numpy()
            for name, values in stage_maps(artefact.embedder, batch).items()
        }
        drawn += [
            {name: overlay(crop, values[number]) for name, values in maps.items()}
            for number, crop in enumerate(crops)
        ]
    return drawn


def overlay(crop: NDArray[np.uint8], energy: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Return a map `(h, w)` in colours over its crop `(H, W, 3)` uint8 RGB, which turns grey."""
    height, width = crop.shape[:2]
    low = float(energy.min())
    high = float(energy.max())
    scaled = (energy - low) / max(high - low, 1e-12)
    smooth = Image.fromarray(scaled).resize((width, height), Image.Resampling.BICUBIC)
    colours = mpl.colormaps[COLOURS](np.clip(np.asarray(smooth), 0.0, 1.0))[..., :3]
    grey = crop.mean(axis=2, keepdims=True) / 255.0
    mixed = OPACITY * colours + (1.0 - OPACITY) * grey
    return np.asarray((255.0 * mixed).round(), dtype=np.uint8)


def _normalised(maps: torch.Tensor) -> torch.Tensor:
    """Activations `(B, C, h, w)` to maps `(B, h, w)`."""
    energy = maps.float().abs().sum(dim=1)
    length = energy.flatten(1).norm(dim=1).clamp_min(1e-12)
    unit: torch.Tensor = energy / length[:, None, None]
    return unit
