"""Stores: rules that folders and S3 share, and those of folders alone."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest
from filelock import FileLock

from animora_artifact import (
    ActivationLost,
    ArtifactRejected,
    FolderStore,
    ModelStore,
    Pointer,
    SizeLimit,
    StoreUnavailable,
    VersionNotFound,
    open_store,
)
from tests.support.dot_product import make_artifact

OLD, NEW = "20260101T000000Z-aaaaaa", "20260102T000000Z-bbbbbb"


@dataclass(frozen=True)
class Place:
    """A store, with access to its files."""

    url: str
    store: ModelStore
    put: Callable[[str, bytes], None]
    get: Callable[[str], bytes]
    delete: Callable[[str], None]


@pytest.fixture(params=["folder", "s3"])
def empty(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param == "s3":
        s3 = request.getfixturevalue("s3")
        return Place(s3.url, open_store(s3.url), s3.put, s3.get, s3.delete)
    root = tmp_path / "store"

    def put(key: str, content: bytes) -> None:
        (root / key).parent.mkdir(parents=True, exist_ok=True)
        (root / key).write_bytes(content)

    return Place(
        str(root),
        open_store(str(root)),
        put,
        lambda key: (root / key).read_bytes(),
        lambda key: (root / key).unlink(),
    )


@pytest.fixture
def place(empty: Place) -> Place:
    """A store with two versions and no active one."""
    empty.store.publish(make_artifact(NEW))
    empty.store.publish(make_artifact(OLD, age=timedelta(days=1)))
    return empty


@pytest.fixture
def store(place: Place) -> ModelStore:
    return place.store


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with the same."""
    store = FolderStore(tmp_path / "store")
    store.publish(make_artifact(NEW))
    store.publish(make_artifact(OLD, age=timedelta(days=1)))
    return tmp_path / "store"


def test_versions_are_listed_oldest_first_and_none_is_active(store):
    assert [manifest.version for manifest in store.listing().manifests] == [OLD, NEW]
    assert store.active() is None
    assert store.pointer() == Pointer()


def test_a_store_whose_folder_does_not_exist_is_empty(empty):
    assert empty.store.listing().manifests == []
    assert empty.store.active() is None


def test_a_published_version_round_trips(store):
    artifact, read = make_artifact(NEW), store.read(NEW)
    assert read.model == artifact.model
    assert read.manifest.model_copy(update={"files": {}}) == artifact.manifest
    assert store.manifest(NEW) == read.manifest


def test_the_active_version_is_moved_forward_and_back(store):
    for version in (NEW, OLD, NEW):
        store.activate(version)
        assert store.active() == version
    assert store.pointer() == Pointer((NEW, OLD, NEW))


def test_of_concurrent_activations_with_the_same_expectation_one_wins(store):
    store.activate(OLD, expected=None)
    store.activate(NEW, expected=OLD)
    with pytest.raises(ActivationLost, match=f"{NEW} is active now") as lost:
        store.activate(OLD, expected=None)
    assert lost.value.active == NEW
    with pytest.raises(ActivationLost):
        store.activate(OLD, expected=OLD)
    assert store.pointer() == Pointer((NEW, OLD))


def test_a_rollback_activates_the_previous_version(store):
    store.activate(OLD)
    store.activate(NEW)
    seen = store.pointer()
    store.rollback(seen)
    assert store.pointer() == Pointer((OLD,))
    with pytest.raises(ActivationLost, match=f"{OLD} is active now"):
        store.rollback(seen)
    with pytest.raises(VersionNotFound, match=f"before {OLD}"):
        store.rollback(store.pointer())


def test_a_rollback_to_a_deleted_version_fails(place):
    place.store.activate(OLD)
    place.store.activate(NEW)
    place.delete(f"{OLD}/manifest.json")
    with pytest.raises(VersionNotFound, match=OLD):
        place.store.rollback(place.store.pointer())
    assert place.store.active() == NEW


def test_a_pointer_without_history_is_read_and_extended(place):
    place.put("ACTIVE", OLD.encode())
    assert place.store.active() == OLD
    place.store.activate(NEW, expected=OLD)
    assert place.get("ACTIVE") == f"{NEW}\n{OLD}\n".encode()


@pytest.mark.parametrize("content", [b"", b"two words", b"../elsewhere", b"x" * (1 << 20)])
def test_a_damaged_pointer_is_refused_and_replaced_by_an_activation(place, content):
    place.put("ACTIVE", content)
    with pytest.raises(ArtifactRejected, match="not a version's name"):
        place.store.active()
    place.store.activate(NEW)
    assert place.store.pointer() == Pointer((NEW,))


def test_a_pointer_that_is_a_pipe_or_a_folder_is_refused_without_blocking(tmp_path):
    store = FolderStore(tmp_path)
    for make in (os.mkfifo, os.mkdir):
        make(tmp_path / "ACTIVE")
        with pytest.raises(ArtifactRejected, match="ACTIVE is not a regular file"):
            store.active()
        (tmp_path / "ACTIVE").rename(tmp_path / f"was-{make.__name__}")
    assert store.active() is None


def test_a_replay_marker_is_not_written_through_a_link(tmp_path):
    store = FolderStore(tmp_path / "models")
    manifest = store.publish(make_artifact(NEW))
    (tmp_path / "precious").write_bytes(b"kept")
    (tmp_path / "models" / ".verified").mkdir()
    (tmp_path / "models" / ".verified" / NEW).symlink_to(tmp_path / "precious")
    assert not store.is_verified(manifest)
    store.mark_verified(manifest)
    assert store.is_verified(manifest)
    assert (tmp_path / "precious").read_bytes() == b"kept"


