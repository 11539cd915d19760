"""The account that an embedded server runs as: PostgreSQL refuses to run as root."""

import os
import pwd
import stat
from dataclasses import dataclass
from pathlib import Path

from animora_demo.embedded.errors import EmbeddedError

# `nobody` exists everywhere and comes first, so that the owner of the data does not change later.
UNPRIVILEGED = ("nobody", "postgres")


@dataclass(frozen=True, slots=True)
class Account:
    """A user and group to run a child process as."""

    uid: int
    gid: int

    def can_enter(self, directory: Path) -> bool:
        """Whether this user may enter an absolute directory, by its and all its parents' permissions."""
        return all(self._may_search(part.stat()) for part in (directory, *directory.parents))

    def _may_search(self, status: os.stat_result) -> bool:
        if status.st_uid == self.uid:
            return bool(status.st_mode & stat.S_IXUSR)
        if status.st_gid == self.gid:
            return bool(status.st_mode & stat.S_IXGRP)
        return bool(status.st_mode & stat.S_IXOTH)


def unprivileged_account() -> Account | None:
    """An unprivileged account if this process runs as root; else None, for this process' own user.

    Raises:
        EmbeddedError: This process runs as root, and the machine has no unprivileged account.
    """
    if os.geteuid() != 0:
        return None
    for name in UNPRIVILEGED:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return Account(entry.pw_uid, entry.pw_gid)
    raise EmbeddedError(
        f"PostgreSQL does not run as root, and there is no user {' or '.join(UNPRIVILEGED)} to run it as"
    )
