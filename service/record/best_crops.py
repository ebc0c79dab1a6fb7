"""Selection of the crops that a track keeps: good ones that differ from each other."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from service.errors import InvalidField
from service.record.crop_rows import read_by_slot, read_vectors
from service.record.galleries import require_entry
from service.record.tracks import OF_TRACK
from service.record.transaction import Transaction
from service.record.values import ArchivedCrop, StoredCrop

# Upper bound on the stored crops of a track compared while other writers wait.
MOST_OF_TRACK = 1_000
# Assumed quality of a crop whose quality was not measured.
LEAST_QUALITY = 1.0
# Exceeds any quality times distance, so that a named crop always precedes an unnamed one.
NAMED_FIRST = 1e6
FARTHEST = 2.0


def choose_best(
    transaction: Transaction,
    gallery_id: int,
    new: Sequence[ArchivedCrop],
    known: Sequence[StoredCrop],
    most: int,
) -> tuple[set[str], list[StoredCrop]]:
    """Choose up to `most` crops of each track that has new or known crops.

    The choice does not depend on the order within a request, so repeating it changes nothing.

    Returns:
        The ids of all rejected crops, and the rejected crops that are stored.

    Raises:
        InvalidField: a track has too many crops.
        InvalidField: a track has too many crops.
    """
    tracks: dict[tuple[str, str | None], list[ArchivedCrop]] = {}
    for crop in new:
        if crop.record.track is not None:
            tracks.setdefault((crop.record.track, crop.record.camera), []).append(crop)
    for record in known:
        if record.track is not None:
            # A repeated track may also be cut to fewer crops.
            tracks.setdefault((record.track, record.camera), [])
    rejected: set[str] = set()
    displaced: list[StoredCrop] = []
    for place, crops in tracks.items():
        stored = _read_stored(transaction, gallery_id, *place)
        candidates = sorted([*stored, *crops], key=_as_sent)
        best = _best_places(candidates, most)
        rejected.update(
            crop.record.crop_id for position, crop in enumerate(candidates) if position not in best
        )
        displaced += [crop.record for crop in stored if crop.record.crop_id in rejected]
    return rejected, displaced


def _as_sent(crop: ArchivedCrop) -> tuple[str, str]:
    # Crop ids cannot serve as the key: an image sent again gets a new one.
    return crop.record.sha256, crop.record.identity or ""


def _best_places(crops: Sequence[ArchivedCrop], most: int) -> list[int]:
    """Choose crops greedily by quality times distance to the nearest chosen crop.

    The first has the highest quality. Rejected crops do not influence the choice.
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
        # einsum sums each row separately, so other rows cannot change its last digits.
        cosines = np.einsum("nd,d->n", units, units[place])
        distances = np.minimum(distances, np.sqrt(np.maximum(2.0 - 2.0 * cosines, 0.0)))
    return chosen


def _read_stored(
    transaction: Transaction, gallery_id: int, track: str, camera: str | None
) -> list[ArchivedCrop]:
    statement = f"SELECT slot FROM {OF_TRACK} LIMIT ?"
    slots = transaction.column(statement, (gallery_id, track, camera, MOST_OF_TRACK + 1))
    if len(slots) > MOST_OF_TRACK:
        raise InvalidField(
            f"keep_best: track {track!r} has more than {MOST_OF_TRACK:,} crops, too many to "
            "choose from; delete some of them first"
        )
    crops = read_by_slot(transaction, gallery_id, slots)
    return read_vectors(transaction, require_entry(transaction, gallery_id), crops)
