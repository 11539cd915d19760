"""A folder for temporary files where the file system is read-only."""

import os
import tempfile
from collections.abc import MutableMapping

SHARED_MEMORY = "/dev/shm"  # a file system in memory that containers have even with a read-only root


def choose_temporary_folder(environ: MutableMapping[str, str]) -> None:
    """Sets TMPDIR to SHARED_MEMORY if no other folder for temporary files is writable."""
    try:
        tempfile.gettempdir()
    except FileNotFoundError:
        if os.access(SHARED_MEMORY, os.W_OK):
            environ["TMPDIR"] = SHARED_MEMORY