def test_a_listing_skips_foreign_folders_and_names_unreadable_versions(place):
    place.delete(f"{NEW}/manifest.json")
    place.put("notes.txt", b"")
    place.put("lost+found/model.ts", b"")
    place.put("other-version/manifest.json", place.get(f"{OLD}/manifest.json"))
    place.put("broken/manifest.json", b"{")
    listing = place.store.listing()
    assert [manifest.version for manifest in listing.manifests] == [OLD]
    assert listing.unreadable == ["broken", "other-version"]


def test_only_a_complete_version_can_be_activated(place):
    place.store.activate(OLD)
    place.delete(f"{NEW}/manifest.json")
    with pytest.raises(VersionNotFound):
        place.store.activate(NEW)
    with pytest.raises(VersionNotFound):
        place.store.activate("20300101T000000Z-cccccc")
    place.put("file", b"")
    for name in ("ACTIVE", "file"):
        with pytest.raises(VersionNotFound):
            place.store.activate(name)
        with pytest.raises(VersionNotFound):
            place.store.read(name)
    assert place.store.active() == OLD


@pytest.mark.failure(17)
@pytest.mark.parametrize("name", ["..", ".", "../store", "a/b", "", "a\n", ".hidden", "x" * 65, "/etc"])
def test_a_name_that_is_a_path_is_refused(store, name):
    for refused in (store.read, store.activate, store.manifest):
        with pytest.raises(ArtifactRejected):
            refused(name)


@pytest.mark.parametrize("name", ["model.ts", "vocabulary.npz", "golden.npz"])
def test_a_file_that_differs_from_the_manifest_is_refused(place, name):
    content = place.get(f"{NEW}/{name}")
    for damaged, reason in (
        (content[:-1], "size"),
        (content + b"\0", "size"),
        (b"\0" + content[1:], "digest"),
    ):
        place.put(f"{NEW}/{name}", damaged)
        with pytest.raises(ArtifactRejected) as refused:
            place.store.read(NEW)
        assert refused.value.reason == reason
    place.delete(f"{NEW}/{name}")
    with pytest.raises(ArtifactRejected, match="is missing"):
        place.store.read(NEW)


def test_a_manifest_that_is_far_too_large_is_refused_unread(place):
    place.put(f"{NEW}/manifest.json", b" " * (2 << 20))
    with pytest.raises(ArtifactRejected) as refused:
        place.store.read(NEW)
    assert refused.value.reason == "size"


def test_a_version_larger_than_what_may_be_read_is_refused_before_its_files_are(place):
    size = sum(file.size for file in place.store.manifest(NEW).files.values())
    assert open_store(place.url, limit=SizeLimit(size, "a setting")).read(NEW).manifest.version == NEW
    place.delete(f"{NEW}/model.ts")
    with pytest.raises(
        ArtifactRejected, match=f"{size} bytes together; a setting allows {size - 1}"
    ) as refused:
        open_store(place.url, limit=SizeLimit(size - 1, "a setting")).read(NEW)
    assert refused.value.reason == "too_large"


def test_a_version_is_published_once(store):
    with pytest.raises(StoreUnavailable):
        store.publish(make_artifact(OLD))


def test_of_concurrent_pointer_writes_in_a_folder_one_wins(root):
    versions = [f"v{number}" for number in range(8)]
    for version in versions:
        FolderStore(root).publish(make_artifact(version))

    def try_to(version: str) -> bool:
        try:
            FolderStore(root).activate(version, expected=None)
        except ActivationLost:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(try_to, versions)) == 1
        list(pool.map(FolderStore(root).activate, versions))
    assert set(FolderStore(root).pointer().names) == set(versions)


def test_a_folder_whose_lock_stays_held_is_unavailable(root):
    with (
        FileLock(root / ".ACTIVE.lock"),
        pytest.raises(StoreUnavailable, match=r"another program hold \.ACTIVE"),
    ):
        FolderStore(root, lock_timeout=0.1).activate(NEW)


@pytest.mark.failure(17)
def test_a_version_that_is_a_link_is_refused(root, tmp_path):
    (root / NEW).rename(tmp_path / NEW)
    (root / NEW).symlink_to(tmp_path / NEW)
    (root / "moved").symlink_to(root / OLD)
    store = FolderStore(root)
    assert [manifest.version for manifest in store.listing().manifests] == [OLD]
    for refused in (store.read, store.activate):
        with pytest.raises(ArtifactRejected, match="is a link"):
            refused(NEW)


def test_a_store_that_is_a_file_is_unavailable(tmp_path):
    (tmp_path / "file").touch()
    store = FolderStore(tmp_path / "file")
    for call in (store.listing, store.active):
        with pytest.raises(StoreUnavailable):
            call()
    with pytest.raises(StoreUnavailable):
        store.publish(make_artifact())


def test_a_store_is_opened_by_path_or_url(tmp_path):
    (tmp_path / "with space").mkdir()
    for url in (
        str(tmp_path / "with space"),
        f"file://{tmp_path}/with%20space",
        f"file:{tmp_path}/with space",
    ):
        open_store(url).publish(make_artifact(f"v{len(url)}"))
    assert len(list((tmp_path / "with space").iterdir())) == 3


@pytest.mark.parametrize(
    "url", ["file:", "file://", "file:models", "file://models", "file://host/models", "file:///models?v=1"]
)
def test_a_file_url_that_names_no_folder_of_this_machine_is_refused(url):
    with pytest.raises(ValueError, match="write file:///FOLDER"):
        open_store(url)


@pytest.mark.parametrize("url", ["ftp://host/models", "http://key:hush@host/models", "models:v1"])
def test_a_url_of_another_kind_is_refused(url):
    with pytest.raises(ValueError, match="only a folder, a file:// or an s3:// URL") as refused:
        open_store(url)
    assert "hush" not in str(refused.value)
