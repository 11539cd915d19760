import os
import subprocess
import sys
import tempfile
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

import numpy as np
import pytest
import torch

from animora_artifact import Manifest
from animora_artifact.network import load_network, save_network
from animora_artifact.verification import verify
from animora_training.errors import CannotWrite
from animora_training.modeling.config import FitConfig
from animora_training.modeling.initialization import new_initialization
from animora_training.modeling.training_set import training_set
from animora_training.pipeline.export import FoldedNeuCF, VersionOrigin, data_window, export
from tests.support.datasets import as_dataset, tiny_feed
from tests.support.dot_product import make_artifact, with_manifest
from tests.support.networks import inputs, random_network, randomised

CPU = torch.device("cpu")
CONFIG = FitConfig(factors=6, mlp_embedding=10, hidden=(12, 4), feature_width=5)


@pytest.fixture(scope="module")
def network():
    return random_network()


@pytest.fixture(scope="module")
def scripted(network):
    return load_network(save_network(FoldedNeuCF(network).eval()), CPU)


@torch.inference_mode()
def scores(scripted, users, posts, image, caption):
    """One batch with a request for each pair."""
    every = torch.arange(len(users))
    return scripted.score(users, every, scripted.encode_posts(posts, image, caption), every)


def test_the_scripted_network_gives_the_eager_networks_probabilities(network, scripted):
    pairs = inputs(network, 200)
    with torch.inference_mode():
        expected = torch.sigmoid(network(*pairs))
    assert (torch.sigmoid(scores(scripted, *pairs)) - expected).abs().max() < 1e-5


def test_a_score_is_the_same_alone_and_in_any_batch(network, scripted):
    pairs = inputs(network, 64)
    together = torch.sigmoid(scores(scripted, *pairs))
    alone = torch.cat(
        [torch.sigmoid(scores(scripted, *(column[row : row + 1] for column in pairs))) for row in range(64)]
    )
    backwards = torch.sigmoid(scores(scripted, *(column.flip(0) for column in pairs))).flip(0)
    assert (together - alone).abs().max() < 1e-5
    assert (together - backwards).abs().max() < 1e-5


def test_the_explained_terms_add_up_to_the_logit(network, scripted):
    users, posts, image, caption = inputs(network, 50)
    every = torch.arange(50)
    with torch.inference_mode():
        table = scripted.encode_posts(posts, image, caption)
        terms = scripted.explain(users, every, table, every)
    assert terms.shape == (50, 3)
    biases = network.user_table[users, network.shape.factors] + network.bias.detach()
    torch.testing.assert_close(terms[:, 2], biases)
    torch.testing.assert_close(terms.sum(dim=1), scores(scripted, users, posts, image, caption))


def test_users_share_a_batch_through_segments_and_posts_through_the_table(network, scripted):
    table_rows = torch.tensor([3, 0, 5])
    *_, image, caption = inputs(network, 3)
    users, segments, index = torch.tensor([2, 4]), torch.tensor([1, 0, 1, 1]), torch.tensor([0, 2, 2, 1])
    with torch.inference_mode():
        logits = scripted.score(users, segments, scripted.encode_posts(table_rows, image, caption), index)
        expected = network(users[segments], table_rows[index], image[index], caption[index])
    torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-5)


def test_a_half_precision_cast_reaches_everything(network):
    model = save_network(FoldedNeuCF(network).eval())
    half = load_network(model, CPU, torch.float16)
    users, posts, image, caption = inputs(network, 20)
    logits = scores(half, users, posts, image.half(), caption.half())
    assert logits.dtype == torch.float16
    with torch.inference_mode():
        assert (
            torch.sigmoid(logits) - torch.sigmoid(network(users, posts, image, caption))
        ).abs().max() < 0.05


def test_an_embedding_that_is_off_by_orders_of_magnitude_is_bounded_when_served(network, scripted):
    users, posts, image, caption = inputs(network, 20)
    image[1], caption[1] = 60_000.0, 60_000.0
    with torch.inference_mode():
        expected = network(users, posts, image, caption)
        served = scores(scripted, users, posts, image, caption)
        half = load_network(save_network(FoldedNeuCF(network).eval()), CPU, torch.float16)
        halves = scores(half, users, posts, image.half(), caption.half())
    torch.testing.assert_close(served, expected, rtol=1e-5, atol=1e-5)
    assert (torch.sigmoid(halves) - torch.sigmoid(expected)).abs().max() < 0.05


def test_a_network_without_embeddings_is_scripted():
    network = random_network(image=0, caption=0, hidden=(6,))
    pairs = inputs(network, 20)
    scripted = load_network(save_network(FoldedNeuCF(network).eval()), CPU)
    with torch.inference_mode():
        torch.testing.assert_close(scores(scripted, *pairs), network(*pairs), rtol=1e-5, atol=1e-5)


@pytest.fixture(scope="module")
def artifact():
    data = as_dataset(tiny_feed())
    rows = training_set(data, data.pairs)
    network = randomised(new_initialization(rows, CONFIG).network)
    created_at = datetime(2026, 11, 23, 21, 45, tzinfo=timezone(timedelta(hours=2)))
    return export(network, rows, data.pairs, VersionOrigin(created_at, {"seed": 5}, {"hr@10": 0.5}))


