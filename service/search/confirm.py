"""Confirm: a search whose results the record still knows, however far memory is behind it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

from service.engine.networks import LoadedModel
from service.errors import UnknownCrop
from service.gallery.gallery import Gallery
from service.record.records import CropLabel
from service.runtime import Runtime
from service.search.ranking import Ranking, RankingOptions, overall_verdict

# Where many crops were deleted that memory still shows, each search asks for more of them.
ROUNDS = 6
DEEPER = 4


@dataclass(frozen=True)
class Searched:
    """One search on the device thread, and what it was made with.

    Attributes:
        asked: the crop that was asked about; None where that was an image.
        began: when its turn came, as `time.perf_counter` has it.
        stale: memory was behind the record, or the record could not be asked.
    """

    version: int
    model: LoadedModel
    ranking: Ranking
    began: float
    asked: CropLabel | None = None
    stale: bool = False


async def confirmed(
    runtime: Runtime,
    gallery: Gallery,
    options: RankingOptions,
    search: Callable[[RankingOptions], Awaitable[Searched]],
) -> Searched:
    """Searches again without what was deleted, until the record knows every result.

    A deleted crop neither takes a place nor lets a farther one miss its own. Where the record does
    not answer, the search is answered from memory and is `stale`.

    Args:
        runtime: of the service.
        gallery: what is searched.
        options: what is asked.
        search: does it.

    Raises:
        UnknownGallery: the gallery was deleted.
        UnknownCrop: the crop that was asked about was.
    """
    gone: frozenset[int] = frozenset()
    places = options.top_k
    for _ in range(ROUNDS):
        wanted = replace(options.wanted, without=options.wanted.without | gone)
        found = await search(replace(options, top_k=places, wanted=wanted))
        labels = [one.label for one in found.ranking.results]
        asked = [found.asked] if found.asked else []
        said = await runtime.galleries.confirm(gallery, [*labels, *asked])
        if found.asked and found.asked.row_id in said.gone:
            raise UnknownCrop(gallery.name, found.asked.crop_id)
        gone |= said.gone
        kept = [one for one in found.ranking.results if one.label.row_id not in gone]
        results = tuple(
            replace(one, record=said.crops.get(one.label.row_id)) for one in kept[: options.top_k]
        )
        ranking = replace(found.ranking, verdict=overall_verdict(results), results=results)
        if not said.gone:
            break
        places *= DEEPER
    return replace(found, ranking=ranking, stale=said.stale)
