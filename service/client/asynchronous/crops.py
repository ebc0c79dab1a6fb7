"""Calls on crops: enrol, ask for, compare, list, remove."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from typing import Unpack

from service.client.answers import Crop, Embeddings, Enrolment, PairScore, Ranking, Removal
from service.client.asynchronous.sender import AsyncSender
from service.client.calls import ImageSource, QueryOptions, Scoring, crop_calls, query_calls


class AsyncCropCalls(AsyncSender):
    """Crops of the client's gallery, or of the one that a call names."""

    async def enroll(
        self,
        images: Iterable[ImageSource],
        gallery: str | None = None,
        *,
        idempotency_key: str | None = None,
    ) -> Enrolment:
        """Enrols images; a refused image is an entry with `problem`, never an exception."""
        call = crop_calls.enroll(gallery or self.gallery_name, images, idempotency_key)
        return await self._send(call)

    async def query(
        self,
        *images: ImageSource,
        gallery: str | None = None,
        **options: Unpack[QueryOptions],
    ) -> Ranking:
        """Ranks the gallery by likeness to one person; several images are of the same person."""
        return await self._send(query_calls.query(gallery or self.gallery_name, images, options))

    async def query_like(
        self, crop_id: str, gallery: str | None = None, **options: Unpack[QueryOptions]
    ) -> Ranking:
        """Ranks the gallery by likeness to one of its own crops."""
        return await self._send(
            query_calls.query_like(gallery or self.gallery_name, crop_id, options)
        )

    async def pairs(
        self,
        first: ImageSource,
        second: ImageSource,
        explain: bool = False,
        *,
        scoring: Scoring | None = None,
        operating_point: str | None = None,
        gallery: str | None = None,
    ) -> PairScore:
        """How alike two images are; see `Client.pairs`."""
        call = query_calls.pairs(first, second, explain, scoring, operating_point, gallery)
        return await self._send(call)

    async def embeddings(self, *images: ImageSource) -> Embeddings:
        """The features of images; one that cannot be used is an entry with `problem`."""
        return await self._send(query_calls.embeddings(images))

    def crops(
        self,
        identity: str | None = None,
        camera: str | None = None,
        gallery: str | None = None,
        *,
        external_id: str | None = None,
    ) -> AsyncIterator[Crop]:
        """Every crop of a gallery, fetched page by page as the iterator moves on."""
        name = gallery or self.gallery_name
        return self._pages(
            lambda cursor: crop_calls.page(name, identity, camera, external_id, cursor)
        )

    async def crop(self, crop_id: str, gallery: str | None = None) -> Crop:
        """One crop's record."""
        return await self._send(crop_calls.read(gallery or self.gallery_name, crop_id))

    async def delete_crop(self, crop_id: str, gallery: str | None = None) -> Removal:
        """Removes one crop; it is never returned again."""
        return await self._send(crop_calls.delete(gallery or self.gallery_name, crop_id))

    async def image(self, crop_id: str, gallery: str | None = None) -> bytes:
        """One crop's picture, as the bytes of an image file."""
        return await self._send(crop_calls.image(gallery or self.gallery_name, crop_id))
