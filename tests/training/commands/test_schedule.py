import io
import os
import signal

import pytest
from rich.console import Console

from animora_artifact import StoreUnavailable
from animora_training.commands.schedule import Ending, duration, repeat
from animora_training.errors import DatabaseError, Interrupted, InvalidOption, WorseThanActive


class Clock:
    """Time that passes when it is waited for; at its end there is to be an end."""

    def __init__(self, end):
        self.time = 0.0
        self.end = end

    def now(self):
        return self.time

    def wait(self, seconds):
        self.time += seconds
        return self.time >= self.end


@pytest.fixture
def out():
    return Console(file=io.StringIO(), width=200)


@pytest.mark.parametrize(("text", "seconds"), [("45s", 45), ("90m", 5400), ("24h", 86400), ("7d", 604800)])
def test_a_duration_is_a_number_and_a_unit(text, seconds):
    assert duration(text) == seconds


@pytest.mark.parametrize("text", ["", "24", "h", "0h", "-1h", "1.5h", "1w", "1h30m", "367d", "99999999999d"])
def test_another_text_is_refused(text):
    with pytest.raises(InvalidOption, match=r"--every: .* is not a duration such as 90m, 24h or 7d"):
        duration(text)


def test_work_begins_so_long_after_it_last_began_and_at_once_where_it_took_longer(out):
    clock, began, lengths = Clock(100.0), [], iter((3.0, 25.0, 0.0, 10.0, 1000.0))

    def work():
        began.append(clock.now())
        clock.time += next(lengths)

    repeat(work, 10.0, clock, out)
    assert began == [0.0, 10.0, 35.0, 45.0, 55.0]
    assert out.file.getvalue().count("the next fit begins at 20") == 5


def failing(clock, errors, lasting=0.0):
    """Work that fails with some errors and then succeeds, and when it began."""
    began, remaining = [], iter(errors)

    def work():
        began.append(clock.now())
        clock.time += lasting
        for error in remaining:
            raise error

    return work, began


def test_what_fails_is_told_and_tried_again_after_pauses_that_double(out, capsys):
    clock = Clock(86_400.0)
    work, began = failing(
        clock,
        (DatabaseError("it is down"), StoreUnavailable("it is full"), MemoryError(), OverflowError("date")),
    )
    repeat(work, 3600.0, clock, out)
    assert began[:6] == [0.0, 60.0, 180.0, 420.0, 900.0, 4500.0]
    told = capsys.readouterr().err
    assert [line.split("error: ")[1] for line in told.splitlines() if line.startswith("error: ")] == [
        "it is down",
        "it is full (failure 2 in a row)",
        "MemoryError (failure 3 in a row)",
        "date (failure 4 in a row)",
    ]
    assert told.count("Traceback") == 2  # of what nobody has foreseen


def test_a_pause_is_never_longer_than_from_one_fit_to_the_next(out):
    clock = Clock(400.0)
    work, began = failing(clock, [ValueError("a fault")] * 2000, lasting=10.0)
    repeat(work, 90.0, clock, out)
    assert began == [0.0, 70.0, 170.0, 270.0, 370.0]


def test_after_a_refused_version_the_next_fit_comes_when_it_is_time(out, capsys):
    clock = Clock(40.0)
    work, began = failing(clock, [WorseThanActive("it is worse")] * 9)
    repeat(work, 10.0, clock, out)
    assert began == [0.0, 10.0, 20.0, 30.0]
    assert capsys.readouterr().err.count("error: it is worse\n") == 4


def test_a_wrong_option_ends_it(out):
    work, _ = failing(Clock(100.0), [InvalidOption("factors", "must be at least 1")])
    with pytest.raises(InvalidOption):
        repeat(work, 10.0, Clock(100.0), out)


def test_an_end_that_was_asked_for_is_the_end(out):
    def work():
        raise Interrupted("ended")

    repeat(work, 10.0, Clock(100.0), out)
    assert not out.file.getvalue()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_is_noted_until_somebody_asks_and_a_second_one_is_as_ever(number):
    before = {one: signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    with Ending() as ending:
        ending.check()
        assert not ending.wait(0.0)
        os.kill(os.getpid(), number)
        with pytest.raises(Interrupted, match=f"ended by {number.name}"):
            ending.check()
        assert ending.wait(1e9)
        assert {one: signal.getsignal(one) for one in before} == before
    with Ending():
        assert signal.getsignal(number) != before[number]
    assert {one: signal.getsignal(one) for one in before} == before
