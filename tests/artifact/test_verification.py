"""Versions with valid digests and invalid content are refused with a reason."""

import io
import subprocess
import sys
import textwrap
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from animora_artifact import Artifact, ArtifactRejected, Vocabulary, pack, unpack
from animora_artifact.checked import CheckedNetwork, require_rows
from animora_artifact.network import load_network, save_network
from animora_artifact.verification import verify
from tests.support.dot_product import DotProduct, make_artifact, with_manifest

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def artifact() -> Artifact:
    return make_artifact()


def rejection(artifact: Artifact) -> str:
    """The reason for which a version is refused, when read or when verified in memory."""
    with pytest.raises(ArtifactRejected) as raised:
        verify(artifact)
    return raised.value.reason.value


def changed(artifact: Artifact, **arrays: np.ndarray) -> Artifact:
    return replace(artifact, golden=replace(artifact.golden, **arrays))


@pytest.mark.parametrize(
    ("array", "values"),
    [
        ("user_rows", [1, 4]),
        ("user_rows", [-1, 3]),
        ("user_rows", [1, 1 << 62]),
        ("post_rows", [0, 2, 5]),
        ("post_rows", [-1, 2, 4]),
        ("post_index", [0, 1, 1, 3]),
        ("post_index", [0, 1, -1, 2]),
        ("segments", [0, 0, 1, 2]),
        ("segments", [0, 0, 1, -1]),
        ("segments", [0, 0, 1]),
        ("segments", [0, 0, 1, 1, 1]),
        ("post_rows", [0, 2]),
    ],
)
def test_golden_rows_that_are_out_of_range_or_too_few_are_refused(artifact, array, values):
    broken = changed(artifact, **{array: np.array(values, np.int64)})
    assert rejection(broken) == "dimensions"
    with pytest.raises(ArtifactRejected, match=f"{array}|image"):
        unpack(pack(broken))


@pytest.mark.parametrize("width", [0, 2, 4])
def test_golden_embeddings_of_another_width_are_refused(artifact, width):
    assert rejection(changed(artifact, image=np.zeros((3, width), np.float32))) == "dimensions"
    assert rejection(changed(artifact, caption=np.zeros((3, width + 1), np.float32))) == "dimensions"


def test_golden_rows_without_a_pair_are_refused(artifact):
    nothing = np.empty(0, np.int64)
    empty = changed(artifact, segments=nothing, post_index=nothing, probabilities=np.empty(0, np.float32))
    assert rejection(empty) == "golden"


def test_golden_rows_without_a_user_are_refused(artifact):
    assert rejection(changed(artifact, user_rows=np.empty(0, np.int64))) == "dimensions"


def test_golden_rows_that_would_take_long_to_replay_are_refused(artifact):
    many = np.zeros(1 << 17, np.int64)
    huge = changed(artifact, segments=many, post_index=many, probabilities=np.zeros(len(many), np.float32))
    assert rejection(huge) == "golden"


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1.5, -0.1])
def test_a_recorded_probability_out_of_range_is_refused(artifact, value):
    damaged = artifact.golden.probabilities.copy()
    damaged[1] = value
    assert rejection(changed(artifact, probabilities=damaged)) == "golden"


@pytest.mark.parametrize("array", ["image", "caption"])
def test_a_recorded_embedding_that_is_not_finite_is_refused(artifact, array):
    damaged = getattr(artifact.golden, array).copy()
    damaged[0, 0] = np.nan
    assert rejection(changed(artifact, **{array: damaged})) == "golden"


@pytest.mark.parametrize("tolerance", [1e9, 1.0, 1e-3])
def test_wrong_probabilities_are_refused_whatever_the_versions_tolerance(artifact, tolerance):
    tolerances = artifact.manifest.tolerances.model_copy(update={"float32": tolerance})
    moved = artifact.golden.probabilities.copy()
    moved[0] = 1 - moved[0]
    version = changed(with_manifest(artifact, tolerances=tolerances), probabilities=moved)
    assert rejection(version) == "golden"


