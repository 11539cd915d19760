"""A flood of log lines of one kind is limited, and told of by its count."""

import json
import logging
import sys
import threading
from collections.abc import Iterator

import pytest
import structlog

from animora_server.log_limit import MAX_KINDS, RateLimitedHandler
from tests.support.clocks import ManualClock

WINDOW = 3600.0  # seconds, which no test takes: windows end where a test ends them


class Lines(logging.Handler):
    """Keeps what it is given."""

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
        """How many lines are said to be suppressed, by their event."""
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
