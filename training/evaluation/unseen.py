"""Which artefact may be measured on which data set: one that was trained without its people."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from model.artefact import Description, TrainingData, resolve_artefact, shipped_artefacts
from model.problems import InputProblem
from training.datasets.record import Dataset
from training.datasets.registry import overlapping
from training.evaluation.protocols import Search

FILE_NAME = "model.safetensors"
NAMED_BY_THEIR_OWNER = ("manifest", "folder", "synthetic")


@dataclass(frozen=True)
class Candidate:
    """An artefact that a protocol may choose.

    Attributes:
        name: as it was given, or the folder of its run.
        path: its file.
        description: what it says of itself.
    """

    name: str
    path: Path
    description: Description


def artefact_files(names: Sequence[str]) -> dict[str, Path]:
    """The artefacts that words of a command line name, by what to call them.

    A word is the name of a shipped artefact, a file, a run's folder, or a folder of runs such as
    `gmn train … --protocol lodo` writes.

    Raises:
        InputProblem: for a folder without a run in it.
    """
    files: dict[str, Path] = {}
    for name in names:
        place = Path(name)
        if name in shipped_artefacts() or not place.is_dir():
            files[name] = resolve_artefact(name)
        elif (place / FILE_NAME).is_file():
            files[name] = place / FILE_NAME
        else:
            found = sorted(place.glob(f"*/{FILE_NAME}"))
            if not found:
                raise InputProblem(
                    f"{name}: no run in it has a {FILE_NAME}; name an artefact, a run's folder or "
                    "the --out of gmn train --protocol lodo"
                )
            files |= {file.parent.name: file for file in found}
    return files


def trained_on(data: Sequence[TrainingData], dataset: Dataset) -> str | None:
    """Why some people of a data set may have been trained on; None where that cannot be.

    Args:
        data: from an artefact's provenance.
        dataset: to be tested on.
    """
    kind = dataset.spec.partition(":")[0]
    for known in data:
        same_kind = known.spec.partition(":")[0] == kind and kind not in NAMED_BY_THEIR_OWNER
        if same_kind or may_be_same_set(known, dataset):
            return f"was trained on {known.name}"
        if overlapping([known.name], [dataset.name]):
            return f"was trained on {known.name}, which shows some of the same people"
    return None


def may_be_same_set(known: TrainingData, dataset: Dataset) -> bool:
    """Whether a set may show the people of one that was trained on, by name.

    Contents are not compared; of drawn people the seed is, since another seed draws others.
    """
    if known.name != dataset.name:
        return False
    seeds = [spec.partition(":")[2].partition(",")[0] for spec in (known.spec, dataset.spec)]
    drawn = all(spec.startswith("synthetic:") for spec in (known.spec, dataset.spec))
    return not drawn or seeds[0].strip() == seeds[1].strip()


def choose_unseen(candidates: Sequence[Candidate], dataset: Dataset) -> Candidate:
    """The one artefact that was trained without a data set's people.

    Raises:
        InputProblem: where every artefact was trained on them, or several were not.
    """
    reasons = {own.name: trained_on(own.description.provenance.data, dataset) for own in candidates}
    unseen = [own for own in candidates if reasons[own.name] is None]
    if not unseen:
        told = "; ".join(f"{name} {reason}" for name, reason in reasons.items())
        raise InputProblem(
            f"{dataset.spec}: no artefact was trained without it ({told}); train one with "
            f"gmn train … --leave-out {dataset.name}, or leave this set out of --data"
        )
    if len(unseen) > 1:
        unseen = [own for own in unseen if own.name == f"without-{dataset.name}"] or unseen
    if len(unseen) > 1:
        raise InputProblem(
            f"{dataset.spec}: {', '.join(own.name for own in unseen)} were all trained without it; "
            "give one of them"
        )
    return unseen[0]


def may_have_been_seen(data: Sequence[TrainingData], dataset: Dataset, search: Search) -> bool:
    """Whether people who are searched for may have been in an artefact's training.

    Those of a query and a gallery split were not, unless the training had more crops of the set
    than its training split holds.

    Args:
        data: from the artefact's provenance.
        dataset: to be tested on.
        search: of it.
    """
    if search.held_out or trained_on(data, dataset) is None:
        return False
    own = [known for known in data if may_be_same_set(known, dataset)]
    training_split = sum(record.split in (None, "train") for record in dataset.records)
    return (
        not own
        or any(record.split in (None, "train") for record in search.records)
        or any(known.crops > training_split for known in own)
    )
