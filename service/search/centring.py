"""The switch of galleries to other means, which every process makes for its own indexes."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from service.engine.device import DeviceThread
from service.gallery.gallery import Gallery
from service.gallery.registry import GalleryRegistry
from service.index.centring import PreparedCentring
from service.index.gallery_index import GalleryIndex
from service.ops.critical_sections import attempt
from service.ops.threads import MonitoredThreadPool, heartbeat
from service.search.calibration import GalleryCalibrations

LOOK_EVERY_SECONDS = 2.0


@dataclass(frozen=True)
class CentringSwitch:
    """Centres the indexes of galleries by the means of their newest calibrations.

    Until then searches use the former calibrations with the former means.

    Attributes:
        threads: the calibration's thread.
    """

    galleries: GalleryRegistry
    calibrations: GalleryCalibrations
    device: DeviceThread
    threads: MonitoredThreadPool

    async def keep_centred(self) -> None:
        while True:
            await asyncio.sleep(LOOK_EVERY_SECONDS)
            for gallery in self.galleries.all():
                await attempt(f"centring of gallery {gallery.name}", self.switch(gallery))

    async def switch(self, gallery: Gallery) -> None:
        """Centre the index of a gallery, unless it is centred as its calibration wants it."""
        means = self.calibrations.wanted_means(gallery)
        index = gallery.own_index
        if index is None or means is None or index.centred_by == means.version:
            return
        columns = index.columns
        codes = await self.device.run(columns.code_means, means.named)
        prepare = columns.prepare_centring
        prepared = await self.threads.run(prepare, means.version, codes, heartbeat)
        await self.device.run(self._adopt, gallery, index, prepared)

    def _adopt(self, gallery: Gallery, index: GalleryIndex, prepared: PreparedCentring) -> None:
        # The gallery may have been read again, fitted again or switched off while it was prepared.
        means = self.calibrations.wanted_means(gallery)
        if gallery.own_index is index and means and means.version == prepared.centring.version:
            index.centre_by(prepared)
        self.calibrations.settle(gallery)
