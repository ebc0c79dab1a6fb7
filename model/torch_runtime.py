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
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from model.arrays import Floats, Pixels, WaitForFeatures
from model.artefact import Artefact
from model.embedder import Embedder
from model.precision import DtypeName, RuntimeName
from model.preprocessing import PATTERNS, Preprocessing, drawn_patterns

log = logging.getLogger(__name__)
Forward = Callable[[Tensor], Tensor]
CALLS_BEFORE_GRAPH = 3
Network = TypeVar("Network", bound=nn.Module)
# Outputs may differ by this share of the largest one; folding moves them by about 1e-6.
TOLERANCE = 1e-4
DEVICE_SIZES = (1, 2, 4, 8, 16, 32, 64, 128)
# All processes have to use the same size to get equal features, so it is not measured at the start.
# The launches of a GPU's kernels take about as long for this many crops as for one.
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


class BatchSizes(NamedTuple):
    """Sizes of forward passes.

    Attributes:
        reference: the size that decides the last digits of the features.
        candidates: sizes that are used if they give the features of the reference.
    """

    reference: int
    candidates: tuple[int, ...]


def batch_sizes_of(device: str, max_batch: int | None = None) -> BatchSizes:
    """Return the sizes of a device; `max_batch` is the largest batch, None for any.

    On a CPU each crop is computed alone: sizes hardly ever agree there, and gain little.
    """
    if device == "cpu":
        return BatchSizes(1, (1,))
    usable = [size for size in DEVICE_SIZES if max_batch is None or size < 2 * max_batch]
    return BatchSizes(DEVICE_REFERENCE, tuple(usable))


