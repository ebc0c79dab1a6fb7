"""PK sampling: batches of P identities × K crops, in which each domain has its share on average."""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from math import ceil

import numpy as np
import torch
from numpy.typing import NDArray

from model.problems import InputProblem
from training.datasets.record import CropRecord
from training.evaluation.scoring import unit_length
from training.settings import Sampling

Person = tuple[str, str]
Embed = Callable[[Sequence[int]], NDArray[np.float32]]
"""From row numbers to features `(n, d)`."""

SEEN_CROPS = 4
"""Crops of a person whose mean feature is compared with other people's."""
ROWS_AT_ONCE = 1024

MAX_EPOCH_GROWTH = 2
"""By how many times an epoch may grow so that the person with the most crops is shown whole."""


class PKSampler:
    """Batches of row numbers for one epoch after another; they depend on (seed, epoch) and, where
    some are of people who look alike, on who these are.

    By `crops`, an identity comes up once for every K crops it has (at least once), each time with
    other crops and spread over the epoch; one with fewer than K crops gives some twice. The crops
    that do not fill a K are others in every epoch. Where a batch would lack people, some come up
    once more. A person with more crops than the epoch has room for shows others of them in the
    next one. Domains are interleaved in proportion to these turns, so a batch mixes them; one whose
    people have fewer than K crops has more places than its share of the crops, and one with less
    than a place per batch is in some batches only.

    By `identities`, the epoch has as many batches as there are identities: each one has its batch,
    in random order, and the other P − 1 are drawn at random, as are the crops of all.

    By `domains`, a batch is of one domain and the domains take turns, so that each weighs the same
    at any size; within one each person comes up again only after all others did. An epoch has
    as many batches as by `crops`.

    A share `hard` of the batches is made anew of people who look alike: such a batch keeps its
    first person, and holds P − 1 of the 2(P − 1) people of the same domain whose features are
    nearest to theirs: the pairs that a ranking confuses first. Before `prepare` there are none.

    An identity with a single crop has no positive pair and is left out.
    """

    def __init__(self, records: Sequence[CropRecord], settings: Sampling, seed: int = 0) -> None:
        """Prepares the sampler.

        Args:
            records: the training crops; batches hold indices into them.
            settings: of the batches.
            seed: of the order.

        Raises:
            InputProblem: when fewer than P identities have two crops.
        """
        self._settings, self._seed = settings, seed
        self.identities, self.images = settings.identities, settings.images
        people: dict[Person, list[int]] = defaultdict(list)
        for row, record in enumerate(records):
            people[record.person].append(row)
        self._people = {person: rows for person, rows in people.items() if len(rows) > 1}
        self._domain_of = {person: records[rows[0]].domain for person, rows in self._people.items()}
        self._cameras = [record.camera for record in records]
        self._person_of_row = [record.person for record in records]
        self.single_crop_identities = len(people) - len(self._people)
        if len(self._people) < self.identities:
            raise InputProblem(
                f"only {len(self._people)} of {len(people)} identities have two crops or more, a "
                f"batch needs {self.identities}; give more data or lower sampling.identities"
            )
        # For `hard` batches: of each person the others, nearest first, by their place in `_names`;
        # −1 for none.
        self._names = sorted(self._people)
        self._neighbours = np.empty((0, 0), np.int64)

    def prepare(self, epoch: int, embed: Embed) -> None:
        """Finds each person's nearest others before an epoch, where the recipe asks for it.

        Args:
            epoch: counted from 0.
            embed: called at most once, with up to `SEEN_CROPS` rows of each person.
        """
        every, known = self._settings.hard_every, len(self._neighbours) > 0
        if self._settings.hard and not (known and (every == 0 or epoch % every)):
            self._find_neighbours(embed)

    def epoch(self, number: int) -> list[list[int]]:
        """All batches of one epoch, each P·K row numbers, an identity's K side by side."""
        batches = self._epoch(np.random.default_rng((self._seed, number)))
        if len(self._neighbours):
            random = np.random.default_rng((self._seed, number, 1))
            hard = round(self._settings.hard * len(batches))
            for index in random.permutation(len(batches))[:hard]:
                batches[index] = self._alike(batches[index], random)
        return batches

    def crops_per_epoch(self, number: int) -> int:
        """How many different crops an epoch shows."""
        return len({row for batch in self.epoch(number) for row in batch})

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Each person's nearest others, for a checkpoint."""
        return {"neighbours": torch.from_numpy(self._neighbours)}

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """Continues with what a checkpoint holds."""
        self._neighbours = state["neighbours"].numpy().copy()

    def _epoch(self, random: np.random.Generator) -> list[list[int]]:
        """The batches without regard to who look alike."""
        order = self._settings.order
        if order == "identities":
            return list(self._batch_of_each(random))
        turns, batches = self._turns(random)
        if order == "domains":
            return list(self._domain_by_domain(batches, random))
        chunks = {
            person: self._chunks(self._people[person], count, random)
            for person, count in turns.items()
        }
        return [
            [row for person in batch for row in next(chunks[person])]
            for batch in self._fill(self._interleaved(turns, random), turns, batches)
        ]

    def _turns(self, random: np.random.Generator) -> tuple[dict[Person, int], int]:
        """How often each person comes up, and in how many batches; together they fill them."""
        wanted = {person: max(len(rows) // self.images, 1) for person, rows in self._people.items()}
        needed = ceil(sum(wanted.values()) / self.identities)
        batches = min(max(needed, *wanted.values()), MAX_EPOCH_GROWTH * needed)
        turns = {person: min(count, batches) for person, count in wanted.items()}
        missing = batches * self.identities - sum(turns.values())
        while missing:
            people = [person for person, count in turns.items() if count < batches]
            fewest = min(turns[person] for person in people)
            people = [person for person in people if turns[person] == fewest]
            for pick in random.permutation(len(people))[:missing]:
                turns[people[pick]] += 1
            missing -= min(missing, len(people))
        return turns, batches

    def _interleaved(self, turns: dict[Person, int], random: np.random.Generator) -> list[Person]:
        """Every turn of every person, each person's and each domain's spread over the epoch."""
        domains: dict[str, list[tuple[float, Person]]] = defaultdict(list)
        for person, count in turns.items():
            for index, offset in enumerate(random.random(count)):
                domains[self._domain_of[person]].append(((index + offset) / count, person))
        placed: list[tuple[float, Person]] = []
        for domain in sorted(domains):
            own = sorted(domains[domain])
            offsets = random.random(len(own))
            placed += [
                ((index + offset) / len(own), person)
                for index, (offset, (_, person)) in enumerate(zip(offsets, own, strict=True))
            ]
        return [person for _, person in sorted(placed)]

    def _fill(
        self, waiting: list[Person], turns: dict[Person, int], batches: int
    ) -> Iterator[list[Person]]:
        """Batches of P people each, in the order they wait; none is in one twice.

        A person with as many turns left as there are batches is in every one of them.
        """
        queue, left, ahead = deque(waiting), dict(turns), Counter[Person]()
        for rest in range(batches, 0, -1):
            batch = {person: None for person, count in left.items() if count == rest}
            ahead.update(batch.keys())
            deferred: list[Person] = []
            while len(batch) < self.identities:
                person = queue.popleft()
                if ahead[person]:
                    ahead[person] -= 1
                elif person in batch:
                    deferred.append(person)
                else:
                    batch[person] = None
            queue.extendleft(reversed(deferred))
            for person in batch:
                left[person] -= 1
            yield list(batch)

    def _chunks(
        self, rows: list[int], count: int, random: np.random.Generator
    ) -> Iterator[list[int]]:
        """K crops for each turn; none twice before all were shown, nor in one turn if they last."""
        order: list[int] = []
        for _ in range(count):
            if len(order) < self.images:
                others = [row for row in rows if row not in order]
                order += self._shuffled(others, random)
            if len(order) < self.images:
                order += random.choice(rows, self.images - len(order)).tolist()
            yield order[: self.images]
            order = order[self.images :]

    def _shuffled(self, rows: list[int], random: np.random.Generator) -> list[int]:
        """Rows in random order; the cameras take turns where the recipe asks for it."""
        order = [rows[index] for index in random.permutation(len(rows))]
        if not self._settings.across_cameras:
            return order
        turns = Counter[str]()
        placed = []
        for row in order:
            placed.append((turns[self._cameras[row]], row))
            turns[self._cameras[row]] += 1
        return [row for _, row in sorted(placed, key=lambda entry: entry[0])]

    def _domain_by_domain(self, batches: int, random: np.random.Generator) -> Iterator[list[int]]:
        domains: dict[str, list[Person]] = defaultdict(list)
        for person, domain in self._domain_of.items():
            domains[domain].append(person)
        names = sorted(domains)
        waiting: dict[str, list[Person]] = {name: [] for name in names}
        for number in range(batches):
            name = names[number % len(names)]
            batch: list[Person] = []
            while len(batch) < min(self.identities, len(domains[name])):
                if not waiting[name]:
                    rest = [person for person in domains[name] if person not in batch]
                    waiting[name] = [rest[pick] for pick in random.permutation(len(rest))]
                batch.append(waiting[name].pop())
            # A domain may have fewer people than a batch.
            others = [person for person in self._people if person not in batch]
            missing = self.identities - len(batch)
            batch += [others[pick] for pick in random.permutation(len(others))[:missing]]
            yield self._crops_of(batch, random)

    def _batch_of_each(self, random: np.random.Generator) -> Iterator[list[int]]:
        people = list(self._people)
        for pick in random.permutation(len(people)):
            others = random.choice(len(people) - 1, self.identities - 1, replace=False)
            batch = [pick, *(other + (other >= pick) for other in others)]
            yield self._crops_of([people[number] for number in batch], random)

    def _crops_of(self, people: Sequence[Person], random: np.random.Generator) -> list[int]:
        """K crops of each person."""
        return [
            row for person in people for row in next(self._chunks(self._people[person], 1, random))
        ]

    def _find_neighbours(self, embed: Embed) -> None:
        """Finds each person's nearest others by the cosine of mean features."""
        random = np.random.default_rng(self._seed)
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

    def _alike(self, batch: list[int], random: np.random.Generator) -> list[int]:
        """P − 1 of the 2(P − 1) people of the domain who are nearest to a batch's first person."""
        people = [self._person_of_row[row] for row in batch[:: self.images]]
        near = self._neighbours[self._names.index(people[0])]
        near = near[near >= 0]
        chosen = [self._names[place] for place in random.permutation(near)[: self.identities - 1]]
        # A domain may have fewer people than a batch.
        rest = [person for person in people[1:] if person not in chosen]
        together = [people[0], *chosen, *rest][: self.identities]
        return self._crops_of(together, random)


def describe_epoch(crops: int, in_epoch: int, alone: int) -> str:
    """How much of the training crops an epoch shows, a sentence.

    Args:
        crops: the training crops.
        in_epoch: how many of them an epoch shows.
        alone: people who have one crop only.
    """
    shown = f"all {crops:,} crops"
    if in_epoch < crops:
        shown = f"{in_epoch:,} of {crops:,} crops, and others in the next"
    if alone:
        shown += f"; {alone:,} people with a single crop are left out"
    return shown
