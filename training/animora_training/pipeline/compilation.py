"""Compiles `score.c` for the shape of a network into `score.so`, the native code of a version."""

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
# No libraries, start-up files or symbols: the code loads on any machine, and its bytes are reproducible.
FLAGS = (
    *("-std=gnu11", "-O3", "-Wno-psabi", "-fPIC", "-shared", "-ffreestanding", "-fno-stack-protector"),
    *("-nostdlib", "-Wl,-s"),
)
LONGEST_VECTOR = 16  # floats
# For wider layers TorchScript's matrix products are as fast (docs/benchmarks.md).
WIDEST = 512
TIMEOUT = 120.0


def compile_score(dimensions: Dimensions, compiler: str) -> bytes:
    """Compiles the shared library for the shape of a network; `animora_artifact.compiled` has the interface.

    Args:
        dimensions: Dimensions of the network.
        compiler: Name or path of a C compiler that takes GCC's options.

    Returns:
        The bytes of the library.

    Raises:
        NotCompiled: The compiler is missing or failed, or the platform or the shape is not supported.
        CannotWrite: The folder of temporary files has no room.
    """
    if sys.platform != "linux" or platform.machine() != "x86_64":
        raise NotCompiled("native scoring code is supported on Linux on x86-64 only")
    if max(dimensions.hidden) > WIDEST:
        raise NotCompiled(f"layers wider than {WIDEST} are as fast in TorchScript")
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
    """Options that define the macros of score.c."""
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