class TorchRuntime:
    """The embedder in PyTorch, with BatchNorm folded.

    A feature does not depend on the other crops: the reference size decides its digits, and other
    sizes are used if they give the same.

    Attributes:
        batch_sizes: sizes of the forward passes, ascending.
    """

    name: RuntimeName = "torch"

    def __init__(
        self,
        artefact: Artefact,
        dtype: DtypeName,
        device: str = "cpu",
        sizes: BatchSizes | None = None,
        cuda_graphs: bool = False,
    ) -> None:
        """Copy the embedder of an artefact to a device, and compare the features of batch sizes.

        Libraries make their plans for each size meanwhile, so that no later batch waits for them.

        Args:
            artefact: provides the embedder; it is not changed.
            device: `cpu`, or a name of PyTorch such as `cuda:0`.
            sizes: sizes of the forward passes; None for the sizes of the device.
            cuda_graphs: replay the kernels of a size from a CUDA graph; without one, with a line of
                the log, where it cannot be recorded.
        """
        self._cuda_graphs = cuda_graphs
        self._forwards: dict[int, Forward] = {}
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
        self._copies: torch.cuda.Stream | None = None
        if self._device.type == "cuda":
            # Sums by atomic operations have other last digits at each call.
            torch.backends.cudnn.deterministic = True
            self._copies = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        self.batch_sizes = self._choose_batch_sizes(sizes or batch_sizes_of(device))

    def embed(self, crops: Pixels) -> Floats:
        """Return features `(B, d)` float32 of resized crops `(B, height, width, 3)` uint8 RGB.

        At least one crop is required. A feature is equal bit for bit whatever the other crops are.
        """
        return self.start(crops)()

    def start(self, crops: Pixels) -> WaitForFeatures:
        """Start to embed crops, and return a function that waits for their features.

        On a GPU it returns as soon as all work is queued, so that the next batch can be begun. On
        a CPU it computes the features.
        """
        return self._start_in(crops, self.batch_sizes)

    def _choose_batch_sizes(self, sizes: BatchSizes) -> tuple[int, ...]:
        """Return the sizes with the features of the reference size at every position."""
        if sizes == BatchSizes(1, (1,)):
            return (1,)
        reference = sizes.reference
        patterns = drawn_patterns(self._preprocessing)
        expected = self._start_in(patterns, (reference,))()
        if not self._is_equal(reference, patterns, expected):
            log.warning(
                "a feature depends on its place in a batch of %d, so each crop is computed alone",
                reference,
            )
            return (1,)
        usable = {size for size in sizes.candidates if self._is_equal(size, patterns, expected)}
        usable.add(reference)
        log.info("features are equal in batches of %s", ", ".join(map(str, sorted(usable))))
        return tuple(sorted(usable))

    def _is_equal(self, size: int, patterns: Pixels, expected: Floats) -> bool:
        # The second time, each position has another pattern and other neighbours.
        for shift in (0, 5):
            order = (np.arange(size * -(-2 * PATTERNS // size)) + shift) % PATTERNS
            try:
                features = self._start_in(patterns[order], (size,))()
            except torch.OutOfMemoryError:
                return False
            if not np.array_equal(features, expected[order], equal_nan=True):
                return False
        return True

    def _start_in(self, crops: Pixels, sizes: Sequence[int]) -> WaitForFeatures:
        parts = split_batch(len(crops), sizes)
        passes = [self._start_pass(crops[part], size) for part, size in parts]
        return lambda: np.concatenate([wait() for wait in passes])

    @torch.inference_mode()
    def _start_pass(self, crops: Pixels, size: int) -> WaitForFeatures:
        # PyTorch keeps pinned memory for the next batch, and not before its copies have ended.
        is_pinned = self._copies is not None
        shape = (size, *crops.shape[1:])
        padded = torch.empty(shape, dtype=torch.uint8, pin_memory=is_pinned)
        padded[: len(crops)] = torch.from_numpy(crops)
        padded[len(crops) :] = 0
        features = self._forward(self._to_device(padded))
        if not is_pinned:
            computed = features[: len(crops)].cpu().numpy()
            return lambda: computed
        answer = torch.empty(features.shape, pin_memory=True)
        answer.copy_(features, non_blocking=True)
        copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
        copied.record()

        def wait() -> Floats:
            copied.synchronize()
            return answer[: len(crops)].numpy().copy()

        return wait

    def _to_device(self, padded: Tensor) -> Tensor:
        if self._copies is None:
            return padded.to(self._device)
        # Copies have a stream of their own, so that one does not wait for the batch before.
        with torch.cuda.stream(self._copies):
            batch = padded.to(self._device, non_blocking=True)
        computing = torch.cuda.current_stream(self._device)
        computing.wait_stream(self._copies)
        batch.record_stream(computing)
        return batch

    def _forward(self, batch: Tensor) -> Tensor:
        if not self._cuda_graphs:
            return self._compute(batch)
        size = len(batch)
        if size not in self._forwards:
            self._forwards[size] = recorded(self._compute, batch)
        return self._forwards[size](batch)

    def _compute(self, batch: Tensor) -> Tensor:
        normalised = self._preprocessing.normalise(batch)
        with torch.autocast(
            batch.device.type,
            dtype=torch.bfloat16,
            enabled=self.dtype == "bfloat16",
        ):
            return self._embedder(normalised).float()


def recorded(compute: Forward, batch: Tensor) -> Forward:
    """Record the kernels of a function as a CUDA graph, and return a function that replays it.

    Its result is overwritten by the next call. If the graph cannot be recorded, `compute` is
    returned.

    Args:
        compute: a function of a tensor on a GPU that waits for nothing.
        batch: its argument; all others have to have the same shape.
    """
    try:
        static = batch.clone()
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            # Libraries allocate and choose their kernels at the first calls, outside of the graph.
            for _ in range(CALLS_BEFORE_GRAPH):
                compute(static)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        # Other threads may allocate memory meanwhile.
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            result = compute(static)
    except RuntimeError as error:
        reason = str(error).partition("\n")[0]
        log.warning("batches of %d are computed without a CUDA graph: %s", len(batch), reason)
        return compute

    def replay(batch: Tensor) -> Tensor:
        static.copy_(batch)
        graph.replay()
        return result

    return replay


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
