"""Loading uses native code and half precision where it may, else TorchScript and float32."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from structlog.testing import capture_logs
from torch import Tensor

from animora_artifact import Artifact
from animora_artifact.network import save_network
from animora_server.inference.loading import load_model
from animora_server.settings import ScorerSettings
from tests.inference.neucf import WIDTH, compiled_artifact
from tests.support.artifacts import TinyNetwork, tiny_artifact
from tests.support.compilers import NO_SUCH_CPU, ZEROS, library, needs_compiler, of_another_machine

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def artifact() -> Artifact:
    return compiled_artifact()


@needs_compiler
def test_native_code_scores_a_version_that_holds_it(artifact):
    with capture_logs() as logs:
        compiled = load_model(artifact, CPU, ScorerSettings())
    assert compiled.compiled
    assert not logs
    scripted = load_model(artifact, CPU, ScorerSettings(compiled=False))
    assert not scripted.compiled
    users, posts = torch.arange(1, 31), torch.arange(100)
    image, caption = torch.zeros(100, WIDTH), torch.zeros(100, WIDTH)
    segments, index = torch.arange(2000) % 30, torch.arange(2000) % 100
    with torch.inference_mode():
        table = scripted.network.encode_posts(posts, image, caption)
        expected, found = (
            torch.sigmoid(model.network.score(users, segments, table, index))
            for model in (scripted, compiled)
        )
    assert (found - expected).abs().max() < 1e-5


@needs_compiler
@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda code, folder: None, "holds no native code"),
        (lambda code, folder: of_another_machine(code), "does not load"),
        (lambda code, folder: library(NO_SUCH_CPU, folder), "this CPU has none"),
        (lambda code, folder: library(ZEROS, folder), "golden rows differ"),
    ],
)
def test_torchscript_scores_if_native_code_cannot_and_the_reason_is_logged(artifact, tmp_path, spoil, why):
    version = replace(artifact, compiled=spoil(artifact.compiled, tmp_path))
    with capture_logs() as logs:
        model = load_model(version, CPU, ScorerSettings())
    assert not model.compiled
    (line,) = logs
    assert line["event"] == "scored by TorchScript"
    assert why in line["reason"]


@needs_compiler
def test_native_code_for_another_network_is_not_used(artifact):
    version = replace(tiny_artifact("v1")[0], compiled=artifact.compiled)
    with capture_logs() as logs:
        assert not load_model(version, CPU, ScorerSettings()).compiled
    assert "has no tensors" in logs[0]["reason"]


def with_tolerances(artifact: Artifact, **tolerances: float) -> Artifact:
    manifest = artifact.manifest
    changed = manifest.tolerances.model_copy(update=tolerances)
    return replace(artifact, manifest=manifest.model_copy(update={"tolerances": changed}))


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
def test_half_precision_is_used_if_the_golden_rows_stay_within_the_tolerances(name):
    version, eager = tiny_artifact("v1")
    with capture_logs() as logs:
        model = load_model(
            with_tolerances(version, half=0.05, top10_overlap=0.5), CPU, ScorerSettings(dtype=name)
        )
    assert not logs
    assert model.dtype == getattr(torch, name)
    image, caption = model.features(np.ones((2, 3), np.float16), np.zeros((2, 0), np.float16))
    rows = torch.tensor([0, 3])
    with torch.inference_mode():
        table = model.network.encode_posts(rows, image, caption)
        found = model.network.score(torch.tensor([1]), torch.zeros_like(rows), table, torch.arange(2))
        expected = eager.forward(
            torch.ones_like(rows), eager.encode_posts(rows, image.float(), caption.float())
        )
    assert found.dtype == table.dtype == model.dtype
    assert 0 < (torch.sigmoid(found.float()) - torch.sigmoid(expected)).abs().max() < 0.05


@pytest.mark.parametrize(
    ("tolerances", "why"),
    [
        ({"half": 1e-6, "top10_overlap": 0.0}, "golden rows differ by"),
        ({"half": 1.0, "top10_overlap": 1.01}, "100.0% of the top ten are the same, required is 101.0%"),
    ],
)
def test_a_version_that_half_precision_changes_too_much_is_scored_in_float32(tolerances, why):
    with capture_logs() as logs:
        model = load_model(
            with_tolerances(tiny_artifact("v1")[0], **tolerances),
            CPU,
            ScorerSettings(dtype="bfloat16", compiled=False),
        )
    assert model.dtype == torch.float32
    (line,) = logs
    assert line["event"] == "scored in float32"
    assert why in line["reason"]


class OnlyFloat32(TinyNetwork):
    """Fails in half precision."""

    @torch.jit.export
    def encode_posts(self, post_rows: Tensor, image: Tensor, caption: Tensor) -> Tensor:
        return self.posts[post_rows] + image.float() @ self.image + caption @ self.caption


def test_a_network_that_fails_in_half_precision_is_scored_in_float32():
    version = replace(tiny_artifact("v1")[0], model=save_network(OnlyFloat32(0, image=3, caption=2).eval()))
    with capture_logs() as logs:
        model = load_model(version, CPU, ScorerSettings(dtype="float16", compiled=False))
    assert model.dtype == torch.float32
    assert "does not take the golden rows" in logs[0]["reason"]
