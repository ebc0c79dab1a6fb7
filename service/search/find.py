"""One search: candidates, scores, verdicts and labels, each on a thread that may compute it.

A short search stays on the thread that has embedded its image. A long one takes turns with others
on the threads of the device and of the record. The two differ in their executor alone. A search is
repeated without the crops that were deleted meanwhile.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

from gmn_client.models import RankedCrop
from model.arrays import Floats
from service.engine.device import DeviceThread
from service.errors import (
    MAX_ANSWER_BYTES,
    TOO_MUCH_METADATA,
    AnswerTooLarge,
    UnknownCrop,
    UnknownGallery,
)
from service.gallery.gallery import Gallery
from service.gallery.registry import GalleryRegistry
from service.index.interface import OutsideIndexes
from service.record.crop_rows import CROPS_AT_ONCE
from service.record.tracks import Tracks
from service.record.values import JsonObject, LabelledCrop, StoredCrop
from service.search.ranking import Ranking, Search, Spans

Result = TypeVar("Result")
NoteLabels = Callable[[Mapping[int, StoredCrop]], None]
# Upper bound on the rounds of a search that finds deleted crops.
ROUNDS = 6


@dataclass(frozen=True)
class Found:
    """One ranking of a search, with the labels of its crops from the record.

    Attributes:
        labels: the crops of the ranking and those searched by, by slot, without deleted ones.
        spans: see `Search.results`.
    """

    ranking: Ranking
    labels: Mapping[int, StoredCrop]
    spans: Spans


class SearchIsLong(Exception):
    """A search that began as a short one would have to let other work run."""


@dataclass(frozen=True)
class AtOnce:
    """Runs each step of a short search at once on the calling thread, which has no event loop."""

    device: DeviceThread
    galleries: GalleryRegistry
    tracks: Tracks

    @contextlib.contextmanager
    def ranking(self, search: Search) -> Iterator[None]:
        """Hold the device and the right to run Python, but not while the record is read.

        The record may be on another machine: other queries are worked on in the meantime.
        """
        with search.current.model.pipeline.short_work, self.device.held():
            yield

    async def on_index(self, _gallery: Gallery, step: Callable[[], Result]) -> Result:
        return step()

    async def on_device(self, step: Callable[[], Result]) -> Result:
        return step()

    def let_others_run(self) -> None:
        raise SearchIsLong

    async def on_reader(self, step: Callable[[], Result]) -> Result:
        return step()


@dataclass(frozen=True)
class InTurns:
    """Runs each step of a long search on a thread of its kind, in turn with other work there."""

    device: DeviceThread
    galleries: GalleryRegistry
    tracks: Tracks
    outside: OutsideIndexes | None

    def ranking(self, _search: Search) -> AbstractContextManager[None]:
        """Hold nothing: the device's thread holds the device in each step."""
        return contextlib.nullcontext()

    async def on_index(self, gallery: Gallery, step: Callable[[], Result]) -> Result:
        outside = self.outside
        if not (gallery.outside_index and outside):
            return await self.device.run(step)
        # Do not block the device thread with calls to an external index.
        try:
            return await outside.run(step)
        except UnknownGallery as error:
            raise UnknownGallery(gallery.name) from error

    async def on_device(self, step: Callable[[], Result]) -> Result:
        return await self.device.run(step)

    def let_others_run(self) -> None:
        """Do nothing: each step waits for its turn."""

    async def on_reader(self, step: Callable[[], Result]) -> Result:
        return await self.galleries.read(step)


Executor = AtOnce | InTurns


