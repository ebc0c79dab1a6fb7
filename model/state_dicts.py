"""State dicts of PyTorch: read from a file, and refused where they do not fit a network."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
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


def load_tensors(
    network: nn.Module,
    tensors: Mapping[str, torch.Tensor],
    source: str,
    optional: tuple[str, ...] = (),
) -> None:
    """Fills a network with tensors of its own names; those that begin as `optional` may be missing.

    Raises:
        InputProblem: as `refuse_misfits` does.
    """
    refuse_misfits(tensors, network.state_dict(), source, optional)
    network.load_state_dict(tensors, strict=False)


def refuse_misfits(
    tensors: Mapping[str, torch.Tensor],
    own: Mapping[str, torch.Tensor],
    source: str,
    optional: tuple[str, ...] = (),
) -> None:
    """Refuses weights that do not fit a network's `own` tensors.

    Raises:
        InputProblem: naming `source` and the first unknown, misshapen or missing tensors.
    """
    shared = tensors.keys() & own.keys()
    missing = {key for key in own.keys() - shared if not key.endswith("num_batches_tracked")}
    for kind, keys in (
        ("unknown", tensors.keys() - shared),
        ("of another shape", {key for key in shared if tensors[key].shape != own[key].shape}),
        ("missing", {key for key in missing if not key.startswith(optional)}),
    ):
        if keys:
            more = ", …" if len(keys) > NAMED_TENSORS else ""
            raise InputProblem(
                f"{source}: does not fit this backbone; {len(keys)} tensors are {kind}: "
                f"{', '.join(sorted(keys)[:NAMED_TENSORS])}{more}; name weights of the same "
                "architecture"
            )
