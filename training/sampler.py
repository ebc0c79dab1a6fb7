"""PK sampling: batches of P identities × K crops, by the sampler that a recipe names."""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from math import ceil
from typing import Annotated, Any

import numpy as np
from numpy.random import Generator
from pydantic import Field
from torch import Tensor

from model.arrays import Floats
from model.problems import InputProblem
from model.wording import counted
from training.datasets.record import CropRecord, Person
from training.parts import Choice, ChoiceOf, Kind, Kinds, Section

# Computes the features `(n, d)` of training crops from their row numbers.
Embed = Callable[[Sequence[int]], Floats]
# An epoch has at most this many times the batches that its crops fill, even if the person with the
# most crops would need more to show all of them.
MAX_EPOCH_GROWTH = 2

SAMPLERS = Kinds("sampler", "gmn.samplers", Kind, Choice)
register_sampler = SAMPLERS.register
Order = Annotated[Any, ChoiceOf(SAMPLERS, "crops")]


class Sampling(Section):
    """Settings of PK sampling: a batch has `identities` (P) × `images` (K) crops.

    Attributes:
        order: the sampler, which decides the batches of an epoch, and its settings.
        across_cameras: whether a person's K crops are taken from as many cameras as possible.
        identities_per_set: the largest number of training people of each data set, chosen by a
            hash with the seed of `held_out`; null takes all. People held out are not counted.
        recombined: the number of artificial people to add to each photographed set, each composed
            of the upper half of one training person and the lower half of another.
    """

    identities: int = Field(16, ge=2)
    images: int = Field(4, ge=2)
    order: Order = Field("crops", validate_default=True)
    across_cameras: bool = False
    identities_per_set: int | None = Field(None, ge=2)
    recombined: int = Field(0, ge=0)


