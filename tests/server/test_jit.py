"""Compiled loops work whether or not they can be cached."""

import errno
from typing import Any

import numpy as np
import pytest
from numba.core.caching import IndexDataCacheFile

from animora_server.jit import IDS, IDS_OUT, NUMBER, jit


def doubled(ids: Any, factor: int, out: Any) -> None:
    for at in range(len(ids)):
        out[at] = factor * ids[at]


def make():
    return jit(IDS, NUMBER, IDS_OUT)(doubled)


@pytest.fixture(params=["kept", "no room"])
def loop(request, monkeypatch):
    if request.param == "no room":

        def full(*_: object) -> None:
            raise OSError(errno.ENOSPC, "no space left on device")

        monkeypatch.setattr(IndexDataCacheFile, "save", full)
        monkeypatch.setattr(IndexDataCacheFile, "load", lambda *_: None)
    return make()


def test_a_compiled_loop_reads_read_only_arrays_and_writes_its_output(loop):
    ids = np.frombuffer(np.arange(3).tobytes(), np.int64)
    out = np.empty(3, np.int64)
    loop(ids, 2, out)
    assert out.tolist() == [0, 2, 4]


@pytest.mark.parametrize("ids", [np.arange(3, dtype=np.int32), np.arange(6)[::2]])
def test_arrays_of_another_type_or_layout_are_refused(ids):
    with pytest.raises(TypeError):
        make()(ids, 2, np.empty(3, np.int64))


def test_a_loop_is_compiled_if_no_directory_can_cache_it(monkeypatch):
    monkeypatch.setattr("numba.core.caching.CacheImpl._locator_classes", [])
    out = np.empty(1, np.int64)
    make()(np.arange(1, 2), 3, out)
    assert out.tolist() == [3]
