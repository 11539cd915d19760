"""The program that opens and replays a version in a process of its own, which may crash.

It reads a version from its standard input and writes what it finds to its standard output, a line of JSON a
step: `{}` where the step went well, else `reason` and `detail`. The steps are the network, and the compiled
code where the version has some. Whether that gives the recorded probabilities is left to whoever loads it.
"""

import json
import os
import struct
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, TextIO

from animora_artifact.artifact import Artifact
from animora_artifact.errors import ArtifactRejected, CompiledUnusable
from animora_artifact.golden import Golden
from animora_artifact.manifest import Manifest
from animora_artifact.vocabulary import Vocabulary

NICENESS = 10  # of the process: requests go first
OOM_SCORE = "1000"  # and where memory runs out, the process ends before the one that serves
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
    artifact = _read(sys.stdin.buffer)
    # PyTorch is imported where nothing is left to be waited for.
    import torch  # noqa: PLC0415

    from animora_artifact.verification import CPU, require_golden, verify  # noqa: PLC0415

    torch.set_num_threads(1)
    try:
        network = verify(artifact)
    except ArtifactRejected as error:
        _tell(findings, {"reason": error.reason.value, "detail": error.detail})
        return
    _tell(findings, {})
    if artifact.compiled is None:
        return
    from animora_artifact.compiled import load_compiled  # noqa: PLC0415

    with suppress(ArtifactRejected, CompiledUnusable):
        require_golden(load_compiled(artifact.compiled, network, artifact.manifest.dimensions), artifact, CPU)
    _tell(findings, {})


def _take_stdout() -> TextIO:
    """The standard output, for findings alone: what a version's code writes there is lost."""
    findings = os.fdopen(os.dup(1), "w", encoding="utf-8")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)
    return findings


def _read(file: BinaryIO) -> Artifact:
    manifest, model, vocabulary, golden, compiled = (_read_frame(file) for _ in range(5))
    return Artifact(
        manifest=Manifest.parse(manifest),
        model=model,
        vocabulary=Vocabulary.from_npz(vocabulary),
        golden=Golden.from_npz(golden),
        compiled=compiled or None,
    )


def _read_frame(file: BinaryIO) -> bytes:
    (length,) = _LENGTH.unpack(_read_exactly(file, _LENGTH.size))
    return _read_exactly(file, length)


def _read_exactly(file: BinaryIO, length: int) -> bytes:
    content = file.read(length)
    if len(content) != length:
        raise EOFError("the version ends before it is whole")
    return content


def _tell(findings: TextIO, finding: dict[str, str]) -> None:
    findings.write(json.dumps(finding) + "\n")
    findings.flush()


if __name__ == "__main__":
    main()
