"""The embedder in PyTorch, on any device."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from model.artefact import Artefact
from model.embedder import Embedder
from model.folding import folded
from model.openvino_runtime import DtypeName, RuntimeName


class TorchRuntime:
    """The embedder in PyTorch, one forward pass a batch, with BatchNorm folded."""

    name: RuntimeName = "torch"

    def __init__(
        self,
        artefact: Artefact,
        dtype: DtypeName,
        device: str = "cpu",
    ) -> None:
        """Copy the embedder to a device, such as `cuda:0`; the artefact's own is not changed."""
        self.dtype = dtype
        self.device = device
        self._preprocessing = artefact.description.preprocessing
        embedder: Embedder = folded(artefact.embedder.requires_grad_(False), self._preprocessing)
        self._embedder = embedder.to(device)
        # The faster layout on a processor; mypy's view of Module.to does not know the argument.
        self._embedder.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @torch.inference_mode()
    def embed(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return features `(B, d)` float32 of resized crops `(B, height, width, 3)` uint8 RGB."""
        if not len(crops):
            # Instance normalisation takes no empty batch.
            return np.empty((0, self._embedder.config.dimension), np.float32)
        batch = self._preprocessing.normalise(torch.from_numpy(crops).to(self.device))
        with torch.autocast(
            batch.device.type,
            dtype=torch.bfloat16,
            enabled=self.dtype == "bfloat16",
        ):
            features = self._embedder(batch)
        return np.asarray(features.float().cpu().numpy(), np.float32)
