"""How often the thresholds of a gallery are fitted."""

import asyncio
from dataclasses import fields
from types import SimpleNamespace

import pytest

from service.search import refit
from service.search.refit import CalibrationFitter

FIT_SECONDS = 0.05
LOOK_SECONDS = 0.001
MINUTE = 60.0
HOUR = 3600.0


@pytest.mark.parametrize(("rest", "is_fitted_again"), [(0.0, True), (1000.0, False)])
def test_a_gallery_rests_after_a_fit_in_proportion_to_its_time(monkeypatch, rest, is_fitted_again):
    monkeypatch.setattr("service.search.refit.LOOK_EVERY_SECONDS", LOOK_SECONDS)
    monkeypatch.setattr("service.search.refit.REST_PER_SECOND_OF_FIT", rest)
    galleries = [
        SimpleNamespace(gallery_id=number, name=f"site-{number}", identities=0) for number in (1, 2)
    ]
    fits = []

    async def fit(_, gallery, is_settled):
        fits.append(gallery)
        await asyncio.sleep(FIT_SECONDS)
        return 0.0

    monkeypatch.setattr(CalibrationFitter, "fit_if_due", fit)
    # A state that differs at each look is that of a gallery that grows all the time.
    monkeypatch.setattr(CalibrationFitter, "_read_state", lambda *_: object())
    fitter = fitter_of(galleries)

    async def fit_both_and_go_on():
        fitting = asyncio.create_task(fitter.fit_galleries())
        while len(fits) < len(galleries):
            await asyncio.sleep(FIT_SECONDS)
        await asyncio.sleep(20 * FIT_SECONDS)
        fitting.cancel()

    asyncio.run(fit_both_and_go_on())
    assert fits[:2] == galleries
    assert (len(fits) > len(galleries)) == is_fitted_again


def fitter_of(galleries):
    parts = dict.fromkeys(field.name for field in fields(CalibrationFitter))
    return CalibrationFitter(**parts | {"galleries": SimpleNamespace(all=lambda: galleries)})


@pytest.fixture
def simulate(monkeypatch):
    """Return a function that runs the loop of fits by a clock of its own.

    It takes the seconds of a fit, the number of people at the end, and the times and sizes of
    changes in order, and returns the fits: when each began and ended, and of how many people.
    """

    def run(fit_seconds, ends_at, changes, fits=()):
        clock = SimpleNamespace(now=changes[0][0])
        waiting = list(changes)
        gallery = SimpleNamespace(gallery_id=1, name="site", identities=0)
        fits = list(fits)

        def pass_time(seconds):
            clock.now += seconds
            while waiting and waiting[0][0] <= clock.now:
                gallery.identities = waiting.pop(0)[1]

        async def sleep(seconds):
            if clock.now >= ends_at:
                raise asyncio.CancelledError
            pass_time(seconds)

        async def fit(_, gallery, is_settled):
            people = gallery.identities
            entry = SimpleNamespace(identities=people, crops=people)
            fitted = SimpleNamespace(is_current=True, identities=0, crops=0)
            if fits:
                fitted.identities = fitted.crops = fits[-1][2]
            if not fits or refit._has_outgrown(fitted, entry, is_settled):
                started = clock.now
                pass_time(fit_seconds)
                fits.append((started, clock.now, people))
                return 0.0
            return float("inf")

        with monkeypatch.context() as patched:
            patched.setattr("service.search.refit.asyncio.sleep", sleep)
            patched.setattr("service.search.refit.time.monotonic", lambda: clock.now)
            patched.setattr(CalibrationFitter, "fit_if_due", fit)
            patched.setattr(
                CalibrationFitter, "_read_state", lambda *_: (gallery.identities, *fits)
            )
            with pytest.raises(asyncio.CancelledError):
                asyncio.run(fitter_of([gallery]).fit_galleries())
        return fits

    return run


def growth(first, last, every_seconds, start=0.0):
    """Return changes by one person each."""
    step = 1 if first < last else -1
    sizes = range(first, last + step, step)
    return [(start + every_seconds * number, size) for number, size in enumerate(sizes)]


# How long after a burst its last fit may begin, besides three times the time of a fit.
NOTICED_WITHIN = refit.SETTLED_AFTER_SECONDS + 2 * refit.LOOK_EVERY_SECONDS
BURSTS = {
    "within some seconds": growth(18, 100, 0.06),
    "within half a minute": growth(18, 100, 0.4),
    "one came last": [(0.0, 99), (9.0, 100)],
    "people were forgotten": growth(100, 95, 0.5),
    "in four parts": [
        change
        for part in range(4)
        for change in growth(18 + 20 * part, 37 + 20 * part, 0.1, start=15.0 * part)
    ],
}


@pytest.mark.parametrize("fit_seconds", [0.3, 1.0, 3.0])
@pytest.mark.parametrize("changes", BURSTS.values(), ids=BURSTS)
def test_after_a_burst_a_fit_of_all_people_follows_soon(simulate, changes, fit_seconds):
    ended, people = changes[-1]
    fits = simulate(fit_seconds, ended + HOUR, changes)
    *_, before, last = [(0.0, 0.0, 0), *fits]
    assert last[2] == people
    rest = last[0] - max(ended, before[1])
    assert rest <= NOTICED_WITHIN + min(3.0 * fit_seconds, 10.0), fits


def test_a_start_amid_a_burst_fits_those_who_came_after_the_last_fit(simulate):
    former = (-10.0, -9.0, 97)
    *_, last = simulate(1.0, MINUTE, [(0.0, 100)], fits=[former])
    assert last[2] == 100


@pytest.mark.parametrize("fit_seconds", [0.3, 2.0, 20.0])
@pytest.mark.parametrize("minutes", [10, 60])
def test_a_gallery_that_grows_all_the_time_is_fitted_for_a_tenth_of_it(
    simulate, fit_seconds, minutes
):
    ends_at = minutes * MINUTE
    fits = simulate(fit_seconds, ends_at, growth(1, minutes * 60, 1.0))
    spent = sum(ended - started for started, ended, _ in fits)
    assert 0.0 < spent <= 0.1 * ends_at


@pytest.mark.parametrize("every_seconds", [4.0, 7.0, 15.0, 60.0])
def test_pauses_in_the_growth_of_a_gallery_do_not_raise_its_share(simulate, every_seconds):
    fit_seconds = 5.0
    ends_at = 8 * HOUR
    people = 18 + int(ends_at / every_seconds)
    fits = simulate(fit_seconds, ends_at, growth(18, people, every_seconds))
    most = 0.1 * ends_at + (refit.FITS_IN_ADVANCE + 1) * fit_seconds
    assert 0.0 < fit_seconds * len(fits) <= most
