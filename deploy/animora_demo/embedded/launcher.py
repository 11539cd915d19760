"""Executes a program that ends with its parent, optionally under another account. Run as a script.

A new interpreter does this rather than code between fork and exec, which is not safe with the threads of gRPC
and PyTorch.

Arguments: the parent's process id, the number of the signal to send when the parent ends, "uid:gid" or "-",
and the program with its arguments.
"""

import ctypes
import os
import sys

PR_SET_PDEATHSIG = 1


def execute(parent: int, death_signal: int, account: str, command: list[str]) -> None:
    """Replaces this process by the program.

    Only Linux signals the end of the parent; elsewhere a killed parent leaves its servers running.
    """
    if account != "-":
        uid, gid = map(int, account.split(":"))
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, death_signal, 0, 0, 0)
        if os.getppid() != parent:  # the parent ended before prctl
            sys.exit(1)
    try:
        os.execv(command[0], command)
    except OSError as error:
        sys.exit(f"cannot run {command[0]}: {error.strerror}")


if __name__ == "__main__":
    execute(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4:])