def test_a_version_is_named_by_its_time_in_utc_and_its_content(artifact):
    assert artifact.manifest.version.startswith("20261123T194500Z-")
    assert artifact.manifest.created_at == datetime(2026, 11, 23, 19, 45, tzinfo=UTC)


def test_the_manifest_describes_the_version(artifact):
    dimensions, window = artifact.manifest.dimensions, artifact.manifest.data_window
    assert dimensions.users == len(artifact.vocabulary.user_ids) + 1
    assert dimensions.posts == len(artifact.vocabulary.post_ids) + 1
    assert (dimensions.factors, dimensions.mlp_embedding, dimensions.hidden) == (6, 10, (12, 4))
    assert (dimensions.image, dimensions.caption, dimensions.post_vector) == (24, 24, 6 + 1 + 12)
    assert window.interactions == len(as_dataset(tiny_feed()).pairs)
    assert window.start < window.end
    assert artifact.manifest.hyperparameters == {"seed": 5}
    assert artifact.manifest.metrics == {"hr@10": 0.5}


@pytest.mark.parametrize("moment", [-64e9, 316e9, -np.inf, np.inf])
def test_times_beyond_the_calendar_are_clamped_to_it(moment):
    pairs = as_dataset(tiny_feed()).pairs
    strange = replace(pairs, times=np.full(len(pairs), moment))
    window = Manifest.parse(
        with_manifest(make_artifact("v1"), data_window=data_window(strange)).manifest.to_json()
    ).data_window
    assert window.start
    assert window.end
    assert window.start.year == window.end.year == (1 if moment < 0 else 9999)


@pytest.mark.parametrize("moment", [250e9, 316e9, np.inf])
def test_one_like_from_the_future_does_not_move_the_end_of_the_data(moment):
    pairs = as_dataset(tiny_feed()).pairs
    strange = replace(pairs, times=np.append(pairs.times[:-1], moment))
    end = data_window(strange).end
    assert end is not None
    assert end.timestamp() == pytest.approx(pairs.latest[:-1].max())


def test_the_data_end_with_the_last_like_even_of_few_users():
    pairs = as_dataset(tiny_feed()).pairs
    days = np.append(pairs.times[:-1], pairs.times.max() + 5 * 86_400.0)
    end = data_window(replace(pairs, times=days)).end
    assert end is not None
    assert end.timestamp() == pytest.approx(days[-1])


def test_golden_rows_hold_every_kind_of_post_and_replay(artifact):
    golden = artifact.golden
    unknown, bare = golden.post_rows == 0, ~golden.image.any(axis=1)
    for kind in (unknown & bare, unknown & ~bare, ~unknown & bare, ~unknown & ~bare):
        assert kind.any()
    assert (golden.caption.any(axis=1) == ~bare).all()
    assert len(golden.user_rows) == 8
    assert len(golden.probabilities) == 8 * len(golden.post_rows)
    assert np.ptp(golden.probabilities) > 0.1
    verify(artifact)


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_DATA counts what it should on Linux")
def test_an_export_needs_the_memory_of_two_user_tables():
    def export_within(tables):
        # The C library returns freed memory, so that the limit applies to memory in use.
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": "262144"}
        command = (
            sys.executable,
            "-W",
            "ignore",
            "-m",
            "tests.training.pipeline.limited_export",
            str(tables),
        )
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    enough = export_within(2.5)
    assert enough.returncode == 0, enough.stderr
    assert export_within(1.5).returncode != 0


full_disk = pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_FSIZE stands for a full disk")
FULL_DISK = """
import resource
import tempfile
from animora_training.errors import CannotWrite
from animora_training.modeling.config import FitConfig
from animora_training.modeling.initialization import new_initialization
from tests.training.pipeline.limited_export import exported
from tests.support.datasets import many_users
data = many_users(1000, 100)
network = new_initialization(data, FitConfig()).network.eval()
tempfile.gettempdir()
for room in (0, 100, 100_000):
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, resource.RLIM_INFINITY))
    try:
        exported(network, data)
    except CannotWrite as error:
        print(error)
"""


@full_disk
def test_a_full_disk_is_reported():
    command = (sys.executable, "-W", "ignore", "-c", FULL_DISK)
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert ["cannot be written: File too large: set TMPDIR" in line for line in lines] == [True] * 3


@full_disk
def test_a_missing_folder_for_temporary_files_is_reported():
    """As on a machine whose only disk is full."""
    program = FULL_DISK.replace("tempfile.gettempdir()", "")
    command = (sys.executable, "-W", "ignore", "-c", program)
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert "the folder of temporary files: cannot be written: No usable temporary directory found" in lines[0]


def test_a_full_disk_for_temporary_files_is_reported(network, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    data = as_dataset(tiny_feed())
    rows = training_set(data, data.pairs)
    with pytest.raises(CannotWrite, match="gone: cannot be written: No such file or directory"):
        export(
            new_initialization(rows, CONFIG).network,
            rows,
            data.pairs,
            VersionOrigin(datetime.now(UTC), {}, {}),
        )
