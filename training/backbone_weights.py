"""Initial weights of a backbone: downloads of torchvision and timm, and files of state dicts."""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from model.backbones import OSNETS, PREFIX, WIDTHS, build_timm, import_timm
from model.problems import InputProblem, legible

NAMED_TENSORS = 5
DOWNLOADS = ("torchvision", "timm")
# Backbones that use torchvision's second version of weights; all others use the first.
SECOND_WEIGHTS = ("resnet50", "resnet101", "mobilenet_v2")
# Replacements, in this order, that turn torchreid's names of OSNet's tensors into this project's.
TORCHREID_NAMES = (
    (r"^module\.", ""),
    # torchreid has the pooling between stages as the third child of a stage.
    (r"^conv([23])\.2\.", r"pool\1."),
    (r"^fc\.", "head."),
    (r"^(conv[234]\.\d)\.conv1\.", r"\1.reduce."),
    (r"^(conv[234]\.\d)\.conv3\.", r"\1.expand."),
    (r"^(conv[234]\.\d)\.downsample\.", r"\1.shortcut."),
    (r"^(conv[234]\.\d)\.conv2a\.", r"\1.streams.0.0."),
    (r"^(conv[234]\.\d)\.conv2b\.", r"\1.streams.1."),
    (r"^(conv[234]\.\d)\.conv2c\.", r"\1.streams.2."),
    (r"^(conv[234]\.\d)\.conv2d\.", r"\1.streams.3."),
    (r"(streams\.\d\.\d)\.conv1\.", r"\1.pointwise."),
    (r"(streams\.\d\.\d)\.conv2\.", r"\1.depthwise."),
    (r"gate\.fc1\.", "gate.squeeze."),
    (r"gate\.fc2\.", "gate.excite."),
    (r"^(conv\d.*|pool\d.*)\.bn\.", r"\1.norm."),
)
WITHOUT_DOWNLOAD = "train the recipe adapt with initial_weights=small-start, an artefact that ships"
Tensors = dict[str, Tensor]


def load_backbone_weights(
    name: str,
    backbone: nn.Module,
    initial_weights: str,
) -> None:
    """Load the initial weights of a backbone.

    Args:
        name: the name of the backbone.
        backbone: the backbone; its random weights are replaced.
        initial_weights: `none`; `torchvision` or `timm` for their default downloads;
            `torchvision:NAME` for other weights of torchvision, such as `IMAGENET1K_V1`; or the
            file of a state dict with the names of torchvision, torchreid, timm or the backbone
            itself. The classifier may be missing and, with torchvision's names, the last stage.

    Raises:
        InputProblem: the weights cannot be read or do not fit.
    """
    if initial_weights == "none":
        return
    if name.startswith(PREFIX):
        backbone.load_state_dict(_timm(name, initial_weights))
    elif name in OSNETS:
        load_tensors(backbone, _osnet(name, initial_weights), initial_weights)
    else:
        state = _torchvision(name, initial_weights)
        expected = backbone.state_dict()
        if name == "mobilenet_v2":
            state = {key.removeprefix("features."): value for key, value in state.items()}
        for key in state.keys() - expected.keys():
            if key.startswith(("fc.", "classifier.")):
                del state[key]
        load_tensors(backbone, state, initial_weights, ("layer4.",))


def _torchvision(name: str, initial_weights: str) -> Tensors:
    import torchvision

    if initial_weights == "timm":
        raise InputProblem(
            f"timm's weights are for its own backbones; set embedder.backbone to timm:{name}, or "
            "initial_weights to torchvision"
        )
    library, _, asked = initial_weights.partition(":")
    if library != "torchvision":
        return read_state_dict(Path(initial_weights))
    if name not in torchvision.models.list_models():
        raise InputProblem(
            f"torchvision has no weights for {name}; set initial_weights to a state dict with the "
            "backbone's names, or to none"
        )
    all_weights = torchvision.models.get_model_weights(name).__members__
    chosen = asked or f"IMAGENET1K_V{2 if name in SECOND_WEIGHTS else 1}"
    if chosen not in all_weights:
        raise InputProblem(
            f"torchvision has no weights {chosen} for {name}; set initial_weights to "
            f"{' or '.join(f'torchvision:{name}' for name in all_weights)}"
        )
    try:
        state: Tensors = all_weights[chosen].get_state_dict(progress=False)
    except OSError as error:
        raise InputProblem(
            f"torchvision's weights for {name} could not be downloaded ({error}); "
            f"set initial_weights to a local file or to none, or {WITHOUT_DOWNLOAD}"
        ) from error
    return state


def _osnet(name: str, initial_weights: str) -> Tensors:
    if initial_weights.partition(":")[0] in DOWNLOADS:
        raise InputProblem(
            f"{initial_weights} has no weights for OSNet; set initial_weights to a torchreid "
            "state dict, to an artefact that gmn import-weights made, or to none"
        )
    backbone, tensors = torchreid_tensors(read_state_dict(Path(initial_weights)), initial_weights)
    if backbone != name:
        raise InputProblem(
            f"{initial_weights}: holds weights of {backbone}; set embedder.backbone={backbone}, or "
            "name other weights"
        )
    return {key: value for key, value in tensors.items() if not key.startswith("head.")}


