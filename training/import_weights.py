"""Make an artefact of published weights: the state dict of an OSNet, as torchreid saves it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from model.architecture import EmbedderConfig, HeadConfig
from model.artefact import Description
from model.embedder import Embedder
from model.preprocessing import Preprocessing
from model.problems import InputProblem, visible
from model.provenance import Provenance
from training.backbone_weights import load_tensors, read_state_dict, torchreid_tensors
from training.datasets.registry import read_dataset
from training.evaluation.calibration import calibrate_searches
from training.evaluation.embedding import SearchFeatures, embed_records
from training.evaluation.files import save_artefact
from training.evaluation.scoring import SearchScores, cosine_rows
from training.evaluation.searches import whole_set
from training.provenance import current_commit, current_time, inherited_weights

CALIBRATION = "synthetic:12,identities=80,domains=1,crops=4"


def import_weights(
    file: Path,
    out: Path,
    *,
    documented_data: Sequence[str] = (),
    terms: str = "",
    command: str = "",
) -> Description:
    """Write an artefact without M-Net from published weights, calibrated on drawn people.

    Args:
        file: a torchreid state dict of an OSNet.
        out: the artefact's file.
        documented_data: the data sets that the publisher names as training data.
        terms: the terms of use of the weights.
        command: the command line, for the provenance.

    Returns:
        The description as stored.

    Raises:
        InputProblem: the weights are not those of an OSNet; names a tensor.
    """
    embedder = read_embedder(file)
    preprocessing = Preprocessing()
    people = read_dataset(CALIBRATION)
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
        created_at=current_time(),
        held_out={},
        initial_weights=file.name,
        metrics={},
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


def read_embedder(file: Path) -> Embedder:
    """Return the embedder of a torchreid state dict, in evaluation mode.

    Raises:
        InputProblem: the file is no state dict of an OSNet, or lacks the layer of the features.
    """
    if file.suffix in (".xml", ".onnx"):
        raise InputProblem(
            f"{file}: a graph cannot be imported; name the weights' torchreid state dict, or start "
            "a training from one of the artefacts open and small-start, which are 0277 and 0287 of "
            "Intel's Open Model Zoo"
        )
    if not file.is_file():
        raise InputProblem(f"{visible(file)}: no such file; name a torchreid state dict")
    backbone, tensors = torchreid_tensors(read_state_dict(file), str(file))
    if "head.0.weight" not in tensors:
        raise InputProblem(
            f"{file}: has no fc layer, which makes the features; name weights trained for person "
            "re-identification, or train with initial_weights set to this file"
        )
    head = HeadConfig(layers="fc-bn-relu", dimension=len(tensors["head.0.weight"]))
    embedder = Embedder(EmbedderConfig(backbone=backbone, pooling="average", head=head))
    weights = {
        name if name.startswith("head.") else f"backbone.{name}": tensor
        for name, tensor in tensors.items()
    }
    load_tensors(embedder, weights, str(file))
    return embedder.eval()
