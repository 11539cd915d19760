"""Compiling a network's score: score.c for one shape, as the library that a version holds beside model.ts."""

import platform
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

from animora_artifact.manifest import Dimensions
from animora_training.data.arrays import temporary_folder
from animora_training.errors import NotCompiled

SOURCE = Path(__file__).with_name("score.c")
# No library, no start-up files and no symbols: nothing to miss elsewhere, and the same bytes every time.
FLAGS = (
    *("-std=gnu11", "-O3", "-Wno-psabi", "-fPIC", "-shared", "-ffreestanding", "-fno-stack-protector"),
    *("-nostdlib", "-Wl,-s"),
)
LONGEST_VECTOR = 16  # floats
# Wider layers than these are left to TorchScript, whose matrix products are as fast (docs/benchmarks.md).
WIDEST = 128
TIMEOUT = 120.0


def compile_score(dimensions: Dimensions, compiler: str) -> bytes:
    """The library for a network's shape; `animora_artifact.compiled` says what is in it.

    Args:
        dimensions: Of the network.
        compiler: A C compiler that takes GCC's options, a name or a path.

    Raises:
        NotCompiled: There is no such compiler, it failed, or the code is not made for this machine or shape.
        CannotWrite: The folder of temporary files has no room.
    """
    if sys.platform != "linux" or platform.machine() != "x86_64":
        raise NotCompiled("scoring is compiled on Linux on x86-64 alone")
    if max(dimensions.hidden) > WIDEST:
        raise NotCompiled(f"layers wider than {WIDEST} are as fast without")
    if shutil.which(compiler) is None:
        raise NotCompiled(f"there is no C compiler {compiler!r}")
    with temporary_folder("animora-compile-") as folder:
        library = folder / "score.so"
        command = [compiler, *FLAGS, *_shape(dimensions), "-o", str(library), str(SOURCE), "-lgcc"]
        try:
            subprocess.run(command, check=True, capture_output=True, text=True, timeout=TIMEOUT)
            return library.read_bytes()
        except subprocess.CalledProcessError as error:
            first = next(iter(error.stderr.splitlines()), f"exit status {error.returncode}")
            raise NotCompiled(f"{compiler} failed: {first}") from error
        except (OSError, subprocess.TimeoutExpired) as error:
            raise NotCompiled(f"{compiler} failed: {error}") from error


def _shape(dimensions: Dimensions) -> list[str]:
    """The macros that score.c wants."""
    hidden = dimensions.hidden
    layers = " ".join(f"LAYER({entering}, {leaving})" for entering, leaving in pairwise(hidden))
    widest = -(-max(hidden) // LONGEST_VECTOR) * LONGEST_VECTOR
    return [
        f"-DGMF={dimensions.factors + 1}",
        f"-DFIRST={hidden[0]}",
        f"-DWIDTHS={','.join(map(str, hidden))}",
        f"-DLAYERS={layers}",
        f"-DLAST={hidden[-1]}",
        f"-DWIDEST={widest}",
    ]