class PKSampler:
    """Base class of samplers, which yield the row numbers of each batch of an epoch.

    Batches depend on the seed and the epoch alone. A sampler derives from this class and implements
    `batches`. People with a single crop have no positive pair and are left out.

    Attributes:
        settings: the recipe's `sampling`; `settings.order` has the settings of the sampler itself.
        people: the row numbers of each person's crops.
        domain_of: the domain of each person.
    """

    def __init__(
        self,
        records: Sequence[CropRecord],
        settings: Sampling,
        seed: int = 0,
    ) -> None:
        """Find the people who have two crops or more.

        Args:
            records: the training crops; batches hold indices of them.
            settings: the recipe's `sampling`.
            seed: the seed of the order.

        Raises:
            InputProblem: fewer than P identities have two crops.
        """
        self.settings = settings
        self.seed = seed
        self.identities = settings.identities
        self.images = settings.images
        people: dict[Person, list[int]] = defaultdict(list)
        for row, record in enumerate(records):
            people[record.person].append(row)
        self.people = {person: rows for person, rows in people.items() if len(rows) > 1}
        self.domain_of = {person: records[rows[0]].domain for person, rows in self.people.items()}
        self._cameras = [record.camera for record in records]
        self.single_crop_identities = len(people) - len(self.people)
        if len(self.people) < self.identities:
            raise InputProblem(
                f"only {len(self.people)} of {len(people)} identities have two crops or more, a "
                f"batch needs {self.identities}; give more data or lower sampling.identities"
            )

    def batches(self, random: Generator) -> Iterable[list[int]]:
        """Yield batches of P·K row numbers, those of one identity side by side, for one epoch."""
        raise NotImplementedError

    def prepare(self, epoch: int, embed: Embed) -> None:
        """Called before each epoch, counted from 0; `embed` uses the networks as they are then."""

    def epoch(self, number: int) -> list[list[int]]:
        return list(self.batches(np.random.default_rng((self.seed, number))))

    def crops_per_epoch(self, number: int) -> int:
        """Return the number of different crops in an epoch."""
        return len({row for batch in self.epoch(number) for row in batch})

    def state_dict(self) -> dict[str, Tensor]:
        """Return the state that `prepare` computed, for a checkpoint."""
        return {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore the state in a checkpoint."""

    def crops_of(self, people: Sequence[Person], random: Generator) -> list[int]:
        """Draw K crops of each person."""
        crops: list[int] = []
        for person in people:
            crops += next(self._chunks(self.people[person], 1, random))
        return crops

    def _chunks(
        self,
        rows: list[int],
        count: int,
        random: Generator,
    ) -> Iterator[list[int]]:
        """Yield K crops for each of a person's turns in the epoch.

        No crop is repeated before all were shown, nor within a turn if the person has K crops.
        """
        order: list[int] = []
        for _ in range(count):
            if len(order) < self.images:
                others = [row for row in rows if row not in order]
                order += self.shuffled(others, random)
            if len(order) < self.images:
                order += random.choice(rows, self.images - len(order)).tolist()
            yield order[: self.images]
            order = order[self.images :]

    def shuffled(self, rows: list[int], random: Generator) -> list[int]:
        """Return rows in random order; with `across_cameras` the cameras take turns."""
        order = [rows[index] for index in random.permutation(len(rows))]
        if not self.settings.across_cameras:
            return order
        turns: list[list[int]] = []
        crops_of_camera = Counter[str]()
        for row in order:
            camera = self._cameras[row]
            if crops_of_camera[camera] == len(turns):
                turns.append([])
            turns[crops_of_camera[camera]].append(row)
            crops_of_camera[camera] += 1
        return [row for turn in turns for row in turn]


@register_sampler("crops")
class CropSampler(PKSampler):
    """Shows as many crops as possible: a person has one turn in an epoch for every K crops.

    Everybody has at least one turn, and each turn of a person shows other crops. People with fewer
    than K crops repeat some. Crops that are left over after the turns of K, or that the epoch has
    no room for, take their chance again in the next epoch. If the last batch would lack people,
    some of them get another turn.

    The turns of people and domains are spread over the epoch, so that batches mix the domains in
    proportion to their turns. A domain with fewer turns than there are batches is in some batches
    only.
    """

    def batches(self, random: Generator) -> Iterable[list[int]]:
        turns, batches = self._turns(random)
        chunks = {
            person: self._chunks(self.people[person], count, random)
            for person, count in turns.items()
        }
        for batch in self._fill(self._interleaved(turns, random), turns, batches):
            yield [row for person in batch for row in next(chunks[person])]

    def _turns(self, random: Generator) -> tuple[dict[Person, int], int]:
        """Return the number of each person's turns, and the number of batches that they fill."""
        wanted = {}
        for person, rows in self.people.items():
            wanted[person] = max(len(rows) // self.images, 1)
        needed = ceil(sum(wanted.values()) / self.identities)
        batches = min(max(needed, *wanted.values()), MAX_EPOCH_GROWTH * needed)
        turns = {person: min(count, batches) for person, count in wanted.items()}
        missing = batches * self.identities - sum(turns.values())
        while missing:
            fewest = min(count for count in turns.values() if count < batches)
            people = [person for person, count in turns.items() if count == fewest]
            for pick in random.permutation(len(people))[:missing]:
                turns[people[pick]] += 1
            missing -= min(missing, len(people))
        return turns, batches

    def _interleaved(self, turns: dict[Person, int], random: Generator) -> list[Person]:
        """Order the turns so that those of each person and domain are spread over the epoch."""
        domains: dict[str, list[tuple[float, Person]]] = defaultdict(list)
        for person, count in turns.items():
            for index, offset in enumerate(random.random(count)):
                domains[self.domain_of[person]].append(((index + offset) / count, person))
        placed: list[tuple[float, Person]] = []
        for domain in sorted(domains):
            ordered = sorted(domains[domain])
            offsets = random.random(len(ordered))
            for index, (_, person) in enumerate(ordered):
                placed.append(((index + offsets[index]) / len(ordered), person))
        return [person for _, person in sorted(placed)]

    def _fill(
        self,
        waiting: list[Person],
        turns: dict[Person, int],
        batches: int,
    ) -> Iterator[list[Person]]:
        """Yield batches of P different people each, in the order in which they wait.

        A person with as many turns left as there are batches is taken into each of them first.
        """
        queue = deque(waiting)
        turns_left = dict(turns)
        ahead = Counter[Person]()
        for rest in range(batches, 0, -1):
            batch = {person: None for person, count in turns_left.items() if count == rest}
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
                turns_left[person] -= 1
            yield list(batch)


@register_sampler("identities")
class IdentitySampler(PKSampler):
    """Makes a batch for each identity, in random order, as in MSFL's paper.

    The other P − 1 people of a batch, and the crops of all, are drawn at random.
    """

    def batches(self, random: Generator) -> Iterable[list[int]]:
        people = list(self.people)
        for pick in random.permutation(len(people)):
            others = random.choice(len(people) - 1, self.identities - 1, replace=False)
            batch = [pick, *(other + (other >= pick) for other in others)]
            yield self.crops_of([people[number] for number in batch], random)


@register_sampler("domains")
class DomainSampler(CropSampler):
    """Takes the people of a batch from one domain; the domains take turns and weigh the same.

    Within a domain a person is repeated only after all others were shown. An epoch has as many
    batches as that of `crops`.
    """

    def batches(self, random: Generator) -> Iterable[list[int]]:
        _, batches = self._turns(random)
        domains: dict[str, list[Person]] = defaultdict(list)
        for person, domain in self.domain_of.items():
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
            # People of other domains fill the batch if the domain has too few.
            others = [person for person in self.people if person not in batch]
            missing = self.identities - len(batch)
            batch += [others[pick] for pick in random.permutation(len(others))[:missing]]
            yield self.crops_of(batch, random)


def build_sampler(
    records: Sequence[CropRecord],
    settings: Sampling,
    seed: int = 0,
) -> PKSampler:
    """Build the sampler that a recipe names.

    Raises:
        InputProblem: fewer than P identities have two crops.
    """
    sampler: PKSampler = SAMPLERS.find(settings.order.name).build(records, settings, seed)
    return sampler


def describe_epoch(
    crops: int,
    in_epoch: int,
    left_out: int,
) -> str:
    """Say in a clause how many of the training crops an epoch shows.

    Args:
        crops: the number of training crops.
        in_epoch: the number of different crops in an epoch.
        left_out: the number of people who have a single crop.
    """
    shown = f"all {counted(crops, 'crop')}"
    if in_epoch < crops:
        shown = f"{in_epoch:,} of {crops:,} crops, and others in the next"
    if left_out:
        people = counted(left_out, "person", "people")
        shown += f"; {people} with a single crop left out"
    return shown
