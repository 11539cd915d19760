"""Preflight: a new version is opened and replayed in a child process before this one loads it."""

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
    """Checks versions in processes of their own, which may crash.

    Args:
        program: What is run; it reads and writes as animora_artifact.preflight does.
        timeout: Seconds that it may take.
    """

    def __init__(self, program: Sequence[str] = PROGRAM, timeout: float = TIMEOUT) -> None:
        self._program = program
        self._timeout = timeout
        self._passed: dict[bytes, bool] = {}  # whether compiled code passed too, by the manifest

    async def check(self, artifact: Artifact) -> Artifact:
        """The version, without its compiled code where that crashes.

        Raises:
            ArtifactRejected: It is not fit to serve, crashes the process, or takes too long.
            DeviceFault: The process cannot be run, or failed for another reason.
        """
        key = artifact.manifest.to_json() + bytes([artifact.compiled is None])
        with_code = self._passed.get(key)
        if with_code is None:
            with_code = await self._run(artifact)
            if artifact.manifest.files:  # whose digests name the content
                self._passed[key] = with_code
        return artifact if with_code else replace(artifact, compiled=None)

    async def _run(self, artifact: Artifact) -> bool:
        """Whether the compiled code passed too, or there is none."""
        try:
            process = subprocess.Popen(  # noqa: ASYNC220  # which takes a millisecond
                self._program,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # a terminal's Ctrl-C is this process' to handle
            )
        except OSError as error:
            raise DeviceFault(f"a process for the preflight cannot be started: {error.strerror}") from error
        conversation = asyncio.create_task(asyncio.to_thread(_converse, process, artifact))
        try:
            ended, _ = await asyncio.wait((conversation,), timeout=self._timeout)
        finally:
            process.kill()  # which ends the thread too, if it still waits
        if not ended:
            await asyncio.wait((conversation,), timeout=KILL_TIMEOUT)
        output = conversation.result() if conversation.done() else b""
        return _verdict(_findings(output), process.returncode if ended else None, artifact)


def _converse(process: "subprocess.Popen[bytes]", artifact: Artifact) -> bytes:
    """Sends the version, returns what the process tells, and waits for its end. May take long."""
    with process:
        assert process.stdin is not None  # a pipe
        assert process.stdout is not None
        with suppress(BrokenPipeError):  # its status tells of its end
            for frame in to_frames(artifact):
                process.stdin.write(frame)
            process.stdin.close()
        return process.stdout.read(MAX_FINDINGS)


def _findings(told: bytes) -> list[ArtifactRejected | None]:
    """What each step found: None where it went well. Raises DeviceFault for what is none of the program's."""
    try:
        findings = [json.loads(line) for line in told.splitlines()]
        return [
            ArtifactRejected(RejectionReason(finding["reason"]), finding["detail"]) if finding else None
            for finding in findings
        ]
    except (ValueError, LookupError, TypeError) as error:
        raise DeviceFault("the preflight told something that is no finding") from error


def _verdict(findings: list[ArtifactRejected | None], status: int | None, artifact: Artifact) -> bool:
    """Whether the compiled code passed, or there is none. Raises as Preflight.check.

    Args:
        findings: Of the network, then of the compiled code; the process may end after either.
        status: The exit status of the process; None where it was killed after the timeout.
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
    if status == -signal.SIGKILL:  # for want of memory, perhaps: not the version's fault
        raise DeviceFault("the preflight was killed before it gave a verdict")
    if len(findings) == 1 and steps > 1:  # the network is fit
        log.error(
            "compiled code crashes or hangs; scored by TorchScript",
            version=artifact.manifest.version,
            preflight=_ending(status),
        )
        return False
    if status is None or status < 0:
        raise ArtifactRejected(RejectionReason.CRASH, f"the process that opens it {_ending(status)}")
    raise DeviceFault(f"the preflight {_ending(status)} before it gave a verdict")


def _ending(status: int | None) -> str:
    """How a process ended, by its exit status; None where it was killed after the timeout."""
    if status is None:
        return "gave no verdict in time"
    return f"ended with {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
