"""Features to search by in place of images: of enrolled crops, or a vector that was sent."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from model.arrays import Floats
from service.errors import InvalidField, ServiceError, UnknownCrop, UnknownIdentity, UnknownTrack
from service.gallery.gallery import Gallery
from service.gallery.registry import GalleryRegistry
from service.record.record import Record
from service.record.values import LabelledCrop
from service.search.options import MOST_ASKING, QueryOptions
from service.search.ranking import SearchOutdated

# Number of crops of an identity by which similar identities are searched, by their mean score.
BEST_CROPS = 8
# Upper bound on the characters of camera names in an error.
MAX_NAMED = 200


@dataclass(frozen=True)
class QueryFeatures:
    """Features to search by in place of images; none if there are images.

    Attributes:
        fields: fields of the request that name them, for messages.
        embedder: fingerprint of the embedder that made them.
        vectors: features `(m, d)`.
        gallery: the gallery of the crops; None for a vector that was sent.
        crops: the crops that have these features.
        slots: slots of crops of this gallery that are never results: these crops, or all crops of
            their track or identity.
    """

    fields: str = ""
    embedder: str = ""
    vectors: Floats = field(default_factory=lambda: np.zeros((0, 0), np.float32))
    gallery: Gallery | None = None
    crops: tuple[LabelledCrop, ...] = ()
    slots: frozenset[int] = frozenset()


NO_FEATURES = QueryFeatures()


async def read_query_features(
    record: Record, galleries: GalleryRegistry, options: QueryOptions, gallery_name: str
) -> QueryFeatures:
    """Return the vector of a query without images, or the features of the crops that it names.

    Args:
        gallery_name: gallery of the crops.

    Raises:
        InvalidField: several cameras have a track with this id.
        UnknownGallery, UnknownCrop, UnknownTrack, UnknownIdentity: the crops do not exist.
        NeedsReindex: no loaded model has the embedder of the crops.
        SearchOutdated: the gallery is switching to another embedder.
    """
    if options.vector is not None:
        return QueryFeatures(
            fields="vector, embedding_fingerprint",
            embedder=options.vector.embedder,
            vectors=options.vector.vector[None],
        )
    gallery = await galleries.find(gallery_name)
    embedder = gallery.embedder
    features = await galleries.read(_read_crops, record, gallery, options)
    if features.embedder != embedder:
        await galleries.catch_up()
        raise SearchOutdated
    return features


def _read_crops(record: Record, gallery: Gallery, options: QueryOptions) -> QueryFeatures:
    gallery_id = gallery.gallery_id
    unknown: ServiceError = UnknownTrack(gallery.name, options.track)
    if options.identity is not None:
        unknown = UnknownIdentity(gallery.name, options.identity)
        excluded, slots = record.people.slots(gallery_id, options.identity, BEST_CROPS)
    elif options.track is not None:
        camera = _find_camera(record, gallery, options.track, options.camera)
        slots = record.tracks.spread(gallery_id, options.track, camera, MOST_ASKING)
        excluded = record.tracks.slots(gallery_id, options.track, camera)
    else:
        slots = [crop.slot for crop in record.crops.by_id(gallery_id, options.crop_ids).values()]
        excluded = slots
    embedder, crops = record.crops.vectors_of(gallery_id, slots)
    # A crop removed since its slot was read has no vector.
    present = {crop.record.crop_id for crop in crops}
    for crop_id in options.crop_ids:
        if crop_id not in present:
            raise UnknownCrop(gallery.name, crop_id)
    if not crops:
        raise unknown
    return QueryFeatures(
        fields="gallery",
        embedder=embedder,
        vectors=np.stack([crop.vector for crop in crops]),
        gallery=gallery,
        crops=tuple(crop.record for crop in crops),
        slots=frozenset(excluded),
    )


def _find_camera(record: Record, gallery: Gallery, track: str, camera: str | None) -> str | None:
    cameras = record.tracks.cameras(gallery.gallery_id, track)
    if not cameras or (camera is not None and camera not in cameras):
        raise UnknownTrack(gallery.name, track)
    if camera is None and len(cameras) > 1:
        camera_names = ", ".join(camera for camera in cameras if camera)
        raise InvalidField(
            f"track: several cameras have a track {track!r}, which may be of different people; "
            f"send its camera too: {camera_names[:MAX_NAMED]}"
        )
    return camera or cameras[0]
