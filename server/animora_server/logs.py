"""The log on standard error: one line per event, from the server's loggers and the libraries'."""

import logging
import re
import sys
from typing import Literal, TextIO

import structlog
from structlog.types import EventDict, Processor, WrappedLogger

from animora_server.log_handlers import RateLimitedHandler, handler_for

# The part before the password is kept, so that a line still names the server.
_PASSWORD_IN_URL = re.compile(r"(://[^\s:/@]*:)[^\s/@]+(?=@)")


def configure_logs(
    level: Literal["debug", "info", "warning", "error"],
    output: Literal["json", "console"],
    stream: TextIO = sys.stderr,
) -> None:
    """Sets up logging for the whole process; call it once, before anything logs.

    Events carry the variables bound by `structlog.contextvars`, such as the request id. The methods of
    a level that is not written do nothing. Tracebacks show no local variables, which may hold secrets.

    Args:
        level: The lowest level that is written.
        output: One JSON object per line, or text for a terminal.
        stream: The stream to write to.
    """
    least = logging.getLevelNamesMapping()[level.upper()]
    stages: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[*stages, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(least),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    output_handler = handler_for(stream)
    output_handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *_renderers(output, colors=stream.isatty()),
                _hide_passwords,
            ],
            foreign_pre_chain=[*stages, structlog.stdlib.ExtraAdder()],
        )
    )
    logging.basicConfig(handlers=[RateLimitedHandler(output_handler)], level=least, force=True)
    logging.captureWarnings(True)


def _renderers(output: Literal["json", "console"], colors: bool) -> list[Processor]:
    if output == "console":
        console = structlog.dev.ConsoleRenderer(
            colors=colors, exception_formatter=structlog.dev.plain_traceback
        )
        return [console]
    return [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]


def _hide_passwords(logger: WrappedLogger, method: str, line: EventDict | str) -> str:
    """Hides the passwords of URLs in a rendered line; the text of an error may quote a URL."""
    return _PASSWORD_IN_URL.sub(r"\1*****", str(line))
