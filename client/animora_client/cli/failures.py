"""Prints a failed call and advice as one line on standard error, and exits with status 1."""

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
    NotFound,
    PermissionDenied,
    RankingError,
    ResourceExhausted,
    SnapshotGone,
    Throttled,
    Unauthenticated,
    Unavailable,
)

_ADVICE_BY_REASON = {
    "MODEL_REFUSED": "activate another version",
    "ACTIVE_CHANGED": "look at `animora-client models list` before you try again",
    "ACTIVE_NOT_SIGNED": "activate it where the key is",
}


@contextmanager
def print_errors_plainly(target: str) -> Iterator[None]:
    """Prints a RankingError of the block, and exits with status 1."""
    try:
        yield
    except RankingError as error:
        print_error(f"{error}; {_advice(error, target)}")
        raise Exit(1) from error


def print_error(line: str) -> None:
    """Prints one line to standard error, without wrapping."""
    Console(file=sys.stderr, markup=False, highlight=False, soft_wrap=True).print(f"animora-client: {line}")


def _advice(error: RankingError, target: str) -> str:
    advice = f"look for the request in the log of the server at {target}"
    match error:
        case RankingError(code=StatusCode.UNIMPLEMENTED):
            advice = f"the server at {target} does not support this call: update it"
        case InvalidArgument(field=field) if field:
            advice = f"correct {field}"
        case Throttled():
            advice = "try again in some seconds"
        case ResourceExhausted(retry_after=float() as seconds):
            advice = f"try again in {seconds:g} s"
        case SnapshotGone():
            advice = "start over without --page-token"
        case NotFound():
            advice = "`animora-client models list` shows what there is"
        case FailedPrecondition():
            advice = _ADVICE_BY_REASON.get(error.reason, "remove what the message names")
        case DeadlineExceeded() | Unavailable() if error.reason:  # the server has answered
            advice = "repeat the call"
        case DeadlineExceeded():
            advice = f"{target} did not respond in time: increase --timeout"
        case Unavailable():
            advice = f"is a server running at {target}? Name another with --target or ANIMORA_TARGET"
        case Unauthenticated():
            advice = "the server requires --token-file, or --tls-certificate and --tls-key"
        case PermissionDenied():
            advice = "use a token or certificate that has the role"
    return advice
