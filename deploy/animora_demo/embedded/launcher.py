"""Becomes another program that ends with its parent, as another account if told so. Run as a script.

What a child must do before it becomes the program cannot be done between fork and exec: Python code is
not safe there beside the threads of gRPC and PyTorch. So a fresh interpreter does it.

Arguments: the parent's process id, the number of the signal to get at its death, "uid:gid" or "-", and
the program with its arguments.
"""

import ctypes
import os
import sys

PR_SET_PDEATHSIG = 1


def become(parent: int, death_signal: int, account: str, command: list[str]) -> None:
    """Turns this process into the program.

    Only Linux tells of a parent's death; elsewhere one that is killed leaves its servers behind.
    """
    if account != "-":
        uid, gid = map(int, account.split(":"))
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, death_signal, 0, 0, 0)
        if os.getppid() != parent:  # it died before the question
            sys.exit(1)
    try:
        os.execv(command[0], command)
    except OSError as error:
        sys.exit(f"cannot run {command[0]}: {error.strerror}")


if __name__ == "__main__":
    become(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4:])
