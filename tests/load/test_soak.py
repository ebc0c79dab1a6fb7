"""The soak's judgement, on series that were made up, and its whole way for some seconds."""

import numpy as np
import pytest

from tests.load.growth import growth
from tests.load.soak import ALLOWED_FILES, ALLOWED_MIB, Samples, soak
from tests.service.conftest import start  # noqa: F401 - a fixture

pytestmark = pytest.mark.slow

MINUTES = 30.0
SAMPLES = 288
SECONDS = np.linspace(0, MINUTES * 60, SAMPLES)


def _noise(seed, remembers, size=2.0):
    """Return a series each sample of which remembers a share of the last one; MiB."""
    random = np.random.default_rng(seed)
    series = np.zeros(SAMPLES + 100)
    for place in range(1, len(series)):
        series[place] = remembers * series[place - 1] + random.normal(0, size)
    return series[100:]


def _judged(values, allowed=ALLOWED_MIB):
    return growth(list(SECONDS), list(600 + np.asarray(values)), allowed)


def test_what_stays_as_it_is_does_not_leak():
    found = _judged(np.zeros(SAMPLES))
    assert not found.leaks
    assert found.low == found.slope == found.high == 0.0


@pytest.mark.parametrize("remembers", [0.0, 0.5, 0.9])
def test_noise_is_seldom_taken_for_a_leak_and_a_leak_is_seen_through_it(remembers):
    flat = [_judged(_noise(seed, remembers), allowed=0.0) for seed in range(200)]
    held = np.mean([trend.low <= 0 <= trend.high for trend in flat])
    assert 0.88 <= held <= 1.0, "of 95 % intervals nine tenths and more hold the truth"
    assert np.mean([trend.leaks for trend in flat]) <= 0.08
    leak = 200.0 * SECONDS / 3600
    leaking = [_judged(leak + _noise(seed, remembers)) for seed in range(20)]
    assert all(trend.leaks for trend in leaking)
    assert np.mean([trend.slope for trend in leaking]) == pytest.approx(200.0, rel=0.1)


def test_a_single_step_and_a_saw_are_no_leaks_and_a_lost_file_a_minute_is():
    step = np.where(SECONDS < 400, 0.0, 20.0)
    saw = (SECONDS % 200) / 10
    assert not _judged(step).leaks
    assert not _judged(saw).leaks
    assert _judged(np.floor(SECONDS / 60), ALLOWED_FILES).leaks


def test_too_few_samples_are_no_judgement():
    with pytest.raises(ValueError, match="tell nothing"):
        growth([0.0, 1.0], [1.0, 1.0], 0.0)


def test_warming_up_does_not_count():
    samples = Samples([0.0, 10.0, 20.0, 30.0, 40.0, 50.0], [1.0] * 6, [2.0] * 6)
    assert samples.since(0.2).seconds == [10.0, 20.0, 30.0, 40.0, 50.0]


def test_a_service_is_soaked_for_some_seconds_and_its_growth_is_measured(start, monkeypatch):  # noqa: F811
    # So short a time is all warming up.
    for allowed in ("ALLOWED_MIB", "ALLOWED_FILES"):
        monkeypatch.setattr(f"tests.load.soak.{allowed}", 1e9)
    served = start(log_level="warning")
    found = soak(served, 4.0, 2.0)
    assert found["wrong"] == []
    assert found["accepted"] == found["requests"] > 10
    assert len(found["samples"]["seconds"]) >= 30
    assert found["resident_mib"]["first"] > 50
    assert 5 < found["open_files"]["last"] < 200
