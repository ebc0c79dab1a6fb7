"""Rounds of a search, which is repeated without the crops that were deleted meanwhile."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

from gmn_client.models import RankedCrop
from service.errors import MAX_ANSWER_BYTES, TOO_MUCH_METADATA, AnswerTooLarge
from service.record.values import JsonObject, StoredCrop
from service.search.find import Found, InTurns, find
from service.search.ranking import Ranking, Search

# Upper bound on the rounds of a search that finds deleted crops.
ROUNDS = 6


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
