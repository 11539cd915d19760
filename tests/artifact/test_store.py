from datetime import timedelta

import pytest

from animora_artifact import ArtifactRejected, FolderStore, StoreUnavailable, VersionNotFound, open_store
from tests.artifact.artifacts import make_artifact

OLD, NEW = "20260101T000000Z-aaaaaa", "20260102T000000Z-bbbbbb"


@pytest.fixture
def root(tmp_path):
    return tmp_path / "store"


@pytest.fixture
def store(root):
    store = FolderStore(root)
    store.publish(make_artifact(NEW))
    store.publish(make_artifact(OLD, age=timedelta(days=1)))
    return store


def test_versions_are_listed_oldest_first_and_none_is_active(store):
    assert [manifest.version for manifest in store.versions()] == [OLD, NEW]
    assert store.active() is None


def test_a_store_that_is_not_there_yet_is_empty(root):
    assert FolderStore(root).versions() == []
    assert FolderStore(root).active() is None


def test_the_active_version_is_moved_forward_and_back(store):
    for version in (NEW, OLD, NEW):
        store.activate(version)
        assert store.active() == version
        assert store.read(store.active()).manifest.version == version


def test_half_written_and_foreign_folders_are_passed_over(store, root):
    (root / NEW / "manifest.json").unlink()
    (root / "notes.txt").touch()
    (root / ".staging-abc").mkdir()
    (root / "moved").symlink_to(root / OLD)
    assert [manifest.version for manifest in store.versions()] == [OLD]


def test_what_is_no_version_cannot_become_active(store, root):
    store.activate(OLD)
    (root / NEW / "manifest.json").unlink()
    with pytest.raises(VersionNotFound):
        store.activate(NEW)
    with pytest.raises(VersionNotFound):
        store.activate("20300101T000000Z-cccccc")
    assert store.active() == OLD


@pytest.mark.parametrize("name", ["..", ".", "../store", "a/b", "", "a\n", ".hidden", "x" * 65, "/etc"])
def test_a_name_that_is_a_path_is_refused(store, root, name):
    for refused in (store.read, store.activate):
        with pytest.raises(ArtifactRejected):
            refused(name)
    (root / "ACTIVE").write_text(name)
    if name and name == name.strip():  # the pointer ends with a line break
        with pytest.raises(ArtifactRejected):
            store.active()


def test_a_version_that_is_a_link_is_refused(store, root, tmp_path):
    (root / NEW).rename(tmp_path / NEW)
    (root / NEW).symlink_to(tmp_path / NEW)
    with pytest.raises(ArtifactRejected, match="is a link"):
        store.read(NEW)
    with pytest.raises(ArtifactRejected, match="is a link"):
        store.activate(NEW)


def test_a_version_is_published_once(store):
    with pytest.raises(StoreUnavailable):
        store.publish(make_artifact(OLD))


def test_a_store_that_is_a_file_is_unavailable(tmp_path):
    (tmp_path / "file").touch()
    store = FolderStore(tmp_path / "file")
    for call in (store.versions, store.active):
        with pytest.raises(StoreUnavailable):
            call()
    with pytest.raises(StoreUnavailable):
        store.publish(make_artifact())


def test_a_store_is_opened_by_path_or_url(tmp_path):
    (tmp_path / "with space").mkdir()
    for url in (str(tmp_path / "with space"), f"file://{tmp_path}/with%20space"):
        open_store(url).publish(make_artifact(f"v{len(url)}"))
    assert len(list((tmp_path / "with space").iterdir())) == 2
    with pytest.raises(ValueError, match="only a folder, a file:// or an s3:// URL"):
        open_store("ftp://host/models")