async def run_search(
    in_turns: InTurns,
    search: Search,
    metadata_sizes: Counter[object],
    found: Found | None = None,
) -> tuple[Ranking, list[RankedCrop]]:
    """Search until the record has every result, and return the ranking with the results.

    Each further round excludes the crops found deleted, so that they do not displace other results.

    Args:
        metadata_sizes: characters of metadata in the results of each search of the answer, to
            which those of this one are added.
        found: result of the first round; None to begin with it.

    Raises:
        AnswerTooLarge: the results of all searches have too much metadata.
        SearchOutdated: the gallery has another embedder, or other means, than the search.
        IndexUnavailable: the external index does not answer.
        UnknownGallery: the gallery was deleted.
        UnknownCrop: a crop searched by was deleted.
    """
    this_search = object()

    def note_labels(labels: Mapping[int, StoredCrop]) -> None:
        for crop in labels.values():
            if isinstance(crop.metadata, JsonObject):
                metadata_sizes[this_search] += len(crop.metadata.text)
        if metadata_sizes.total() > MAX_ANSWER_BYTES:
            raise AnswerTooLarge(TOO_MUCH_METADATA)

    if found is None:
        found = await find(search, in_turns, note_labels)
    else:
        note_labels(found.labels)
    for attempt in range(1, ROUNDS):
        deleted = frozenset(found.ranking.best.slots.tolist()) - found.labels.keys()
        if not deleted:
            break
        if attempt > 1:
            # Crops are deleted faster than searches exclude them: wait until the index shows that.
            await in_turns.galleries.catch_up()
        search = replace(search, without=search.without | deleted)
        metadata_sizes[this_search] = 0
        found = await find(search, in_turns, note_labels)
    return found.ranking, search.results(found.ranking, found.labels, found.spans)


async def find(search: Search, run: Executor, note_labels: NoteLabels = lambda _: None) -> Found:
    """Search a gallery once, and read the labels of the results from the record.

    Args:
        note_labels: is called with each part of the labels.

    Raises:
        SearchOutdated, IndexUnavailable, UnknownCrop, UnknownGallery: as in `run_search`.
        SearchIsLong: a search in turns has to be made instead.
    """
    with run.ranking(search):
        began = None
        if search.needs_labels:
            began = await run.on_device(time.perf_counter)
            while await run.on_device(search.read_labels):
                run.let_others_run()
        proposal = await run.on_index(search.gallery, partial(search.propose, began))
        scores: list[Floats] = []
        for part in search.parts_to_score(proposal)[:-1]:
            scores.append(await run.on_device(partial(search.score, proposal, part)))
            run.let_others_run()
        ranking = await run.on_device(partial(search.rank, proposal, scores))

    labels: dict[int, StoredCrop] = {}
    required = _required_crops(search)
    slots = [*ranking.best.slots.tolist(), *(crop.slot for crop in required)]
    read_crops = run.galleries.read_crops
    for start in range(0, len(slots), CROPS_AT_ONCE):
        some = slots[start : start + CROPS_AT_ONCE]
        crops = await run.on_reader(partial(read_crops, search.gallery, some))
        note_labels(crops)
        labels |= crops
    for crop in required:
        if crop.slot not in labels:
            raise UnknownCrop(search.gallery.name, crop.crop_id)
    spans: Spans = {}
    if search.options.group_by == "track":
        tracks = [crop.track for crop in labels.values() if crop.track is not None]
        if tracks:
            read_spans = run.tracks.spans
            spans = await run.on_reader(partial(read_spans, search.gallery.gallery_id, tracks))
    return Found(ranking, labels, spans)


def finish_at_once(work: Coroutine[Any, Any, Result]) -> Result:
    """Run a coroutine of which no step waits, as with `AtOnce`, on this thread; blocks."""
    try:
        work.send(None)
    except StopIteration as ended:
        result: Result = ended.value
        return result
    work.close()
    raise RuntimeError("a step of a short search waits for the event loop")


def _required_crops(search: Search) -> Sequence[LabelledCrop]:
    """Return the crops searched by that must exist.

    Crops of a track may be deleted during the search, and crops named by id if they are of another
    gallery.
    """
    return search.query_crops if search.options.crop_ids and search.without else ()