def torchreid_tensors(state: dict[str, Any], source: str) -> tuple[str, Tensors]:
    """Recognise the OSNet of a state dict, and rename its tensors to this project's names.

    Args:
        state: torchreid's state dict, or a checkpoint with the key `state_dict`.
        source: its name in messages.

    Returns:
        The registered name of the backbone, and the backbone's tensors by their new names. Tensors
        of the head have the prefix `head.`; those of the classifier are left out.

    Raises:
        InputProblem: the tensors are those of another network, or of an OSNet with instance
            normalisation.
    """
    state = state.get("state_dict", state)
    tensors = {}
    for name, value in state.items():
        for pattern, replacement in TORCHREID_NAMES:
            name = re.sub(pattern, replacement, name)
        if isinstance(value, Tensor) and not name.startswith("classifier."):
            tensors[name] = value
    if any(".IN." in name for name in tensors):
        raise InputProblem(
            f"{source}: an OSNet with instance normalisation, OSNet-AIN or OSNet-IBN, which is not "
            "supported; name weights of a plain OSNet, such as osnet_x1_0"
        )
    stem = tensors.get("conv1.conv.weight")
    widths = {int(64 * width): suffix for suffix, width in WIDTHS.items()}
    if stem is None or "conv2.0.streams.0.0.pointwise.weight" not in tensors:
        raise InputProblem(
            f"{source}: not a torchreid state dict of an OSNet; its first tensors are "
            f"{', '.join(list(state)[:3])}"
        )
    if stem.shape[0] not in widths:
        raise InputProblem(
            f"{source}: its OSNet has {stem.shape[0]} channels after conv1, a width other than "
            f"{', '.join(WIDTHS)}"
        )
    return f"osnet_{widths[stem.shape[0]]}", tensors


def _timm(name: str, initial_weights: str) -> Tensors:
    timm = import_timm(name)
    timm_name = name.removeprefix(PREFIX)
    weights: dict[str, Any] = {"pretrained": True}
    if initial_weights.partition(":")[0] == "torchvision":
        raise InputProblem(
            f"torchvision has no weights for {name}; set initial_weights to timm for those that "
            "timm downloads, to a state dict with timm's names, or to none"
        )
    if initial_weights != "timm":
        state = read_state_dict(Path(initial_weights))
        with torch.device("meta"):
            classified = timm.create_model(timm_name).state_dict()
            bare = timm.create_model(timm_name, num_classes=0).state_dict()
        classifier = classified.keys() - bare.keys()
        unclassified = {key: value for key, value in state.items() if key not in classifier}
        refuse_misfits(unclassified, bare, initial_weights)
        weights["pretrained_cfg_overlay"] = {"state_dict": state, "custom_load": False}
    elif not timm.is_model_pretrained(timm_name):
        raise InputProblem(
            f"timm has no weights for {name}; set initial_weights to a state dict or to none"
        )
    try:
        return build_timm(name, **weights).state_dict()
    except OSError as error:
        raise InputProblem(
            f"timm's weights for {name} could not be downloaded ({error}); set "
            "initial_weights to a state dict with timm's names, which "
            f'torch.save(timm.create_model("{timm_name}", pretrained=True).state_dict(), '
            f'"weights.pth") writes on a machine with access, or to none, or {WITHOUT_DOWNLOAD}'
        ) from error


def timm_weights(name: str) -> tuple[str, str]:
    """Return name and licence of timm's pretrained weights for a backbone.

    The name ends in a tag that abbreviates recipe and data. The licence may be empty.
    """
    timm_name = name.removeprefix(PREFIX)
    config = import_timm(name).get_pretrained_cfg(timm_name).to_dict()
    tagged = ".".join(part for part in (timm_name.partition(".")[0], config.get("tag")) if part)
    return config.get("hf_hub_id") or f"timm/{tagged}", config.get("license") or ""


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a PyTorch state dict.

    Raises:
        InputProblem: the file is missing, or is no state dict.
    """
    if not path.is_file():
        raise InputProblem(f"{legible(path)}: no such file; set initial_weights to a weights file")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, OSError) as error:
        raise InputProblem(f"{path}: not a PyTorch state dict ({type(error).__name__})") from error
    if not isinstance(state, dict):
        raise InputProblem(f"{path}: holds a {type(state).__name__}, not a state dict")
    if "networks" in state:
        raise InputProblem(
            f"{path}: is the checkpoint of a run; make its artefact by gmn finish, and name that"
        )
    return state


def load_tensors(
    network: nn.Module,
    tensors: Mapping[str, Tensor],
    source: str,
    optional: tuple[str, ...] = (),
) -> None:
    """Load tensors into a network; names that start with one of `optional` may be missing.

    Raises:
        InputProblem: the tensors do not fit.
    """
    refuse_misfits(tensors, network.state_dict(), source, optional)
    network.load_state_dict(tensors, strict=False)


def refuse_misfits(
    tensors: Mapping[str, Tensor],
    expected: Mapping[str, Tensor],
    source: str,
    optional: tuple[str, ...] = (),
) -> None:
    """Refuse weights that do not fit a network's `expected` tensors.

    Raises:
        InputProblem: tensors are unknown, missing or of another shape; names the first of them.
    """
    shared = tensors.keys() & expected.keys()
    missing = {key for key in expected.keys() - shared if not key.endswith("num_batches_tracked")}
    for kind, keys in (
        ("unknown", tensors.keys() - shared),
        ("of another shape", {key for key in shared if tensors[key].shape != expected[key].shape}),
        ("missing", {key for key in missing if not key.startswith(optional)}),
    ):
        if keys:
            more = ", …" if len(keys) > NAMED_TENSORS else ""
            raise InputProblem(
                f"{source}: does not fit this backbone; {len(keys)} tensors are {kind}: "
                f"{', '.join(sorted(keys)[:NAMED_TENSORS])}{more}; name weights of the same "
                "architecture"
            )
