"""gRPC's I/O threads have a lower priority than the event loop."""

import json
import subprocess
import sys

import pytest

from animora_server.service.io_threads import THREADS

NICENESS_OF_THREADS = """
import asyncio, json, os
from pathlib import Path
import grpc
from animora_server.service.io_threads import IO_THREAD, THREADS, lower_priority

async def main():
    server = grpc.aio.server()
    server.add_insecure_port("127.0.0.1:0")
    await server.start()
    lower_priority({niceness})
    threads = {{}}
    for thread in THREADS.iterdir():
        name = (thread / "comm").read_text().strip()
        threads.setdefault(name == IO_THREAD, set()).add(os.getpriority(os.PRIO_PROCESS, int(thread.name)))
    await server.stop(None)
    print(json.dumps([sorted(threads[True]), sorted(threads[False])]))

asyncio.run(main())
"""


@pytest.mark.skipif(not THREADS.is_dir(), reason="threads have priorities of their own on Linux alone")
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
