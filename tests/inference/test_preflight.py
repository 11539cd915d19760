"""Preflight: a version that crashes, hangs or is not fit to serve harms only the child process."""

import asyncio
import json
import os
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from structlog.testing import capture_logs
from torch import Tensor

from animora_artifact import Artifact, ArtifactRejected
from animora_artifact.network import save_network
from animora_artifact.package import digest
from animora_server.errors import DeviceFault
from animora_server.inference.device import Device
from animora_server.inference.preflight import Preflight
from animora_server.settings import ScorerSettings
from tests.inference.neucf import compiled_artifact
from tests.support.artifacts import DoublesWithoutEnd, TinyNetwork, tiny_artifact
from tests.support.compilers import ZEROS, library, needs_compiler
from tests.support.until import HANG_TIMEOUT, until

READ_ALL = "import sys, os, signal, time; sys.stdin.buffer.read(); "


def program(code: str) -> Preflight:
    """A preflight whose child reads the version and then executes other code."""
    return Preflight((sys.executable, "-c", READ_ALL + code))


@pytest.fixture(scope="module")
def artifact() -> Artifact:
    return tiny_artifact("v1")[0]


async def test_a_good_version_passes(artifact):
    assert await Preflight().check(artifact) is artifact


@needs_compiler
async def test_a_good_version_passes_with_its_native_code():
    version = compiled_artifact()
    assert await Preflight().check(version) is version


async def test_a_version_that_is_not_fit_to_serve_is_rejected_with_the_reason(artifact):
    network = TinyNetwork(0, image=3, caption=2).eval()
    with torch.no_grad():
        network.posts[3, 0] = float("nan")
    for version, reason in (
        (replace(artifact, model=save_network(network)), "content"),
        (replace(artifact, golden=replace(artifact.golden, user_rows=np.array([1, 9]))), "dimensions"),
        (
            replace(
                artifact, golden=replace(artifact.golden, probabilities=artifact.golden.probabilities / 2)
            ),
            "golden",
        ),
    ):
        with pytest.raises(ArtifactRejected) as raised:
            await Preflight().check(version)
        assert raised.value.reason == reason


class ListsWithoutEnd(TinyNetwork):
    @torch.jit.export
    def encode_posts(self, post_rows: Tensor, image: Tensor, caption: Tensor) -> Tensor:
        rows = [0]
        while len(rows) > 0:
            rows = rows + rows
        return self.posts[post_rows] * len(rows)


class Scratch(TinyNetwork):
    """Allocates 1.5 GiB that it does not touch."""

    @torch.jit.export
    def score(self, user_rows: Tensor, segments: Tensor, post_table: Tensor, post_index: Tensor) -> Tensor:
        scratch = torch.empty(3 << 27)
        return self.forward(user_rows[segments], post_table[post_index]) + scratch[:0].sum()


def with_network(artifact: Artifact, network: type[TinyNetwork]) -> Artifact:
    return replace(artifact, model=save_network(network(0, image=3, caption=2).eval()))


@pytest.mark.parametrize("network", [DoublesWithoutEnd, ListsWithoutEnd])
async def test_a_version_that_allocates_without_end_is_rejected(artifact, network):
    with pytest.raises(ArtifactRejected, match="bytes of memory") as raised:
        await Preflight().check(with_network(artifact, network))
    assert raised.value.reason == "memory"


async def test_the_memory_limit_grows_with_the_size_of_the_version(artifact):
    small = with_network(artifact, Scratch)
    with pytest.raises(ArtifactRejected, match="bytes of memory"):
        await Preflight().check(small)
    large = replace(small, compiled=bytes(1 << 28))
    assert await Preflight().check(large) is large


@needs_compiler
@pytest.mark.parametrize(
    ("statement", "ending"),
    [
        ("*(volatile int *)0 = 1;", "ended with SIGSEGV"),
        ("_Exit(0);", "ended with status 0"),
        ("_Exit(3);", "ended with status 3"),
    ],
    ids=["crashes", "ends well", "ends badly"],
)
async def test_a_version_is_served_without_native_code_that_ends_the_process(tmp_path, statement, ending):
    code = "void _Exit(int);\n" + ZEROS.replace("while (pairs)", f"{statement} while (pairs)")
    version = replace(compiled_artifact(), compiled=library(code, tmp_path))
    with capture_logs() as logs:
        async with Device(ScorerSettings(device="cpu"), lambda: None, preflight=Preflight()) as device:
            model = await device.load(version)
    assert not model.compiled
    assert [line["preflight"] for line in logs if line["event"].startswith("compiled code crashes")] == [
        ending
    ]


