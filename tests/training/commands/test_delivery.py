"""Delivery of a version: it is never lost, even if the store fails."""

import shutil
import tempfile
from pathlib import Path

import pytest

from animora_artifact import (
    ActivationLost,
    ArtifactError,
    FolderStore,
    Manifest,
    Package,
    StoreUnavailable,
    open_store,
    pack,
    read_folder,
)
from animora_training.commands.delivery import Delivery
from animora_training.errors import InvalidOption, WorseThanActive
from tests.support.dot_product import make_artifact, with_manifest

BETTER, WORSE = {"ndcg@10": 0.45}, {"ndcg@10": 0.40}


class ContestedStore(FolderStore):
    """A store in which v1 is activated concurrently with each publication."""

    def add(self, package: Package) -> Manifest:
        manifest = super().add(package)
        self.activate("v1")
        return manifest


@pytest.fixture
def store(tmp_path):
    """A store whose version v1 is good; none is active."""
    store = FolderStore(tmp_path / "store")
    store.publish(with_manifest(make_artifact("v1"), metrics=BETTER))
    return store


@pytest.fixture
def good(tmp_path):
    return with_manifest(make_artifact("v2"), metrics=BETTER)


@pytest.fixture
def worse(good):
    return with_manifest(good, metrics=WORSE)


def kept(error: Exception) -> Path:
    folder = Path(str(error).split("publish ")[-1])
    assert folder.parent.name.startswith("animora-version-")
    return folder


def test_a_version_is_written_published_and_activated(store, good, tmp_path, capsys):
    Delivery(store, tmp_path / "out", activate=True).deliver(pack(good))
    assert store.active() == "v2"
    assert read_folder(tmp_path / "out" / "v2").data == read_folder(tmp_path / "store" / "v2").data
    assert capsys.readouterr().out == "activated v2\n"


def test_without_a_store_a_version_is_only_written(good, tmp_path, capsys):
    Delivery(None, tmp_path / "out", activate=False).deliver(pack(good))
    assert read_folder(tmp_path / "out" / "v2").manifest.version == "v2"
    assert capsys.readouterr().out == "wrote v2\n"


def test_a_worse_version_is_kept_and_not_published(store, worse, tmp_path):
    store.activate("v1")
    with pytest.raises(WorseThanActive, match=r"0\.4000 .* 0\.4500.*--force") as refused:
        Delivery(store, None, activate=True).deliver(pack(worse))
    folder = kept(refused.value)
    assert read_folder(folder).manifest.metrics == WORSE
    shutil.rmtree(folder.parent)
    with pytest.raises(WorseThanActive, match=f"the version is in {tmp_path / 'out' / 'v2'}"):
        Delivery(store, tmp_path / "out", activate=True).deliver(pack(worse))
    with pytest.raises(WorseThanActive, match=f"the version is in {tmp_path / 'run' / 'v2'}"):
        Delivery(store, None, activate=True).deliver(pack(worse), tmp_path / "run" / "v2")
    assert [manifest.version for manifest in store.listing().manifests] == ["v1"]


def test_a_worse_version_is_published_by_force_or_within_the_margin(store, worse, capsys):
    store.activate("v1")
    Delivery(store, None, activate=True, force=True).deliver(pack(worse))
    assert store.active() == "v2"
    assert "and forced\nactivated v2\n" in capsys.readouterr().out
    store.activate("v1")
    third = with_manifest(worse, version="v3")
    Delivery(store, None, activate=False, margin=0.05).deliver(pack(third))
    assert "published v3" in capsys.readouterr().out


def test_a_version_that_cannot_be_published_is_kept(good, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StoreUnavailable, match="--store: ") as refused:
        Delivery(FolderStore(tmp_path / "file"), None, activate=False).deliver(pack(good))
    folder = kept(refused.value)
    assert read_folder(folder).manifest.version == "v2"
    shutil.rmtree(folder.parent)


def test_a_version_is_kept_though_its_output_folder_cannot_be_read(good, tmp_path):
    with pytest.raises(StoreUnavailable, match=r"--output: .*File name too long") as refused:
        Delivery(None, tmp_path / ("x" * 300), activate=False).deliver(pack(good))
    folder = kept(refused.value)
    assert read_folder(folder).manifest.version == "v2"
    shutil.rmtree(folder.parent)


