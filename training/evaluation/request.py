"""What `gmn evaluate` is asked for, and its answer for one artefact."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from model.artefact import Artefact
from training.datasets.protocols import limit_test_identities
from training.datasets.record import Dataset
from training.datasets.registry import showing_people
from training.evaluation.embedding import ProgressBar
from training.evaluation.evaluating import build_report, evaluate_search
from training.evaluation.multi_shot import Pooling
from training.evaluation.peers import Peer
from training.evaluation.premise import measure_premise, sample_couples
from training.evaluation.protocols import Search, held_out_people
from training.evaluation.random_splits import usual_search
from training.evaluation.report import SearchPictures, picture_rank_lists
from training.evaluation.results import EvaluationReport, PremiseResult
from training.evaluation.searching import needs_metric_network
from training.evaluation.stored_features import StoredFeatures


@dataclass(frozen=True)
class EvaluationRequest:
    """What to measure of an artefact on data sets.

    Attributes:
        scorings: which rankings, of `searching.RANKINGS`; None for those that the artefact offers.
        held_out: search for the people that the artefact's training held out, not for all.
        multi_shot: how multi-shot queries pool their scores; None measures single crops alone.
        peers: models to stand beside.
        premise: measure the domain gap; None does where a page shows it and the data suffice.
        page: a page will be written.
        pictures: it shows crops.
        device: where the networks run.
        people: search for at most so many people of each set, or of each of its random splits; None
            is all.
        features: files and folders of `gmn embed` to read them from; without any, crops are
            embedded.
    """

    scorings: Sequence[str] | None
    held_out: bool
    multi_shot: Pooling | None
    peers: Sequence[Peer]
    premise: bool | None
    page: bool
    pictures: bool
    device: torch.device
    people: int | None = None
    features: Sequence[Path] = ()

    def measure(
        self, name: str, loaded: Artefact, datasets: Sequence[Dataset], progress_bar: ProgressBar
    ) -> tuple[EvaluationReport, list[SearchPictures]]:
        """One artefact on some sets: its report, and the pictures of its rank lists.

        Args:
            name: what the artefact is called.
            loaded: as it was read; its networks are moved to the device.
            datasets: as read.
            progress_bar: shows how far the long steps are.

        Raises:
            InputProblem: where a set cannot be searched, or none of its people is held out, or
                where the artefact has no M-Net for a scoring that needs it, or a crop no feature.
        """
        scorings = self.scorings or loaded.description.scorings
        if needs_metric_network(scorings):
            loaded.require_metric_network(name)
        searches = self.searches(loaded, datasets)
        artefact = loaded.on(self.device)
        known = StoredFeatures(self.features, artefact) if self.features else None
        results = [
            evaluate_search(
                artefact,
                dataset,
                search,
                scorings,
                self.peers,
                progress_bar,
                features=known.of(search) if known else None,
                multi_shot=self.multi_shot,
            )
            for dataset, search in searches
        ]
        split = "held-out" if self.held_out else "all"
        report = build_report(name, loaded.description, split, results, self.device)
        found = self._domain_gap(artefact, searches, progress_bar)
        report = report.model_copy(update={"premise": found})
        return report, _pictures(searches, report) if self.pictures else []

    def searches(
        self, artefact: Artefact, datasets: Sequence[Dataset]
    ) -> list[tuple[Dataset, Search]]:
        """Each set with the chosen people, and its search.

        Raises:
            InputProblem: where a set cannot be searched, or none of its people is held out.
        """
        known = artefact.description.provenance.held_out
        held_out = known if self.held_out else None
        fewer = [limit_test_identities(dataset, self.people, held_out) for dataset in datasets]
        return [
            (
                dataset,
                held_out_people(dataset, known)
                if self.held_out
                else usual_search(dataset, self.people),
            )
            for dataset in fewer
        ]

    def _domain_gap(
        self,
        artefact: Artefact,
        searches: Sequence[tuple[Dataset, Search]],
        progress_bar: ProgressBar,
    ) -> PremiseResult | None:
        """The premise, where requested; by default where a page is written."""
        if self.premise is False or (self.premise is None and not self.page):
            return None
        couples = sample_couples(
            [
                record
                for dataset, search in searches
                for record in showing_people(dataset.spec, search.records)
            ]
        )
        if self.premise is None and not couples:
            return None
        crops = sum(4 * len(own) for own in couples.values())
        with progress_bar("Measuring the domain gap", crops) as bar:
            return measure_premise(artefact, couples, progress=bar)


def _pictures(
    searches: Sequence[tuple[Dataset, Search]], report: EvaluationReport
) -> list[SearchPictures]:
    return [
        picture_rank_lists(search, result.rank_lists)
        for (_, search), result in zip(searches, report.datasets, strict=True)
    ]
