"""Activation maps of an embedder's stages over crops (GMN's Figure 4, MSFL's Figures 3 and 4).

A map is the sum over channels of |activation|, divided by its Euclidean length over the positions,
as in attention transfer (Zagoruyko and Komodakis, ICLR 2017). MSFL's scales have maps before and
after they are fused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
import torch
from PIL import Image

from model.arrays import Floats, Pixels
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
    """Choose one crop each of people spaced evenly over a data set; the choice is not random.

    Raises:
        InputProblem: the data set shows nobody.
    """
    first: dict[str, CropRecord] = {}
    for record in showing_people(dataset.spec, dataset.records):
        first.setdefault(record.identity, record)
    people = sorted(first)
    if not people:
        raise InputProblem(f"{dataset.spec}: shows no person to draw maps of; name another set")
    places = np.linspace(0, len(people) - 1, min(crops, len(people))).round().astype(int)
    return [first[people[place]] for place in places]


@torch.inference_mode()
def stage_maps(embedder: Embedder, batch: torch.Tensor) -> dict[str, torch.Tensor]:
    """Compute the maps of every stage, and of every scale of MSFL before and after fusion.

    Args:
        embedder: the embedder, in evaluation mode.
        batch: normalised crops `(B, 3, H, W)`.

    Returns:
        Maps by name, `(B, h, w)` float32; each has unit length over its positions.
    """
    _, outputs = embedder.before_neck(batch, STAGES)
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
    artefact: Artefact,
    records: Sequence[CropRecord],
    device: torch.device,
) -> list[Mapping[str, Image.Image]]:
    """Draw every map of some crops over the crop.

    Args:
        artefact: the artefact.
        records: the crops.
        device: the device that computes the maps.

    Returns:
        For each crop the pictures by the name of the map, in RGB at the network's input size. The
        colours of a map span the range of its own values.

    Raises:
        InputProblem: a crop cannot be read; the message names it.
    """
    preprocessing = artefact.description.preprocessing
    embedder = artefact.embedder.to(device)
    drawn: list[Mapping[str, Image.Image]] = []
    for crops in decoded_batches(records, preprocessing, len(records)):
        batch = preprocessing.normalise(torch.from_numpy(crops).to(device))
        maps = {name: values.cpu().numpy() for name, values in stage_maps(embedder, batch).items()}
        drawn += [
            {name: overlay(crop, values[number]) for name, values in maps.items()}
            for number, crop in enumerate(crops)
        ]
    return drawn


def overlay(crop: Pixels, energy: Floats) -> Image.Image:
    """Draw a map `(h, w)` in colours over its crop `(H, W, 3)` uint8 RGB in grey."""
    height, width = crop.shape[:2]
    low = float(energy.min())
    high = float(energy.max())
    scaled = (energy - low) / max(high - low, 1e-12)
    smooth = Image.fromarray(scaled).resize((width, height), Image.Resampling.BICUBIC)
    colours = mpl.colormaps[COLOURS](np.clip(np.asarray(smooth), 0.0, 1.0))[..., :3]
    grey = crop.mean(axis=2, keepdims=True) / 255.0
    mixed = OPACITY * colours + (1.0 - OPACITY) * grey
    return Image.fromarray((255.0 * mixed).round().astype(np.uint8))


def _normalised(maps: torch.Tensor) -> torch.Tensor:
    """Turn activations `(B, C, h, w)` into maps `(B, h, w)` of unit length."""
    energy = maps.float().abs().sum(dim=1)
    length = energy.flatten(1).norm(dim=1).clamp_min(1e-12)
    unit: torch.Tensor = energy / length[:, None, None]
    return unit
