"""The embedder in PyTorch, on any device, with BatchNorm folded into the convolutions before it.

In evaluation mode BN(Wx) = γ(Wx − μ)/σ + β is itself a convolution, with weights γW/σ. Folded,
feature maps are written once instead of twice.

The last digits of a feature depend on the size of its batch, since libraries compute batches of
different sizes by different kernels. A runtime therefore computes batches of few sizes, to which
fewer crops are padded, and uses only sizes whose features are equal bit for bit.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import TypeVar

import numpy as np
import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from model.arrays import Floats, Pixels
from model.artefact import Artefact
from model.embedder import Embedder
from model.precision import DtypeName, RuntimeName
from model.preprocessing import PATTERNS, Preprocessing, drawn_patterns

log = logging.getLogger(__name__)
Network = TypeVar("Network", bound=nn.Module)
# Outputs may differ by this share of the largest one; folding moves them by about 1e-6.
TOLERANCE = 1e-4
BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64, 128)
# All processes have to use the same size to have equal features, so that this is not measured. The
# launches of a GPU's kernels take about as long for so many crops as for one.
DEVICE_REFERENCE = 32


@torch.no_grad()
def folded(network: Network, size: Preprocessing) -> Network:
    """Copy a network with the same outputs and each BatchNorm folded into its convolution.

    Args:
        network: a network in evaluation mode, on any device.
        size: size of the random crop by which the outputs are compared.

    Returns:
        A plain copy if the outputs differ, for example since two modules read those of a
        convolution.
    """
    shorter = copy.deepcopy(network)
    for (name, convolution), (norm_name, norm) in pairwise(list(shorter.named_modules())):
        if isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            shorter.set_submodule(name, fuse_conv_bn_eval(convolution, norm))
            # timm's BatchNorms have an activation of their own.
            shorter.set_submodule(norm_name, getattr(norm, "act", nn.Identity()))
    random = torch.Generator().manual_seed(0)
    crop = torch.randn(1, 3, size.height, size.width, generator=random)
    crop = crop.to(next(network.parameters()).device)
    expected = network(crop)
    difference = (shorter(crop) - expected).abs().max()
    is_close = difference <= TOLERANCE * expected.abs().max()
    return shorter if is_close else copy.deepcopy(network)


class TorchRuntime:
    """The embedder in PyTorch, with BatchNorm folded.

    A feature does not depend on the other crops: the reference size decides its digits, and other
    sizes are used if they give the same. On a CPU the reference is a batch of one crop, and only it
    is used, since several sizes hardly ever agree there.

    Attributes:
        batch_sizes: sizes of the forward passes, ascending.
    """

    name: RuntimeName = "torch"

    def __init__(
        self,
        artefact: Artefact,
        dtype: DtypeName,
        device: str = "cpu",
        batch_sizes: Sequence[int] | None = None,
        reference: int | None = None,
    ) -> None:
        """Copy the embedder of an artefact to a device, such as `cuda:0`, and compare batch sizes.

        Args:
            artefact: provides the embedder; it is not changed.
            batch_sizes: the sizes to compare with the reference; None for those of the device.
            reference: the size that decides the digits; None for that of the device.
        """
        self.dtype = dtype
        self.device = device
        self._preprocessing = artefact.description.preprocessing
        embedder: Embedder = folded(artefact.embedder.requires_grad_(False), self._preprocessing)
        if dtype == "bfloat16":
            # Autocast would cast the weights at every pass. The head is computed in float32.
            _cast_convolutions(embedder.backbone, torch.bfloat16)
        self._device = torch.device(device)
        self._embedder = embedder.to(self._device)
        # This layout is faster. The annotations of PyTorch do not know the argument.
        self._embedder.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if device != "cpu":
            # Sums by atomic operations have other last digits at each call.
            torch.backends.cudnn.deterministic = True
        if batch_sizes is None:
            batch_sizes = (1,) if device == "cpu" else BATCH_SIZES
        if reference is None:
            reference = 1 if device == "cpu" else DEVICE_REFERENCE
        self.batch_sizes = self._choose_batch_sizes(batch_sizes, reference)

    def embed(self, crops: Pixels) -> Floats:
        """Return features `(B, d)` float32 of resized crops `(B, height, width, 3)` uint8 RGB.

        There has to be a crop. A feature is equal bit for bit among any other crops.
        """
        return self._embed_in(crops, self.batch_sizes)

    def _choose_batch_sizes(self, sizes: Sequence[int], reference: int) -> tuple[int, ...]:
        """Return the sizes whose features equal those of the reference size at every place."""
        if reference == 1 and set(sizes) <= {1}:
            return (1,)
        patterns = drawn_patterns(self._preprocessing)
        expected = self._embed_in(patterns, (reference,))
        if not self._is_equal(reference, patterns, expected):
            log.warning(
                "a feature depends on its place in a batch of %d, so each crop is computed alone",
                reference,
            )
            return (1,)
        usable = [size for size in sizes if self._is_equal(size, patterns, expected)]
        usable = sorted({*usable, reference})
        log.info("features are equal in batches of %s", ", ".join(map(str, usable)))
        return tuple(usable)

    def _is_equal(self, size: int, patterns: Pixels, expected: Floats) -> bool:
        # Each place has another pattern the second time, beside other neighbours.
        for shift in (0, 5):
            order = (np.arange(size * -(-2 * PATTERNS // size)) + shift) % PATTERNS
            try:
                features = self._embed_in(patterns[order], (size,))
            except torch.OutOfMemoryError:
                return False
            if not np.array_equal(features, expected[order], equal_nan=True):
                return False
        return True

    def _embed_in(self, crops: Pixels, sizes: Sequence[int]) -> Floats:
        passes = split_batch(len(crops), sizes)
        return np.concatenate([self._embed_padded(crops[part], size) for part, size in passes])

    @torch.inference_mode()
    def _embed_padded(self, crops: Pixels, size: int) -> Floats:
        padded = crops
        if len(crops) < size:
            padded = np.zeros((size, *crops.shape[1:]), np.uint8)
            padded[: len(crops)] = crops
        batch = self._preprocessing.normalise(torch.from_numpy(padded).to(self._device))
        with torch.autocast(
            batch.device.type,
            dtype=torch.bfloat16,
            enabled=self.dtype == "bfloat16",
        ):
            features = self._embedder(batch)
        return features.float().cpu().numpy()[: len(crops)]


def split_batch(count: int, sizes: Sequence[int]) -> Iterator[tuple[slice, int]]:
    """Yield the parts of a batch of `count` crops, each with the size of the pass that computes it.

    Args:
        sizes: sizes of passes, ascending. All parts but the last fill the largest one.
    """
    largest = sizes[-1]
    for start in range(0, count, largest):
        part = slice(start, min(start + largest, count))
        rest = part.stop - start
        yield part, next(size for size in sizes if size >= rest)


def _cast_convolutions(backbone: nn.Module, dtype: torch.dtype) -> None:
    for module in backbone.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.to(dtype)
