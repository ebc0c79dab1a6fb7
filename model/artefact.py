"""The artefact: one safetensors file that holds everything a service needs, and no pickle."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError, model_validator
from pydantic_core import from_json
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save

from model.architecture import EmbedderConfig, MetricNetworkConfig
from model.arrays import Floats, unit_rows
from model.calibration import SCORINGS, Calibration, Scoring
from model.openvino_loading import PROBES
from model.precision import HAS_TORCH
from model.preprocessing import Preprocessing
from model.problems import ArtefactProblem, InputProblem, legible
from model.provenance import Provenance
from model.stored import Metadata, is_absent

if TYPE_CHECKING:
    from model.embedder import Embedder
    from model.metric_network import MetricNetwork

FORMAT_VERSION = 1
HEADER_KEY = "gmn_artefact"
SHIPPED = Path(__file__).parent / "artefacts"
REFERENCE = "reference.vectors"
# Tensors can be added at any time under these prefixes, each of which has its own fingerprint.
ADDED = {"graph.": "graph_fingerprint", REFERENCE: "reference_fingerprint"}
FINGERPRINTS = ("embedding_fingerprint", "artefact_fingerprint", *ADDED.values())
Tensors = dict[str, NDArray[Any]]
# The description of an artefact as it is stored.
Header = dict[str, Any]


class Description(Metadata):
    """The metadata of an artefact: everything but its tensors.

    Attributes:
        metric_network: architecture of M-Net; None for an artefact that scores by cosine alone.
        best: the scoring that ranks best on held-out people; None if it was not measured, and then
            M-Net ranks.
        graph_fingerprint, reference_fingerprint: fingerprints of the OpenVINO graph and of the
            reference; None without them. Both can be added at any time, so that the other
            fingerprints cover neither.
    """

    format_version: int = FORMAT_VERSION
    embedder: EmbedderConfig
    metric_network: MetricNetworkConfig | None
    preprocessing: Preprocessing
    calibration: Calibration
    provenance: Provenance
    best: Scoring | None = Field(None, exclude_if=is_absent)
    embedding_fingerprint: str = ""
    artefact_fingerprint: str = ""
    graph_fingerprint: str | None = Field(None, exclude_if=is_absent)
    reference_fingerprint: str | None = Field(None, exclude_if=is_absent)

    @model_validator(mode="after")
    def _scorings_that_can_be_computed(self) -> Description:
        if (self.metric_network is not None) != ("mnet" in self.calibration.scorings):
            raise ValueError("metric_network and the calibration of mnet go together")
        if self.best is not None and self.best not in self.calibration.scorings:
            raise ValueError(f"best is {self.best}, which has no calibration")
        return self

    @property
    def scorings(self) -> tuple[Scoring, ...]:
        """The scorings that this artefact offers: `cosine` alone without M-Net."""
        return tuple(name for name in SCORINGS if name in self.calibration.scorings)

    @property
    def default_scoring(self) -> Scoring:
        """The scoring that ranks if a query names none."""
        return self.best or ("cosine" if self.metric_network is None else "mnet")

    @property
    def centres_by_camera(self) -> bool:
        """True if galleries may be centred by camera: with weights that this project only imports.

        Centring was measured with such weights alone (docs/centring.md).
        """
        return not self.provenance.data


@dataclass(frozen=True)
class Artefact:
    """A loaded artefact, whose PyTorch networks are built when they are first used.

    Attributes:
        tensors: tensors by name, such as `embedder.backbone.conv1.conv.weight`.
        source: name of the file for messages.
        header: the description as it is stored, with fields of other versions; empty for an
            artefact that was not loaded.
    """

    description: Description
    tensors: Tensors
    source: str = "the artefact"
    header: Header = field(default_factory=dict)

    @cached_property
    def embedder(self) -> Embedder:
        """The embedder in evaluation mode and float32, on the CPU.

        Raises:
            ArtefactProblem: the file lacks one of its tensors, or PyTorch is not installed.
        """
        if not HAS_TORCH:
            raise ArtefactProblem(
                f"{self.source}: has no OpenVINO graph, which is needed without PyTorch; add it "
                f"where PyTorch is installed, by gmn artefact add-graph {self.source}"
            )
        from model.embedder import Embedder
        from model.weights import load_weights

        embedder = Embedder(self.description.embedder).eval()
        load_weights(embedder, "embedder", self.tensors, self.source)
        return embedder

    @cached_property
    def pattern_features(self) -> Floats:
        """Features `(n, d)` of `drawn_patterns` by the float32 network in PyTorch.

        The file has them beside its graph; without a graph PyTorch computes them.

        Raises:
            ArtefactProblem: as for `embedder`, in a file without them.
        """
        if PROBES in self.tensors:
            return self.tensors[PROBES]
        embedder = self.embedder
        from model.openvino_graph import probe_features

        return probe_features(embedder, self.description.preprocessing)

    @cached_property
    def metric_network(self) -> MetricNetwork | None:
        """M-Net in evaluation mode and float32, on the CPU; None for an artefact without it.

        Raises:
            ArtefactProblem: the file lacks one of its tensors.
        """
        config = self.description.metric_network
        if config is None:
            return None
        from model.metric_network import MetricNetwork
        from model.weights import load_weights

        metric_network = MetricNetwork(self.description.embedder.dimension, config).eval()
        load_weights(metric_network, "metric_network", self.tensors, self.source)
        return metric_network

    @cached_property
    def reference(self) -> Floats | None:
        """Return unit vectors `(n, d)` of invented people for forecasts; None without a reference.

        Each is the sum of the unit vectors of two training people, and lies among the vectors of a
        gallery as a stranger's would.
        """
        stored = self.tensors.get(REFERENCE)
        return None if stored is None else unit_rows(stored.astype(np.float32))

    def require_metric_network(self, name: str = "the artefact") -> MetricNetwork:
        """Return M-Net.

        Raises:
            ArtefactProblem: the artefact has none; the message calls it `name`.
        """
        if self.metric_network is None:
            raise ArtefactProblem(
                f"{name} has no M-Net and offers the scoring cosine alone; ask for cosine, or name "
                "an artefact with M-Net"
            )
        return self.metric_network

    def save(
        self,
        path: Path,
        tensors: Tensors | None = None,
        **fields: Any,
    ) -> Description:
        """Write a file with some changes, atomically, and return its description.

        Args:
            path: the file, which may be that of this artefact.
            tensors: tensors to add or to replace.
            fields: other values of the header, as JSON has them. All others stay as they are
                stored, and fingerprints follow.
        """
        tensors = self.tensors | (tensors or {})
        stored = self.header or self.description.model_dump(mode="json")
        header = {name: stored[name] for name in stored if name not in FINGERPRINTS} | fields
        header |= _fingerprints(header, tensors)
        description = _parse(path, header)
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        content = save(tensors, {HEADER_KEY: json.dumps(header)})
        # `save_file` would create a file that only this user may read.
        with beside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
        return description


def shipped_artefacts() -> dict[str, Path]:
    """Return the files of the shipped artefacts by name; `bundled` is the default."""
    return {file.stem: file for file in sorted(SHIPPED.glob("*.safetensors"))}


def resolve_artefact(name: str) -> Path:
    """Return the file of an artefact, given the name of a shipped artefact or a path.

    Raises:
        ArtefactProblem: no shipped artefact has this name, and it does not look like a path.
    """
    shipped = shipped_artefacts()
    if name in shipped:
        return shipped[name]
    # No shell writes out the home directory of the later ones in a list.
    path = Path(name).expanduser() if name.startswith("~/") else Path(name)
    if path.exists() or path.suffix or len(path.parts) > 1:
        return path
    raise ArtefactProblem(
        f"{legible(name)}: there is no shipped artefact of this name, and no such file; known are "
        f"{', '.join(shipped)}"
    )


def artefact_name(path: Path) -> str:
    """Return the name of a shipped artefact, or the file name of another one."""
    return path.stem if path.parent == SHIPPED else path.name


def read_description(path: Path) -> Description:
    """Read the metadata of an artefact's file, without its tensors and without verifying it.

    Raises:
        ArtefactProblem: the file is missing, foreign or of another format version.
    """
    return _parse(path, _read_header(path))


def load_artefact(path: Path) -> Artefact:
    """Read an artefact and verify its fingerprints.

    Raises:
        ArtefactProblem: the file is missing, corrupt, truncated, foreign or of another format
            version.
    """
    header = _read_header(path)
    tensors = load_file(path)
    description = _parse(path, header)
    expected = _fingerprints(header, tensors)
    if any(header.get(name) != expected.get(name) for name in FINGERPRINTS):
        raise ArtefactProblem(
            f"{path}: its fingerprint does not match its content, so it is damaged or was edited; "
            "copy it or train it again"
        )
    return Artefact(description, tensors, str(path), header)


def _read_header(path: Path) -> Header:
    if not path.is_file():
        raise ArtefactProblem(
            f"{legible(path)}: no such file; name one of the shipped artefacts, "
            f"{', '.join(shipped_artefacts())}, or another file"
        )
    try:
        with safe_open(str(path), framework="numpy") as file:
            metadata = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise ArtefactProblem(
            f"{path}: not a readable artefact ({error}), but truncated, damaged or of another "
            "kind; copy it again or make one with gmn train"
        ) from error
    if HEADER_KEY not in metadata:
        raise ArtefactProblem(
            f"{path}: a safetensors file, but not an artefact of this project; make one with gmn "
            "train"
        )
    try:
        header: Header = from_json(metadata[HEADER_KEY])
    except ValueError as error:
        raise _damaged(path, error) from error
    version = header.get("format_version") if isinstance(header, dict) else None
    if version != FORMAT_VERSION:
        raise ArtefactProblem(
            f"{path}: has artefact format {version}, this program reads {FORMAT_VERSION}; use the "
            "version of the program that wrote it, or train it again"
        )
    return header


def _parse(path: Path, header: Header) -> Description:
    try:
        return Description.model_validate(header)
    except ValidationError as error:
        for details in error.errors():
            # The backbone's package may not be installed, for example.
            problem = details.get("ctx", {}).get("error")
            if isinstance(problem, InputProblem):
                raise ArtefactProblem(f"{path}: {problem}") from error
        raise _damaged(path, error) from error


def _damaged(path: Path, error: ValueError) -> ArtefactProblem:
    first_line = str(error).splitlines()[0]
    return ArtefactProblem(f"{path}: its description is damaged ({first_line}); copy it again")


def _fingerprints(header: Header, tensors: Tensors) -> dict[str, str]:
    """Compute the fingerprints of a header as it is stored, and of its tensors.

    They cover fields that this version does not know as well.
    """
    about = {name: header[name] for name in ("embedder", "preprocessing")}
    embedding = _digest(about, tensors, "embedder.")
    about = {name: header[name] for name in header if name not in FINGERPRINTS}
    about["embedding_fingerprint"] = embedding
    others = {name: tensors[name] for name in tensors if not name.startswith(tuple(ADDED))}
    fingerprints = {
        "embedding_fingerprint": embedding,
        "artefact_fingerprint": _digest(about, others, ""),
    }
    for prefix, fingerprint in ADDED.items():
        if any(name.startswith(prefix) for name in tensors):
            fingerprints[fingerprint] = _digest({"embedder": embedding}, tensors, prefix)
    return fingerprints


def _digest(
    about: Header,
    tensors: Tensors,
    prefix: str,
) -> str:
    """Return the SHA-256 of fields of a header, and of the tensors whose names have a prefix."""
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        if name.startswith(prefix):
            digest.update(f"\0{name}\0torch.{tensor.dtype}\0{tensor.shape}\0".encode())
            digest.update(tensor.tobytes())
    return digest.hexdigest()