def test_a_version_may_set_a_stricter_tolerance(artifact):
    tolerances = artifact.manifest.tolerances.model_copy(update={"float32": 1e-7})
    moved = artifact.golden.probabilities.copy()
    moved[0] += np.float32(5e-6)
    verify(changed(artifact, probabilities=moved))
    assert rejection(changed(with_manifest(artifact, tolerances=tolerances), probabilities=moved)) == "golden"


@pytest.mark.parametrize(("users", "posts"), [(2, 0), (0, 2), (1, 0), (0, 1), (1000, 1000)])
def test_a_vocabulary_that_is_larger_than_the_tables_is_refused(artifact, users, posts):
    dimensions = artifact.manifest.dimensions
    larger = dimensions.model_copy(
        update={"users": dimensions.users + users, "posts": dimensions.posts + posts}
    )
    vocabulary = Vocabulary(np.arange(larger.users - 1), np.arange(larger.posts - 1))
    version = replace(with_manifest(artifact, dimensions=larger), vocabulary=vocabulary)
    assert rejection(version) == "dimensions"


@pytest.mark.parametrize("width", [1, 3])
def test_post_vectors_of_another_width_than_the_manifest_says_are_refused(artifact, width):
    dimensions = artifact.manifest.dimensions.model_copy(update={"post_vector": width})
    assert rejection(with_manifest(artifact, dimensions=dimensions)) == "dimensions"


@pytest.mark.failure(13)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("table", ["users", "posts"])
def test_a_weight_that_is_not_finite_is_refused_though_no_golden_row_uses_it(artifact, table, value):
    network = DotProduct()
    getattr(network, table)[2 if table == "users" else 1, 0] = value
    version = replace(artifact, model=save_network(network))
    with pytest.raises(ArtifactRejected, match=f"model.ts: {table} holds a weight"):
        verify(version)


def frozen(network: DotProduct) -> bytes:
    """A model file whose weights are constants of its code."""
    methods = ["encode_posts", "score", "explain"]
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.freeze(torch.jit.script(network.eval()), preserved_attrs=methods), buffer)
    return buffer.getvalue()


def test_weights_that_are_constants_of_the_code_are_checked(artifact):
    verify(replace(artifact, model=frozen(DotProduct())))
    network = DotProduct()
    network.posts[1, 0] = float("nan")
    with pytest.raises(ArtifactRejected, match="holds a weight that is not finite"):
        verify(replace(artifact, model=frozen(network)))


class OneScore(DotProduct):
    """Scores one pair, however many there are."""

    @torch.jit.export
    def score(self, user_rows: Tensor, segments: Tensor, post_table: Tensor, post_index: Tensor) -> Tensor:
        return torch.zeros(1)


class Raises(DotProduct):
    @torch.jit.export
    def score(self, user_rows: Tensor, segments: Tensor, post_table: Tensor, post_index: Tensor) -> Tensor:
        if len(post_index) > 0:
            raise ValueError("a script's own")
        return self.users[0]


class OneTerm(DotProduct):
    @torch.jit.export
    def explain(self, user_rows: Tensor, segments: Tensor, post_table: Tensor, post_index: Tensor) -> Tensor:
        return torch.zeros(1, 1)


class OtherArguments(nn.Module):
    @torch.jit.export
    def encode_posts(self, post_rows: Tensor) -> Tensor:
        return post_rows

    @torch.jit.export
    def score(self, user_rows: Tensor) -> Tensor:
        return user_rows

    @torch.jit.export
    def explain(self, user_rows: Tensor) -> Tensor:
        return user_rows


class NoTensors(nn.Module):
    @torch.jit.export
    def encode_posts(self, post_rows: Tensor, image: Tensor, caption: Tensor) -> int:
        return 1

    @torch.jit.export
    def score(self, user_rows: Tensor, segments: Tensor, post_table: Tensor, post_index: Tensor) -> str:
        return "x"

    @torch.jit.export
    def explain(self, user_rows: Tensor, segments: Tensor, post_table: Tensor, post_index: Tensor) -> int:
        return 1


class WritesFile(DotProduct):
    @torch.jit.export
    def score(self, user_rows: Tensor, segments: Tensor, post_table: Tensor, post_index: Tensor) -> Tensor:
        torch.save(user_rows, "written")
        return (self.users[user_rows][segments] * post_table[post_index]).sum(dim=1)


