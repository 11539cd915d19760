"""Compiled code is loaded only where somebody vouches for it."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from structlog.testing import capture_logs
from structlog.typing import EventDict

from animora_artifact import Artifact, FolderStore, pack, signer
from animora_server.inference.loading import load_model
from animora_server.models import open_models
from animora_server.settings import ModelSettings, ScorerSettings
from tests.artifact.keys import write_keys
from tests.inference.artifacts import tiny_artifact

CODE = b"code that must not be run"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A store with a version that nobody has signed."""
    store = FolderStore(tmp_path / "models")
    store.publish(replace(tiny_artifact("v1")[0], compiled=CODE))
    store.activate("v1")
    return tmp_path / "models"


def read(version: str, settings: ModelSettings) -> tuple[Artifact, list[EventDict]]:
    store = open_models(settings)
    assert store is not None
    with capture_logs() as logs:
        artifact = store.read(version)
    return artifact, logs


def test_by_default_the_code_of_a_version_that_is_not_signed_is_left_out_and_the_log_says_why(folder):
    artifact, logs = read("v1", ModelSettings(store=str(folder)))
    assert artifact.compiled is None
    assert [line["event"] for line in logs] == ["compiled code is not loaded"]
    assert "models.verify_key" in logs[0]["reason"]
    assert "models.trusted" in logs[0]["reason"]
    with capture_logs() as logs:
        assert not load_model(artifact, torch.device("cpu"), ScorerSettings()).compiled
    assert [line["reason"] for line in logs] == ["its compiled code is not loaded"]


def test_an_operator_can_trust_a_store(folder):
    artifact, logs = read("v1", ModelSettings(store=str(folder), trusted=True))
    assert artifact.compiled == CODE
    assert [line["vouched_by"] for line in logs] == ["models.trusted"]


def test_a_signature_vouches_for_code(folder, tmp_path):
    keys = write_keys(tmp_path / "keys")
    signed = signer(keys.private).sign(pack(replace(tiny_artifact("v2")[0], compiled=CODE)))
    FolderStore(folder).add(signed)
    artifact, logs = read("v2", ModelSettings(store=str(folder), verify_key=keys.public))
    assert artifact.compiled == CODE
    assert [line["vouched_by"] for line in logs] == ["models.verify_key"]


def test_a_version_without_code_needs_nobody_to_vouch_for_it(folder):
    FolderStore(folder).publish(tiny_artifact("v3")[0])
    artifact, logs = read("v3", ModelSettings(store=str(folder)))
    assert artifact.compiled is None
    assert logs == []


def test_the_store_is_followed_as_it_is(folder):
    store = open_models(ModelSettings(store=str(folder)))
    assert store is not None
    assert store.active() == store.pointer().active == "v1"
