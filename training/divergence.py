"""Noticing a loss or a gradient that is not finite before it reaches the weights."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from training.checkpoint import Progress


@dataclass(frozen=True)
class WatchedStep:
    """A step whose loss or gradient may turn out not to be finite.

    Attributes:
        progress: the step.
        sources: of the batch's crops.
        terms: the loss terms, on the device.
        statistics: what the networks' buffers held before the step.
        diverged: waits for the device to tell whether this step or one before it diverged.
    """

    progress: Progress
    sources: Sequence[str]
    terms: dict[str, torch.Tensor]
    statistics: list[torch.Tensor]
    diverged: Callable[[], bool]


class DivergenceWatch:
    """Looks at every step, at once or, so that a GPU need not be waited for, one step later.

    Looking later is safe where the optimiser leaves the weights alone while `diverged` is 1, as
    torch's fused ones do by their `found_inf`. The buffers, which the forward pass changes, are
    kept from before each step.
    """

    def __init__(self, networks: nn.Module, device: torch.device, late: bool) -> None:
        self._buffers = list(networks.buffers())
        self._spare = [[buffer.clone() for buffer in self._buffers] for _ in range(1 + late)]
        self.late = late
        self._waiting: deque[WatchedStep] = deque()
        self.diverged = torch.zeros((), device=device)

    def before(self, now: Progress) -> None:
        """Keeps the statistics that a step is about to change."""
        copy_tensors(self._spare[now.done % len(self._spare)], self._buffers)

    @torch.no_grad()
    def after(
        self,
        now: Progress,
        sources: Sequence[str],
        terms: dict[str, torch.Tensor],
        gradients: Sequence[torch.Tensor],
    ) -> WatchedStep | None:
        """Takes note of a step, before the weights change.

        Args:
            now: the step.
            sources: of its crops.
            terms: its loss.
            gradients: all that must be finite beside the loss.

        Returns:
            A step that diverged: this one or, where looking late, the one before it.
        """
        watched = torch.stack([term.detach() for term in terms.values()]).sum()
        if gradients:
            watched = watched + torch.stack(torch._foreach_norm(list(gradients))).sum()
        self.diverged = torch.maximum(self.diverged, (~torch.isfinite(watched)).float())
        statistics = self._spare[now.done % len(self._spare)]
        step = WatchedStep(now, sources, terms, statistics, _ask(self.diverged))
        self._waiting.append(step)
        return self._look() if len(self._waiting) > self.late else None

    def last(self) -> WatchedStep | None:
        """Looks at the steps that are still waiting; one that diverged, or None."""
        while self._waiting:
            found = self._look()
            if found is not None:
                return found
        return None

    def restore(self, step: WatchedStep) -> None:
        """Gives the buffers what they held before a step."""
        copy_tensors(self._buffers, step.statistics)

    def _look(self) -> WatchedStep | None:
        step = self._waiting.popleft()
        return step if step.diverged() else None


@torch.no_grad()
def copy_tensors(to: Sequence[torch.Tensor], source: Sequence[torch.Tensor]) -> None:
    """Copies tensors into others; all of one type in as few kernels as possible."""
    for kind in {tensor.dtype for tensor in to}:
        torch._foreach_copy_(
            [tensor for tensor in to if tensor.dtype == kind],
            [tensor for tensor in source if tensor.dtype == kind],
        )


def _ask(flag: torch.Tensor) -> Callable[[], bool]:
    """Reads a flag when it is asked for, without waiting for what the GPU is given later."""
    if flag.device.type != "cuda":
        return lambda: bool(flag)
    copy = torch.empty((), pin_memory=True).copy_(flag, non_blocking=True)
    arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
    arrived.record()

    def read() -> bool:
        arrived.synchronize()
        return bool(copy)

    return read
