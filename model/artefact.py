"""The artefact: one safetensors file that holds everything a service needs, and no pickle."""

from __future__ import annotations

import hashlib
import json
import os
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from pydantic import Field, ValidationError, model_validator
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from model.calibration import SCORINGS, Calibration, Scoring
from model.embedder import Embedder, EmbedderConfig
from model.metric_network import MetricNetwork, MetricNetworkConfig
from model.preprocessing import Preprocessing
from model.problems import InputProblem
from model.provenance import Provenance, TrainingFingerprints
from model.stored import Stored, is_absent

FORMAT_VERSION = 1
HEADER_KEY = "gmn_artefact"
SHIPPED = Path(__file__).parent / "artefacts"
# `bundled` until a newer one is shipped; it filled the galleries of earlier versions.
FIRST_BUNDLED = "bundled@1"
Tensors = dict[str, torch.Tensor]


class ArtefactProblem(InputProblem):
    """A file that is not a usable artefact: names the file, what is wrong, what to do."""


class Description(Stored):
    """The metadata of an artefact: everything in it but the tensors.

    Attributes:
        metric_network: M-Net's architecture; None for an artefact that scores by cosine alone.
        best: the scoring that ranks best on held-out people; None in older artefacts, whose
            default is M-Net.
    """

    format_version: int = FORMAT_VERSION
    embedder: EmbedderConfig
    metric_network: MetricNetworkConfig | None
    preprocessing: Preprocessing
    calibration: Calibration
    provenance: Provenance
    best: Scoring | None = Field(None, exclude_if=is_absent)
    embedding_fingerprint: str = Field("", pattern=r"^([0-9a-f]{64})?$")
    artefact_fingerprint: str = Field("", pattern=r"^([0-9a-f]{64})?$")

    @model_validator(mode="after")
    def _scorings_that_can_be_computed(self) -> Description:
        if (self.metric_network is None) != (self.calibration.fusion is None):
            raise ValueError("metric_network and the calibration's fusion go together")
        if self.best is not None and self.best not in self.calibration.scorings:
            raise ValueError(f"best is {self.best}, which has no calibration")
        return self

    @property
    def scorings(self) -> tuple[Scoring, ...]:
        """The scorings that this artefact offers: `cosine` alone without M-Net."""
        return tuple(name for name in SCORINGS if name in self.calibration.scorings)

    @property
    def default_scoring(self) -> Scoring:
        """The scoring that ranks where none is asked for."""
        return self.best or ("cosine" if self.metric_network is None else "mnet")


@dataclass(frozen=True)
class Artefact:
    """A loaded artefact; its networks are in evaluation mode and float32, on the CPU.

    Attributes:
        training: which crops and people it was trained on; empty in older artefacts.
    """

    description: Description
    embedder: Embedder
    metric_network: MetricNetwork | None
    training: TrainingFingerprints = field(default_factory=TrainingFingerprints)

    def on(self, device: torch.device) -> Artefact:
        """Moves the networks to a device, and returns this artefact."""
        self.embedder.to(device)
        if self.metric_network is not None:
            self.metric_network.to(device)
        return self

    def require_metric_network(self, name: str = "the artefact") -> MetricNetwork:
        """M-Net; `ArtefactProblem` where there is none, calling the artefact `name`."""
        if self.metric_network is None:
            raise ArtefactProblem(
                f"{name} has no M-Net and offers the scoring cosine alone; ask for cosine, or name "
                "an artefact with M-Net"
            )
        return self.metric_network


def save_artefact(
    path: Path,
    description: Description,
    embedder: Embedder,
    metric_network: MetricNetwork | None,
    training: TrainingFingerprints | None = None,
) -> Description:
    """Writes an artefact atomically and returns its description with both fingerprints.

    Matrices and kernels are stored as float16; vectors stay float32, since a BatchNorm's variance
    does not survive the narrow range.

    Args:
        path: an existing file is replaced.
        description: its fingerprints need not be set.
        embedder, metric_network: the weights; no M-Net where the description has none.
        training: fingerprints of the training crops and people.
    """
    tensors = _tensors("embedder", embedder)
    if metric_network is not None:
        tensors |= _tensors("metric_network", metric_network)
    if training is not None:
        tensors |= training.tensors()
    return _write(path, description, tensors)


def replace_calibration(
    source: Path,
    path: Path,
    calibration: Calibration,
    metric_network: MetricNetwork | None = None,
) -> Description:
    """Writes an artefact with another calibration to `path`, which may be `source`, atomically.

    `metric_network` is the artefact's M-Net with another zero of its scores; None keeps it.

    Raises:
        ArtefactProblem: for a source that is not a usable artefact.
    """
    description, tensors = _read(source)
    if metric_network is not None:
        tensors |= _tensors("metric_network", metric_network)
    return _write(path, description.model_copy(update={"calibration": calibration}), tensors)


def _write(path: Path, description: Description, tensors: Tensors) -> Description:
    description = _fingerprinted(description, tensors)
    content = save(tensors, metadata={HEADER_KEY: description.model_dump_json()})
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with beside.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
    return description


def shipped_artefacts() -> dict[str, Path]:
    """The files of the artefacts that ship with this project, by name; `bundled` is the default."""
    files = {file.stem: file for file in sorted(SHIPPED.glob("*.safetensors"))}
    return {"bundled": files[FIRST_BUNDLED], **files} if FIRST_BUNDLED in files else files


