"""Published weights as an artefact: torchreid's state dicts, OpenVINO IR and ONNX of OSNet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from model.artefact import Description, save_artefact
from model.embedder import Embedder, EmbedderConfig, HeadConfig
from model.preprocessing import Preprocessing
from model.problems import InputProblem
from model.provenance import Provenance, WeightSource
from training.backbone_weights import load_tensors, read_state_dict, torchreid_tensors
from training.datasets.record import CropRecord, Dataset
from training.datasets.registry import read_datasets
from training.evaluation.calibration import calibrate_searches
from training.evaluation.embedding import embed_records, embed_search
from training.evaluation.pair_scores import computed_scores
from training.evaluation.peers import SUFFIXES, Peer
from training.evaluation.scoring import unit_length
from training.evaluation.searches import whole_set
from training.osnet_graph import ImportedOSNet, read_graph
from training.provenance import current_commit, file_digest, joined_terms

PROBE = "synthetic:11,identities=16,domains=1,crops=2"
CALIBRATION = "synthetic:12,identities=80,domains=1,crops=4"
LEAST_COSINE = 0.999


@dataclass(frozen=True)
class Parity:
    """How the imported embedder agrees with the file it comes from, on drawn crops.

    Attributes:
        reference: the file that was run, by OpenVINO.
        crops: how many crops were compared.
        least_cosine: the least cosine of both features of a crop.
        largest_difference: of any entry, relative to the largest entry.
    """

    reference: str
    crops: int
    least_cosine: float
    largest_difference: float


@dataclass(frozen=True)
class Published:
    """What the publisher of weights documents.

    Attributes:
        data: names of the data sets that the weights were trained on; empty where not known.
        terms: under what terms they may be used.
    """

    data: tuple[str, ...] = ()
    terms: str = ""


def import_weights(
    file: Path,
    out: Path,
    published: Published,
    calibration_data: Sequence[str] = (),
    reference: Path | None = None,
    command: str = "",
) -> tuple[Description, Parity | None]:
    """Writes an artefact without M-Net from published weights.

    Args:
        file: a torchreid state dict, an OpenVINO IR's `.xml`, or an `.onnx`, of an OSNet.
        out: the artefact.
        published: what is documented of the weights; it is stored.
        calibration_data: `KIND:PATH` of people to calibrate on; drawn people where none is named.
        reference: an `.xml` or `.onnx` of the same weights, which a state dict is compared with.
        command: the command line, stored.

    Returns:
        The description as stored, and the parity; None for a state dict without reference.

    Raises:
        InputProblem: for weights that are of no known network, naming the layer or the tensor; for
            features that differ from the reference's.
    """
    embedder, preprocessing = read_embedder(file)
    runs = file if file.suffix in SUFFIXES else reference
    parity = None if runs is None else compare(embedder, preprocessing, runs)
    if parity is not None and parity.least_cosine < LEAST_COSINE:
        raise InputProblem(
            f"{file}: the imported embedder differs from {runs} (least cosine "
            f"{parity.least_cosine:.4f}, needed {LEAST_COSINE}); nothing was written"
        )
    datasets = read_datasets(list(calibration_data) or [CALIBRATION])
    scores = [
        computed_scores(None, embed_search(embedder, preprocessing, search), search.labels())
        for search in map(whole_set, datasets)
    ]
    description = Description(
        embedder=embedder.config,
        metric_network=None,
        preprocessing=preprocessing,
        calibration=calibrate_searches(scores, "identities of " + _names(datasets)),
        provenance=_provenance(file, published, command, parity),
        best="cosine",
    )
    return save_artefact(out, description, embedder, None), parity


def read_embedder(file: Path) -> tuple[Embedder, Preprocessing]:
    """The embedder of published weights, in evaluation mode, and what its input is."""
    if not file.is_file():
        raise InputProblem(
            f"{file}: no such file; name a torchreid state dict, an OpenVINO .xml or an .onnx"
        )
    if file.suffix in SUFFIXES:
        found = read_graph(file)
        config = EmbedderConfig.model_validate(
            {
                "backbone": found.backbone,
                "pooling": found.pooling,
                "map_size": found.map_size,
                "head": {"layers": found.head, "dimension": found.dimension},
            }
        )
        embedder = Embedder(config)
        load_tensors(embedder, found.tensors, str(file))
        return embedder.eval(), _preprocessing(found)
    name, tensors = torchreid_tensors(read_state_dict(file), str(file))
    head = {key for key in tensors if key.startswith("head.")}
    if "head.0.weight" not in head:
        raise InputProblem(
            f"{file}: has no fc layer, which makes the features; name weights trained for person "
            "re-identification, or train with initial_weights set to this file"
        )
    embedder = Embedder(
        EmbedderConfig(
            backbone=name,
            pooling="average",
            head=HeadConfig(layers="fc-bn-relu", dimension=len(tensors["head.0.weight"])),
        )
    )
    own = {key if key in head else f"backbone.{key}": value for key, value in tensors.items()}
    load_tensors(embedder, own, str(file))
    return embedder.eval(), Preprocessing()


def compare(embedder: Embedder, preprocessing: Preprocessing, reference: Path) -> Parity:
    """Compares an embedder's features of drawn crops with those of a graph that OpenVINO runs."""
    records: list[CropRecord] = [
        record for dataset in read_datasets([PROBE]) for record in dataset.records
    ]
    theirs = Peer(reference).embed(records)
    ours = embed_records(embedder, preprocessing, records)
    if theirs.shape != ours.shape:
        raise InputProblem(
            f"{reference}: gives features of {theirs.shape[1]} numbers, the imported embedder of "
            f"{ours.shape[1]}; name the graph of the same weights"
        )
    return Parity(
        reference.name,
        len(records),
        float((unit_length(ours) * unit_length(theirs)).sum(axis=1).min()),
        float(np.abs(ours - theirs).max() / np.abs(theirs).max()),
    )


def _preprocessing(found: ImportedOSNet) -> Preprocessing:
    if found.mean is None or found.std is None:
        return Preprocessing()
    mean, std = (tuple(value / 255.0 for value in own) for own in (found.mean, found.std))
    return Preprocessing.model_validate({"mean": mean, "std": std})


def _provenance(
    file: Path, published: Published, command: str, parity: Parity | None
) -> Provenance:
    source = WeightSource(
        role="initial weights",
        name=file.name,
        sha256=file_digest(file),
        documented_data=published.data,
        terms=published.terms,
    )
    return Provenance(
        data=(),
        terms=joined_terms([published.terms]),
        recipe={},
        command=command,
        commit=current_commit(),
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        held_out={},
        initial_weights=file.name,
        metrics={"parity": vars(parity)} if parity else {},
        sources=(source,),
    )


def _names(datasets: Sequence[Dataset]) -> str:
    return ", ".join(dataset.name for dataset in datasets)
