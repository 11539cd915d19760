"""Standard input, output and error of a process that was started without one of them."""

import os
import sys


def open_missing_streams() -> None:
    """Opens the null device for each standard stream that is closed; call it before anything is opened.

    Otherwise the next file or socket takes the descriptor, and receives what native code writes to standard
    error. Python's own stream is None then, which no library expects.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            stream = open(os.devnull, mode)  # noqa: SIM115  # it takes the lowest free descriptor: the stream's
            os.set_inheritable(stream.fileno(), True)
            setattr(sys, name, stream)
