"""The demonstration's results: the ranking of each query, figures over all, and texts on them."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from demo.data_sets import Label, summarize
from gmn_client.models import CalibrationState, ModelInfo, QueryAnswer, RankedCrop
from service.commands.bulk import SourceCrop

OPERATING_POINT = "far_1e-2"
ASKED = 0.01
SHOWN_KNOWN = 9
SHOWN_STRANGERS = 3
METRICS = {"rank_1": "Rank-1", "mAP": "mAP"}


@dataclass(frozen=True)
class Finding:
    """One query and its answer.

    Attributes:
        query: the crop that was sent.
        enrolled: true if the gallery knows this person.
        answer: the answer of the service.
        shown: the first rows of the ranking, best first, each with the crop of the gallery.
    """

    query: SourceCrop
    enrolled: bool
    answer: QueryAnswer
    shown: Sequence[tuple[RankedCrop, SourceCrop]]

    @property
    def labels(self) -> tuple[Label, list[Label], str]:
        """Return the arguments of `summarize`: labels of query and results, and the verdict."""
        ranking = [(row.identity, row.camera) for row in self.answer.results]
        return (self.query.identity, self.query.camera), ranking, self.answer.verdict

    @property
    def outcome(self) -> str:
        verdict = self.answer.verdict
        results = self.answer.results
        if verdict == "uncertain":
            return "unsure"
        if not self.enrolled:
            return "false alarm" if verdict == "match" else "right: nobody"
        if verdict != "match":
            return "missed"
        return "found" if results[0].identity == self.query.identity else "wrong person"


@dataclass(frozen=True)
class Findings:
    """All queries of a demonstration, with its gallery and its model.

    Attributes:
        findings: one for each query, in the order of asking.
        seed: of the drawing, of the order, and of the choice of the people shown.
        gallery: the enrolled crops.
        enroll_seconds: the time that enrolling them took.
        calibration: the state of the gallery's calibration after the last query.
        model: the description of the served artefact.
    """

    findings: Sequence[Finding]
    seed: int
    gallery: Sequence[SourceCrop]
    enroll_seconds: float
    calibration: CalibrationState
    model: ModelInfo

    @property
    def known(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.enrolled]

    @property
    def strangers(self) -> list[Finding]:
        return [finding for finding in self.findings if not finding.enrolled]

    def sample(
        self,
        known: int = SHOWN_KNOWN,
        strangers: int = SHOWN_STRANGERS,
    ) -> list[Finding]:
        """Draw a sample by the seed, without regard to the answers, known people first."""
        draw = random.Random(self.seed)
        sampled = []
        for findings, count in ((self.known, known), (self.strangers, strangers)):
            sampled += draw.sample(findings, min(count, len(findings)))
        return sampled

    def figures(self) -> dict[str, Any]:
        """Compute shares from 0 to 1, counts, milliseconds and crops a second, by name."""
        known = self.known
        outcomes = Counter(finding.outcome for finding in known)
        alarms = Counter(finding.outcome for finding in self.strangers)
        answers = [finding.answer for finding in self.findings]
        milliseconds = sum(answer.timing_ms.total for answer in answers)
        ranked = summarize(finding.labels for finding in known)
        return {
            "artefact": self.model.artefact,
            "terms": str(self.model.provenance.get("terms", "unknown")),
            "scoring": self.model.default_scoring,
            "seed": self.seed,
            "crops": len(self.gallery),
            "people": len({crop.identity for crop in self.gallery}),
            "cameras": len({crop.camera for crop in self.gallery}),
            "queries": len(self.findings),
            **{name: ranked[name] or 0.0 for name in METRICS},
            "known": len(known),
            "known_not_matched": outcomes["missed"] + outcomes["unsure"],
            "known_uncertain": outcomes["unsure"],
            "known_matched_as_another": outcomes["wrong person"],
            "strangers": len(self.strangers),
            "false_alarms": alarms["false alarm"],
            "operating_point": OPERATING_POINT,
            "ms_per_query": round(milliseconds / max(1, len(answers)), 3),
            "crops_per_second": round(len(self.gallery) / max(self.enroll_seconds, 1e-9), 1),
        }


def headlines(figures: Mapping[str, Any]) -> list[tuple[str, str]]:
    known = figures["known"]
    return [
        (
            f"{figures['known_not_matched']} of {known}",
            f"known people not answered match ({figures['known_uncertain']} of these uncertain)",
        ),
        (
            f"{figures['known_matched_as_another']} of {known}",
            "known people answered match as another person",
        ),
        (
            f"{figures['false_alarms']} of {figures['strangers']}",
            "strangers answered match (false alarms)",
        ),
        *(
            (f"{figures[name]:.1%}", f"{title} by {figures['scoring']}, {known} queries")
            for name, title in METRICS.items()
        ),
        (f"{figures['ms_per_query']:.0f} ms", "per query, in the service"),
        (f"{figures['crops_per_second']:.0f}/s", "crops enrolled"),
    ]


def setting(figures: Mapping[str, Any]) -> str:
    """Describe the gallery, and the queries in their order."""
    return (
        f"{figures['crops']} crops of {figures['people']} drawn people from {figures['cameras']} "
        f"cameras enrolled; one more camera asks for {figures['known']} of them and for "
        f"{figures['strangers']} strangers, in a mixed order of seed {figures['seed']}."
    )


def judging(findings: Findings) -> str:
    """Describe the thresholds behind the verdicts."""
    strangers = len(findings.strangers)
    return (
        f"Operating point {OPERATING_POINT}: {ASKED:.0%} of strangers may be answered match, "
        f"{ASKED * strangers:.1f} of {strangers}. The model's thresholds do not fit every camera; "
        "a gallery with 18 named people or more gets its own, some seconds after these are "
        f"enrolled. At the last query: {findings.calibration.basis}"
    )
