"""Sets USER and HOME for libraries that look up the process' user."""

import os
from collections.abc import MutableMapping

NO_HOME = "/nonexistent"  # Debian's convention for users without a home folder


def name_process_user(environ: MutableMapping[str, str]) -> None:
    """Sets USER and HOME where they are missing and the system has no user of this process' id.

    This is the case in a container that runs as a random user id. asyncpg, PyTorch and others read both,
    first from the environment, and raise KeyError or RuntimeError for an unknown user.
    """
    try:
        import pwd  # noqa: PLC0415  # not on Windows, where it is not needed
    except ImportError:
        return
    try:
        pwd.getpwuid(os.getuid())
    except KeyError:
        environ.setdefault("USER", f"uid-{os.getuid()}")
        environ.setdefault("HOME", NO_HOME)
