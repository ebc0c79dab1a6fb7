"""PK sampling: P identities × K crops a batch, every domain in every batch by its share."""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Iterator, Sequence

import numpy as np

from model.problems import InputProblem
from training.datasets.record import CropRecord

Chunk = list[int]


class PKSampler:
    """Batches of row numbers for one epoch after another.

    Within an epoch an identity comes up once for every K crops it has (at least once), each time
    with other crops; one with fewer than K gives some twice, one with a single crop is left out,
    since it has no positive pair. Domains are interleaved in proportion, so a batch mixes them all.
    The order depends on (seed, epoch) alone.
    """

    def __init__(
        self, records: Sequence[CropRecord], identities: int, images: int, seed: int = 0
    ) -> None:
        """Prepares the sampler.

        Args:
            records: the training crops; batches hold indices into them.
            identities: P.
            images: K.
            seed: of the order.

        Raises:
            InputProblem: when fewer than P identities have two crops.
        """
        self.identities, self.images, self.seed = identities, images, seed
        self._domains: dict[str, dict[tuple[str, str], list[int]]] = defaultdict(dict)
        for row, record in enumerate(records):
            self._domains[record.domain].setdefault(record.person, []).append(row)
        for people in self._domains.values():
            for person in [person for person, rows in people.items() if len(rows) < 2]:
                del people[person]
        usable = sum(len(people) for people in self._domains.values())
        if usable < identities:
            raise InputProblem(
                f"only {usable} identities have two crops or more, a batch needs {identities}; "
                "give more data or lower sampling.identities"
            )

    def epoch(self, number: int) -> list[list[int]]:
        """All batches of one epoch, each P·K row numbers, an identity's K side by side."""
        random = np.random.default_rng((self.seed, number))
        positioned: list[tuple[float, tuple[str, str], Chunk]] = []
        for domain in sorted(self._domains):
            chunks = list(self._domain_chunks(self._domains[domain], random))
            positioned += [
                ((index + random.random()) / len(chunks), person, chunk)
                for index, (person, chunk) in enumerate(chunks)
            ]
        positioned.sort(key=lambda entry: entry[0])
        return list(self._batches([(person, chunk) for _, person, chunk in positioned]))

    def _domain_chunks(
        self, people: dict[tuple[str, str], list[int]], random: np.random.Generator
    ) -> Iterator[tuple[tuple[str, str], Chunk]]:
        queues = {person: self._chunks(rows, random) for person, rows in people.items()}
        while queues:
            waiting = list(queues)
            for pick in random.permutation(len(waiting)):
                person = waiting[pick]
                yield person, queues[person].pop()
                if not queues[person]:
                    del queues[person]

    def _chunks(self, rows: list[int], random: np.random.Generator) -> list[Chunk]:
        order = [rows[index] for index in random.permutation(len(rows))]
        if len(order) < self.images:
            extra = random.choice(order, self.images - len(order), replace=True)
            return [order + [int(row) for row in extra]]
        whole = len(order) // self.images
        return [order[part * self.images : (part + 1) * self.images] for part in range(whole)]

    def _batches(self, chunks: list[tuple[tuple[str, str], Chunk]]) -> Iterator[list[int]]:
        pending = deque(chunks)
        remaining = Counter(person for person, _ in chunks)
        while len(remaining) >= self.identities:
            batch: dict[tuple[str, str], Chunk] = {}
            deferred: list[tuple[tuple[str, str], Chunk]] = []
            while len(batch) < self.identities:
                person, chunk = pending.popleft()
                if person in batch:
                    deferred.append((person, chunk))
                else:
                    batch[person] = chunk
            pending.extendleft(reversed(deferred))
            remaining -= Counter(batch.keys())
            yield [row for chunk in batch.values() for row in chunk]
