"""Galleries of one process among several on one record, without model and HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
from service.gallery.replication import ReplicatedGalleries

from gmn_client.models import CalibrationState, RankedCrop
from service.engine.device import DeviceThread
from service.gallery.gallery import Gallery
from service.record.record import open_redis
from service.record.values import ArchivedCrop, Enrolment, Removal
from service.search.index_files import IndexFolder
from service.search.options import QueryOptions
from service.search.query import run_search
from service.search.ranking import Ranking
from tests.service.gallery.new_crops import EMBEDDER, new_crop

TIMEOUT_SECONDS = 1.0


class Replica:
    """Opens galleries on a Redis, as a process of the service does."""

    def __init__(self, url: str, *embedders: str, files: IndexFolder | None = None) -> None:
        # Of these galleries the calibration was read, in order.
        self.calibrated: list[str] = []
        self.store = open_redis(url, timeout_seconds=TIMEOUT_SECONDS)
        self.device = DeviceThread()
        sizes = dict.fromkeys(embedders or (EMBEDDER,), 4)
        self.galleries = ReplicatedGalleries(
            self.store, self.device, sizes, self._calibrate, folders=files
        )
        self.galleries.load()

    def close(self) -> None:
        self.galleries.close()
        self.device.shutdown()
        self.store.close()

    def _calibrate(self, gallery: Gallery) -> None:
        self.calibrated.append(gallery.name)

    def enroll(self, gallery: str, *numbers: int, identity: str = "a") -> list[str]:
        """Enrols crops; answers their ids."""
        crops = [new_crop(number, identity) for number in numbers]
        target = self.galleries.get(gallery)
        return [one.crop_id for one in asyncio.run(self.enrolling(target, crops)).landed]

    def enrolling(self, gallery: Gallery, crops: Sequence[ArchivedCrop]) -> Awaitable[Enrolment]:
        """An enrolment that has not begun."""
        write = self.store.crops.enroll
        return self.galleries.change("enroll", gallery, write, EMBEDDER, crops)

    def removing(self, gallery: Gallery, crop_id: str) -> Awaitable[Removal | None]:
        """A removal that has not begun."""
        return self.galleries.change("delete-crop", gallery, self.store.crops.remove, [crop_id])

    def remove(self, gallery: str, crop_id: str) -> int:
        """Removes a crop; answers the version from which on it is gone."""
        target = self.galleries.get(gallery)
        return asyncio.run(self.removing(target, crop_id)).version

    def shown(self, gallery: str) -> dict[str, str | None]:
        """Crops that a search finds now, with their identities."""

        def look() -> dict[str, str | None]:
            index = self.galleries.get(gallery).index
            found = index.search(np.ones((1, 4), np.float32), 1000)
            return {label.crop_id: label.identity for label in found.labels()}

        return self.device.submit(look).result()

    async def query(self, gallery: str, min_version: int = 0) -> tuple[set[str], bool]:
        """Searches as the service does; answers the ids of what was found, and whether stale."""
        runtime: Any = SimpleNamespace(galleries=self.galleries, device=self.device)
        await self.galleries.wait_for_version(self.galleries.get(gallery), min_version)
        held = self.galleries.get(gallery)
        options = QueryOptions(top_k=1000)

        def rank(top_k: int, without: frozenset[int], _: None) -> Ranking:
            index = held.index
            query = np.ones((1, 4), np.float32)
            found = index.search(query, top_k, options.filter(None, without))
            labels = found.labels()
            results = [
                RankedCrop.model_construct(crop_id=label.crop_id, verdict="match")
                for label in labels
            ]
            return Ranking(
                results=results,
                labels=labels,
                calibration=CalibrationState(state="artefact", version="a"),
                gallery_version=held.version,
                candidates_scored=found.searched,
                began=0.0,
                search_seconds=0.0,
                rerank_seconds=0.0,
                sample=None,
                query_crop=None,
            )

        search: Any = SimpleNamespace(gallery=held, options=options, rank=rank)
        ranking = await run_search(runtime, search)
        return {result.crop_id for result in ranking.results}, ranking.stale

    def version(self, gallery: str) -> int:
        return self.galleries.get(gallery).version
