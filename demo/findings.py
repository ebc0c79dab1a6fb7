"""The demonstration's results: each query's ranking, figures over all, and both in words."""

from __future__ import annotations

import random
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
        query: who was asked for.
        enrolled: whether the gallery knows this person.
        answer: the service's.
        shown: the first rows of the ranking, best first, each with the gallery's crop.
    """

    query: SourceCrop
    enrolled: bool
    answer: QueryAnswer
    shown: Sequence[tuple[RankedCrop, SourceCrop]]

    @property
    def labels(self) -> tuple[Label, list[Label], str]:
        """What the ranking metrics are computed from, as `summarize` takes it."""
        ranking = [(row.identity, row.camera) for row in self.answer.results]
        return (self.query.identity, self.query.camera), ranking, self.answer.verdict

    @property
    def outcome(self) -> str:
        """The answer judged, in a word or two."""
        verdict = self.answer.verdict
        results = self.answer.results
        if verdict == "uncertain":
            return "unsure"
        if not self.enrolled:
            return "false alarm" if verdict == "match" else "right: nobody"
        if verdict == "match":
            right = bool(results) and results[0].identity == self.query.identity
            return "found" if right else "wrong person"
        return "missed"


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

    def sample(self, known: int = SHOWN_KNOWN, strangers: int = SHOWN_STRANGERS) -> list[Finding]:
        """A sample drawn by the seed without regard to the answers: first the known."""
        draw = random.Random(self.seed)
        groups = ((self.known, known), (self.strangers, strangers))
        return [
            one for group, count in groups for one in draw.sample(group, min(count, len(group)))
        ]

    def figures(self) -> dict[str, Any]:
        """The figures for a program: shares 0 to 1, counts, milliseconds and crops per second."""
        known = self.known
        strangers = self.strangers
        model = self.model
        outcomes = [one.outcome for one in known]
        milliseconds = sum(one.answer.timing_ms.total for one in self.findings)
        ranked = summarize(one.labels for one in known)
        return {
            "artefact": model.artefact,
            "terms": str(model.provenance.get("terms", "unknown")),
            "scoring": model.default_scoring,
            "seed": self.seed,
            "crops": len(self.gallery),
            "people": len({crop.identity for crop in self.gallery}),
            "cameras": len({crop.camera for crop in self.gallery}),
            "queries": len(self.findings),
            **{name: ranked[name] or 0.0 for name in METRICS},
            "known": len(known),
            "known_not_matched": outcomes.count("missed") + outcomes.count("unsure"),
            "known_uncertain": outcomes.count("unsure"),
            "known_matched_as_another": outcomes.count("wrong person"),
            "strangers": len(strangers),
            "false_alarms": sum(one.outcome == "false alarm" for one in strangers),
            "operating_point": OPERATING_POINT,
            "threshold_versions": len({one.answer.calibration_version for one in self.findings}),
            "calibration_state": self.calibration.state,
            "calibration_searches": self.calibration.searches,
            "ms_per_query": round(milliseconds / max(1, len(self.findings)), 3),
            "crops_per_second": round(len(self.gallery) / max(self.enroll_seconds, 1e-9), 1),
        }


def headlines(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The headline figures, each with what it counts."""
    known = found["known"]
    return [
        (
            f"{found['known_not_matched']} of {known}",
            f"known people not answered match ({found['known_uncertain']} of these uncertain)",
        ),
        (
            f"{found['known_matched_as_another']} of {known}",
            "known people answered match as another person",
        ),
        (
            f"{found['false_alarms']} of {found['strangers']}",
            "strangers answered match (false alarms)",
        ),
        *(
            (f"{found[name]:.1%}", f"{title} by {found['scoring']}, {known} queries")
            for name, title in METRICS.items()
        ),
        (f"{found['ms_per_query']:.0f} ms", "per query, in the service"),
        (f"{found['crops_per_second']:.0f}/s", "crops enrolled"),
    ]


def setting(found: Mapping[str, Any]) -> str:
    """Who was enrolled, and who was asked for in which order."""
    return (
        f"{found['crops']} crops of {found['people']} drawn people from {found['cameras']} "
        f"cameras enrolled; one more camera asks for {found['known']} of them and for "
        f"{found['strangers']} strangers, in a mixed order of seed {found['seed']}."
    )


def judging(findings: Findings) -> str:
    """What the verdicts were made by."""
    strangers = len(findings.strangers)
    return (
        f"Operating point {OPERATING_POINT}: {ASKED:.0%} of strangers may be answered match, "
        f"{ASKED * strangers:.1f} of {strangers}. The model's thresholds do not fit every camera; "
        "a gallery with 18 named people or more gets its own, some seconds after these are "
        f"enrolled. At the last query: {findings.calibration.basis}"
    )
