"""How often the thresholds of a gallery are fitted."""

import asyncio
from dataclasses import fields
from types import SimpleNamespace

import pytest

from service.search.refit import CalibrationFitter

FIT_SECONDS = 0.05
LOOK_SECONDS = 0.001


@pytest.mark.parametrize(("rest", "is_fitted_again"), [(0.0, True), (1000.0, False)])
def test_a_gallery_rests_after_a_fit_in_proportion_to_its_time(monkeypatch, rest, is_fitted_again):
    monkeypatch.setattr("service.search.refit.LOOK_EVERY_SECONDS", LOOK_SECONDS)
    monkeypatch.setattr("service.search.refit.REST_PER_SECOND_OF_FIT", rest)
    galleries = [SimpleNamespace(gallery_id=number, name=f"site-{number}") for number in (1, 2)]
    fits = []

    async def fit(_, gallery):
        fits.append(gallery)
        await asyncio.sleep(FIT_SECONDS)
        return 0.0

    monkeypatch.setattr(CalibrationFitter, "fit_if_due", fit)
    # A state that differs at each look is that of a gallery that grows all the time.
    monkeypatch.setattr(CalibrationFitter, "_read_state", lambda *_: object())
    parts = dict.fromkeys(field.name for field in fields(CalibrationFitter))
    fitter = CalibrationFitter(**parts | {"galleries": SimpleNamespace(all=lambda: galleries)})

    async def fit_both_and_go_on():
        fitting = asyncio.create_task(fitter.fit_galleries())
        while len(fits) < len(galleries):
            await asyncio.sleep(FIT_SECONDS)
        await asyncio.sleep(20 * FIT_SECONDS)
        fitting.cancel()

    asyncio.run(fit_both_and_go_on())
    assert fits[:2] == galleries
    assert (len(fits) > len(galleries)) == is_fitted_again
