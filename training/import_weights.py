"""Published weights as an artefact: torchreid's state dicts, OpenVINO IR and ONNX of OSNet."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from model.architecture import EmbedderConfig, HeadConfig
from model.artefact import Description, save_artefact
from model.embedder import Embedder
from model.preprocessing import Preprocessing
from model.problems import InputProblem
from model.provenance import Provenance
from training.backbone_weights import load_tensors, read_state_dict, torchreid_tensors
from training.datasets.registry import read_datasets
from training.evaluation.calibration import calibrate_searches
from training.evaluation.embedding import SearchFeatures, embed_records
from training.evaluation.peers import SUFFIXES, Peer
from training.evaluation.scoring import SearchScores, cosine_rows, unit_length
from training.evaluation.searches import whole_set
from training.osnet_graph import read_graph
from training.provenance import current_commit, inherited_weights

PROBE = "synthetic:11,identities=16,domains=1,crops=2"
CALIBRATION = "synthetic:12,identities=80,domains=1,crops=4"
LEAST_COSINE = 0.999


def import_weights(
    file: Path,
    out: Path,
    *,
    documented_data: Sequence[str] = (),
    terms: str = "",
    reference: Path | None = None,
    command: str = "",
) -> Description:
    """Writes an artefact without M-Net from published weights, calibrated on drawn people.

    Args:
        file: a torchreid state dict, an OpenVINO IR's `.xml`, or an `.onnx`, of an OSNet.
        out: the artefact.
        documented_data: the data sets that the publisher names as those of the training.
        terms: under what terms the weights may be used.
        reference: an `.xml` or `.onnx` of the same weights, which a state dict is compared with.
        command: the command line, stored.

    Returns:
        The description as stored; what `compare` returns is in its provenance's metrics as
        `parity`, but for a state dict without reference.

    Raises:
        InputProblem: for weights that are of no known network, naming the layer or the tensor; for
            features that differ from the reference's.
    """
    embedder, preprocessing = read_embedder(file)
    graph = file if file.suffix in SUFFIXES else reference
    metrics = {} if graph is None else {"parity": compare(embedder, preprocessing, graph)}
    (people,) = read_datasets([CALIBRATION])
    search = whole_set(people)
    features = embed_records(embedder, preprocessing, search.records)
    cosine = cosine_rows(*SearchFeatures.of(search, features))
    scores = SearchScores(cosine, None, search.labels())
    sources, _ = inherited_weights("initial weights", str(file), tuple(documented_data), terms)
    provenance = Provenance(
        data=(),
        terms=terms,
        recipe={},
        command=command,
        commit=current_commit(),
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        held_out={},
        initial_weights=file.name,
        metrics=metrics,
        sources=sources,
    )
    description = Description(
        embedder=embedder.config,
        metric_network=None,
        preprocessing=preprocessing,
        calibration=calibrate_searches([scores], f"identities of {people.name}"),
        provenance=provenance,
        best="cosine",
    )
    return save_artefact(out, description, embedder, None)


def read_embedder(file: Path) -> tuple[Embedder, Preprocessing]:
    """Return the embedder of published weights, in evaluation mode, and what its input is."""
    if not file.is_file():
        raise InputProblem(
            f"{file}: no such file; name a torchreid state dict, an OpenVINO .xml or an .onnx"
        )
    if file.suffix in SUFFIXES:
        return read_graph(file)
    name, tensors = torchreid_tensors(read_state_dict(file), str(file))
    if "head.0.weight" not in tensors:
        raise InputProblem(
            f"{file}: has no fc layer, which makes the features; name weights trained for person "
            "re-identification, or train with initial_weights set to this file"
        )
    head = HeadConfig(layers="fc-bn-relu", dimension=len(tensors["head.0.weight"]))
    embedder = Embedder(EmbedderConfig(backbone=name, pooling="average", head=head))
    own = {
        key if key.startswith("head.") else f"backbone.{key}": value
        for key, value in tensors.items()
    }
    load_tensors(embedder, own, str(file))
    return embedder.eval(), Preprocessing()


def compare(embedder: Embedder, preprocessing: Preprocessing, reference: Path) -> dict[str, Any]:
    """Compares an embedder's features of drawn crops with those of a graph that OpenVINO runs.

    Returns:
        The `reference`'s name, the number of `crops`, the `least_cosine` of both features of a
        crop, and the `largest_difference` of any entry, relative to the largest entry.

    Raises:
        InputProblem: where the features differ.
    """
    (probe,) = read_datasets([PROBE])
    theirs = Peer(reference).embed(probe.records)
    ours = embed_records(embedder, preprocessing, probe.records)
    same = theirs.shape == ours.shape
    cosine = float((unit_length(ours) * unit_length(theirs)).sum(axis=1).min()) if same else 0.0
    if not cosine >= LEAST_COSINE:
        raise InputProblem(
            f"{reference}: has other features than the imported embedder (least cosine "
            f"{cosine:.4f}, needed {LEAST_COSINE}); nothing was written, name a graph of the same "
            "weights"
        )
    return {
        "reference": reference.name,
        "crops": len(probe.records),
        "least_cosine": cosine,
        "largest_difference": float(np.abs(ours - theirs).max() / np.abs(theirs).max()),
    }
