"""The demonstration's results: each query's ranking, and the figures over all of them."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gmn_client.models import CalibrationState, ModelInfo, QueryAnswer, RankedCrop
from service.commands.sources import SourceCrop


@dataclass(frozen=True)
class Finding:
    """One query and its answer.

    Attributes:
        query: who was asked for.
        enrolled: whether the gallery knows this person.
        answer: the service's.
        shown: the first rows of the ranking, best first, each with the gallery's crop.
        metrics: ranking metrics, 0 to 1 by name, of the whole ranking by the artefact's default
            scoring and by `cosine`; None for a stranger.
    """

    query: SourceCrop
    enrolled: bool
    answer: QueryAnswer
    shown: Sequence[tuple[RankedCrop, SourceCrop]]
    metrics: Mapping[str, Mapping[str, float] | None]

    @property
    def name(self) -> str:
        """The person's name in the gallery, if any."""
        return str(self.query.identity) if self.enrolled else "a stranger"

    @property
    def outcome(self) -> str:
        """The answer judged, in a word or two."""
        verdict, results = self.answer.verdict, self.answer.results
        if verdict == "uncertain":
            return "unsure"
        if not self.enrolled:
            return "false alarm" if verdict == "match" else "right: nobody"
        if verdict == "match":
            right = bool(results) and results[0].identity == self.query.identity
            return "found" if right else "wrong person"
        return "missed"

    @property
    def good(self) -> bool:
        """Whether the answer is what a user wants."""
        return self.outcome in ("found", "right: nobody")


def matched(findings: Sequence[Finding]) -> int:
    """The number of queries that are answered `match`."""
    return sum(one.answer.verdict == "match" for one in findings)


@dataclass(frozen=True)
class Findings:
    """All queries, with what they were asked of.

    Attributes:
        findings: one per query, in the order they were asked.
        seed: of the drawing, the order and the choice of who is shown.
        gallery: the enrolled crops.
        enroll_seconds: the time that enrolling them took.
        calibration: the gallery's after the last query.
        model: the served artefact's own description.
    """

    findings: Sequence[Finding]
    seed: int
    gallery: Sequence[SourceCrop]
    enroll_seconds: float
    calibration: CalibrationState
    model: ModelInfo

    @property
    def known(self) -> list[Finding]:
        """Queries for people who are enrolled."""
        return [one for one in self.findings if one.enrolled]

    @property
    def strangers(self) -> list[Finding]:
        """Queries for people who are not."""
        return [one for one in self.findings if not one.enrolled]

    @property
    def people(self) -> int:
        """The number of enrolled people."""
        return len({crop.identity for crop in self.gallery})

    @property
    def cameras(self) -> int:
        """The number of cameras that they are enrolled from."""
        return len({crop.camera for crop in self.gallery})

    @property
    def scorings(self) -> tuple[str, ...]:
        """What is measured: the ranking's scoring, and cosine beside it."""
        return tuple(dict.fromkeys((self.model.default_scoring, "cosine")))

    def metric(self, name: str, scoring: str) -> float:
        """Mean of `rank_1` or `mAP` over the known people, 0 to 1."""
        values = [own[name] for one in self.known if (own := one.metrics[scoring]) is not None]
        return sum(values) / max(1, len(values))

    def count(self, outcome: str) -> int:
        """The number of queries with an outcome."""
        return sum(one.outcome == outcome for one in self.findings)

    @property
    def unsure(self) -> int:
        """The number of known people who are answered `uncertain`."""
        return sum(one.outcome == "unsure" for one in self.known)

    def by_calibration(self) -> dict[str, tuple[list[Finding], list[Finding]]]:
        """Known people's and strangers' queries by the state of the calibration that judged them.

        In the order in which the states first came up.
        """
        states = dict.fromkeys(one.answer.calibration.state for one in self.findings)
        known, strangers = (
            {s: [one for one in some if one.answer.calibration.state == s] for s in states}
            for some in (self.known, self.strangers)
        )
        return {state: (known[state], strangers[state]) for state in states}

    @property
    def milliseconds(self) -> float:
        """Mean time of a query in the service."""
        return sum(one.answer.timing_ms.total for one in self.findings) / max(1, len(self.findings))

    @property
    def crops_per_second(self) -> float:
        """Enrollment's pace."""
        return len(self.gallery) / max(self.enroll_seconds, 1e-9)

    def sample(self, known: int, strangers: int) -> list[Finding]:
        """A sample drawn by the seed without regard to the answers: first the known."""
        draw = random.Random(self.seed)
        groups = ((self.known, known), (self.strangers, strangers))
        return [
            one for group, count in groups for one in draw.sample(group, min(count, len(group)))
        ]
