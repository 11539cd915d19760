"""Log lines of one kind are rate-limited and counted, and a reader that stalls blocks no writer."""

import fcntl
import json
import logging
import os
import select
import sys
import threading
from collections.abc import Iterator

import pytest
import structlog

from animora_server.log_handlers import MAX_KINDS, DroppingHandler, RateLimitedHandler, handler_for
from tests.support.clocks import ManualClock

WINDOW = 3600.0  # seconds, which no test takes: windows end where a test ends them


class Lines(logging.Handler):
    """Records the lines."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    @property
    def messages(self) -> list[str]:
        return [record.getMessage() for record in self.records]

    @property
    def suppressed(self) -> dict[str, int]:
        """Logged numbers of dropped lines, by their event."""
        told: dict[str, int] = {}
        for record in self.records:
            if (event := getattr(record, "similar_to", None)) is not None:
                told[event] = told.get(event, 0) + getattr(record, "lines")  # noqa: B009  # mypy knows no extra
        return told


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def lines() -> Lines:
    return Lines()


@pytest.fixture
def log(lines: Lines, clock: ManualClock) -> Iterator[logging.Logger]:
    handler = RateLimitedHandler(lines, lines=3, window=WINDOW, clock=clock)
    logger = logging.Logger("flooded")
    logger.addHandler(handler)
    yield logger
    handler.flush()  # ends the timer


def test_lines_of_one_kind_are_limited_and_counted(log: logging.Logger, lines: Lines, clock: ManualClock):
    for number in range(10):
        log.warning("handshake %d failed", number)
        log.error("handshake %d failed", number)
    log.warning("another event")
    assert lines.messages.count("another event") == 1
    assert len(lines.records) == 3 + 3 + 1
    clock.now += WINDOW
    log.warning("handshake %d failed", 10)
    assert [record.levelname for record in lines.records[7:]] == ["WARNING", "ERROR", "WARNING"]
    assert lines.suppressed == {"handshake %d failed": 7 + 7}


def test_lines_that_differ_in_numbers_are_of_one_kind(log: logging.Logger, lines: Lines):
    for port in range(10):
        log.info(f"peer 127.0.0.1:{port} at 0x7f{port} sent nonsense")
    assert len(lines.records) == 3


def test_the_count_is_logged_if_no_other_line_follows(log: logging.Logger, lines: Lines):
    for _ in range(5):
        log.warning("once")
    for handler in log.handlers:
        handler.flush()
        handler.flush()
    assert lines.suppressed == {"once": 2}


def test_a_flood_is_limited_if_the_system_has_no_thread_left(
    log: logging.Logger, lines: Lines, clock: ManualClock
):
    size = threading.stack_size(sys.maxsize - 4095)  # no thread has that much
    try:
        for _ in range(5):
            log.warning("once")
    finally:
        threading.stack_size(size)
    assert lines.suppressed == {}
    clock.now += WINDOW
    log.warning("another event")
    assert lines.suppressed == {"once": 2}


def test_debug_lines_are_not_limited(log: logging.Logger, lines: Lines):
    for _ in range(50):
        log.debug("call")
    assert len(lines.records) == 50


def test_many_kinds_take_bounded_memory_and_lines(log: logging.Logger, lines: Lines):
    for number in range(2 * MAX_KINDS):
        log.warning("x" * (number % 150) + "y" * (number // 150))
    assert len(lines.records) == MAX_KINDS + 3
    for handler in log.handlers:
        handler.flush()
    assert lines.suppressed == {"other events": MAX_KINDS - 3}


def test_structlog_lines_are_of_one_kind_if_their_event_is_the_same(lines: Lines, clock: ManualClock):
    logger = logging.Logger("ours")
    handler = RateLimitedHandler(lines, lines=1, window=WINDOW, clock=clock)
    logger.addHandler(handler)
    log = structlog.wrap_logger(
        logger,
        processors=[structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        cache_logger_on_first_use=False,
    )
    for number in range(5):
        log.warning("a call failed", request_id=number)
    log.warning("health is NOT_SERVING", reason="draining")
    handler.flush()
    assert lines.suppressed == {"a call failed": 4}
    assert json.dumps(lines.messages).count("NOT_SERVING") == 1


LONG = "x" * 10_000


class Pipe:
    """A log's reader and its writing end."""

    def __init__(self) -> None:
        self.reader, self.writer = os.pipe()
        fcntl.fcntl(self.writer, fcntl.F_SETPIPE_SZ, 64 << 10)
        self.log = logging.Logger("pipe")
        handler = DroppingHandler(self.writer)
        handler.setFormatter(logging.Formatter("%(message)s %(lines)s", defaults={"lines": ""}))
        self.log.addHandler(handler)

    def read(self) -> list[str]:
        """The bytes written since the last call."""
        os.set_blocking(self.reader, False)
        text = b""
        try:
            while chunk := os.read(self.reader, 1 << 20):
                text += chunk
        except BlockingIOError:
            pass
        return text.decode().splitlines()


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    made = Pipe()
    yield made
    os.close(made.reader)
    os.close(made.writer)


def test_lines_are_written_whole_and_in_order(pipe: Pipe):
    pipe.log.warning(LONG)
    pipe.log.warning("short \udcff")
    assert pipe.read() == [f"{LONG} ", "short \\udcff "]


@pytest.mark.parametrize("line", ["short", LONG])
def test_a_stalled_reader_blocks_no_writer_and_later_reads_how_many_lines_were_dropped(pipe: Pipe, line):
    sent = 200_000 // len(line)
    for _ in range(sent):
        pipe.log.warning(line)
    came = pipe.read()
    whole = came.count(f"{line} ")
    assert 0 < whole < sent
    pipe.log.warning("again")
    pipe.log.warning("and again")
    *torn, missing, again, and_again = pipe.read()
    assert (again, and_again) == ("again ", "and again ")
    assert missing == f"log lines dropped: the reader stalled {sent - whole}"
    assert torn in ([], [""])


def test_dropped_lines_are_reported_once(pipe: Pipe):
    for _ in range(20):
        pipe.log.warning(LONG)
    os.read(pipe.reader, 2 * select.PIPE_BUF)
    pipe.log.warning(LONG)  # there is room for what is missing, and for half of this
    came = pipe.read()
    whole = sum(line.endswith("x ") for line in came)
    assert came[-2] == f"log lines dropped: the reader stalled {20 - whole}"
    pipe.log.warning("again")
    assert pipe.read() == ["", "log lines dropped: the reader stalled 1", "again "]


def test_a_closed_reader_fails_no_writer(pipe: Pipe, monkeypatch):
    monkeypatch.setattr(logging, "raiseExceptions", False)
    reader, pipe.reader = pipe.reader, os.open(os.devnull, os.O_RDONLY)
    os.close(reader)
    pipe.log.warning("to nobody")


def test_a_file_receives_every_line(tmp_path):
    with (tmp_path / "log").open("w") as file:
        log = logging.Logger("file")
        log.addHandler(handler_for(file))
        for _ in range(100):
            log.warning(json.dumps({"event": LONG}))
    lines = (tmp_path / "log").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [{"event": LONG}] * 100
