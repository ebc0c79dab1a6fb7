"""The crops of a track that are kept where a track is to have a few: good ones that differ."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from service.errors import InvalidField
from service.record.crop_rows import find_vectors, read_by_slot, read_vectors
from service.record.tracks import OF_TRACK
from service.record.transaction import Transaction
from service.record.values import ArchivedCrop, StoredCrop

# Upper bound on the stored crops of a track that are compared while other writers wait.
MOST_OF_TRACK = 1_000
# The quality of a crop that was not measured.
LEAST_QUALITY = 1.0
# More than any quality times a distance: a crop with a name never gives way to one without.
NAMED_FIRST = 1e6
FARTHEST = 2.0


def choose_best(
    transaction: Transaction,
    gallery_id: int,
    new: Sequence[ArchivedCrop],
    known: Sequence[StoredCrop],
    most: int,
) -> tuple[set[str], list[StoredCrop]]:
    """Choose which crops each track of new or known crops keeps, `most` at most.

    The choice depends on no order within a request, so that the same request again changes nothing.

    Returns:
        The ids of crops that are not kept, and those of these crops that are stored.

    Raises:
        InvalidField: a track has too many crops.
    """
    tracks: dict[tuple[str, str | None], list[ArchivedCrop]] = {}
    for crop in new:
        if crop.record.track is not None:
            tracks.setdefault((crop.record.track, crop.record.camera), []).append(crop)
    for record in known:
        if record.track is not None:
            # A track that is sent again is cut to fewer crops, too.
            tracks.setdefault((record.track, record.camera), [])
    others: set[str] = set()
    give_way: list[StoredCrop] = []
    for place, crops in tracks.items():
        stored = _read_stored(transaction, gallery_id, *place)
        every = sorted([*stored, *crops], key=_as_sent)
        best = _best_places(every, most)
        others.update(crop.record.crop_id for n, crop in enumerate(every) if n not in best)
        give_way += [crop.record for crop in stored if crop.record.crop_id in others]
    return others, give_way


def _as_sent(crop: ArchivedCrop) -> tuple[str, str]:
    # Crop ids are drawn anew when an image is sent again.
    return crop.record.sha256, crop.record.identity or ""


def _best_places(crops: Sequence[ArchivedCrop], most: int) -> list[int]:
    """Choose crops one by one: the highest quality times distance to the nearest chosen one.

    The first has the best quality. Crops that are not chosen do not change the choice.
    """
    vectors = np.stack([crop.vector for crop in crops]).astype(np.float64)
    units = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    qualities = np.array([max(crop.record.quality or 0.0, LEAST_QUALITY) for crop in crops])
    named = np.array([crop.record.identity is not None for crop in crops])
    distances: NDArray[np.float64] = np.full(len(crops), FARTHEST)
    is_chosen = np.zeros(len(crops), np.bool_)
    chosen: list[int] = []
    while len(chosen) < min(most, len(crops)):
        gains = qualities * distances + NAMED_FIRST * named
        place = int(np.where(is_chosen, -1.0, gains).argmax())
        chosen.append(place)
        is_chosen[place] = True
        # einsum sums each row by itself, so that the other rows do not change the last digits.
        cosines = np.einsum("nd,d->n", units, units[place])
        distances = np.minimum(distances, np.sqrt(np.maximum(2.0 - 2.0 * cosines, 0.0)))
    return chosen


def _read_stored(
    transaction: Transaction, gallery_id: int, track: str, camera: str | None
) -> list[ArchivedCrop]:
    asked = f"SELECT slot FROM {OF_TRACK} LIMIT ?"
    found = transaction.tuples(asked, (gallery_id, track, camera, MOST_OF_TRACK + 1))
    if len(found) > MOST_OF_TRACK:
        raise InvalidField(
            f"keep_best: track {track!r} has more than {MOST_OF_TRACK:,} crops, which are too many "
            "to choose from; delete some of them first"
        )
    crops = read_by_slot(transaction, gallery_id, [slot for (slot,) in found])
    place = find_vectors(transaction, gallery_id)
    vectors = transaction.unwritten_vectors(place) if place else {}
    written = [crop for crop in crops if crop.row_id not in vectors]
    for crop in read_vectors(transaction, place, written):
        vectors[crop.label.row_id] = crop.vector
    return [ArchivedCrop(crop, vectors[crop.row_id], None) for crop in crops]
