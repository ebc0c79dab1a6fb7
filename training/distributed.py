"""Several processes that train the same networks, each on its share of a batch.

Every process embeds its share and gathers the features of all others. Each then computes the loss
of the whole batch, so that pair losses, neck and M-Net see the batch that a single process would
see. Gradients of parameters are averaged over the processes, as by DistributedDataParallel. The
collective functions here are differentiated as if the losses of all processes were summed, and can
be differentiated twice, which a gradient regulariser needs.
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

# All processes wait while the main one validates or writes an artefact.
COLLECTIVE_TIMEOUT = timedelta(hours=2)


@dataclass(frozen=True)
class Processes:
    """The rank of this process, and the number of processes that train together."""

    rank: int = 0
    count: int = 1

    @property
    def is_main(self) -> bool:
        """True in the process that writes files and prints."""
        return self.rank == 0

    def local_slice(self, size: int) -> slice:
        """Return this process's share of a batch's crops.

        Raises:
            InputProblem: a batch cannot be shared evenly.
        """
        if size % self.count:
            raise InputProblem(
                f"a batch of {size} crops cannot be shared evenly by {self.count} processes; "
                "change sampling.identities, or torchrun's --nproc-per-node"
            )
        each = size // self.count
        return slice(self.rank * each, (self.rank + 1) * each)

    def gather(self, own: Tensor) -> Tensor:
        """Concatenate the rows `(n, …)` of all processes to `(count·n, …)`; differentiable."""
        if self.count == 1:
            return own
        rows = collectives.all_gather(own.contiguous())  # type: ignore[no-untyped-call]
        return torch.cat(rows)

    def any(self, flag: bool) -> bool:
        """Return whether the flag is true in any process; waits until all processes have called."""
        if self.count == 1:
            return flag
        flags = torch.tensor(int(flag))
        distributed.all_reduce(flags, distributed.ReduceOp.MAX)
        return bool(flags)

    def barrier(self) -> None:
        """Wait until all processes have called this."""
        self.any(False)

    @torch.no_grad()
    def average(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its mean over the processes, with a single all-reduce."""
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
    """Join the processes that `torchrun` started; without torchrun there is one process.

    If a process fails, torchrun ends the others.
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
    """A BatchNorm that in training uses the statistics of all processes' shares, of equal size.

    It is slower than torch's SyncBatchNorm, but runs on a CPU and can be differentiated twice. It
    is therefore used on CPUs, and for gradient regularisers.
    """

    processes = ALONE

    def _check_input_dim(self, maps: Tensor) -> None:
        pass

    def forward(self, maps: Tensor) -> Tensor:
        """Normalise `(B, C, …)` of any float type, with statistics in float32."""
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
    """Replace every BatchNorm in a module; its state dict keeps its names and tensors."""
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
