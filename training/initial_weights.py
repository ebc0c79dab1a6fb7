"""Artefacts as initial weights: their networks, and the sections of a recipe that they decide."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model.artefact import load_artefact, resolve_artefact
from model.calibration import Calibration
from model.embedder import Embedder
from model.metric_network import MetricNetwork
from model.preprocessing import Preprocessing

WORDS = ("none", "torchvision", "timm")


@dataclass(frozen=True)
class Start:
    """The content of an artefact that a run starts from.

    Attributes:
        name: the name of the artefact's file.
        preprocessing: the preprocessing of the embedder's input.
        embedder, metric_network: networks in evaluation mode; M-Net is None if there is none.
        calibration: the calibration of the artefact's scores.
    """

    name: str
    preprocessing: Preprocessing
    embedder: Embedder
    metric_network: MetricNetwork | None
    calibration: Calibration


def names_no_file(initial_weights: str) -> bool:
    """Return whether this is `none` or a download, such as `torchvision:IMAGENET1K_V1`."""
    return initial_weights.partition(":")[0] in WORDS


def read_start(initial_weights: str) -> Start | None:
    """Read the artefact that a recipe's `initial_weights` names.

    Returns:
        Its content; None if `initial_weights` names weights of a backbone.

    Raises:
        InputProblem: the artefact cannot be read.
    """
    path = _artefact_file(initial_weights)
    if path is None:
        return None
    artefact = load_artefact(path)
    return Start(
        path.name,
        artefact.description.preprocessing,
        artefact.embedder,
        artefact.metric_network,
        artefact.description.calibration,
    )


def _artefact_file(initial_weights: str) -> Path | None:
    if names_no_file(initial_weights):
        return None
    path = resolve_artefact(initial_weights)
    return path if path.suffix == ".safetensors" else None


def sections_of(initial_weights: str) -> dict[str, dict[str, Any]]:
    """Return the sections of a recipe that are those of the artefact it starts from.

    The result is empty for weights of a backbone, and for a file that does not exist: a recipe can
    be read without the files that its run needs.

    Raises:
        InputProblem: the artefact cannot be read.
    """
    path = _artefact_file(initial_weights)
    if path is None or not path.exists():
        return {}
    description = load_artefact(path).description
    sections = {
        "embedder": description.embedder.model_dump(mode="json"),
        "preprocessing": description.preprocessing.model_dump(mode="json"),
    }
    if description.metric_network is not None:
        sections["metric_network"] = description.metric_network.model_dump(mode="json")
    return sections
