"""The program that opens and replays a version in a process of its own, which may crash.

It reads a version from its standard input and writes what it finds to its standard output, a line of JSON a
step: `{}` where the step went well, else `reason` and `detail`. The steps are the network, and the compiled
code where the version has some.

On Linux the process may take only so much memory, which follows from the version's size: a version that takes
more is refused, and a container's own limit, which may end all of its processes, is not met.
"""

import json
import os
import resource
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, TextIO

from animora_artifact.artifact import Artifact
from animora_artifact.errors import ArtifactRejected, CompiledUnusable, RejectionReason
from animora_artifact.golden import Golden
from animora_artifact.manifest import Manifest
from animora_artifact.vocabulary import Vocabulary

NICENESS = 10  # of the process: requests go first
OOM_SCORE = "1000"  # and where memory runs out, the process ends before the one that serves
# What a step may allocate. A version takes its size, and 3 times that where its weights are halves.
MEMORY_FACTOR = 4
MEMORY_FLOOR = 1 << 30  # bytes beside: for what the golden rows take, and libraries that are loaded late
_LENGTH = struct.Struct("<Q")


def to_frames(artifact: Artifact) -> Iterator[bytes]:
    """What the program reads: manifest, model, vocabulary, golden rows and code, each after its length."""
    for content in (
        artifact.manifest.to_json(),
        artifact.model,
        artifact.vocabulary.to_npz(),
        artifact.golden.to_npz(),
        artifact.compiled or b"",
    ):
        yield _LENGTH.pack(len(content))
        yield content


def main() -> None:
    """Checks the version of the standard input. Exits with a status other than 0 where it cannot."""
    os.nice(NICENESS)
    with suppress(OSError):  # not on Linux, or not allowed
        Path("/proc/self/oom_score_adj").write_text(OOM_SCORE, encoding="ascii")
    findings = _take_stdout()
    artifact, size = _read(sys.stdin.buffer)
    # PyTorch is imported where nothing is left to be waited for.
    import torch  # noqa: PLC0415

    from animora_artifact.verification import CPU, require_golden, verify  # noqa: PLC0415

    torch.set_num_threads(1)
    try:
        with _limited_memory(size):
            network = verify(artifact)
    except ArtifactRejected as error:
        _tell(findings, error)
        return
    _tell(findings)
    if artifact.compiled is None:
        return
    from animora_artifact.compiled import load_compiled  # noqa: PLC0415

    try:
        with suppress(CompiledUnusable), _limited_memory(size):
            compiled = load_compiled(artifact.compiled, network, artifact.manifest.dimensions)
            require_golden(compiled, artifact, CPU)
    except ArtifactRejected as error:
        _tell(findings, error)
        return
    _tell(findings)


@contextmanager
def _limited_memory(size: int) -> Iterator[None]:
    """Limits what the block allocates by the version's size in bytes, on Linux.

    PyTorch must be imported before, or its libraries would count.

    Raises:
        ArtifactRejected: The block needs more.
    """
    from animora_artifact.network import NETWORK_ERRORS, is_out_of_memory  # noqa: PLC0415

    allowed = MEMORY_FACTOR * size + MEMORY_FLOOR
    before = resource.getrlimit(resource.RLIMIT_AS)
    with suppress(OSError, ValueError):  # not on Linux, or a limit is set that is lower
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + allowed, before[1]))
    try:
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_AS, before)
    except (MemoryError, *NETWORK_ERRORS) as error:
        if not is_out_of_memory(error):
            raise
        raise ArtifactRejected(
            RejectionReason.MEMORY, f"to open its {size} bytes takes more than {allowed} bytes of memory"
        ) from error


def _take_stdout() -> TextIO:
    """The standard output, for findings alone: what a version's code writes there is lost."""
    findings = os.fdopen(os.dup(1), "w", encoding="utf-8")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)
    return findings


def _read(file: BinaryIO) -> tuple[Artifact, int]:
    """The version, and its bytes."""
    frames = [_read_frame(file) for _ in range(5)]
    manifest, model, vocabulary, golden, compiled = frames
    artifact = Artifact(
        manifest=Manifest.parse(manifest),
        model=model,
        vocabulary=Vocabulary.from_npz(vocabulary),
        golden=Golden.from_npz(golden),
        compiled=compiled or None,
    )
    return artifact, sum(map(len, frames))


def _read_frame(file: BinaryIO) -> bytes:
    (length,) = _LENGTH.unpack(_read_exactly(file, _LENGTH.size))
    return _read_exactly(file, length)


def _read_exactly(file: BinaryIO, length: int) -> bytes:
    content = file.read(length)
    if len(content) != length:
        raise EOFError("the version ends before it is whole")
    return content


def _tell(findings: TextIO, error: ArtifactRejected | None = None) -> None:
    finding = {} if error is None else {"reason": error.reason.value, "detail": error.detail}
    findings.write(json.dumps(finding) + "\n")
    findings.flush()


if __name__ == "__main__":
    main()
