"""Find the people of a data set that an artefact may have been trained on."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from model.problems import InputProblem
from model.provenance import Provenance
from model.wording import counted
from training.datasets.record import Dataset
from training.datasets.registry import overlapping
from training.evaluation.searches import Search, across_cameras, whole_set
from training.provenance import (
    MOST_FINGERPRINTS,
    TrainingFingerprints,
    crop_fingerprint,
    person_fingerprints,
)


class SeenPeople(NamedTuple):
    """The people of a data set that an artefact may have been trained on.

    Attributes:
        identities: their identities in the data set.
        reasons: clauses that say why, such as "was trained on 20 of its 24 crops".
    """

    identities: frozenset[str]
    reasons: tuple[str, ...]

    def of(self, search: Search) -> frozenset[str]:
        return self.identities & {record.identity for record in search.queries}


def seen_people(
    provenance: Provenance,
    training: TrainingFingerprints,
    dataset: Dataset,
) -> SeenPeople:
    """Return the people whom an artefact, or a source of its weights, may have been trained on.

    A person counts as seen if one of the person's crops was trained on, as fingerprints show.
    People of a public set are also compared by their identities. Everybody in a data set counts as
    seen if it is known to show the same people as a set trained on, or if the publisher of the
    weights names it.

    Args:
        provenance, training: the artefact's provenance and fingerprints.
        dataset: the data set to test or calibrate on, with all its crops.

    Raises:
        InputProblem: a crop cannot be read; the message names it.
    """
    identities: set[str] = set()
    reasons = []
    if len(training.crops):
        fingerprints = [crop_fingerprint(record) for record in dataset.records]
        is_trained = np.isin(fingerprints, training.crops)
        identities = {dataset.records[row].identity for row in np.flatnonzero(is_trained)}
        if crops := int(is_trained.sum()):
            least = "at least " if len(training.crops) == MOST_FINGERPRINTS else ""
            among = counted(len(dataset.records), "crop")
            reasons.append(f"was trained on {least}{crops:,} of its {among}")
        by_name = person_fingerprints(dataset, dataset.identities)
        people = {by_name[value] for value in training.people.tolist() if value in by_name}
        if people - identities:
            reasons.append(f"was trained on {len(people):,} of its {len(by_name):,} people")
        identities |= people
    of_everyone = _reasons_of_everyone(provenance, dataset)
    if of_everyone:
        identities = set(dataset.identities)
    return SeenPeople(frozenset(identities), tuple(dict.fromkeys(reasons + of_everyone)))


def _reasons_of_everyone(provenance: Provenance, dataset: Dataset) -> list[str]:
    """Return reasons why everybody counts as seen; empty if crops and identities decide."""
    reasons = []
    inherited = [data for source in provenance.sources for data in source.data]
    for known in [*provenance.data, *inherited]:
        if known.name != dataset.name and overlapping([known.name], [dataset.name]):
            reasons.append(f"was trained on {known.name}, which shows some of the same people")
    return reasons + [
        f"has weights from {source.name}, which was trained on {name}"
        for source in provenance.sources
        for name in source.documented_data
        if _same_name(name, dataset)
    ]


def _same_name(documented: str, dataset: Dataset) -> bool:
    theirs = re.sub(r"[^a-z0-9]", "", documented.lower())
    ours = re.sub(r"[^a-z0-9]", "", dataset.name.lower())
    return bool(theirs and ours) and (theirs.startswith(ours) or ours.startswith(theirs))


def unseen_people(
    dataset: Dataset,
    provenance: Provenance,
    training: TrainingFingerprints,
) -> Search:
    """Return a search for people of a data set that an artefact was not trained on.

    Args:
        dataset: the data set to measure or calibrate on.
        provenance, training: the artefact's provenance and fingerprints.

    Raises:
        InputProblem: the artefact may have been trained on all of them.
    """
    seen = seen_people(provenance, training, dataset)
    if not seen.identities:
        return whole_set(dataset)
    others = [
        record
        for record in dataset.records
        if record.split in (None, "train") and record.identity not in seen.identities
    ]
    if not others:
        raise InputProblem(
            f"{dataset.spec}: the artefact {'; it '.join(seen.reasons)}, so that no people are "
            "left to calibrate on; name a set that it was not trained on"
        )
    people = len({record.identity for record in others})
    subject = f"all crops of the people that the artefact was not trained on ({people:,}) are"
    return replace(across_cameras(dataset.spec, others, subject), held_out=True)
