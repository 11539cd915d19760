import io
import re

import pytest
import typer
from rich.console import Console

from animora_artifact import StoreUnavailable
from animora_training.commands.console import LINE_INTERVAL, progress_bars, report_errors
from animora_training.errors import InvalidInput, InvalidOption, PeerFailed
from tests.support.clocks import ManualClock


@pytest.fixture
def clock():
    return ManualClock(0.0)


@pytest.fixture
def log():
    return io.StringIO()


@pytest.fixture
def stages(log, clock):
    """A console whose standard error is a file, as in CI."""
    return progress_bars(Console(file=log, width=80), clock)


def epochs(show, clock, name, numbers, total, seconds=60.0):
    for n in numbers:
        clock.now += seconds
        show(name, n, total, f"loss 0.{900 - n}", 1.06e6)


def test_a_log_has_a_line_an_epoch_with_rate_and_time_left(stages, log, clock):
    with stages as show:
        epochs(show, clock, "hold-out", range(1, 5), 16)
    assert log.getvalue().splitlines() == [
        "hold-out 1/16: loss 0.899, 1.06 M pairs/s",
        "hold-out 2/16: loss 0.898, 1.06 M pairs/s, 0:14:00 left",
        "hold-out 3/16: loss 0.897, 1.06 M pairs/s, 0:13:00 left",
        "hold-out 4/16: loss 0.896, 1.06 M pairs/s, 0:12:00 left",
    ]


def test_a_resumed_fit_estimates_the_time_left_from_where_it_resumed(stages, log, clock):
    with stages as show:
        epochs(show, clock, "refit", (8, 9), 11)
    assert log.getvalue().splitlines()[-1].endswith("0:02:00 left")


def test_a_log_has_progress_lines_within_a_long_epoch(stages, log, clock):
    with stages as show:
        epochs(show, clock, "refit", [1], 4)
        for step in range(1, 10):
            clock.now += LINE_INTERVAL / 4
            show("refit", 1 + step / 10, 4)
    lines = log.getvalue().splitlines()
    assert len(lines) == 3
    assert all(line.startswith("refit 1/4: loss 0.899, 1.06 M pairs/s") for line in lines)


def test_many_short_steps_are_logged_in_few_lines(stages, log, clock):
    with stages as show:
        for rows in range(0, 1_000_001, 1_000):
            show("interactions", rows, None)
        for rows in range(0, 501, 10):
            show("posts", rows, 500)
        show("users", 500, 500)
        show("users", 500, 500)
    assert log.getvalue().splitlines() == ["interactions 1,000,000", "posts 500/500", "users 500/500"]


def test_the_last_state_of_a_stage_is_printed(stages, log, clock):
    with stages as show:
        show("users", 240, None)
        epochs(show, clock, "refit", [1], 9)
        show("refit", 2.5, 9)
    assert log.getvalue().splitlines() == [
        "users 240",
        "refit 1/9: loss 0.899, 1.06 M pairs/s",
        "refit 2/9: loss 0.899, 1.06 M pairs/s",
    ]


def test_names_and_notes_are_escaped(stages, log):
    with stages as show:
        show("[red]users", 1, 1, "[/nothing] open")
    assert log.getvalue() == "[red]users 1/1: [/nothing] open\n"


@pytest.mark.parametrize("width", [80, 120])
def test_a_terminal_shows_one_fitting_row_per_stage(log, clock, width):
    console = Console(file=log, width=width, force_terminal=True, force_interactive=True, _environ={})
    with progress_bars(console, clock) as show:
        show("interactions", 994_169, None)
        for n in (1, 2, 3):
            clock.now += 60
            show("hold-out", n, 16, f"loss 0.2{n}00, NDCG@10 0.45{n}0", 1.06e6)
        clock.now += 60
        show("refit", 3, 3, "loss 0.2050", 51.3e6)
        clock.now += 600
    rows = _screen(log.getvalue())
    assert [row.split()[0] for row in rows] == ["interactions", "hold-out", "refit"]
    assert all(len(row) <= width for row in rows)
    assert "994,169" in rows[0]
    assert "3/16" in rows[1]
    assert rows[1].endswith("loss 0.2300, NDCG@10 0.4530")
    if width == 120:
        assert "0:03:00" in rows[1]  # the clock of an ended stage stops
        assert "51.3 M pairs/s" in rows[2]


def _screen(output):
    """The rows of the last frame, without colours."""
    last = output[output.rindex("interactions") :]
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\r", "", last)
    return [row.strip() for row in plain.splitlines() if row.strip()]


@pytest.mark.parametrize(
    ("error", "code", "printed"),
    [
        (InvalidOption("factors", "must be at least 1"), 2, "error: factors: must be at least 1\n"),
        (InvalidInput("a.txt: is [empty]"), 1, "error: a.txt: is [empty]\n"),
        (StoreUnavailable("the bucket is gone"), 1, "error: the bucket is gone\n"),
        # Another process reports it; torchrun sees that one.
        (PeerFailed("the first process has failed"), 0, ""),
    ],
)
def test_an_expected_error_is_one_line(capsys, error, code, printed):
    with pytest.raises(typer.Exit) as ended, report_errors():
        raise error
    assert ended.value.exit_code == code
    assert capsys.readouterr().err == printed


def test_an_unexpected_error_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError), report_errors():
        raise ZeroDivisionError
