"""Calls on crops: enrol, ask for, compare, list, remove."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Unpack

from service.client.answers import Crop, Embeddings, Enrolment, PairScore, Ranking, Removal
from service.client.calls import ImageSource, QueryOptions, Scoring, crop_calls, query_calls
from service.client.synchronous.sender import Sender


class CropCalls(Sender):
    """Crops of the client's gallery, or of the one that a call names."""

    def enroll(
        self,
        images: Iterable[ImageSource],
        gallery: str | None = None,
        *,
        idempotency_key: str | None = None,
    ) -> Enrolment:
        """Enrols images; a refused image is an entry with `problem`, never an exception.

        Each is a path, the bytes of an image file, a file opened in binary mode, a PIL image, or an
        `Image`, which also says who, where and when.

        It happens once, also where the client sends it again because the answer was lost. A
        program that may be run again names the request itself: the same images under the same
        `idempotency_key` are then answered as they were, for a day, with `replayed`.

        Raises:
            RequestRefused: status 422 where the key stood for other images.
        """
        call = crop_calls.enroll(gallery or self.gallery_name, images, idempotency_key)
        return self._send(call)

    def query(
        self,
        *images: ImageSource,
        gallery: str | None = None,
        **options: Unpack[QueryOptions],
    ) -> Ranking:
        """Ranks the gallery by likeness to one person; several images are of the same person."""
        return self._send(query_calls.query(gallery or self.gallery_name, images, options))

    def query_like(
        self, crop_id: str, gallery: str | None = None, **options: Unpack[QueryOptions]
    ) -> Ranking:
        """Ranks the gallery by likeness to one of its own crops."""
        return self._send(query_calls.query_like(gallery or self.gallery_name, crop_id, options))

    def pairs(
        self,
        first: ImageSource,
        second: ImageSource,
        explain: bool = False,
        *,
        scoring: Scoring | None = None,
        operating_point: str | None = None,
        gallery: str | None = None,
    ) -> PairScore:
        """How alike two images are.

        Args:
            first, second: the images, as `query` takes them.
            explain: also tell which regions spoke for and against.
            scoring: what probability and verdict go by; the artefact's default unless given.
            operating_point: such as `pair_far_1e-3`, or with `gallery` `far_1e-2`.
            gallery: judge as a result of a search of it; as a pair by default.
        """
        call = query_calls.pairs(first, second, explain, scoring, operating_point, gallery)
        return self._send(call)

    def embeddings(self, *images: ImageSource) -> Embeddings:
        """The features of images; one that cannot be used is an entry with `problem`."""
        return self._send(query_calls.embeddings(images))

    def crops(
        self,
        identity: str | None = None,
        camera: str | None = None,
        gallery: str | None = None,
        *,
        external_id: str | None = None,
    ) -> Iterator[Crop]:
        """Every crop of a gallery, fetched page by page as the iterator moves on."""
        name = gallery or self.gallery_name
        return self._pages(
            lambda cursor: crop_calls.page(name, identity, camera, external_id, cursor)
        )

    def crop(self, crop_id: str, gallery: str | None = None) -> Crop:
        """One crop's record."""
        return self._send(crop_calls.read(gallery or self.gallery_name, crop_id))

    def delete_crop(self, crop_id: str, gallery: str | None = None) -> Removal:
        """Removes one crop; it is never returned again."""
        return self._send(crop_calls.delete(gallery or self.gallery_name, crop_id))

    def image(self, crop_id: str, gallery: str | None = None) -> bytes:
        """One crop's picture, as the bytes of an image file."""
        return self._send(crop_calls.image(gallery or self.gallery_name, crop_id))
