"""Opening the model store: native code is read only if an option vouches for it."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from structlog.testing import capture_logs
from structlog.typing import EventDict

from animora_artifact import (
    Artifact,
    ArtifactRejected,
    FolderStore,
    VersionSource,
    pack,
    pointer_keys,
    signer,
)
from animora_server.inference.loading import load_model
from animora_server.models import open_models
from animora_server.settings import ModelSettings, ScorerSettings
from tests.support.artifacts import tiny_artifact
from tests.support.signing_keys import write_keys

CODE = b"not machine code"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A store with an unsigned version."""
    store = FolderStore(tmp_path / "models")
    store.publish(replace(tiny_artifact("v1")[0], compiled=CODE))
    store.activate("v1")
    return tmp_path / "models"


def opened(settings: ModelSettings) -> VersionSource:
    store = open_models(settings)
    assert store is not None
    return store


def read(version: str, settings: ModelSettings) -> tuple[Artifact, list[EventDict]]:
    store = opened(settings)
    with capture_logs() as logs:
        artifact = store.read(version)
    return artifact, logs


def test_native_code_of_an_unsigned_version_is_left_out_by_default(folder):
    artifact, logs = read("v1", ModelSettings(store=str(folder)))
    assert artifact.compiled is None
    assert [line["event"] for line in logs] == ["compiled code is not loaded"]
    assert "models.verify_key" in logs[0]["reason"]
    assert "models.trusted" in logs[0]["reason"]
    with capture_logs() as logs:
        assert not load_model(artifact, torch.device("cpu"), ScorerSettings()).compiled
    assert [line["reason"] for line in logs] == ["its native code is not loaded"]


def test_native_code_of_a_trusted_store_is_read(folder):
    artifact, logs = read("v1", ModelSettings(store=str(folder), trusted=True))
    assert artifact.compiled == CODE
    assert [line["vouched_by"] for line in logs] == ["models.trusted"]


def test_native_code_of_a_signed_version_is_read(folder, tmp_path):
    keys = write_keys(tmp_path / "keys")
    signed = signer(keys.private).sign(pack(replace(tiny_artifact("v2")[0], compiled=CODE)))
    FolderStore(folder).add(signed)
    artifact, logs = read("v2", ModelSettings(store=str(folder), verify_key=keys.public))
    assert artifact.compiled == CODE
    assert [line["vouched_by"] for line in logs] == ["models.verify_key"]


def test_an_active_signed_with_a_key_of_its_own_is_read(folder, tmp_path):
    versions, activations = write_keys(tmp_path / "versions"), write_keys(tmp_path / "activations")
    FolderStore(folder, keys=pointer_keys(private_key=activations.private)).activate("v1")
    settings = ModelSettings(store=str(folder), verify_key=versions.public)
    with pytest.raises(ArtifactRejected, match="not by this key"):
        opened(settings).active()
    assert opened(settings.model_copy(update={"active_verify_key": activations.public})).active() == "v1"
    alone = ModelSettings(store=str(folder), active_verify_key=activations.public)
    assert opened(alone).active() == "v1"
    assert opened(alone).read("v1").compiled is None  # the version itself is not signed


def test_a_version_without_native_code_is_read_without_a_warning(folder):
    FolderStore(folder).publish(tiny_artifact("v3")[0])
    artifact, logs = read("v3", ModelSettings(store=str(folder)))
    assert artifact.compiled is None
    assert logs == []


def test_the_active_version_of_the_store_is_unchanged(folder):
    store = opened(ModelSettings(store=str(folder)))
    assert store.active() == store.pointer().active == "v1"
