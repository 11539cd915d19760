"""Who an embedded server runs as: PostgreSQL refuses root, so root lends it an unprivileged account."""

import os
import pwd
import stat
from dataclasses import dataclass
from pathlib import Path

from animora_demo.embedded.errors import EmbeddedError

# The one that every machine has comes first: data must not change hands when a package adds the other.
UNPRIVILEGED = ("nobody", "postgres")


@dataclass(frozen=True, slots=True)
class Account:
    """A user to run a child as."""

    uid: int
    gid: int

    def can_enter(self, directory: Path) -> bool:
        """Whether the permissions of an absolute directory and of all above it let this user through."""
        return all(self._may_search(part.stat()) for part in (directory, *directory.parents))

    def _may_search(self, status: os.stat_result) -> bool:
        if status.st_uid == self.uid:
            return bool(status.st_mode & stat.S_IXUSR)
        if status.st_gid == self.gid:
            return bool(status.st_mode & stat.S_IXGRP)
        return bool(status.st_mode & stat.S_IXOTH)


def unprivileged_account() -> Account | None:
    """The account to lend where this process is root's, else None: children run as this process does.

    Raises:
        EmbeddedError: This process is root's, and the machine has no unprivileged account.
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
