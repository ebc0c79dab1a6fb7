"""The weights of networks as an artefact stores them, NumPy arrays by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from numpy.typing import NDArray
from torch import nn

from model.problems import ArtefactProblem

# No output depends on this counter of a BatchNorm.
COUNTER = "num_batches_tracked"


def stored_tensors(prefix: str, network: nn.Module) -> dict[str, NDArray[Any]]:
    """Return the weights of a network by `prefix.name`, matrices and kernels as float16.

    Vectors stay float32, since the variance of a BatchNorm may exceed the range of float16.
    """
    tensors = {}
    for name, tensor in network.state_dict().items():
        if name.endswith(COUNTER):
            continue
        stored = tensor.detach().cpu()
        if stored.is_floating_point() and stored.ndim >= 2:
            stored = stored.to(torch.float16)
        tensors[f"{prefix}.{name}"] = stored.numpy().copy(order="C")
    return tensors


def round_as_stored(network: nn.Module) -> None:
    """Round the matrices and kernels of a network to float16, as `stored_tensors` does."""
    load_weights(network, "", stored_tensors("", network), "")


@torch.no_grad()
def load_weights(
    network: nn.Module,
    prefix: str,
    tensors: Mapping[str, NDArray[Any]],
    source: str,
) -> None:
    """Load weights into a network.

    Args:
        network: the network, on any device.
        prefix: prefix of its tensors, as for `stored_tensors`.
        tensors: the tensors of an artefact.
        source: name of the artefact for the message.

    Raises:
        ArtefactProblem: a tensor is missing or has another shape.
    """
    for name, tensor in network.state_dict().items():
        if name.endswith(COUNTER):
            continue
        stored = tensors.get(f"{prefix}.{name}")
        if stored is None or stored.shape != tensor.shape:
            raise ArtefactProblem(
                f"{source}: lacks the tensor {prefix}.{name} of shape "
                f"{tuple(tensor.shape)}, which its architecture has; train it again"
            )
        tensor.copy_(torch.tensor(stored))
