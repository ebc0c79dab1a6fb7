"""Extrapolate an artefact: continue in the direction in which a training moved its weights."""

from __future__ import annotations

from pathlib import Path

from model.artefact import Description, load_artefact
from model.embedder import Embedder
from model.problems import InputProblem
from model.weights import round_as_stored
from training.evaluation.files import save_artefact
from training.provenance import (
    current_commit,
    current_time,
    fingerprints_of,
    inherited_weights,
    joined_terms,
)


def extrapolate(
    start: Path,
    trained: Path,
    alpha: float,
    out: Path,
    command: str,
) -> Description:
    """Write an artefact with the embedder start + alpha · (trained − start).

    M-Net and calibration are those of the trained artefact. Its figures are left out, since they
    are not those of the new weights.

    Args:
        start: the artefact that the training began from.
        trained: the artefact that it made.
        alpha: 1 gives the trained weights.
        out: the new artefact's file.
        command: the command line, for the provenance.

    Raises:
        InputProblem: the embedders or their inputs differ, or a BatchNorm has a variance of 0 or
            less at this alpha.
    """
    first = load_artefact(start)
    last = load_artefact(trained)
    description = last.description
    for part in ("embedder", "preprocessing"):
        if getattr(first.description, part) != getattr(description, part):
            raise InputProblem(
                f"{start}: its {part} differs from that of {trained}; name the artefact that the "
                "training began from"
            )
    state = last.embedder.state_dict()
    for name, weights in first.embedder.state_dict().items():
        if weights.is_floating_point():
            state[name] = weights + alpha * (state[name] - weights)
        if name.endswith("running_var") and (state[name] <= 0.0).any():
            raise InputProblem(f"alpha {alpha:g}: {name} would be 0 or less; choose a smaller one")
    embedder = Embedder(description.embedder)
    embedder.load_state_dict(state)
    round_as_stored(embedder)
    inherited = [inherited_weights("initial weights", str(file)) for file in (trained, start)]
    origins = {source: None for sources, _ in inherited for source in sources}
    provenance = description.provenance.model_copy(
        update={
            "terms": joined_terms(source.terms for source in origins),
            "command": command,
            "commit": current_commit(),
            "created_at": current_time(),
            "initial_weights": start.name,
            "metrics": {},
            "sources": tuple(origins),
        }
    )
    return save_artefact(
        out,
        description.model_copy(update={"provenance": provenance}),
        embedder.eval(),
        last.metric_network,
        fingerprints_of((), (), [training for _, training in inherited]).tensors(),
    )
