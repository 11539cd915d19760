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


@pytest.mark.parametrize("text", ["", "24", "h", "0h", "-1h", "1.5h", "1w", "1h30m"])
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


def test_what_goes_wrong_is_said_and_tried_again_when_it_is_time(out, capsys):
    clock, began = Clock(40.0), []
    errors = iter(
        (DatabaseError("it is down"), WorseThanActive("it is worse"), StoreUnavailable("it is full"))
    )

    def work():
        began.append(clock.now())
        for error in errors:
            raise error

    repeat(work, 10.0, clock, out)
    assert began == [0.0, 10.0, 20.0, 30.0]
    said = capsys.readouterr().err
    assert [line.split(": ")[1] for line in said.splitlines()] == ["it is down", "it is worse", "it is full"]


def test_a_wrong_option_and_a_fault_of_the_program_end_it(out):
    for error in (InvalidOption("factors", "must be at least 1"), ZeroDivisionError()):

        def work(error=error):
            raise error

        with pytest.raises(type(error)):
            repeat(work, 10.0, Clock(100.0), out)


def test_an_end_that_was_asked_for_is_the_end(out):
    def work():
        raise Interrupted("ended")

    repeat(work, 10.0, Clock(100.0), out)
    assert not out.file.getvalue()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_noted_until_somebody_asks_and_a_second_one_is_as_ever(number):
    before = {one: signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGINT)}
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
