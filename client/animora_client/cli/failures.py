"""Says on standard error what went wrong and what to do, in one line, and ends with code 1."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from grpc import StatusCode
from rich.console import Console
from typer import Exit

from animora_client.errors import (
    DeadlineExceeded,
    FailedPrecondition,
    InvalidArgument,
    RankingError,
    ResourceExhausted,
    SnapshotGone,
    Unauthenticated,
    Unavailable,
)


@contextmanager
def told_plainly(target: str) -> Iterator[None]:
    """Reports a call that failed in the block."""
    try:
        yield
    except RankingError as error:
        complain(f"{error}; {_advice(error, target)}")
        raise Exit(1) from error


def complain(line: str) -> None:
    """Writes a line to standard error, however narrow the terminal."""
    Console(file=sys.stderr, markup=False, highlight=False, soft_wrap=True).print(f"animora-client: {line}")


def _advice(error: RankingError, target: str) -> str:
    advice = f"look for the request in the log of the server at {target}"
    match error:
        case RankingError(code=StatusCode.UNIMPLEMENTED):
            advice = f"the server at {target} is too old for this: update it"
        case InvalidArgument(field=field) if field:
            advice = f"correct {field}"
        case ResourceExhausted(retry_after=float() as seconds):
            advice = f"try again in {seconds:g} s"
        case SnapshotGone():
            advice = "start over without --page-token"
        case FailedPrecondition():
            advice = "leave out what it names"
        case DeadlineExceeded():
            advice = f"no answer from {target} in time: allow more with --timeout"
        case Unavailable():
            advice = f"is a server running at {target}? Name another with --target or ANIMORA_TARGET"
        case Unauthenticated():
            advice = "give the credentials that the server asks for: --tls-certificate and --tls-key"
    return advice
