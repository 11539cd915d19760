"""What is said where there is no memory for a part of a fit."""

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager

from animora_training.errors import OutOfMemory

MIB = 1 << 20
# What NumPy and PyTorch say of how much they could not have.
_AMOUNT = re.compile(r"allocate ([\d.]+) ?(\w+)")


@contextmanager
def memory_for(what: str, remedy: str) -> Iterator[None]:
    """Tells what there was no memory for; a context manager, and a decorator.

    Args:
        what: What is made within.
        remedy: What to do that less is needed.

    Raises:
        OutOfMemory: NumPy, PyTorch or Python could not allocate within, or a file could not be mapped.
    """
    try:
        yield
    except (MemoryError, RuntimeError, OSError) as error:
        if not lacks_memory(error):
            raise
        raise OutOfMemory(f"there is no memory for {what}{_amount(error)}: {remedy}") from error


def lacks_memory(error: BaseException) -> bool:
    """Whether an error says that memory could not be had."""
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    if isinstance(error, MemoryError):
        return True
    from animora_artifact.network import is_out_of_memory  # noqa: PLC0415  # whoever raises it has torch

    return isinstance(error, RuntimeError) and is_out_of_memory(error)


def _amount(error: BaseException) -> str:
    """How much could not be had, where the error says so."""
    found = _AMOUNT.search(str(error))
    if found is None:
        return ""
    if found[2] != "bytes":
        return f" ({found[1]} {found[2]} at once)"
    mebibytes = float(found[1]) / MIB
    amount = f"{mebibytes:,.0f} MiB" if mebibytes < 1024 else f"{mebibytes / 1024:,.1f} GiB"
    return f" ({amount} at once)"
