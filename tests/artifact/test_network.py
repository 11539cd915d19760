import io
import os
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from animora_artifact import ArtifactRejected, Golden
from animora_artifact.network import golden_error, load_network, save_network
from tests.support.dot_product import USERS, DotProduct, make_artifact

CPU = torch.device("cpu")


class OtherMethods(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x


@pytest.fixture(scope="module")
def artifact():
    return make_artifact()


def test_a_loaded_network_repeats_its_golden_rows(artifact):
    assert golden_error(load_network(artifact.model, CPU), artifact.golden, CPU) < 1e-6


def test_half_precision_has_a_small_error(artifact):
    half = load_network(artifact.model, CPU, torch.float16)
    assert 1e-6 < golden_error(half, artifact.golden, CPU, torch.float16) < 1e-2


@pytest.mark.parametrize("model", [b"", b"not a zip archive", save_network(OtherMethods())])
def test_a_network_with_the_wrong_interface_is_refused(model):
    with pytest.raises(ArtifactRejected) as raised:
        load_network(model, CPU)
    assert raised.value.reason == "content"


def rewritten(model: bytes, compressed: str, content: bytes | None = None) -> bytes:
    """A model file whose members with this text in their names are compressed, with new content if given."""
    written = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(model)) as old, zipfile.ZipFile(written, "w") as new:
        for info in old.infolist():
            chosen = compressed in info.filename
            kept = old.read(info) if content is None or not chosen else content
            new.writestr(info.filename, kept, zipfile.ZIP_DEFLATED if chosen else info.compress_type)
    return written.getvalue()


def refusal(model: bytes) -> str:
    with pytest.raises(ArtifactRejected) as raised:
        load_network(model, CPU)
    assert raised.value.reason == "content"
    return str(raised.value)


@pytest.mark.parametrize("member", ["/data/0", "data.pkl", "constants.pkl", "version"])
def test_a_model_file_with_a_compressed_member_is_refused_before_pytorch_reads_it(
    artifact, member, monkeypatch
):
    monkeypatch.delattr(torch.jit, "load")
    monkeypatch.delattr(torch._C, "PyTorchFileReader")
    assert "compressed" in refusal(rewritten(artifact.model, member))


def test_the_code_of_a_model_file_may_be_compressed_as_torchscript_does(artifact):
    load_network(rewritten(artifact.model, "nothing"), CPU)


def test_code_that_expands_to_more_than_any_network_has_is_refused(artifact):
    bomb = rewritten(artifact.model, ".py", b"#" * (17 << 20))
    assert len(bomb) < 1 << 16
    assert "expand to more than" in refusal(bomb)


def test_a_model_file_with_two_directories_is_refused(artifact):
    """Python reads the directory right before the end record, PyTorch the one that the end record names."""
    good, bad = rewritten(artifact.model, "nothing"), rewritten(artifact.model, "/data/0")
    both = bad + good[:-6] + bad[-6:]  # where the directory begins, and no comment
    with zipfile.ZipFile(io.BytesIO(both)) as archive:
        assert {info.compress_type for info in archive.infolist() if "/data/" in info.filename} == {0}
    assert torch.jit.load(io.BytesIO(both)).users.shape == (len(USERS) + 1, 2)
    assert "directory" in refusal(both)


def test_a_tensor_that_repeats_its_elements_without_end_is_refused(artifact):
    class Repeated(DotProduct):
        def __init__(self) -> None:
            super().__init__()
            self.users = nn.Parameter(torch.ones(1, 1).expand(1 << 40, 2), requires_grad=False)

    model = save_network(Repeated())
    assert len(model) < 1 << 13
    assert "users has 2199023255552 elements" in refusal(model)


def test_golden_rows_of_another_width_are_refused(artifact):
    beyond = replace(artifact.golden, post_rows=np.array([0, 2, 99]))
    with pytest.raises(ArtifactRejected) as raised:
        golden_error(load_network(artifact.model, CPU), beyond, CPU)
    assert raised.value.reason == "dimensions"


def test_a_score_that_is_not_finite_is_infinitely_wrong(artifact):
    golden = replace(artifact.golden, image=artifact.golden.image * np.float32(np.inf))
    assert golden_error(load_network(artifact.model, CPU), golden, CPU) == float("inf")


def test_the_largest_difference_counts(artifact):
    shifted = artifact.golden.probabilities.copy()
    shifted[1] += 0.25
    error = golden_error(
        load_network(artifact.model, CPU), replace(artifact.golden, probabilities=shifted), CPU
    )
    assert error == pytest.approx(0.25, abs=1e-6)


def test_the_best_posts_of_each_user_are_compared():
    every = np.arange(24)
    record = (every % 12).astype(np.float32)
    golden = Golden(
        user_rows=np.array([1, 2, 3]),  # the last of whom has no posts
        segments=every // 12,
        post_rows=np.arange(12),
        image=np.empty((12, 0), np.float32),
        caption=np.empty((12, 0), np.float32),
        post_index=every % 12,
        probabilities=record,
    )
    assert golden.overlap(record / np.float32(2)) == 1.0
    swapped = record.copy()
    swapped[[1, 2]] = swapped[[2, 1]]  # the first user's tenth and eleventh
    assert golden.overlap(swapped) == pytest.approx(0.95)
    assert golden.overlap(np.negative(record)) == pytest.approx(0.8)
    assert golden.overlap(record, best=100) == 1.0


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_DATA counts what it should on Linux")
def test_a_network_is_loaded_in_the_memory_of_its_weights():
    def load_within(tables):
        # The C library returns freed memory, so that the limit applies to memory in use.
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": "262144"}
        command = (sys.executable, "-W", "ignore", "-m", "tests.artifact.limited_loading", str(tables))
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    enough = load_within(1.5)
    assert enough.returncode == 0, enough.stderr
    assert load_within(0.5).returncode != 0


def test_a_network_is_loaded_where_temporary_files_have_no_room(artifact, monkeypatch):
    def no_room(prefix, buffering=-1):
        return open("/dev/full", "r+b", buffering)

    monkeypatch.setattr(tempfile, "TemporaryFile", no_room)
    assert golden_error(load_network(artifact.model, CPU), artifact.golden, CPU) < 1e-6


def test_a_network_is_loaded_without_a_folder_for_temporary_files(artifact, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    assert golden_error(load_network(artifact.model, CPU), artifact.golden, CPU) < 1e-6
