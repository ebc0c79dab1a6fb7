"""What the demonstration found out: each query's ranking, and the figures over all of them."""

from __future__ import annotations

from dataclasses import dataclass

from demo.people import DrawnCrop
from service.client import SearchVerdict, Verdict


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
        ranking: M-Net's, best first.
        cosine_right: whether the best row by cosine shows this person.
        milliseconds: the service's own time for the query.
    """

    query: DrawnCrop
    enrolled: bool
    verdict: SearchVerdict
    ranking: tuple[RankedPicture, ...]
    cosine_right: bool
    milliseconds: float

    @property
    def right_first(self) -> bool:
        """Whether the best row shows this person."""
        return bool(self.ranking) and self.ranking[0].right

    @property
    def outcome(self) -> str:
        """The answer judged, in a word or two."""
        if not self.enrolled:
            return "false alarm" if self.verdict == "match" else "right: nobody"
        if self.verdict == "match":
            return "found" if self.right_first else "wrong person"
        return "unsure" if self.verdict == "uncertain" else "missed"

    @property
    def good(self) -> bool:
        """Whether the answer is what a user wants."""
        return self.outcome in ("found", "right: nobody")


@dataclass(frozen=True)
class Findings:
    """All of them, with the counts around them.

    Attributes:
        findings: one per query.
        crops: how many were enrolled.
        people: of how many people.
        cameras: under how many cameras.
        enrol_seconds: how long that took.
        model: the embedder's fingerprint.
        device: where the service computes.
    """

    findings: tuple[Finding, ...]
    crops: int
    people: int
    cameras: int
    enrol_seconds: float
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

    @property
    def rank_1(self) -> float:
        """Share of the known whose best row by M-Net is right, 0 to 1."""
        return _share([one.right_first for one in self.known])

    @property
    def rank_1_cosine(self) -> float:
        """The same by cosine."""
        return _share([one.cosine_right for one in self.known])

    @property
    def found(self) -> int:
        """How many of the known are answered `match` with the right person first."""
        return sum(one.outcome == "found" for one in self.known)

    @property
    def false_alarms(self) -> int:
        """How many strangers are answered `match`."""
        return sum(one.outcome == "false alarm" for one in self.strangers)

    @property
    def milliseconds(self) -> float:
        """Mean time of a query in the service."""
        return sum(one.milliseconds for one in self.findings) / max(1, len(self.findings))

    @property
    def crops_per_second(self) -> float:
        """Enrolment's pace."""
        return self.crops / max(self.enrol_seconds, 1e-9)

    def shown(self, known: int, strangers: int) -> list[Finding]:
        """A sample for the eye, chosen by order and not by outcome: first the known."""
        return self.known[:known] + self.strangers[:strangers]


def _share(outcomes: list[bool]) -> float:
    return sum(outcomes) / max(1, len(outcomes))
