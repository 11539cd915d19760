"""The preflight program: loads and replays a version in a child process, so that a crash does no harm.

It reads a version from standard input and writes a line of JSON for each step to standard output: `{}` for
success, else `reason` and `detail`. The steps are the network and, if the version has it, the native code.

On Linux the memory of the process is limited in proportion to the version's size: a version that needs more
is refused before it reaches a container's memory limit, which would kill all processes of the container.
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
OOM_SCORE = "1000"  # the OOM killer ends this process before the server
# Allocation limit of a step in multiples of the version's size; float16 weights need 3 times their size.
MEMORY_FACTOR = 4
MEMORY_FLOOR = 1 << 30  # additional bytes for the golden rows and lazily loaded libraries
_LENGTH = struct.Struct("<Q")


def to_frames(artifact: Artifact) -> Iterator[bytes]:
    """Encodes a version for the program: each part with its length in front."""
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
    """Checks the version from standard input. Ends with a nonzero status if it cannot."""
    os.nice(NICENESS)
    with suppress(OSError):  # not on Linux, or not allowed
        Path("/proc/self/oom_score_adj").write_text(OOM_SCORE, encoding="ascii")
    findings = _take_stdout()
    artifact, size = _read(sys.stdin.buffer)
    # PyTorch is imported after the version was read, while the server no longer waits to write.
    import torch  # noqa: PLC0415

    from animora_artifact.verification import CPU, require_golden, verify  # noqa: PLC0415

    torch.set_num_threads(1)
    try:
        with _limited_memory(size):
            network = verify(artifact)
    except ArtifactRejected as error:
        _write_finding(findings, error)
        return
    _write_finding(findings)
    if artifact.compiled is None:
        return
    from animora_artifact.compiled import load_compiled  # noqa: PLC0415

    try:
        with suppress(CompiledUnusable), _limited_memory(size):
            compiled = load_compiled(artifact.compiled, network, artifact.manifest.dimensions)
            require_golden(compiled, artifact, CPU)
    except ArtifactRejected as error:
        _write_finding(findings, error)
        return
    _write_finding(findings)


@contextmanager
def _limited_memory(size: int) -> Iterator[None]:
    """Limits the memory that the block allocates, in proportion to the version's size, on Linux.

    PyTorch must be imported before, so that its libraries do not count.

    Raises:
        ArtifactRejected: The block needs more memory.
    """
    from animora_artifact.network import NETWORK_ERRORS, is_out_of_memory  # noqa: PLC0415

    allowed = MEMORY_FACTOR * size + MEMORY_FLOOR
    before = resource.getrlimit(resource.RLIMIT_AS)
    with suppress(OSError, ValueError):  # not on Linux, or a lower limit is set
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
    """Returns standard output for findings, and redirects file descriptor 1, which a version may write to."""
    findings = os.fdopen(os.dup(1), "w", encoding="utf-8")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)
    return findings


def _read(file: BinaryIO) -> tuple[Artifact, int]:
    """Reads the version; returns it and its size in bytes."""
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


def _write_finding(findings: TextIO, error: ArtifactRejected | None = None) -> None:
    finding = {} if error is None else {"reason": error.reason.value, "detail": error.detail}
    findings.write(json.dumps(finding) + "\n")
    findings.flush()


if __name__ == "__main__":
    main()
