"""PK sampling: batches of P identities × K crops, in which each domain has its share on average."""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Iterator, Sequence
from math import ceil
from typing import Literal

import numpy as np

from model.problems import InputProblem
from training.datasets.record import CropRecord

Person = tuple[str, str]

LONGEST = 2
"""By how many times an epoch may grow so that the person with the most crops is shown whole."""


class PKSampler:
    """Batches of row numbers for one epoch after another; they depend on (seed, epoch) alone.

    By `crops`, an identity comes up once for every K crops it has (at least once), each time with
    other crops and spread over the epoch; one with fewer than K crops gives some twice. The crops
    that do not fill a K are others in every epoch. Where a batch would lack people, some come up
    once more. A person with more crops than the epoch has room for shows others of them in the
    next one. Domains are interleaved in proportion to their crops, so a batch mixes them; one with
    less than a place per batch is in some batches only.

    By `identities`, the epoch has as many batches as there are identities: each one has its batch,
    in random order, and the other P − 1 are drawn at random, as are the crops of all.

    By `domains`, a batch is of one domain and the domains take turns, so that each weighs the same
    at any size; within one each person comes up again only after all others did. An epoch has
    as many batches as by `crops`.

    An identity with a single crop has no positive pair and is left out.
    """

    def __init__(
        self,
        records: Sequence[CropRecord],
        identities: int,
        images: int,
        seed: int = 0,
        order: Literal["crops", "identities", "domains"] = "crops",
    ) -> None:
        """Prepares the sampler.

        Args:
            records: the training crops; batches hold indices into them.
            identities: P.
            images: K.
            seed: of the order.
            order: what an epoch is made of.

        Raises:
            InputProblem: when fewer than P identities have two crops.
        """
        self.identities, self.images, self.seed, self.order = identities, images, seed, order
        people: dict[Person, list[int]] = defaultdict(list)
        for row, record in enumerate(records):
            people[record.person].append(row)
        self._people = {person: rows for person, rows in people.items() if len(rows) > 1}
        self._domain_of = {person: records[rows[0]].domain for person, rows in self._people.items()}
        self.alone = len(people) - len(self._people)
        if len(self._people) < identities:
            raise InputProblem(
                f"only {len(self._people)} of {len(people)} identities have two crops or more, a "
                f"batch needs {identities}; give more data or lower sampling.identities"
            )

    def epoch(self, number: int) -> list[list[int]]:
        """All batches of one epoch, each P·K row numbers, an identity's K side by side."""
        random = np.random.default_rng((self.seed, number))
        if self.order == "identities":
            return list(self._batch_of_each(random))
        turns, batches = self._turns(random)
        if self.order == "domains":
            return list(self._domain_by_domain(batches, random))
        chunks = {
            person: self._chunks(self._people[person], count, random)
            for person, count in turns.items()
        }
        return [
            [row for person in batch for row in next(chunks[person])]
            for batch in self._fill(self._interleaved(turns, random), turns, batches)
        ]

    def shown(self, number: int) -> int:
        """How many different crops an epoch shows."""
        return len({row for batch in self.epoch(number) for row in batch})

    def _turns(self, random: np.random.Generator) -> tuple[dict[Person, int], int]:
        """How often each person comes up, and in how many batches; together they fill them."""
        wanted = {person: max(len(rows) // self.images, 1) for person, rows in self._people.items()}
        needed = ceil(sum(wanted.values()) / self.identities)
        batches = min(max(needed, *wanted.values()), LONGEST * needed)
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
        return [rows[index] for index in random.permutation(len(rows))]

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
            yield [
                row
                for person in batch
                for row in next(self._chunks(self._people[person], 1, random))
            ]

    def _batch_of_each(self, random: np.random.Generator) -> Iterator[list[int]]:
        people = list(self._people)
        for pick in random.permutation(len(people)):
            others = random.choice(len(people) - 1, self.identities - 1, replace=False)
            batch = [pick, *(other + (other >= pick) for other in others)]
            yield [
                row
                for person in batch
                for row in next(self._chunks(self._people[people[person]], 1, random))
            ]
