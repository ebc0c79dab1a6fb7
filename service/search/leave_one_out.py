"""Leave-one-identity-out searches: each named crop of a gallery searches the other identities."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model.calibration import Scoring
from model.gallery_thresholds import hide_known, leaders_by_name, sampled_crops, subgalleries
from model.order_statistics import Array
from model.search_calibration import RANKS
from model.stranger_tail import LeftOutSearches
from service.engine.device import DeviceThread
from service.engine.networks import LoadedModel
from service.ops.health import MonitoredThreadPool
from service.search.options import RERANK_DEPTH
from service.search.ranking import every_score
from service.search.table import RowTable

# Pairs of crops compared by cosine: fewer crops search a gallery of more than 100,000.
MOST_COMPARISONS = 10**8
FEWEST_CROPS = 200
# So many crops search a part of the gallery.
CROPS_OF_A_PART = 300
# One step holds about four arrays of so many scores.
SCORES_PER_STEP = 2**22
ROWS_PER_STEP = 4096
CROPS_PER_STEP = 64


@dataclass(frozen=True)
class NamedCrops:
    """Named crops of a gallery at one moment.

    Attributes:
        table: holds their vectors.
        rows: in the table, `(n,)`.
        names, cameras: codes, `(n,)`; the camera is -1 where it is unknown.
    """

    table: RowTable
    rows: NDArray[np.int64]
    names: NDArray[np.int64]
    cameras: NDArray[np.int64]

    @classmethod
    def of(cls, table: RowTable) -> NamedCrops:
        """The valid rows with an identity; on the device thread, but any may read their vectors."""
        rows = np.flatnonzero(table.valid[: table.size] & (table.groups[: table.size] >= 0))
        return cls(table, rows, table.groups[rows], table.cameras[rows].astype(np.int64))

    def at(self, places: NDArray[np.int64]) -> NamedCrops:
        """The crops at some places, in their order."""
        return NamedCrops(self.table, self.rows[places], self.names[places], self.cameras[places])


async def search_left_out(
    crops: NamedCrops, model: LoadedModel, device: DeviceThread, threads: MonitoredThreadPool
) -> dict[Scoring, list[LeftOutSearches]]:
    """Searches of a sample of the crops, by every scoring, in the gallery and in parts of it.

    Cosines are compared on `threads`. The device thread scores the pairs of one crop at a time, so
    that a query waits for no more than that.
    """
    networks = model.networks
    with_mnet = "mnet" in model.description.scorings
    found: dict[Scoring, list[LeftOutSearches]] = {}
    for asking, shown, identities in await threads.run(_galleries, crops):
        vectors = shown.table.vectors
        parts = dict[Scoring, list[Array]]()
        step = max(1, min(CROPS_PER_STEP, SCORES_PER_STEP // len(shown.rows)))
        for start in range(0, len(asking.rows), step):
            some = asking.at(np.arange(start, min(start + step, len(asking.rows))))
            places, cosines = await threads.run(_nearest, some, shown)
            logits = np.empty_like(cosines)
            for row in range(len(places) if with_mnet else 0):
                query = vectors[some.rows[[row]]]
                others = vectors[shown.rows[places[row]]]
                logits[row] = await device.run(networks.pair_scores, query, others)
            names = shown.names[places]
            leaders = await threads.run(_leaders, names, every_score(model, cosines, logits))
            for scoring, one in leaders.items():
                parts.setdefault(scoring, []).append(one)
        for scoring, some_leaders in parts.items():
            left_out = LeftOutSearches(np.concatenate(some_leaders), asking.names, identities)
            found.setdefault(scoring, []).append(left_out)
    return found


def _galleries(crops: NamedCrops) -> list[tuple[NamedCrops, NamedCrops, int]]:
    """The gallery and parts of it: the crops that search, those that they search, K."""
    crops = crops.at(np.argsort(crops.names, kind="stable"))
    random = np.random.default_rng(len(crops.rows))
    sample = sampled_crops(crops.names, random)
    sample = sample[: max(FEWEST_CROPS, MOST_COMPARISONS // max(1, len(crops.rows)))]
    found: list[tuple[NamedCrops, NamedCrops, int]] = []
    for identities in subgalleries(crops.names, random):
        shown = crops.at(np.flatnonzero(np.isin(crops.names, identities))) if found else crops
        asking = crops.at(sample[:CROPS_OF_A_PART] if found else sample)
        found.append((asking, shown, len(identities)))
    return found


def _leaders(
    names: NDArray[np.int64], scores: dict[Scoring, NDArray[np.float32]]
) -> dict[Scoring, Array]:
    """The nine best identity scores of candidates `(n, c)`, by every scoring: `(n, 9)`."""
    usable = np.isfinite(scores["cosine"])
    return {
        name: leaders_by_name(np.where(usable & np.isfinite(one), one, np.float32(-np.inf)), names)
        for name, one in scores.items()
    }


def _nearest(
    asking: NamedCrops, shown: NamedCrops
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The candidates of each asking crop, as a search chooses them, and their cosines: `(n, c)`.

    They are the nearest crops of other identities, and the nearest crop of each of the nine nearest
    identities; some come twice. A cosine of −∞ is no candidate.

    Args:
        asking: the crops that search.
        shown: ordered by name.
    """
    units = asking.table.units(asking.rows)
    cosines = np.empty((len(units), len(shown.rows)), np.float32)
    for start in range(0, len(shown.rows), ROWS_PER_STEP):
        part = slice(start, start + ROWS_PER_STEP)
        cosines[:, part] = units @ shown.table.units(shown.rows[part]).T
    cosines = hide_known(cosines, (asking.names, asking.cameras), (shown.names, shown.cameras))
    starts = np.flatnonzero(np.diff(shown.names, prepend=-1))
    best = np.maximum.reduceat(cosines, starts, axis=1)
    lengths = np.diff(np.append(starts, len(shown.rows)))
    first = np.where(cosines == np.repeat(best, lengths, axis=1), cosines, -np.inf)
    places = np.concatenate([_largest(cosines, RERANK_DEPTH), _largest(first, RANKS)], axis=1)
    return places, np.take_along_axis(cosines, places, axis=1)


def _largest(scores: NDArray[np.floating], count: int) -> NDArray[np.int64]:
    """The places of the largest of each row, in any order."""
    count = min(count, scores.shape[1])
    return np.asarray(np.argpartition(scores, -count, axis=1)[:, -count:], np.int64)