class ReadsFile(DotProduct):
    @torch.jit.export
    def score(self, user_rows: Tensor, segments: Tensor, post_table: Tensor, post_index: Tensor) -> Tensor:
        return torch.from_file("written", size=len(post_index))


class Prints(DotProduct):
    @torch.jit.export
    def score(self, user_rows: Tensor, segments: Tensor, post_table: Tensor, post_index: Tensor) -> Tensor:
        print("scoring")  # noqa: T201  # which is what is refused
        return (self.users[user_rows][segments] * post_table[post_index]).sum(dim=1)


class WritesFileWhenLoaded(DotProduct):
    @torch.jit.export
    def __getstate__(self) -> tuple[Tensor, bool]:
        return self.users, self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[Tensor, bool]) -> None:
        torch.save(state[0], "written")
        self.training = state[1]


@pytest.mark.parametrize("network", [WritesFile, ReadsFile, Prints, WritesFileWhenLoaded])
def test_a_network_that_reaches_files_or_the_output_is_refused_before_it_is_loaded(
    artifact, network, tmp_path, monkeypatch, capfd
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ArtifactRejected, match="reaches files or the output"):
        verify(replace(artifact, model=save_network(network())))
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr().out == ""


def with_first_statement(model: bytes, statement: str) -> bytes:
    """A model file with a handwritten statement in every method that has a line with `users`."""
    reader, buffer = torch._C.PyTorchFileReader(io.BytesIO(model)), io.BytesIO()
    writer = torch._C.PyTorchFileWriter(buffer)
    for name in reader.get_all_records():
        content = reader.get_record(name)
        if name.endswith(".py"):
            content = content.replace(b"    users = ", f"    {statement}\n    users = ".encode())
        if name != "version" and not name.startswith(".data"):  # which the writer makes
            writer.write_record(name, content, len(content))
    writer.write_end_of_file()
    return buffer.getvalue()


@pytest.mark.parametrize(
    "statement",
    [
        'ops.aten.save(user_rows, "written")',
        't = torch\n    t.save(user_rows, "written")',
        'getattr(torch, "sa" "ve")(user_rows, "written")',
        'getattr(torch, "s\\141ve")(user_rows, "written")',
        '(getattr)(torch, "sa" "ve")(user_rows, "written")',
        'getattr(torch # , "x")\n    , "sa" "ve")(user_rows, "written")',
        'ops.prim.Print("scoring")',
    ],
)
def test_code_that_was_written_to_hide_what_it_reaches_is_refused(artifact, statement):
    verify(replace(artifact, model=with_first_statement(artifact.model, "pass")))
    with pytest.raises(ArtifactRejected, match=r"model\.ts: its code names"):
        verify(replace(artifact, model=with_first_statement(artifact.model, statement)))