def test_a_version_is_published_and_not_activated_after_a_concurrent_activation(
    store, good, tmp_path, capsys
):
    contested = ContestedStore(tmp_path / "store")
    with pytest.raises(ActivationLost, match="v1 is active now"):
        Delivery(contested, None, activate=True).deliver(pack(good))
    assert store.active() == "v1"
    assert capsys.readouterr().out == "published v2\n"


class UnmovableStore(FolderStore):
    """A store whose pointer cannot be written."""

    def activate(self, version: str, expected: object = None) -> None:
        raise StoreUnavailable("cannot write the active pointer: No space left on device")


@pytest.mark.parametrize(("kept", "again"), [(None, ""), (Path("run/v2"), "--resume, or ")])
def test_a_failed_activation_prints_the_command_that_activates_the_published_version(
    good, tmp_path, kept, again, capsys
):
    store = UnmovableStore(tmp_path / "store")
    message = f"^--store: cannot write .* device; activate it with {again}`animora-train activate v2`$"
    with pytest.raises(StoreUnavailable, match=message):
        Delivery(store, None, activate=True).deliver(pack(good), kept)
    assert capsys.readouterr().out == "published v2\n"
    assert [manifest.version for manifest in store.listing().manifests] == ["v2"]


def test_a_version_that_cannot_be_kept_anywhere_is_reported_as_lost(good, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    with pytest.raises(
        StoreUnavailable, match=r"--store: .*; the version could not be saved either and is lost: .*TMPDIR"
    ):
        Delivery(FolderStore(tmp_path / "file"), None, activate=False).deliver(pack(good))


def test_an_interrupted_delivery_can_be_repeated(store, good, tmp_path, capsys):
    Delivery(store, tmp_path / "out", activate=False).deliver(pack(good))
    for _ in range(2):
        Delivery(store, tmp_path / "out", activate=True).deliver(pack(good))
    assert store.pointer().names == ("v2",)
    other = with_manifest(good, metrics={"ndcg@10": 0.46})
    with pytest.raises(StoreUnavailable, match="exists already"):
        Delivery(store, tmp_path / "second", activate=True).deliver(pack(other))
    assert "activated v2" in capsys.readouterr().out


def test_delivery_targets_are_checked_before_training(store, tmp_path, s3):
    (tmp_path / "file").touch()
    Delivery(store, tmp_path / "new" / "out", activate=False).check()
    Delivery(open_store(s3.url), None, activate=False).check()
    assert not (tmp_path / "new").exists()
    assert [manifest.version for manifest in store.listing().manifests] == ["v1"]
    assert open_store(s3.url).listing().manifests == []
    with pytest.raises(InvalidOption, match=r"--output: .*file is not a folder"):
        Delivery(None, tmp_path / "file", activate=False).check()
    with pytest.raises(StoreUnavailable, match=r"--output: cannot write to .*file/out: Not a directory"):
        Delivery(None, tmp_path / "file" / "out", activate=False).check()
    with pytest.raises(StoreUnavailable, match=r"--output: cannot write to .*: File name too long"):
        Delivery(None, tmp_path / ("x" * 300), activate=False).check()
    with pytest.raises(StoreUnavailable, match=r"--store: cannot write to .*file"):
        Delivery(FolderStore(tmp_path / "file"), None, activate=False).check()
    gone = open_store(s3.url.replace(s3.endpoint, "http://127.0.0.1:9"))
    with pytest.raises(StoreUnavailable, match=r"--store: s3://.*: cannot connect"):
        Delivery(gone, None, activate=False).check()


def test_a_version_in_a_run_folder_is_not_written_elsewhere_when_it_cannot_be_delivered(good, tmp_path):
    (tmp_path / "file").touch()
    kept = tmp_path / "run" / "v2"
    with pytest.raises(ArtifactError, match=f"deliver it with --resume, or publish {kept}"):
        Delivery(FolderStore(tmp_path / "file"), None, activate=False).deliver(pack(good), kept)
