"""A model with nothing around it: what every serving bench is compared with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from model.artefact import (
    FIRST_BUNDLED,
    Artefact,
    load_artefact,
    resolve_artefact,
    save_artefact,
)
from model.collapse import drawn_patterns
from model.crops.decode import decode_crop
from model.embedder import Embedder, EmbedderConfig
from model.metric_network import (
    MetricNetwork,
    MetricNetworkConfig,
    cosine_similarities,
    score_pairs,
)
from model.preprocessing import Preprocessing

CROPS_PER_BATCH = 32


class BareModel:
    """Decodes, embeds, searches and scores in one process, in batches."""

    def __init__(self, artefact: Artefact) -> None:
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._embedder = artefact.embedder.to(self._device)
        self._embedder.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._metric_network = artefact.on(self._device).metric_network
        self._preprocessing = artefact.description.preprocessing
        self._gallery = torch.empty(0)

    @torch.inference_mode()
    def embed(self, images: Sequence[bytes]) -> torch.Tensor:
        """Features `(B, d)` float32 of image files, in one forward pass."""
        reduced = self._device.type == "cuda"
        crops = np.stack([self._preprocessing.resize(decode_crop(image)) for image in images])
        batch = self._preprocessing.normalise(torch.from_numpy(crops).to(self._device))
        with torch.autocast(self._device.type, dtype=torch.bfloat16, enabled=reduced):
            return torch.as_tensor(self._embedder(batch)).float()

    def enroll(self, images: Sequence[bytes]) -> None:
        """Keeps the features of a gallery."""
        batches = range(0, len(images), CROPS_PER_BATCH)
        self._gallery = torch.cat(
            [self.embed(images[start : start + CROPS_PER_BATCH]) for start in batches]
        )

    @torch.inference_mode()
    def query(self, images: Sequence[bytes], depth: int) -> None:
        """Ranks the gallery for each image, embedded together; M-Net scores the nearest pairs."""
        features = self.embed(images)
        nearest = cosine_similarities(features, self._gallery).topk(depth).indices
        if self._metric_network is None:
            nearest.cpu()
            return
        for feature, rows in zip(features, nearest, strict=True):
            score_pairs(self._metric_network, feature[None], self._gallery[rows]).cpu()


def write_resnet50(path: Path) -> Path:
    """An artefact of the papers' architecture, ResNet-50 at 256×128, with random weights.

    It ranks nothing; it costs what a trained one costs. The rest of its description is the first
    bundled one's.
    """
    torch.manual_seed(0)
    preprocessing = Preprocessing(height=256, width=128)
    embedder = Embedder(EmbedderConfig(backbone="resnet50")).eval()
    patterns = preprocessing.normalise(torch.from_numpy(drawn_patterns(preprocessing)))
    with torch.no_grad():
        # The neck takes off what all features share; without that the service would refuse them.
        before = embedder.features(patterns).before_neck
        embedder.neck.load_state_dict(
            embedder.neck.state_dict()
            | {"running_mean": before.mean(dim=0), "running_var": before.var(dim=0)}
        )
    metric_network = MetricNetwork(embedder.config.dimension, MetricNetworkConfig()).eval()
    configs = {"embedder": embedder.config, "metric_network": metric_network.config}
    bundled = load_artefact(resolve_artefact(FIRST_BUNDLED)).description
    description = bundled.model_copy(update=configs | {"preprocessing": preprocessing})
    save_artefact(path, description, embedder, metric_network)
    return path
