import pytest

from animora_server.store.schedule import ReconcileSchedule

INTERVAL = 100.0


@pytest.fixture
def schedule():
    schedule = ReconcileSchedule(INTERVAL, jitter=lambda: 1.0)
    schedule.reconcile_published(now=1000.0, began=999.0, took=1.0)
    return schedule


def test_a_reconcile_is_due_an_interval_after_the_end_of_the_previous_one(schedule):
    assert schedule.seconds_until_due(1000.0) == INTERVAL
    assert schedule.seconds_until_due(1100.0) == 0


def test_slow_reconciles_take_a_tenth_of_the_time(schedule):
    schedule.reconcile_published(now=2000.0, began=1950.0, took=60.0)

    assert schedule.seconds_until_due(2000.0) == pytest.approx(540)


def test_missed_events_bring_the_next_reconcile_forward_within_the_share(schedule):
    schedule.events_missed(1001.0)

    assert schedule.seconds_until_due(1001.0) == pytest.approx(8)


def test_events_missed_during_a_reconcile_need_another_one(schedule):
    schedule.reconcile_began(1100.0)
    schedule.events_missed(1101.0)
    schedule.reconcile_published(now=1102.0, began=1100.0, took=2.0)

    assert schedule.seconds_until_due(1102.0) == pytest.approx(18)


def test_a_reconcile_that_fails_after_its_count_is_due_after_an_interval(schedule):
    schedule.count_succeeded(now=1100.0, took=1.0)
    schedule.reconcile_began(1101.0)

    assert schedule.seconds_until_due(1101.0) == INTERVAL


@pytest.mark.parametrize(("took", "pause"), [(2.0, 18.0), (20.0, INTERVAL), (600.0, 600.0)])
def test_an_outage_during_a_count_delays_the_next_one_a_little(schedule, took, pause):
    schedule.events_missed(1999.0)
    schedule.count_failed(now=2000.0, took=took)

    assert schedule.seconds_until_due(2000.0) == pytest.approx(pause)


def test_a_reconcile_that_was_frozen_delays_the_next_one_by_a_limited_time(schedule):
    schedule.reconcile_published(now=5000.0, began=1400.0, took=3600.0)
    assert schedule.seconds_until_due(5000.0) == pytest.approx(9 * INTERVAL)


def test_a_count_that_was_frozen_delays_the_next_one_by_a_limited_time(schedule):
    schedule.events_missed(1300.0)
    schedule.count_succeeded(now=5000.0, took=3600.0)
    assert schedule.seconds_until_due(5000.0) == pytest.approx(9 * INTERVAL)


def test_reconciles_that_became_slow_keep_to_the_share_after_a_few(schedule):
    waits = []
    for hour in range(1, 5):
        schedule.reconcile_published(now=3600.0 * hour, began=3600.0 * hour, took=600.0)
        waits.append(schedule.seconds_until_due(3600.0 * hour))
    assert waits == pytest.approx([900, 2700, 5400, 5400])
