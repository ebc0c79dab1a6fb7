"""Several processes that train one network on one batch, and their exchanges.

Every process embeds its share of the batch and has the features of all the others by `gather`. It
then computes the whole batch's loss, the same number as every other process, so that the pair
losses, the neck and M-Net see the batch that one process would have seen. The gradient of a
parameter is the mean over the processes, as DistributedDataParallel takes it. Functions that pass
gradients between them are therefore differentiated as if the processes' losses were added up, and
any number of times over: a gradient regulariser differentiates twice.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
from torch import Tensor, distributed, nn
from torch.distributed.nn import functional as collectives
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from model.problems import InputProblem

# The others wait for the leading process while it measures and writes an artefact.
COLLECTIVE_TIMEOUT = timedelta(hours=2)


@dataclass(frozen=True)
class Processes:
    """This process among all that train together, or alone."""

    rank: int = 0
    count: int = 1

    @property
    def is_main(self) -> bool:
        """True if this is the one that writes files and talks."""
        return self.rank == 0

    def local_slice(self, size: int) -> slice:
        """Return this process's share of a batch's crops.

        Raises:
            InputProblem: a batch cannot be shared out evenly.
        """
        if size % self.count:
            raise InputProblem(
                f"a batch of {size} crops cannot be shared by {self.count} processes; set "
                "sampling.identities or torchrun's --nproc-per-node so that it can"
            )
        each = size // self.count
        return slice(self.rank * each, (self.rank + 1) * each)

    def gather(self, own: Tensor) -> Tensor:
        """Return all processes' rows `(n, …)`, by rank: `(count·n, …)`; differentiable."""
        if self.count == 1:
            return own
        rows = collectives.all_gather(own.contiguous())  # type: ignore[no-untyped-call]
        return torch.cat(rows)

    def any(self, flag: bool) -> bool:
        """Return whether the flag is up in any process; all wait for the last one to ask."""
        if self.count == 1:
            return flag
        flags = torch.tensor(int(flag))
        distributed.all_reduce(flags, distributed.ReduceOp.MAX)
        return bool(flags)

    def barrier(self) -> None:
        """Wait for all processes."""
        self.any(False)

    @torch.no_grad()
    def average(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its mean over the processes, in one exchange."""
        if self.count == 1 or not tensors:
            return
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        distributed.all_reduce(flat)
        parts = torch.split(flat / self.count, [tensor.numel() for tensor in tensors])
        for tensor, part in zip(tensors, parts, strict=True):
            tensor.copy_(part.view_as(tensor))


ALONE = Processes()


@contextmanager
def joined_processes() -> Iterator[Processes]:
    """Join the processes that `torchrun` started; without it, this one is alone.

    After an error no process waits for the others: torchrun ends them.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield ALONE
        return
    on_gpu = torch.cuda.is_available()
    if on_gpu:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    distributed.init_process_group(
        "cpu:gloo,cuda:nccl" if on_gpu else "gloo",
        timeout=COLLECTIVE_TIMEOUT,
    )
    yield Processes(distributed.get_rank(), distributed.get_world_size())
    distributed.destroy_process_group()


def mean_over_processes(value: Tensor) -> Tensor:
    """Return the mean of a tensor over all processes; differentiable."""
    if not distributed.is_initialized():
        return value
    total: Tensor = collectives.all_reduce(value)  # type: ignore[no-untyped-call]
    return total / distributed.get_world_size()


class SynchronisedBatchNorm(_BatchNorm):
    """A BatchNorm whose statistics in training are of every process's batch, of equal sizes.

    torch's own SyncBatchNorm needs a GPU and cannot be differentiated twice. This one runs on every
    device and can, at the price of some speed: it is used on a CPU, and under a gradient
    regulariser.
    """

    processes = ALONE

    def _check_input_dim(self, maps: Tensor) -> None:
        pass

    def forward(self, maps: Tensor) -> Tensor:
        """Normalise `(B, C, …)`; statistics are computed in float32, the type stays."""
        if not self.training:
            return functional.batch_norm(
                maps,
                self.running_mean,
                self.running_var,
                self.weight,
                self.bias,
                eps=self.eps,
            )
        values = maps.float()
        others = [axis for axis in range(values.dim()) if axis != 1]
        shape = [-1 if axis == 1 else 1 for axis in range(values.dim())]
        mean = mean_over_processes(values.mean(dim=others))
        centred = values - mean.view(shape)
        variance = mean_over_processes(centred.square().mean(dim=others))
        count = self.processes.count * values.numel() // values.shape[1]
        self._remember(mean, variance, count)
        scale = (variance + self.eps).rsqrt() * self.weight
        normalised = centred * scale.view(shape) + self.bias.view(shape)
        return normalised.to(maps.dtype)

    @torch.no_grad()
    def _remember(
        self,
        mean: Tensor,
        variance: Tensor,
        count: int,
    ) -> None:
        momentum = self.momentum or 0.0
        self.get_buffer("running_mean").lerp_(mean, momentum)
        unbiased = variance * (count / max(count - 1, 1))
        self.get_buffer("running_var").lerp_(unbiased, momentum)
        self.get_buffer("num_batches_tracked").add_(1)


def synchronise_norms(
    module: nn.Module,
    processes: Processes,
    differentiated_twice: bool,
    device: torch.device,
) -> None:
    """Replace every BatchNorm in a module; the names and tensors of its state stay."""
    for name, child in module.named_children():
        if not isinstance(child, nn.BatchNorm1d | nn.BatchNorm2d):
            synchronise_norms(child, processes, differentiated_twice, device)
        elif device.type == "cuda" and not differentiated_twice:
            setattr(module, name, nn.SyncBatchNorm.convert_sync_batchnorm(child))  # type: ignore[no-untyped-call]
        else:
            norm = SynchronisedBatchNorm(child.num_features, child.eps, child.momentum)
            norm.processes = processes
            for tensor in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
                setattr(norm, tensor, getattr(child, tensor))
            setattr(module, name, norm)
