"""Rounds of a search: rank, read the record, and repeat without what was deleted meanwhile."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from gmn_client.models import RankedCrop
from service.errors import (
    MAX_ANSWER_BYTES,
    TOO_MUCH_METADATA,
    AnswerTooLarge,
    UnknownCrop,
    UnknownGallery,
)
from service.record.crop_rows import CROPS_AT_ONCE
from service.record.values import JsonObject, LabelledCrop, StoredCrop
from service.runtime import Runtime
from service.search.ranking import Ranking, Search, Spans

# Upper bound on the rounds of a search that finds deleted crops.
ROUNDS = 6
NoteLabels = Callable[[Mapping[int, StoredCrop]], None]


@dataclass(frozen=True)
class Found:
    """One ranking of a search, with what the record has of its crops.

    Attributes:
        labels: the crops of the ranking and those searched by, by slot, without deleted ones.
        spans: see `Search.results`.
    """

    ranking: Ranking
    labels: Mapping[int, StoredCrop]
    spans: Spans


def find_now(runtime: Runtime, search: Search) -> Found | None:
    """Search a short way, on this thread; blocks.

    Returns:
        None if the search turns out to be long, because its index has to be prepared first.

    Raises:
        EmbedderChanged, NeedsReindex, UnknownCrop, UnknownGallery: as in `run_search`.
    """
    # The record may be on another machine, so that it is read while other queries are worked on.
    with search.current.model.pipeline.short_work, runtime.device.held():
        ranking = next(search.rank())
    if ranking is None:
        return None
    galleries = runtime.galleries
    labels = galleries.read_crops(search.gallery, _slots_to_read(search, ranking))
    _require_crops(search, labels)
    spans: Spans = {}
    if tracks := _tracks_to_read(search, labels):
        spans = runtime.record.tracks.spans(search.gallery.gallery_id, tracks)
    return Found(ranking, labels, spans)


async def _find(runtime: Runtime, search: Search, note_labels: NoteLabels) -> Found:
    """Search on the device thread, and read the record on its readers' threads, in slices.

    Args:
        note_labels: is called with each part of the labels.
    """
    steps = search.rank()
    if search.gallery.outside_index and runtime.outside:
        # Do not block the device thread with calls to an external index.
        try:
            await runtime.outside.run(next, steps)
        except UnknownGallery as error:
            raise UnknownGallery(search.gallery.name) from error
    while (ranking := await runtime.device.run(next, steps)) is None:
        continue

    galleries = runtime.galleries
    read_ids = _slots_to_read(search, ranking)
    labels: dict[int, StoredCrop] = {}
    for start in range(0, len(read_ids), CROPS_AT_ONCE):
        part = read_ids[start : start + CROPS_AT_ONCE]
        crops = await galleries.read(galleries.read_crops, search.gallery, part)
        note_labels(crops)
        labels |= crops
    _require_crops(search, labels)
    spans: Spans = {}
    if tracks := _tracks_to_read(search, labels):
        gallery_id = search.gallery.gallery_id
        spans = await galleries.read(runtime.record.tracks.spans, gallery_id, tracks)
    return Found(ranking, labels, spans)


def _slots_to_read(search: Search, ranking: Ranking) -> list[int]:
    return [*ranking.best.slots.tolist(), *(crop.slot for crop in _required_crops(search))]


def _required_crops(search: Search) -> Sequence[LabelledCrop]:
    """Return the crops searched by that must exist.

    Crops of a track may be deleted during the search, and crops named by id if they are of another
    gallery.
    """
    return search.query_crops if search.options.crop_ids and search.without else ()


def _require_crops(search: Search, labels: Mapping[int, StoredCrop]) -> None:
    for crop in _required_crops(search):
        if crop.slot not in labels:
            raise UnknownCrop(search.gallery.name, crop.crop_id)


def _tracks_to_read(search: Search, labels: Mapping[int, StoredCrop]) -> list[str]:
    if search.options.group_by != "track":
        return []
    return [crop.track for crop in labels.values() if crop.track is not None]


async def run_search(
    runtime: Runtime,
    search: Search,
    metadata_sizes: Counter[object],
    found: Found | None = None,
) -> tuple[Ranking, list[RankedCrop]]:
    """Search until the record has every result, and return the ranking with the results.

    Each further round excludes the crops found deleted, so that they do not displace other results.

    Args:
        metadata_sizes: characters of metadata in the results of each search of the answer, to
            which those of this one are added.
        found: what the first round has found; None to begin with it.

    Raises:
        AnswerTooLarge: the results of all searches have too much metadata.
        EmbedderChanged: the gallery switched to another embedder after the search began.
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
        found = await _find(runtime, search, note_labels)
    else:
        note_labels(found.labels)
    for attempt in range(1, ROUNDS):
        deleted = frozenset(found.ranking.best.slots.tolist()) - found.labels.keys()
        if not deleted:
            break
        if attempt > 1:
            # Crops are deleted faster than searches exclude them: wait until the index shows that.
            await runtime.galleries.catch_up()
        search = replace(search, without=search.without | deleted)
        metadata_sizes[this_search] = 0
        found = await _find(runtime, search, note_labels)
    return found.ranking, search.results(found.ranking, found.labels, found.spans)