async def test_a_version_is_served_without_native_code_that_hangs(artifact, tmp_path):
    version = replace(artifact, compiled=b"code")
    hangs = writes_its_pid(tmp_path / "pid", "print('{}', flush=True); time.sleep(600)")
    with capture_logs() as logs:
        for timeout in (1, 4, 16, 64):  # a busy machine may not have started the process in less
            with suppress(ArtifactRejected):
                checked = await Preflight(hangs, timeout).check(version)
                break
    assert checked.compiled is None
    assert [line["preflight"] for line in logs] == ["gave no verdict in time"]


async def test_a_version_is_served_without_native_code_that_is_not_fit(artifact):
    finding = json.dumps({"reason": "memory", "detail": "it takes too much"})
    version = replace(artifact, compiled=b"code")
    with capture_logs() as logs:
        checked = await program(f"print('{{}}'); print({finding!r})").check(version)
    assert checked.compiled is None
    assert [line["reason"] for line in logs] == ["memory: it takes too much"]


@pytest.mark.parametrize("signal", ["SIGSEGV", "SIGABRT", "SIGILL", "SIGBUS"])
async def test_a_version_that_crashes_the_child_is_rejected(artifact, signal):
    with pytest.raises(ArtifactRejected, match=f"crash: the preflight process ended with {signal}"):
        await program(f"os.kill(os.getpid(), signal.{signal})").check(artifact)


@pytest.mark.parametrize(
    "code", ["sys.exit(1)", "os.kill(os.getpid(), signal.SIGKILL)", "raise MemoryError", ""]
)
async def test_a_child_that_fails_for_another_reason_is_a_device_fault(artifact, code):
    with pytest.raises(DeviceFault, match="before it gave a verdict"):
        await program(code).check(artifact)


async def test_a_child_that_cannot_be_started_is_a_device_fault(artifact, tmp_path):
    with pytest.raises(DeviceFault, match="cannot be started"):
        await Preflight((str(tmp_path / "none"),)).check(artifact)


async def test_a_child_that_ends_before_it_has_read_the_version_is_reported_by_its_status(artifact):
    large = replace(artifact, compiled=bytes(1 << 22))
    with pytest.raises(DeviceFault, match="ended with status 3"):
        await Preflight((sys.executable, "-c", "import os; os._exit(3)")).check(large)


@pytest.mark.parametrize(
    "text",
    ["hello", '{"reason": "other", "detail": ""}', '{"detail": ""}', "7"],
    ids=range(4),
)
async def test_unreadable_output_is_a_device_fault(artifact, text):
    with pytest.raises(DeviceFault, match="cannot be read"):
        await program(f"print({text!r})").check(artifact)


async def test_endless_output_is_not_read_to_its_end(artifact):
    with pytest.raises(DeviceFault, match="cannot be read"):
        await program("exec('while True: print(\"x\" * 100_000)')").check(artifact)


def writes_its_pid(path: Path, then: str) -> tuple[str, ...]:
    code = f"open({str(path)!r}, 'w').write(str(os.getpid()) + '.'); {then}"
    return sys.executable, "-c", READ_ALL + code


def is_running(path: Path) -> bool:
    pid = path.read_text() if path.exists() else ""
    if not pid.endswith("."):
        return False
    try:
        os.kill(int(pid[:-1]), 0)
    except ProcessLookupError:
        return False
    return True


async def test_a_child_that_hangs_is_killed_and_the_version_rejected(artifact, tmp_path):
    path = tmp_path / "pid"
    with pytest.raises(ArtifactRejected, match="gave no verdict"):
        await Preflight(writes_its_pid(path, "time.sleep(600)"), timeout=0.5).check(artifact)
    await until(lambda: not is_running(path))


async def test_a_cancelled_check_kills_the_child(artifact, tmp_path):
    path = tmp_path / "pid"
    checking = asyncio.create_task(Preflight(writes_its_pid(path, "time.sleep(600)")).check(artifact))
    await until(lambda: is_running(path))
    checking.cancel()
    await asyncio.wait((checking,), timeout=HANG_TIMEOUT)
    await until(lambda: not is_running(path))
    assert checking.cancelled()


async def test_a_stored_version_that_passed_is_not_checked_again(artifact, tmp_path):
    count = tmp_path / "count"
    preflight = program(f"open({str(count)!r}, 'a').write('x'); print('{{}}')")
    files = {"model.ts": digest(artifact.model)}
    stored = replace(artifact, manifest=artifact.manifest.model_copy(update={"files": files}))
    for _ in range(3):
        await preflight.check(stored)
    assert count.read_text() == "x"
    for _ in range(2):  # without digests, an equal content is not recognised
        await preflight.check(artifact)
    assert count.read_text() == "xxx"
