import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from animora_artifact import FolderStore
from animora_artifact.durability import STALE_AFTER, make_folder, remove_stale, sync_folder
from tests.support.dot_product import make_artifact

posix = pytest.mark.skipif(os.name != "posix", reason="a folder can be opened on POSIX systems alone")


@pytest.fixture(scope="module")
def opened() -> Callable[[], list[Path]]:
    """Returns the folders opened since its last call; folders are opened to synchronise them."""
    folders: list[Path] = []

    def note(event: str, arguments: tuple[object, ...]) -> None:
        if event == "open" and isinstance(arguments[2], int) and arguments[2] & getattr(os, "O_DIRECTORY", 0):
            folders.append(Path(str(arguments[0])))

    sys.addaudithook(note)  # an audit hook cannot be removed

    def since() -> list[Path]:
        found = folders.copy()
        folders.clear()
        return found

    return since


@posix
def test_a_version_and_the_pointer_are_synced_before_they_become_visible(tmp_path, opened):
    root = tmp_path / "a" / "store"
    opened()
    store = FolderStore(root)
    store.publish(make_artifact("v1"))
    synchronised = opened()
    assert synchronised[:2] == [
        tmp_path / "a",
        tmp_path,
    ]  # they name the new folders
    assert synchronised[2].name.startswith(".staging-")
    assert synchronised[3:] == [root]
    store.activate("v1")
    assert opened() == [root]


@posix
def test_an_existing_folder_is_left_unchanged(tmp_path, opened):
    make_folder(tmp_path)
    assert not opened()
    sync_folder(tmp_path)
    assert opened() == [tmp_path]


def test_leftovers_of_killed_writers_are_deleted_after_a_day(tmp_path):
    store = FolderStore(tmp_path)
    old, young, growing = (tmp_path / f".staging-{name}" for name in ("old", "young", "growing"))
    pointer, foreign = tmp_path / ".active-old", tmp_path / "notes"
    for folder in (old, young, growing):
        folder.mkdir()
        (folder / "model.ts").write_bytes(b"half")
    pointer.touch()
    foreign.touch()
    long_ago = time.time() - STALE_AFTER - 60
    for path in (old / "model.ts", old, growing, pointer, foreign):
        os.utime(path, (long_ago, long_ago))
    store.publish(make_artifact("v1"))
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {".staging-young", ".staging-growing", "notes", "v1"}
    remove_stale(tmp_path, (".staging-",), now=time.time() + 2 * STALE_AFTER)
    assert {path.name for path in tmp_path.iterdir()} == {"notes", "v1"}
