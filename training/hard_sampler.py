"""PK sampling in which some batches hold people who look alike, and crops of several cameras."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from training.datasets.record import CropRecord
from training.evaluation.scoring import unit_length
from training.recipe import Recipe
from training.sampler import PKSampler
from training.settings import Sampling

SEEN_CROPS = 4
"""Crops of a person whose mean feature is compared with other people's."""
ROWS_AT_ONCE = 1024

Embed = Callable[[Sequence[int]], NDArray[np.float32]]
"""From row numbers to features `(n, d)`."""


def build_sampler(records: Sequence[CropRecord], recipe: Recipe) -> PKSampler:
    """The sampler that a recipe asks for.

    Raises:
        InputProblem: when fewer than P identities have two crops.
    """
    settings = recipe.sampling
    if settings.hard or settings.across_cameras:
        return HardSampler(records, settings, recipe.seed)
    return PKSampler(records, settings.identities, settings.images, recipe.seed, settings.order)


class HardSampler(PKSampler):
    """Batches as `PKSampler` makes them; a share of them is made anew of people who look alike.

    Such a batch keeps its first person, and holds P − 1 of the 2(P − 1) people of the same domain
    whose features are nearest to theirs: the pairs that a ranking confuses first. Until `find`
    has run, all batches are `PKSampler`'s.
    """

    def __init__(self, records: Sequence[CropRecord], settings: Sampling, seed: int) -> None:
        """Prepares the sampler.

        Args:
            records: the training crops; batches hold indices into them.
            settings: of the batches.
            seed: of the order.

        Raises:
            InputProblem: when fewer than P identities have two crops.
        """
        super().__init__(records, settings.identities, settings.images, seed, settings.order)
        self._settings = settings
        self._cameras = [record.camera for record in records]
        self._names = sorted(self._people)
        self._number = {person: number for number, person in enumerate(self._names)}
        self._person_of_row = [record.person for record in records]
        # Of each person the others, nearest first, by their place in `_names`; −1 for none.
        self._neighbours = np.empty((0, 0), np.int64)

    def is_due(self, epoch: int) -> bool:
        """Whether `find` is to run before an epoch, counted from 0."""
        every = self._settings.hard_every
        known = len(self._neighbours) > 0
        return self._settings.hard > 0 and not (known and (every == 0 or epoch % every))

    def find(self, embed: Embed) -> None:
        """Finds each person's nearest others by the cosine of mean features.

        Args:
            embed: called once, with up to `SEEN_CROPS` rows of each person.
        """
        random = np.random.default_rng(self.seed)
        seen = {
            person: self._shuffled(self._people[person], random)[:SEEN_CROPS]
            for person in self._names
        }
        features = embed([row for rows in seen.values() for row in rows])
        features = unit_length(features)
        ends = np.cumsum([len(rows) for rows in seen.values()])
        parts = np.split(features, ends[:-1])
        means = unit_length(np.stack([part.mean(axis=0) for part in parts]))
        wanted = 2 * (self.identities - 1)
        self._neighbours = np.full((len(self._names), wanted), -1, np.int64)
        domains: dict[str, list[int]] = defaultdict(list)
        for number, person in enumerate(self._names):
            domains[self._domain_of[person]].append(number)
        for members in domains.values():
            own = np.array(members)
            count = min(wanted, len(own) - 1)
            for start in range(0, len(own), ROWS_AT_ONCE):
                rows = own[start : start + ROWS_AT_ONCE]
                order = np.argsort(-(means[rows] @ means[own].T), axis=1, kind="stable")
                for row, others in zip(rows, own[order], strict=True):
                    self._neighbours[row, :count] = others[others != row][:count]

    def epoch(self, number: int) -> list[list[int]]:
        """All batches of one epoch, each P·K row numbers, an identity's K side by side."""
        batches = super().epoch(number)
        if not len(self._neighbours):
            return batches
        random = np.random.default_rng((self.seed, number, 1))
        hard = round(self._settings.hard * len(batches))
        for index in random.permutation(len(batches))[:hard]:
            batches[index] = self._alike(batches[index], random)
        return batches

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Each person's nearest others, for a checkpoint."""
        return {"neighbours": torch.from_numpy(self._neighbours)}

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """Continues with what a checkpoint holds."""
        self._neighbours = state["neighbours"].numpy().copy()

    def _alike(self, batch: list[int], random: np.random.Generator) -> list[int]:
        people = [self._person_of_row[row] for row in batch[:: self.images]]
        near = self._neighbours[self._number[people[0]]]
        near = near[near >= 0]
        chosen = [self._names[place] for place in random.permutation(near)[: self.identities - 1]]
        # A domain may have fewer people than a batch.
        rest = [person for person in people[1:] if person not in chosen]
        together = [people[0], *chosen, *rest][: self.identities]
        return [
            row
            for person in together
            for row in next(self._chunks(self._people[person], 1, random))
        ]

    def _shuffled(self, rows: list[int], random: np.random.Generator) -> list[int]:
        """Rows in random order; the cameras take turns where the recipe asks for it."""
        order = super()._shuffled(rows, random)
        if not self._settings.across_cameras:
            return order
        turns: dict[str, int] = defaultdict(int)
        placed = []
        for row in order:
            placed.append((turns[self._cameras[row]], row))
            turns[self._cameras[row]] += 1
        return [row for _, row in sorted(placed, key=lambda entry: entry[0])]