class Layered(DotProduct):
    """A network with unnamed nested modules."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Sequential(nn.Identity(), nn.Dropout()), nn.ModuleList([nn.ReLU()])[0])

    @torch.jit.export
    def score(self, user_rows: Tensor, segments: Tensor, post_table: Tensor, post_index: Tensor) -> Tensor:
        logits: Tensor = self.layers((self.users[user_rows][segments] * post_table[post_index]).sum(dim=1))
        return logits


def test_a_network_with_unnamed_modules_is_accepted():
    code = save_network(Layered().eval())
    load_network(code, torch.device("cpu"))


@pytest.mark.parametrize("network", [OneScore, OneTerm, Raises, OtherArguments, NoTensors])
def test_a_network_whose_methods_are_not_the_contracts_is_refused(artifact, network):
    assert rejection(replace(artifact, model=save_network(network()))) in ("dimensions", "content")


def test_the_verified_network_raises_python_errors_for_invalid_inputs(artifact):
    network = verify(artifact)
    row = torch.zeros(2, dtype=torch.int64)
    image, caption, table = torch.zeros(2, 3), torch.zeros(2, 2), torch.zeros(4, 2)
    for rows in (row + 5, row - 1):
        with pytest.raises(IndexError, match=r"post_rows must be in \[0, 5\)"):
            network.encode_posts(rows, image, caption)
        with pytest.raises(IndexError, match=r"user_rows must be in \[0, 4\)"):
            network.score(rows, row, table, row)
        with pytest.raises(IndexError, match=r"post_index must be in \[0, 4\)"):
            network.explain(row, row, table, rows)
        with pytest.raises(IndexError, match=r"segments must be in \[0, 2\)"):
            network.score(row, rows, table, row)
    for call in (
        lambda: network.encode_posts(row, image[:, :2], caption),
        lambda: network.encode_posts(row, image, caption[:1]),
        lambda: network.score(row, row, table[:, :1], row),
        lambda: network.score(row, row[:1], table, row),
        lambda: network.score(row, row.int(), table, row),
        lambda: network.score(row[None], row, table, row),
    ):
        with pytest.raises(ValueError, match="must be"):
            call()


def test_arrays_are_scored_and_checked_like_tensors(artifact):
    network = CheckedNetwork(load_network(artifact.model, CPU), artifact.manifest.dimensions)
    users, segments, posts = np.array([1, 3]), np.array([0, 1, 1]), np.array([0, 2, 3])
    table = torch.arange(8.0).reshape(4, 2)
    rows, pairs, index = map(torch.from_numpy, (users, segments, posts))
    expected = network.score(rows, pairs, table, index)
    assert network.score_arrays(users, segments, table, posts).tolist() == expected.tolist()
    for wrong in (users + 9, segments, table, posts), (users, segments - 1, table, posts), (
        users, segments, table, posts + 1
    ):  # fmt: skip
        with pytest.raises(IndexError, match="must be in"):
            network.score_arrays(*wrong)
    for wrong in (users, segments[:2], table, posts), (users, segments, table[:, :1], posts):
        with pytest.raises(ValueError, match="must be"):
            network.score_arrays(*wrong)


def test_rows_are_checked_without_pytorch():
    require_rows("rows", np.array([0, 3]), 4)
    require_rows("rows", np.empty(0, np.int64), 0)
    for wrong in (4, -1, 1 << 62, -(1 << 63)):
        with pytest.raises(IndexError, match=r"rows must be in \[0, 4\)"):
            require_rows("rows", np.array([0, wrong]), 4)


def test_a_checked_network_has_the_attributes_of_its_network(artifact):
    plain = load_network(artifact.model, CPU)
    checked = CheckedNetwork(plain, artifact.manifest.dimensions)
    rows, image, caption = torch.arange(5), torch.ones(5, 3), torch.ones(5, 2)
    assert torch.equal(checked.encode_posts(rows, image, caption), plain.encode_posts(rows, image, caption))
    assert not hasattr(checked, "compiled_tensors")


def test_an_error_in_a_network_after_several_were_loaded_does_not_end_the_process():
    # In a child process, since the test is for a segmentation fault.
    program = """
        import warnings; warnings.simplefilter("ignore")
        import torch
        from animora_artifact.network import load_network, save_network
        from animora_training.pipeline.export import FoldedNeuCF
        from tests.support.networks import random_network

        network = random_network(hidden=(32, 16, 8))
        model = save_network(FoldedNeuCF(network).eval())
        beyond = 10**6
        image, caption = torch.zeros(2, network.shape.image), torch.zeros(2, network.shape.caption)
        row = torch.zeros(2, dtype=torch.int64)
        failures = 0
        kept = []
        for _ in range(4):
            loaded = load_network(model, torch.device("cpu"))
            kept.append(loaded)
            with torch.inference_mode():
                for _ in range(3):
                    table = loaded.encode_posts(row, image, caption)
                    loaded.score(row, row, table, row)
                narrow = row, row, table[:, :3], row
                no_user = row + beyond, row, table, row
                no_post = row, row, table, row + beyond
                for arguments in (narrow, no_user, no_post):
                    try:
                        loaded.score(*arguments)
                    except (RuntimeError, IndexError):
                        failures += 1
        print(failures)
    """
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, check=False
    )
    assert (result.returncode, result.stdout) == (0, "12\n"), result.stderr