def resolve_artefact(name: str) -> Path:
    """The file of an ARTEFACT argument: the name of a shipped artefact, or a path.

    Raises:
        ArtefactProblem: for an unknown name that does not look like a path.
    """
    shipped = shipped_artefacts()
    if name in shipped:
        return shipped[name]
    path = Path(name)
    if path.exists() or path.suffix or len(path.parts) > 1:
        return path
    raise ArtefactProblem(
        f"{name}: there is no shipped artefact of this name, and no such file; known are "
        f"{', '.join(shipped)}"
    )


def artefact_name(path: Path) -> str:
    """The name of a shipped artefact, or another one's file name."""
    return path.stem if path.parent == SHIPPED else path.name


def read_description(path: Path) -> Description:
    """The metadata in an artefact's file, unverified; its tensors are not read.

    Raises:
        ArtefactProblem: for a file that is missing, foreign or of another format version.
    """
    return _read(path, with_tensors=False)[0]


def load_artefact(path: Path) -> Artefact:
    """Reads an artefact and verifies its fingerprints.

    Raises:
        ArtefactProblem: for a file that is missing, corrupt, truncated, foreign, of another format
            version, or that lacks a tensor.
    """
    description, tensors = _read(path)
    # It covers the embedding fingerprint, too.
    computed = _fingerprinted(description, tensors).artefact_fingerprint
    if computed != description.artefact_fingerprint:
        raise ArtefactProblem(
            f"{path}: its fingerprint does not match its content; the file is damaged or was "
            "edited, copy or train it again"
        )
    embedder = Embedder(description.embedder)
    _fill(path, "embedder", embedder, tensors)
    metric_network = None
    if description.metric_network is not None:
        metric_network = MetricNetwork(description.embedder.dimension, description.metric_network)
        _fill(path, "metric_network", metric_network, tensors)
    training = TrainingFingerprints.from_tensors(tensors)
    return Artefact(description, embedder, metric_network, training)


def _read(path: Path, with_tensors: bool = True) -> tuple[Description, Tensors]:
    try:
        with safe_open(str(path), framework="pt") as file:
            description = _parse_header(path, file.metadata())
            names = file.keys() if with_tensors else ()
            return description, {name: file.get_tensor(name) for name in names}
    except (SafetensorError, OSError, struct.error) as error:
        if path.is_file():
            raise ArtefactProblem(
                f"{path}: not a readable artefact ({error}); it is truncated, damaged or of "
                "another kind, copy it again or make one with gmn train"
            ) from error
        raise ArtefactProblem(
            f"{path}: no such file; name one of the shipped artefacts, "
            f"{', '.join(shipped_artefacts())}, or another file"
        ) from error


def _parse_header(path: Path, metadata: dict[str, str] | None) -> Description:
    if not metadata or HEADER_KEY not in metadata:
        raise ArtefactProblem(
            f"{path}: a safetensors file, but not an artefact of this project; "
            "make one with gmn train"
        )
    try:
        header = json.loads(metadata[HEADER_KEY])
        version = header.get("format_version") if isinstance(header, dict) else None
        if version != FORMAT_VERSION:
            raise ArtefactProblem(
                f"{path}: has artefact format {version}, this program reads {FORMAT_VERSION}; "
                "use the program version that wrote it, or train it again"
            )
        return Description.model_validate(header)
    except (json.JSONDecodeError, ValidationError) as error:
        if isinstance(error, ValidationError):
            for one in error.errors():
                # Such as a backbone of a package that is not installed.
                problem = one.get("ctx", {}).get("error")
                if isinstance(problem, InputProblem):
                    raise ArtefactProblem(f"{path}: {problem}") from error
        raise ArtefactProblem(
            f"{path}: its description is damaged ({str(error).splitlines()[0]}); copy it again"
        ) from error


@torch.no_grad()
def round_as_stored(network: torch.nn.Module) -> None:
    """Rounds a network's matrices and kernels to float16, as `save_artefact` stores them."""
    for tensor in network.state_dict().values():
        if _narrow(tensor):
            tensor.copy_(tensor.to(torch.float16))


def _narrow(tensor: torch.Tensor) -> bool:
    return tensor.is_floating_point() and tensor.ndim >= 2


def _tensors(prefix: str, module: torch.nn.Module) -> Tensors:
    tensors = {}
    for name, tensor in module.state_dict().items():
        if name.endswith("num_batches_tracked"):
            continue
        kept = tensor.detach().cpu().to(torch.float16 if _narrow(tensor) else tensor.dtype)
        tensors[f"{prefix}.{name}"] = kept.contiguous(memory_format=torch.contiguous_format)
    return tensors


def _fill(path: Path, prefix: str, module: torch.nn.Module, tensors: Tensors) -> None:
    """Gives a network its tensors and switches it to evaluation mode."""
    state = module.state_dict()
    for name, own in state.items():
        if name.endswith("num_batches_tracked"):
            continue
        stored = tensors.get(f"{prefix}.{name}")
        if stored is None or stored.shape != own.shape:
            raise ArtefactProblem(
                f"{path}: lacks the tensor {prefix}.{name} of shape {tuple(own.shape)}, which its "
                "architecture has; train it again"
            )
        state[name] = stored.to(own.dtype)
    module.load_state_dict(state)
    module.eval()


def _fingerprinted(description: Description, tensors: Tensors) -> Description:
    """The description with the fingerprints of its content and of the tensors."""
    about = description.model_dump(mode="json", include={"embedder", "preprocessing"})
    own = {name: tensor for name, tensor in tensors.items() if name.startswith("embedder.")}
    embedding = description.model_copy(update={"embedding_fingerprint": _digest(about, own)})
    about = embedding.model_dump(mode="json", exclude={"artefact_fingerprint"})
    return embedding.model_copy(update={"artefact_fingerprint": _digest(about, tensors)})


def _digest(about: dict[str, Any], tensors: Tensors) -> str:
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"\0{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()
