"""The demonstration's results: the outcome of each query, figures over all, and texts on them."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from demo.data_sets import summarize
from gmn_client.commands.bulk import SourceCrop
from gmn_client.models import ModelInfo, QueryAnswer

OPERATING_POINT = "far_1e-2"
ASKED = 0.01
KNOWN_OUTCOMES = {
    "found": "known people found: answered match with the right person",
    "uncertain": "known people answered uncertain",
    "missed": "known people missed: answered no match",
    "mistaken": "known people mistaken for somebody else: answered match",
}
STRANGER_OUTCOMES = {
    "rightly_unknown": "strangers rightly answered no match",
    "doubtful": "strangers answered uncertain",
    "false_alarm": "false alarms: strangers answered match",
}


@dataclass(frozen=True)
class Finding:
    """One query and its answer.

    Attributes:
        query: the crop that was sent.
        known: true if this person is enrolled.
        answer: the answer of the service.
    """

    query: SourceCrop
    known: bool
    answer: QueryAnswer

    @property
    def outcome(self) -> str:
        verdict = self.answer.verdict
        if not self.known:
            return {"match": "false_alarm", "uncertain": "doubtful"}.get(verdict, "rightly_unknown")
        if verdict != "match":
            return "uncertain" if verdict == "uncertain" else "missed"
        return "found" if self.ranked_first else "mistaken"

    @property
    def ranked_first(self) -> bool:
        """Return whether the first result shows the person of the query."""
        results = self.answer.results
        return bool(results) and results[0].identity == self.query.identity


@dataclass(frozen=True)
class Findings:
    """All queries of a demonstration, with its gallery and its model.

    Attributes:
        findings: one for each query, in the order of the queries.
        seed: of the drawing, of the order, and of the choice of the queries shown.
        gallery: the enrolled crops by their ids.
        thresholds: the service's sentence on its thresholds after the last query.
        model: the description of the served artefact.
    """

    findings: Sequence[Finding]
    seed: int
    gallery: Mapping[str, SourceCrop]
    thresholds: str
    model: ModelInfo

    def sample(self, known: int = 9, strangers: int = 3) -> list[Finding]:
        """Draw queries by the seed, without regard to their answers, known people first."""
        draw = random.Random(self.seed)
        sampled = []
        for is_known, count in ((True, known), (False, strangers)):
            findings = [finding for finding in self.findings if finding.known == is_known]
            sampled += draw.sample(findings, min(count, len(findings)))
        return sampled

    @cached_property
    def figures(self) -> dict[str, Any]:
        """Return counts, shares from 0 to 1, and milliseconds, by name."""
        known = [(finding.query, finding.answer) for finding in self.findings if finding.known]
        gallery = self.gallery.values()
        ranked = summarize(known, gallery)
        outcomes = Counter(finding.outcome for finding in self.findings)
        return {
            "artefact": self.model.artefact,
            "terms": str(self.model.provenance.get("terms", "unknown")),
            "scoring": self.model.default_scoring,
            "seed": self.seed,
            "crops": len(gallery),
            "cameras": len({crop.camera for crop in gallery}),
            "known": len(known),
            "strangers": len(self.findings) - len(known),
            "ranked_first": sum(finding.ranked_first for finding in self.findings if finding.known),
            **{outcome: outcomes[outcome] for outcome in (*KNOWN_OUTCOMES, *STRANGER_OUTCOMES)},
            "rank_1": ranked["rank_1"],
            "mAP": ranked["mAP"],
            "ms_per_query": ranked["service_timing_ms"]["total"],
        }

    @property
    def result(self) -> str:
        figures = self.figures
        false_alarms = figures["false_alarm"]
        return (
            f"{figures['ranked_first']} of {figures['known']} people ranked first, "
            f"{false_alarms} false alarm{'' if false_alarms == 1 else 's'} "
            f"for {figures['strangers']} strangers."
        )

    @property
    def headlines(self) -> list[tuple[str, str]]:
        figures = self.figures
        counts = [
            (f"{figures[outcome]} of {figures[people]}", meaning)
            for people, outcomes in (("known", KNOWN_OUTCOMES), ("strangers", STRANGER_OUTCOMES))
            for outcome, meaning in outcomes.items()
        ]
        return [
            *counts,
            (f"{figures['rank_1']:.1%}", f"Rank-1 of known people, ranked by {figures['scoring']}"),
            (f"{figures['mAP']:.1%}", "mAP of the same rankings"),
            (f"{figures['ms_per_query']:.0f} ms", "per query, in the service"),
        ]

    @property
    def description(self) -> str:
        figures = self.figures
        return (
            f"The gallery has {figures['crops']} crops of {figures['known']} drawn people from "
            f"{figures['cameras']} cameras. Another camera asks for each of these known people and "
            f"for {figures['strangers']} strangers, in an order mixed by seed {self.seed}. The "
            f"verdicts are those of operating point {OPERATING_POINT}: {ASKED:.0%} of strangers, "
            f"here {ASKED * figures['strangers']:.1f} of {figures['strangers']}, may be answered "
            "match. The model's thresholds do not fit every camera: by them more strangers may "
            "match. A gallery of 18 named people or more gets its own, for which the queries "
            "waited and which are frozen during them; a smaller one has none. "
            f"At the last query: {self.thresholds}"
        )
