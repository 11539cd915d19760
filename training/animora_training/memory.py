"""Turns out-of-memory errors of Python, NumPy and PyTorch into OutOfMemory with a remedy."""

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager

from animora_training.errors import OutOfMemory

MIB = 1 << 20
# The amount in the error texts of NumPy and PyTorch.
_AMOUNT = re.compile(r"allocate ([\d.]+) ?(\w+)")


@contextmanager
def explain_out_of_memory(what: str, remedy: str) -> Iterator[None]:
    """Context manager and decorator that raises OutOfMemory with a cause and a remedy.

    Args:
        what: What the block allocates memory for, for the error text.
        remedy: How to use less memory, for the error text.

    Raises:
        OutOfMemory: The block could not allocate memory or map a file.
    """
    try:
        yield
    except (MemoryError, RuntimeError, OSError) as error:
        if not lacks_memory(error):
            raise
        raise OutOfMemory(f"there is no memory for {what}{_amount(error)}: {remedy}") from error


def lacks_memory(error: BaseException) -> bool:
    """Whether an error means that memory could not be allocated."""
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    if isinstance(error, MemoryError):
        return True
    from animora_artifact.network import is_out_of_memory  # noqa: PLC0415  # an error of torch: it is imported

    return isinstance(error, RuntimeError) and is_out_of_memory(error)


def _amount(error: BaseException) -> str:
    """The amount that could not be allocated, in parentheses; empty if the error does not say."""
    found = _AMOUNT.search(str(error))
    if found is None:
        return ""
    if found[2] != "bytes":
        return f" ({found[1]} {found[2]} at once)"
    mebibytes = float(found[1]) / MIB
    amount = f"{mebibytes:,.0f} MiB" if mebibytes < 1024 else f"{mebibytes / 1024:,.1f} GiB"
    return f" ({amount} at once)"
