import io
import json
import logging
import warnings
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
import structlog
from pydantic import SecretStr

from animora_server.logs import configure_logs


class Log:
    """The written lines."""

    def __init__(self) -> None:
        self.stream = io.StringIO()

    @property
    def text(self) -> str:
        return self.stream.getvalue()

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.text.splitlines()]


@pytest.fixture
def log() -> Iterator[Log]:
    """A configured log; the process-wide changes are undone afterwards."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    root.handlers = []
    yield Log()
    logging.captureWarnings(False)
    root.handlers, root.level = handlers, level
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


def test_an_event_is_one_json_object_with_its_time_level_and_origin(log: Log):
    configure_logs("info", "json", log.stream)
    structlog.get_logger("animora_server.example").info("cache_available", round_trip=0.5)
    (event,) = log.events
    written = datetime.fromisoformat(event.pop("timestamp"))
    assert written.tzinfo == UTC
    assert event == {
        "event": "cache_available",
        "level": "info",
        "logger": "animora_server.example",
        "round_trip": 0.5,
    }


def test_libraries_log_in_the_same_format(log: Log):
    configure_logs("info", "json", log.stream)
    logging.getLogger("grpc").warning("connection %s", "lost", extra={"peer": "ipv4"})
    (event,) = log.events
    assert (event["event"], event["level"], event["logger"]) == ("connection lost", "warning", "grpc")
    assert event["peer"] == "ipv4"


def test_every_line_of_a_request_has_its_request_id(log: Log):
    configure_logs("info", "json", log.stream)
    with structlog.contextvars.bound_contextvars(request_id="r1"):
        structlog.get_logger("ours").info("ranked")
        logging.getLogger("asyncpg").info("theirs")
    structlog.get_logger("ours").info("afterwards")
    assert [event.get("request_id") for event in log.events] == ["r1", "r1", None]


@pytest.mark.parametrize("level", ["debug", "info", "warning", "error"])
def test_lower_levels_are_not_written(log: Log, level: Any):
    configure_logs(level, "json", log.stream)
    levels = ["debug", "info", "warning", "error"]
    for logger in (structlog.get_logger("ours"), logging.getLogger("theirs")):
        for method in levels:
            getattr(logger, method)("event")
    assert [event["level"] for event in log.events] == levels[levels.index(level) :] * 2


def test_an_exception_is_on_one_line_without_the_values_of_its_variables(log: Log):
    configure_logs("info", "json", log.stream)
    fail_with_a_secret(structlog.get_logger("ours"))
    (event,) = log.events
    assert "ZeroDivisionError" in event["exception"]
    assert "hunter2" not in log.text


def test_the_console_shows_exceptions_without_the_values_of_their_variables(log: Log):
    configure_logs("info", "console", log.stream)
    fail_with_a_secret(structlog.get_logger("ours"))
    assert "ZeroDivisionError" in log.text
    assert "hunter2" not in log.text


def fail_with_a_secret(logger: Any) -> None:
    password = "".join(["hunt", "er2"])  # joined here, so that the source line does not show it
    try:
        _ = len(password) / 0
    except ZeroDivisionError:
        logger.exception("failed")


def test_the_console_format_is_readable_text(log: Log):
    configure_logs("info", "console", log.stream)
    structlog.get_logger("ours").info("ranked", posts=3)
    assert "ranked" in log.text
    assert "posts=3" in log.text
    assert "\x1b" not in log.text  # colours are for terminals


@pytest.mark.parametrize("output", ["json", "console"])
def test_secrets_are_hidden(log: Log, output: Any):
    configure_logs("info", output, log.stream)
    secret = SecretStr("hunter2")
    structlog.get_logger("ours").info(
        "opened", secret=secret, url="redis://user:hunter2@host:6379/0", nested={"secrets": [secret]}
    )
    logging.getLogger("theirs").error("cannot open %s", "postgresql://animora:hunter2@host/animora")
    assert "hunter2" not in log.text
    assert "postgresql://animora:*****@host/animora" in log.text


def test_warnings_are_events(log: Log):
    configure_logs("info", "json", log.stream)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("soon gone", DeprecationWarning, stacklevel=1)
    (event,) = log.events
    assert event["logger"] == "py.warnings"
    assert "soon gone" in event["event"]
