"""Loading: compiled code scores where it may and can, and TorchScript does wherever not."""

from dataclasses import replace

import pytest
import torch
from structlog.testing import capture_logs

from animora_artifact import Artifact
from animora_server.scorer.loading import load_model
from tests.compilers import NO_SUCH_CPU, ZEROS, library, needs_compiler, of_another_machine
from tests.scorer.artifacts import tiny_artifact
from tests.scorer.neucf import WIDTH, compiled_artifact

pytestmark = needs_compiler
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def artifact() -> Artifact:
    return compiled_artifact()


def test_a_version_with_compiled_code_is_scored_by_it(artifact):
    with capture_logs() as logs:
        compiled = load_model(artifact, CPU, compiled=True)
    assert compiled.compiled
    assert not logs
    scripted = load_model(artifact, CPU, compiled=False)
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


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda code, folder: None, "holds no compiled code"),
        (lambda code, folder: of_another_machine(code), "does not load"),
        (lambda code, folder: library(NO_SUCH_CPU, folder), "this CPU has none"),
        (lambda code, folder: library(ZEROS, folder), "golden rows differ"),
    ],
)
def test_torchscript_scores_where_compiled_code_cannot_and_the_log_says_why(artifact, tmp_path, spoil, why):
    version = replace(artifact, compiled=spoil(artifact.compiled, tmp_path))
    with capture_logs() as logs:
        model = load_model(version, CPU, compiled=True)
    assert not model.compiled
    (line,) = logs
    assert line["event"] == "scored by TorchScript"
    assert why in line["reason"]


def test_code_for_a_network_that_has_no_tensors_for_it_is_left_alone(artifact):
    version = replace(tiny_artifact("v1")[0], compiled=artifact.compiled)
    with capture_logs() as logs:
        assert not load_model(version, CPU, compiled=True).compiled
    assert "has no tensors" in logs[0]["reason"]
