"""BatchNorm over the crops of all processes.

torch's own SyncBatchNorm needs a GPU and cannot be differentiated twice. The one here runs on every
device and can, at the price of some speed: it is taken on a CPU, and under a gradient regulariser.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from training.distributed import Processes, mean_over_processes


class SynchronisedBatchNorm(_BatchNorm):
    """A BatchNorm whose statistics in training are of every process's batch, of equal sizes."""

    processes = Processes()

    def _check_input_dim(self, maps: torch.Tensor) -> None:
        pass

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """Normalises `(B, C, …)`; statistics are taken in float32, the type stays."""
        if not self.training:
            return functional.batch_norm(
                maps, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
            )
        values = maps.float()
        others = [axis for axis in range(values.dim()) if axis != 1]
        shape = [-1 if axis == 1 else 1 for axis in range(values.dim())]
        mean = mean_over_processes(values.mean(dim=others))
        centred = values - mean.view(shape)
        variance = mean_over_processes(centred.square().mean(dim=others))
        self._remember(mean, variance, self.processes.count * values.numel() // values.shape[1])
        scale = (variance + self.eps).rsqrt() * self.weight
        return (centred * scale.view(shape) + self.bias.view(shape)).to(maps.dtype)

    @torch.no_grad()
    def _remember(self, mean: torch.Tensor, variance: torch.Tensor, count: int) -> None:
        momentum = self.momentum or 0.0
        if self.running_mean is None or self.running_var is None:
            return
        self.running_mean.lerp_(mean, momentum)
        self.running_var.lerp_(variance * (count / max(count - 1, 1)), momentum)
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)


def synchronise_norms(
    module: nn.Module, processes: Processes, differentiated_twice: bool, device: torch.device
) -> None:
    """Replaces every BatchNorm in a module; the names and tensors of its state stay."""
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm1d | nn.BatchNorm2d):
            setattr(module, name, _synchronised(child, processes, differentiated_twice, device))
        else:
            synchronise_norms(child, processes, differentiated_twice, device)


def _synchronised(
    norm: nn.BatchNorm1d | nn.BatchNorm2d,
    processes: Processes,
    differentiated_twice: bool,
    device: torch.device,
) -> nn.Module:
    if device.type == "cuda" and not differentiated_twice:
        synchronised: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(norm)  # type: ignore[no-untyped-call]
        return synchronised
    own = SynchronisedBatchNorm(norm.num_features, norm.eps, norm.momentum)
    own.processes = processes
    for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
        setattr(own, name, getattr(norm, name))
    return own
