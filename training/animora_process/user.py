"""The user that a process runs as, for libraries that ask the system who that is."""

import os
from collections.abc import MutableMapping

NO_HOME = "/nonexistent"  # Debian's home of users who have none: nobody can put a file there


def name_process_user(environ: MutableMapping[str, str]) -> None:
    """Sets USER and HOME where they are missing and the system has no user of this process' id.

    So it is in a container that runs as a random id. asyncpg, PyTorch and others ask for both, look into the
    environment first, and raise KeyError or RuntimeError where nobody knows.
    """
    try:
        import pwd  # noqa: PLC0415  # not on Windows, where the system always knows
    except ImportError:
        return
    try:
        pwd.getpwuid(os.getuid())
    except KeyError:
        environ.setdefault("USER", f"uid-{os.getuid()}")
        environ.setdefault("HOME", NO_HOME)
