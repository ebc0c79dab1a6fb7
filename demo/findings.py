"""The demonstration's results: each query's ranking, and the figures over all of them."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from demo.people import DrawnCrop
from gmn_client.answers import SearchVerdict, Verdict


@dataclass(frozen=True)
class RankedPicture:
    """One row of a ranking with its picture.

    Attributes:
        rank: from 1.
        crop: the gallery's crop.
        right: whether it shows who was asked for.
        probability: 0 to 1, or None where the row was not scored.
        verdict: the service's own on this row, or None.
    """

    rank: int
    crop: DrawnCrop
    right: bool
    probability: float | None
    verdict: Verdict | None


@dataclass(frozen=True)
class Finding:
    """One query and its answer.

    Attributes:
        query: who was asked for.
        enrolled: whether the gallery knows this person.
        verdict: the service's answer.
        ranking: the first rows of the service's ranking, best first.
        ranked: ranking metrics of the whole ranking, 0 to 1 by name; None for a stranger.
        cosine: the same of the candidates ordered by cosine.
        thresholds: version of the thresholds that gave the verdict.
        calibration: what made them: `artefact`, the model's own calibration, or `own`.
        milliseconds: the service's own time for the query.
    """

    query: DrawnCrop
    enrolled: bool
    verdict: SearchVerdict
    ranking: tuple[RankedPicture, ...]
    ranked: Mapping[str, float] | None
    cosine: Mapping[str, float] | None
    thresholds: str
    calibration: str
    milliseconds: float

    @property
    def right_first(self) -> bool:
        """Whether the best row shows this person."""
        return bool(self.ranking) and self.ranking[0].right

    @property
    def outcome(self) -> str:
        """The answer judged, in a word or two."""
        if self.verdict == "uncertain":
            return "unsure"
        if not self.enrolled:
            return "false alarm" if self.verdict == "match" else "right: nobody"
        if self.verdict == "match":
            return "found" if self.right_first else "wrong person"
        return "missed"

    @property
    def good(self) -> bool:
        """Whether the answer is what a user wants."""
        return self.outcome in ("found", "right: nobody")


@dataclass(frozen=True)
class Calibration:
    """What the verdicts were made by.

    Attributes:
        operating_point: such as `far_1e-2`.
        asked: its rate, the share of strangers who may be answered `match`, 0 to 1.
        state: of the gallery's calibration after the last query.
        searches: how many searches the gallery's calibration had seen by then.
    """

    operating_point: str
    asked: float
    state: str
    searches: int


@dataclass(frozen=True)
class Findings:
    """All queries, with the counts around them.

    Attributes:
        findings: one per query, in the order they were asked.
        seed: of the drawing, the order and the choice of who is shown.
        crops: how many were enrolled.
        people: of how many people.
        cameras: under how many cameras.
        enroll_seconds: how long that took.
        calibration: what the verdicts were made by.
        artefact: its name.
        terms: under what terms its weights may be used.
        scoring: the artefact's default, which ranks.
        model: the embedder's fingerprint.
        device: where the service computes.
    """

    findings: tuple[Finding, ...]
    seed: int
    crops: int
    people: int
    cameras: int
    enroll_seconds: float
    calibration: Calibration
    artefact: str
    terms: str
    scoring: str
    model: str
    device: str

    @property
    def known(self) -> list[Finding]:
        """Queries for people who are enrolled."""
        return [one for one in self.findings if one.enrolled]

    @property
    def strangers(self) -> list[Finding]:
        """Queries for people who are not."""
        return [one for one in self.findings if not one.enrolled]

    def metric(self, name: str, by: str) -> float:
        """Mean of a ranking metric over the known people, 0 to 1.

        Args:
            name: `rank_1` or `mAP`.
            by: the ranking's `scoring`, or `cosine`.
        """
        figures: Iterable[Mapping[str, float] | None] = (
            one.cosine if by == "cosine" else one.ranked for one in self.known
        )
        values = [own[name] for own in figures if own is not None]
        return sum(values) / max(1, len(values))

    @property
    def scorings(self) -> tuple[str, ...]:
        """What is measured: the ranking's scoring, and cosine beside it."""
        return tuple(dict.fromkeys((self.scoring, "cosine")))

    @property
    def unmatched(self) -> int:
        """How many of the known are not answered `match`."""
        return sum(one.verdict != "match" for one in self.known)

    @property
    def unsure(self) -> int:
        """How many of the known are answered `uncertain`."""
        return sum(one.verdict == "uncertain" for one in self.known)

    @property
    def wrong_person(self) -> int:
        """How many of the known are answered `match` with another person first."""
        return sum(one.outcome == "wrong person" for one in self.known)

    @property
    def false_alarms(self) -> int:
        """How many strangers are answered `match`."""
        return sum(one.outcome == "false alarm" for one in self.strangers)

    @property
    def thresholds(self) -> int:
        """How many versions of the thresholds gave the verdicts."""
        return len({one.thresholds for one in self.findings})

    def by_calibration(self) -> list[tuple[str, list[Finding], list[Finding]]]:
        """Known people's and strangers' queries by the state of the calibration that judged them.

        In the order in which the states first came up.
        """
        states = dict.fromkeys(one.calibration for one in self.findings)
        return [
            (
                state,
                [one for one in self.known if one.calibration == state],
                [one for one in self.strangers if one.calibration == state],
            )
            for state in states
        ]

    @property
    def milliseconds(self) -> float:
        """Mean time of a query in the service."""
        return sum(one.milliseconds for one in self.findings) / max(1, len(self.findings))

    @property
    def crops_per_second(self) -> float:
        """Enrolment's pace."""
        return self.crops / max(self.enroll_seconds, 1e-9)

    def shown(self, known: int, strangers: int) -> list[Finding]:
        """A sample drawn by the seed without regard to the answers: first the known."""
        draw = random.Random(self.seed)
        groups = ((self.known, known), (self.strangers, strangers))
        return [
            one for group, count in groups for one in draw.sample(group, min(count, len(group)))
        ]
