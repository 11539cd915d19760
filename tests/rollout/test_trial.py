"""The trial decides by numbers alone whether a version has left a band."""

import math

import numpy as np
import pytest

from animora_server.rollout.trial import MIN_COMPARISONS, VersionTrial, population_stability
from animora_server.rollout_names import Band
from animora_server.settings import RollbackSettings

ALL_BANDS = RollbackSettings(window=60, min_requests=100, max_slowdown=2.0, max_score_shift=0.25)


def trial(bands: RollbackSettings = ALL_BANDS) -> VersionTrial:
    return VersionTrial(bands, began=1000.0)


def normal(seed: int, mean: float = 0.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(mean, 1.0, 50).astype(np.float32)


def test_a_trial_is_over_after_its_window():
    assert not trial().is_over(1059.9)
    assert trial().is_over(1060.0)


@pytest.mark.parametrize(("band", "allowed"), [(Band.ERRORS, 5), (Band.INVALID_SCORES, 1)])
def test_a_rate_is_taken_of_at_least_min_requests(band, allowed):
    it = trial()
    for _ in range(allowed):
        it.failed(band)
        assert it.breach() is None
    it.failed(band)
    breach = it.breach()
    assert breach is not None
    assert breach.band is band


@pytest.mark.parametrize(("band", "rate"), [(Band.ERRORS, 0.05), (Band.INVALID_SCORES, 0.01)])
def test_a_rate_is_allowed_up_to_its_band(band, rate):
    it = trial()
    it.scored(round(10_000 * (1 - rate)))
    it.failed(band, round(10_000 * rate))
    assert it.breach() is None
    it.failed(band, 10)
    breach = it.breach()
    assert breach is not None
    assert breach.band is band


def test_a_rate_of_one_is_never_exceeded():
    it = trial(RollbackSettings(max_error_rate=1, max_invalid_rate=1))
    it.failed(Band.ERRORS, 500)
    it.failed(Band.INVALID_SCORES, 500)
    assert it.breach() is None


def test_late_requests_are_no_errors_of_a_version_that_is_as_fast_as_the_one_before():
    it = trial(RollbackSettings())
    it.late(1000)
    for _ in range(MIN_COMPARISONS):
        it.timed(1.2, 1.0)
    assert it.breach() is None


def test_late_requests_are_errors_of_a_version_that_is_slower_than_the_one_before():
    it = trial(RollbackSettings())
    it.late(1000)
    for _ in range(MIN_COMPARISONS):
        assert it.breach() is None
        it.timed(1.6, 1.0)
    breach = it.breach()
    assert breach is not None
    assert breach.band is Band.ERRORS


def test_the_slowdown_is_a_median_so_that_pauses_of_the_machine_do_not_count():
    it = trial()
    for number in range(2 * MIN_COMPARISONS):
        it.timed(100.0 if number % 3 == 0 else 1.5, 1.0)
    assert it.slowdown == 1.5
    assert it.breach() is None
    for _ in range(4 * MIN_COMPARISONS):
        it.timed(2.5, 1.0)
    breach = it.breach()
    assert breach is not None
    assert breach.band is Band.SLOWDOWN
    assert breach.detail == "a request takes 2.50 times as long on the device; allowed is 2"


def test_a_few_slow_requests_are_no_slowdown():
    it = trial()
    for _ in range(MIN_COMPARISONS - 1):
        it.timed(10.0, 1.0)
        assert it.breach() is None
    it.timed(10.0, 1.0)
    assert it.breach() is not None


def test_scores_of_the_same_distribution_are_no_shift_and_shifted_ones_are():
    same, shifted = trial(), trial()
    for number in range(100):
        earlier = normal(number)
        same.compared(normal(1000 + number), earlier)
        shifted.compared(earlier + np.float32(1.0), earlier)
    assert same.score_shift < 0.02
    assert same.breach() is None
    assert shifted.score_shift > 0.5
    breach = shifted.breach()
    assert breach is not None
    assert breach.band is Band.SCORE_SHIFT


def test_a_shift_needs_enough_comparisons_and_scores():
    few, short = trial(), trial()
    for number in range(MIN_COMPARISONS - 1):
        few.compared(normal(number) + 5, normal(number))
    for _ in range(MIN_COMPARISONS):
        short.compared(np.ones(1, np.float32), np.zeros(1, np.float32))
    assert math.isnan(few.score_shift)
    assert math.isnan(short.score_shift)
    assert few.breach() is None


def test_bands_that_are_off_are_never_left():
    it = trial(RollbackSettings())
    for number in range(100):
        it.timed(1000.0, 1.0)
        it.compared(normal(number) + 5, normal(number))
    assert it.score_shift > 1
    assert it.breach() is None


def test_the_population_stability_index_grows_with_the_shift_and_is_finite():
    sample = np.concatenate([normal(number) for number in range(100)])
    shifts = [population_stability(sample, sample + np.float32(shift)) for shift in (0, 0.2, 0.5, 1, 100)]
    assert shifts[0] == 0
    assert shifts == sorted(shifts)
    assert math.isfinite(shifts[-1])
    constant = np.zeros(1000, np.float32)
    assert population_stability(constant, constant) == 0
    assert population_stability(constant, constant + 1) > 1
