"""A sampler of batches of people who look alike, among whom a ranking makes its errors."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from model.arrays import Codes
from training.datasets.record import CropRecord
from training.evaluation.scoring import unit_length
from training.parts import Choice
from training.sampler import Embed, Order, PKSampler, Sampling, build_sampler, register_sampler

# A person's feature is the mean over this many crops.
SEEN_CROPS = 4
ROWS_AT_ONCE = 1024


class HardSettings(Choice):
    """Settings of batches of people who look alike.

    Attributes:
        share: the share of the batches that show such people.
        every: the number of epochs after which features are computed again; with 0 the features
            of the initial networks are used in all epochs.
        of: the sampler whose batches are replaced.
    """

    share: float = Field(0.5, ge=0, le=1)
    every: int = Field(0, ge=0)
    of: Order = Field("crops", validate_default=True)


@register_sampler("hard", HardSettings)
class HardSampler(PKSampler):
    """Replaces a share of another sampler's batches by batches of people who look alike.

    A replaced batch keeps its first person. The others are P − 1 of the 2(P − 1) people of the same
    domain whose mean features are nearest to that person's. Nothing is replaced before `prepare`
    was called.
    """

    def __init__(
        self,
        records: Sequence[CropRecord],
        settings: Sampling,
        seed: int = 0,
    ) -> None:
        super().__init__(records, settings, seed)
        self._share = settings.order.share
        self._every = settings.order.every
        inner = settings.model_copy(update={"order": settings.order.of})
        self._inner = build_sampler(records, inner, seed)
        self._person_of_row = [record.person for record in records]
        # Row i has the indices in `_names` of the people nearest to person i, nearest first; a
        # small domain leaves −1 in the last columns.
        self._names = sorted(self.people)
        self._neighbours: Codes = np.empty((0, 0), np.int64)

    def prepare(self, epoch: int, embed: Embed) -> None:
        """Find the nearest people of each person, if it is due before this epoch.

        Args:
            epoch: the epoch, counted from 0.
            embed: called at most once, with up to `SEEN_CROPS` rows of each person.
        """
        self._inner.prepare(epoch, embed)
        has_neighbours = len(self._neighbours) > 0
        fresh = has_neighbours and (self._every == 0 or epoch % self._every)
        if self._share and not fresh:
            self._find_neighbours(embed)

    def epoch(self, number: int) -> list[list[int]]:
        batches = self._inner.epoch(number)
        if len(self._neighbours):
            random = np.random.default_rng((self.seed, number, 1))
            hard = round(self._share * len(batches))
            for index in random.permutation(len(batches))[:hard]:
                people = [self._person_of_row[row] for row in batches[index][:: self.images]]
                near = self._neighbours[self._names.index(people[0])]
                places = random.permutation(near[near >= 0])[: self.identities - 1]
                chosen = [self._names[place] for place in places]
                # People of the replaced batch fill up for a domain with too few people.
                rest = [person for person in people[1:] if person not in chosen]
                batch_people = [people[0], *chosen, *rest][: self.identities]
                batches[index] = self.crops_of(batch_people, random)
        return batches

    def state_dict(self) -> dict[str, Tensor]:
        return {"neighbours": torch.from_numpy(self._neighbours), **self._inner.state_dict()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self._neighbours = state["neighbours"].numpy().copy()
        self._inner.load_state_dict(state)

    def _find_neighbours(self, embed: Embed) -> None:
        """Find the nearest people of each person by the cosine of mean features."""
        random = np.random.default_rng(self.seed)
        rows_of_person = {
            person: self.shuffled(self.people[person], random)[:SEEN_CROPS]
            for person in self._names
        }
        rows = [row for rows in rows_of_person.values() for row in rows]
        features = unit_length(embed(rows))
        ends = np.cumsum([len(rows) for rows in rows_of_person.values()])
        parts = np.split(features, ends[:-1])
        means = np.stack([part.mean(axis=0) for part in parts])
        means = unit_length(means)
        neighbour_count = 2 * (self.identities - 1)
        self._neighbours = np.full((len(self._names), neighbour_count), -1, np.int64)
        domains: dict[str, list[int]] = defaultdict(list)
        for number, person in enumerate(self._names):
            domains[self.domain_of[person]].append(number)
        for members in domains.values():
            numbers = np.array(members)
            count = min(neighbour_count, len(numbers) - 1)
            for start in range(0, len(numbers), ROWS_AT_ONCE):
                part = numbers[start : start + ROWS_AT_ONCE]
                cosines = means[part] @ means[numbers].T
                order = np.argsort(-cosines, axis=1, kind="stable")
                for row, others in zip(part, numbers[order], strict=True):
                    nearest = others[others != row]
                    self._neighbours[row, :count] = nearest[:count]
