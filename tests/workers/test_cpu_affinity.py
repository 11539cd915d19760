import os
from multiprocessing import get_context

import pytest

from animora_server.workers import cpu_affinity
from tests.support.processes import kill
from tests.workers.group import group

pytestmark = pytest.mark.skipif(not cpu_affinity.can_pin(), reason="this system cannot pin processes")


def pinned(worker):
    cpu_affinity.pin_worker(worker)
    return os.sched_getaffinity(0)


def in_another_process(worker):
    with get_context("spawn").Pool(1) as pool:
        return pool.apply(pinned, (worker,))


def test_workers_are_assigned_cores_round_robin():
    usable = cpu_affinity.usable_cores()
    assert in_another_process(1) == {usable[0]}
    assert in_another_process(len(usable)) == {usable[-1]}
    assert in_another_process(len(usable) + 1) == {usable[0]}


def of_threads(pid):
    return {core for thread in os.listdir(f"/proc/{pid}/task") for core in os.sched_getaffinity(int(thread))}


async def test_each_worker_is_pinned_to_a_core_and_so_is_its_replacement(options):
    first, second = (cpu_affinity.usable_cores() * 2)[:2]
    async with group("--workers", "2", **options | {"GRPC_PIN_WORKERS": "true"}) as servers:
        on = {pid: of_threads(pid) for pid in await servers.serving(2)}
        assert sorted(on.values(), key=min) == [{first}, {second}]
        gone = next(pid for pid in on if on[pid] == {first})
        kill(gone)
        (new,) = set(await servers.serving(2, without=gone)) - set(on)
        assert of_threads(new) == {first}
        assert os.sched_getaffinity(servers.process.pid) == set(cpu_affinity.usable_cores())


async def test_by_default_workers_use_all_cores(options):
    async with group("--workers", "2", **options) as servers:
        for pid in await servers.serving(2):
            assert of_threads(pid) == set(cpu_affinity.usable_cores())
