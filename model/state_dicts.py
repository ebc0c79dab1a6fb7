"""State dicts of PyTorch: read from a file, and refused where they do not fit a network."""

from __future__ import annotations

import pickle
from pathlib import Path

import torch
from torch import nn

from model.problems import InputProblem

NAMED_TENSORS = 5


def read_state_dict(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a PyTorch state dict.

    Raises:
        InputProblem: where there is no such file, or where it is something else.
    """
    if not path.is_file():
        raise InputProblem(f"{path}: no such file; set initial_weights to a weights file")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, OSError) as error:
        raise InputProblem(f"{path}: not a PyTorch state dict ({type(error).__name__})") from error
    if not isinstance(state, dict):
        raise InputProblem(f"{path}: holds a {type(state).__name__}, not a state dict")
    return state


def load_tensors(network: nn.Module, tensors: dict[str, torch.Tensor], source: str) -> None:
    """Fills a network with tensors of its own names, all of them.

    Raises:
        InputProblem: naming tensors that the network has not, that have another shape, or that are
            missing.
    """
    own = network.state_dict()
    missing = set(own) - set(tensors)
    shared = set(own) & set(tensors)
    refuse_misfits(
        source,
        unknown=sorted(set(tensors) - set(own)),
        misshapen=sorted(key for key in shared if tensors[key].shape != own[key].shape),
        missing=sorted(key for key in missing if not key.endswith("num_batches_tracked")),
    )
    network.load_state_dict(tensors, strict=False)


def refuse_misfits(
    source: str, *, unknown: list[str], misshapen: list[str], missing: list[str]
) -> None:
    """Refuses weights that do not fit a network.

    Args:
        source: what the message calls the weights.
        unknown: tensors that the network has not.
        misshapen: tensors of another shape than the network's.
        missing: tensors that the network has and the weights have not.

    Raises:
        InputProblem: naming the first of the tensors.
    """
    for what, keys in (
        ("unknown", unknown),
        ("of another shape", misshapen),
        ("missing", missing),
    ):
        if keys:
            more = ", …" if len(keys) > NAMED_TENSORS else ""
            raise InputProblem(
                f"{source}: does not fit this backbone; {len(keys)} tensors are {what}: "
                f"{', '.join(keys[:NAMED_TENSORS])}{more}; name weights of the same architecture"
            )
