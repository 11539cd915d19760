"""Processes that answer calls collect no garbage among the objects of the libraries they import."""

import asyncio
from collections.abc import Iterable
from functools import partial
from pathlib import Path

import pytest

from tests.support.until import HANG_TIMEOUT, until
from tests.workers.group import INTERVAL, group

# Python runs it when it starts. Each process that exempts objects leaves a file that holds their number.
RECORD = """
import gc, os, pathlib
freeze = gc.freeze
def record():
    freeze()
    written = pathlib.Path(__file__).parent / f"{os.getpid()}.new"
    written.write_text(str(gc.get_freeze_count()))
    written.rename(written.with_suffix(".objects"))
gc.freeze = record
"""
LIBRARIES = 100_000  # objects


def exempted(folder: Path) -> dict[int, int]:
    """Number of exempted objects by process."""
    return {int(each.stem): int(each.read_text()) for each in folder.glob("*.objects")}


async def are_exempted(folder: Path, processes: Iterable[int]) -> bool:
    """Whether each of the processes has exempted its objects."""
    return exempted(folder).keys() >= set(processes)


@pytest.mark.parametrize("workers", [1, 2])
async def test_objects_of_the_start_are_exempt_once_the_server_serves(
    workers, options, tmp_path, monkeypatch
):
    (tmp_path / "sitecustomize.py").write_text(RECORD)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    async with group("--workers", str(workers), **options) as servers, asyncio.timeout(HANG_TIMEOUT):
        serving = await servers.serving(2) if workers > 1 else [servers.process.pid]
        await until(partial(are_exempted, tmp_path, serving), INTERVAL)
    assert all(objects > LIBRARIES for objects in exempted(tmp_path).values())
