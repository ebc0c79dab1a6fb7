"""torchreid's state dicts of OSNet, under the names that model.osnet has for the same tensors."""

from __future__ import annotations

import re
from typing import Any

import torch

from model.osnet import WIDTHS
from model.problems import InputProblem

# Applied in this order.
RENAMINGS = (
    (r"^module\.", ""),
    # OSNet has the transition as a stage's third child, OSNet-AIN beside it.
    (r"^conv([23])\.2\.", r"pool\1."),
    (r"^fc\.", "head."),
    (r"^(conv[234]\.\d)\.conv1\.", r"\1.reduce."),
    (r"^(conv[234]\.\d)\.conv3\.", r"\1.expand."),
    (r"^(conv[234]\.\d)\.downsample\.", r"\1.shortcut."),
    (r"^(conv[234]\.\d)\.conv2a\.", r"\1.streams.0.0."),
    (r"^(conv[234]\.\d)\.conv2b\.", r"\1.streams.1."),
    (r"^(conv[234]\.\d)\.conv2c\.", r"\1.streams.2."),
    (r"^(conv[234]\.\d)\.conv2d\.", r"\1.streams.3."),
    (r"^(conv[234]\.\d)\.conv2\.(\d)\.layers\.", r"\1.streams.\2."),
    (r"(streams\.\d\.\d)\.conv1\.", r"\1.pointwise."),
    (r"(streams\.\d\.\d)\.conv2\.", r"\1.depthwise."),
    (r"gate\.fc1\.", "gate.squeeze."),
    (r"gate\.fc2\.", "gate.excite."),
    (r"^(conv\d.*|pool\d.*)\.bn\.", r"\1.norm."),
)


def torchreid_tensors(state: dict[str, Any], source: str) -> tuple[str, dict[str, torch.Tensor]]:
    """The name of the OSNet that a state dict is of, and its tensors under this project's names.

    Args:
        state: as torchreid saves it, bare or as the `state_dict` of a checkpoint.
        source: its name in messages.

    Returns:
        The backbone's name in the registry; the tensors of the backbone by their names in it, those
        of the head with `head.` before them. The classifier is left out.

    Raises:
        InputProblem: where it is not of an OSNet.
    """
    state = state.get("state_dict", state)
    tensors = {}
    for name, value in state.items():
        for pattern, replacement in RENAMINGS:
            name = re.sub(pattern, replacement, name)
        if isinstance(value, torch.Tensor) and not name.startswith("classifier."):
            tensors[name] = value
    stem = tensors.get("conv1.conv.weight")
    widths = {int(64 * width): suffix for suffix, width in WIDTHS.items()}
    if stem is None or "conv2.0.streams.0.0.pointwise.weight" not in tensors:
        raise InputProblem(
            f"{source}: not a torchreid state dict of an OSNet; its first tensors are "
            f"{', '.join(list(state)[:3])}"
        )
    if stem.shape[0] not in widths:
        raise InputProblem(
            f"{source}: an OSNet with {stem.shape[0]} channels after conv1, which is none of "
            f"{', '.join(WIDTHS)}"
        )
    suffix = widths[stem.shape[0]]
    if not any(".IN." in name for name in tensors):
        return f"osnet_{suffix}", tensors
    # OSNet-AIN normalises the residual and has no BatchNorm there, OSNet-IBN the sum.
    inside = "conv2.0.expand.norm.weight" not in tensors
    place = "expand.norm" if inside else "sum_norm"
    tensors = {name.replace("IN.", f"{place}."): value for name, value in tensors.items()}
    return f"osnet_{'ain' if inside else 'ibn'}_{suffix}", tensors
