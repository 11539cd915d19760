"""gRPC's I/O threads, and those that load models, have a lower priority than the event loop."""

import json
import os
import subprocess
import sys
import threading

import pytest

from animora_server.inference import device
from animora_server.inference.device import LOADING_NICENESS, Device
from animora_server.settings import ScorerSettings
from animora_server.thread_priority import THREADS
from tests.support.artifacts import tiny_artifact

NICENESS_OF_THREADS = """
import asyncio, json, os
from pathlib import Path
import grpc
from animora_server.thread_priority import IO_THREAD, THREADS, lower_io_priority

async def main():
    server = grpc.aio.server()
    server.add_insecure_port("127.0.0.1:0")
    await server.start()
    while True:
        lower_io_priority({niceness})
        threads = {{}}
        for thread in THREADS.iterdir():
            name = (thread / "comm").read_text().strip()
            priority = os.getpriority(os.PRIO_PROCESS, int(thread.name))
            threads.setdefault(name == IO_THREAD, set()).add(priority)
        # A thread names itself when it first runs, which may be later on a busy machine.
        if all(priority >= {niceness} for priority in threads.get(True, {{-1}})):
            break
        await asyncio.sleep(0.05)
    await server.stop(None)
    print(json.dumps([sorted(threads[True]), sorted(threads[False])]))

asyncio.run(main())
"""


pytestmark = pytest.mark.skipif(
    not THREADS.is_dir(), reason="threads have priorities of their own on Linux alone"
)


@pytest.mark.parametrize("niceness", [0, 7])
def test_io_threads_are_less_important_than_the_event_loop(niceness):
    process = subprocess.run(
        [sys.executable, "-c", NICENESS_OF_THREADS.format(niceness=niceness)],
        capture_output=True,
        text=True,
        check=True,
    )
    io_threads, others = json.loads(process.stdout.splitlines()[-1])
    (own,) = others
    assert io_threads == [max(own, niceness)]


async def test_loading_is_less_important_than_the_event_loop(monkeypatch):
    def niceness(*_: object) -> int:
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    monkeypatch.setattr(device, "load_model", niceness)
    own = niceness()
    async with Device(ScorerSettings(device="cpu"), on_fault=lambda: None) as loading:
        loaded: object = await loading.load(tiny_artifact("v1")[0])
    assert loaded == max(own, LOADING_NICENESS)
    assert niceness() == own
