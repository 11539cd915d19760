"""The C compiler of native code, and small libraries, good and damaged."""

import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

COMPILES = shutil.which("cc") is not None and (sys.platform, platform.machine()) == ("linux", "x86_64")
needs_compiler = pytest.mark.skipif(
    not COMPILES, reason="scores are compiled on Linux on x86-64, by a C compiler"
)
FINE = "int animora_level_2(void) { return 1; }\n"


def shape(*widths: int) -> str:
    """The exported shape of a library: the widths of the GMF branch and of the layers."""
    values = ", ".join(map(str, (len(widths), *widths)))
    return f"const unsigned long animora_shape_2[] = {{{values}}};\n"


# All scores are zero.
ZEROS = (
    FINE
    + shape(9, 32, 16, 8)  # the default
    + "int animora_score_2(int a, void *b, long c, void *d, long e, void *f, void *g, long h, void *i,\n"
    "                    float *logits, long pairs) { while (pairs) logits[--pairs] = 0; return 0; }\n"
)
NO_SUCH_CPU = ZEROS.replace("return 1", "return 0")


def library(source: str, folder: Path) -> bytes:
    """A shared library of C code."""
    made = folder / "library.so"
    command = ("cc", "-shared", "-fPIC", "-nostdlib", "-x", "c", "-", "-o", str(made))
    subprocess.run(command, input=source, text=True, check=True)
    return made.read_bytes()


def of_another_machine(code: bytes) -> bytes:
    """The library with another machine's number in its header."""
    return code[:18] + b"\xb7\x00" + code[20:]  # e_machine, of AArch64
