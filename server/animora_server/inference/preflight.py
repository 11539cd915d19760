"""Preflight: a child process opens a new version and replays its golden rows before this process loads it."""

import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

import structlog

from animora_artifact import Artifact, ArtifactRejected
from animora_artifact.errors import RejectionReason
from animora_artifact.preflight import to_frames
from animora_server.errors import DeviceFault

log = structlog.get_logger(__name__)

TIMEOUT = 300.0  # seconds
KILL_TIMEOUT = 5.0  # seconds until the output of a killed process ends
MAX_FINDINGS = 1 << 16  # bytes
PROGRAM = (sys.executable, "-P", "-m", "animora_artifact.preflight")


class Preflight:
    """Checks versions, each in a child process, so that a crash ends only the child.

    Args:
        program: The command line, with the input and output of animora_artifact.preflight.
        timeout: Seconds after which the child is killed and the version rejected.
    """

    def __init__(self, program: Sequence[str] = PROGRAM, timeout: float = TIMEOUT) -> None:
        self._program = program
        self._timeout = timeout
        self._passed: dict[bytes, bool] = {}  # by manifest: whether the native code passed too

    async def check(self, artifact: Artifact) -> Artifact:
        """Returns the version, without its native code if that code crashes or is not fit.

        A version that passed once is not checked again.

        Raises:
            ArtifactRejected: The version is not fit to serve, crashes the child, or takes too long.
            DeviceFault: The child cannot be started, or failed for a reason that is not the version's.
        """
        key = artifact.manifest.to_json() + bytes([artifact.compiled is None])
        with_code = self._passed.get(key)
        if with_code is None:
            with_code = await self._run(artifact)
            if artifact.manifest.files:  # their digests identify the content
                self._passed[key] = with_code
        return artifact if with_code else replace(artifact, compiled=None)

    async def _run(self, artifact: Artifact) -> bool:
        """Runs the child; returns whether native code may be used. Raises as check."""
        try:
            process = subprocess.Popen(  # noqa: ASYNC220  # starting it takes a millisecond
                self._program,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # a terminal's Ctrl-C must not reach the child
            )
        except OSError as error:
            raise DeviceFault(f"the preflight process cannot be started: {error.strerror}") from error
        conversation = asyncio.create_task(asyncio.to_thread(_converse, process, artifact))
        try:
            ended, _ = await asyncio.wait((conversation,), timeout=self._timeout)
        finally:
            process.kill()  # also ends the thread if it still waits
        if not ended:
            await asyncio.wait((conversation,), timeout=KILL_TIMEOUT)
        output = conversation.result() if conversation.done() else b""
        return _verdict(_findings(output), process.returncode if ended else None, artifact)


def _converse(process: "subprocess.Popen[bytes]", artifact: Artifact) -> bytes:
    """Sends the version to the child, waits for its end and returns its output. Blocks."""
    with process:
        assert process.stdin is not None  # a pipe
        assert process.stdout is not None
        with suppress(BrokenPipeError):  # the exit status says why the child ended
            for frame in to_frames(artifact):
                process.stdin.write(frame)
            process.stdin.close()
        return process.stdout.read(MAX_FINDINGS)


def _findings(output: bytes) -> list[ArtifactRejected | None]:
    """Parses the child's output: one finding for each step, None where it passed. Raises DeviceFault."""
    try:
        findings = [json.loads(line) for line in output.splitlines()]
        return [
            ArtifactRejected(RejectionReason(finding["reason"]), finding["detail"]) if finding else None
            for finding in findings
        ]
    except (ValueError, LookupError, TypeError) as error:
        raise DeviceFault("the output of the preflight process cannot be read") from error


def _verdict(findings: list[ArtifactRejected | None], status: int | None, artifact: Artifact) -> bool:
    """Whether the native code passed, or the version holds none. Raises as Preflight.check.

    Args:
        findings: The finding of the network, then that of the native code; the child may end after either.
        status: The child's exit status; None if it was killed after the timeout.
        artifact: The version.
    """
    if findings and (rejected := findings[0]) is not None:
        raise rejected
    steps = 1 if artifact.compiled is None else 2
    if len(findings) == steps > 1 and (unusable := findings[1]) is not None:
        log.error(
            "compiled code is not fit; scored by TorchScript",
            version=artifact.manifest.version,
            reason=str(unusable),
        )
        return False
    if status == 0 and len(findings) == steps:
        return True
    if status == -signal.SIGKILL:  # perhaps for lack of memory: not the version's fault
        raise DeviceFault("the preflight was killed before it gave a verdict")
    if len(findings) == 1 and steps > 1:  # the network is fit
        log.error(
            "compiled code crashes or hangs; scored by TorchScript",
            version=artifact.manifest.version,
            preflight=_ending(status),
        )
        return False
    if status is None or status < 0:
        raise ArtifactRejected(RejectionReason.CRASH, f"the preflight process {_ending(status)}")
    raise DeviceFault(f"the preflight {_ending(status)} before it gave a verdict")


def _ending(status: int | None) -> str:
    """How the child ended, from its exit status; None if it was killed after the timeout."""
    if status is None:
        return "gave no verdict in time"
    return f"ended with {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
