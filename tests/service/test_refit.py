"""How often the thresholds of a gallery are fitted."""

import asyncio
from dataclasses import fields
from types import SimpleNamespace

import pytest

from service.search import refit

FIT_SECONDS = 0.05


class _CountingFitter(refit.CalibrationFitter):
    """A fitter of galleries that have always changed, which notes the fits instead of fitting."""

    fits = []

    def _read_state(self, gallery):
        return len(self.fits)

    async def fit_if_due(self, gallery):
        self.fits.append(gallery.name)
        await asyncio.sleep(FIT_SECONDS)
        return 0.0


@pytest.mark.parametrize(("rest", "fits"), [(0.0, "many"), (1000.0, "one")])
def test_a_gallery_rests_after_a_fit_in_proportion_to_its_time(monkeypatch, rest, fits):
    monkeypatch.setattr(refit, "LOOK_EVERY_SECONDS", 0.001)
    monkeypatch.setattr(refit, "REST_PER_SECOND_OF_FIT", rest)
    monkeypatch.setattr(_CountingFitter, "fits", [])
    galleries = [SimpleNamespace(gallery_id=number, name=f"site-{number}") for number in (1, 2)]
    parts = dict.fromkeys(field.name for field in fields(refit.CalibrationFitter))
    fitter = _CountingFitter(**parts | {"galleries": SimpleNamespace(all=lambda: galleries)})

    async def fit_until_the_first_has_had_its_turns():
        fitting = asyncio.create_task(fitter.fit_galleries())
        while len(_CountingFitter.fits) < 2:
            await asyncio.sleep(FIT_SECONDS)
        await asyncio.sleep(20 * FIT_SECONDS)
        fitting.cancel()

    asyncio.run(fit_until_the_first_has_had_its_turns())
    counted = [_CountingFitter.fits.count(gallery.name) for gallery in galleries]
    assert counted == [1, 1] if fits == "one" else min(counted) > 1
