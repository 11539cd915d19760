"""Native scores compared with TorchScript and the eager network, and compiler failures."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from animora_artifact import CompiledUnusable
from animora_artifact.compiled import CompiledNetwork, load_compiled, open_library
from animora_artifact.manifest import Dimensions
from animora_artifact.network import load_network, save_network
from animora_training.errors import NotCompiled
from animora_training.pipeline.compilation import WIDEST, compile_score
from animora_training.pipeline.export import FoldedNeuCF
from tests.support.compilers import needs_compiler
from tests.support.networks import inputs, random_network

SHAPES = [(6,), (7, 5), (16, 8), (32, 16, 8), (40, 33, 17, 3), (WIDEST, 100)]
LEVELS = {"avx2": 1, "avx512": 2}


def dimensions_of(network, **changes):
    shape = network.shape
    sizes = {
        "users": shape.users, "posts": shape.posts, "factors": shape.factors,
        "mlp_embedding": shape.mlp_embedding, "hidden": shape.hidden, "image": shape.image,
        "caption": shape.caption, "post_vector": shape.post_vector,
    }  # fmt: skip
    return Dimensions(**{**sizes, **changes})


def both(network, level=None) -> tuple[Any, Any]:
    """The network by native code, at its best level or at another, and by TorchScript."""
    dimensions = dimensions_of(network)
    scripted: Any = load_network(save_network(FoldedNeuCF(network).eval()), torch.device("cpu"))
    code = compile_score(dimensions, "cc")
    if level is None:
        return load_compiled(code, scripted, dimensions), scripted
    best = open_library(code)
    if best.level < level:
        pytest.skip("this CPU has no such instructions")
    return CompiledNetwork(
        scripted, replace(best, level=level), scripted.compiled_tensors(), dimensions
    ), scripted


@torch.inference_mode()
def batch_of(network, scripted, pairs):
    """Arguments of `score`: `pairs` pairs of two users."""
    users, posts, image, caption = inputs(network, pairs)
    segments = torch.arange(pairs) % 2
    return users[:2].clone(), segments, scripted.encode_posts(posts, image, caption), torch.arange(pairs)


@needs_compiler
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("hidden", SHAPES, ids=str)
def test_native_code_gives_the_networks_probabilities_for_all_layer_widths(hidden, level):
    network = random_network(hidden=hidden)
    compiled, scripted = both(network, LEVELS[level])
    for pairs in (2, 5, 24, 201):
        users, segments, table, index = batch_of(network, scripted, pairs)
        _, posts, image, caption = inputs(network, pairs)
        with torch.inference_mode():
            expected = torch.sigmoid(network(users[segments], posts, image, caption))
            found = torch.sigmoid(compiled.score(users, segments, table, index))
        assert (found - expected).abs().max() < 1e-5
        assert (found - torch.sigmoid(scripted.score(users, segments, table, index))).abs().max() < 1e-5


@pytest.fixture(scope="module")
def network():
    return random_network(hidden=(32, 16, 8))


@pytest.fixture(scope="module")
def networks(network):
    return both(network)


@pytest.fixture(scope="module")
def batch(network, networks):
    return batch_of(network, networks[1], 50)


@needs_compiler
def test_a_compiled_score_has_the_same_bits_alone_and_in_any_batch(networks, batch):
    compiled, _ = networks
    users, segments, table, index = batch
    together = compiled.score(users, segments, table, index)
    for start, stop in ((0, 1), (3, 4), (7, 30), (49, 50)):
        part = compiled.score(users, segments[start:stop], table, index[start:stop])
        assert torch.equal(part, together[start:stop])
    backwards = compiled.score(users, segments.flip(0), table, index.flip(0)).flip(0)
    assert torch.equal(backwards, together)


@needs_compiler
def test_no_pairs_have_no_scores(networks, batch):
    users, _, table, _ = batch
    nothing = torch.empty(0, dtype=torch.int64)
    assert networks[0].score(users, nothing, table, nothing).shape == (0,)


@needs_compiler
def test_torchscript_scores_what_native_code_does_not_support(network, networks, batch):
    compiled, scripted = networks
    _, posts, image, caption = inputs(network, 9)
    with torch.inference_mode():
        assert torch.equal(
            compiled.encode_posts(posts, image, caption), scripted.encode_posts(posts, image, caption)
        )
        assert torch.equal(compiled.explain(*batch), scripted.explain(*batch))


@needs_compiler
@pytest.mark.parametrize("argument", [0, 1, 3], ids=["user", "segment", "post"])
@pytest.mark.parametrize("row", [-1, 50, 2**40])
@pytest.mark.parametrize("at", [0, 1])
def test_a_row_out_of_bounds_is_an_error_and_nothing_is_read_there(networks, batch, argument, row, at):
    arguments = list(batch)
    arguments[argument] = arguments[argument].clone()
    arguments[argument][at] = row
    with pytest.raises(IndexError, match="out of bounds"):
        networks[0].score(*arguments)


@needs_compiler
@pytest.mark.parametrize(
    ("argument", "changed"),
    [
        (0, lambda users: users.int()),
        (1, lambda segments: segments[1:]),
        (1, lambda segments: segments.float()),
        (2, lambda table: table[:, 1:].contiguous()),
        (2, lambda table: table.T.contiguous().T),
        (2, lambda table: table.double()),
        (3, lambda index: index[::2]),
    ],
)
def test_a_tensor_of_another_shape_or_type_is_an_error(networks, batch, argument, changed):
    arguments = list(batch)
    arguments[argument] = changed(arguments[argument])
    with pytest.raises(RuntimeError):
        networks[0].score(*arguments)


@needs_compiler
def test_nan_stays_nan_in_native_scores(networks, batch):
    users, segments, table, index = batch
    for column in range(table.shape[1]):
        damaged = table.clone()
        damaged[4, column] = float("nan")
        scores = networks[0].score(users, segments, damaged, index)
        assert scores.isnan().nonzero().tolist() == [[4]]


@needs_compiler
def test_compilation_is_deterministic():
    dimensions = dimensions_of(random_network())
    assert compile_score(dimensions, "cc") == compile_score(dimensions, "cc")


@pytest.mark.parametrize(
    ("compiler", "why"),
    [
        ("no-such-compiler", "there is no C compiler 'no-such-compiler'"),
        ("false", "false failed: exit status 1"),
        ("true", "true failed: .*No such file"),
    ],
)
@needs_compiler
def test_a_missing_compiler_is_an_error(compiler, why):
    with pytest.raises(NotCompiled, match=why):
        compile_score(dimensions_of(random_network()), compiler)


@needs_compiler
def test_the_compilers_message_is_passed_on(tmp_path: Path):
    compiler = tmp_path / "cc"
    compiler.write_text("#!/bin/sh\necho 'no such option' >&2\nexit 2\n")
    compiler.chmod(0o755)
    with pytest.raises(NotCompiled, match="failed: no such option"):
        compile_score(dimensions_of(random_network()), str(compiler))


@needs_compiler
def test_wide_layers_are_scored_by_torchscript():
    with pytest.raises(NotCompiled, match=f"wider than {WIDEST}"):
        compile_score(dimensions_of(random_network(), hidden=(WIDEST + 1,)), "cc")


@needs_compiler
@pytest.mark.parametrize(
    "changes", [{"factors": 16}, {"factors": 7}, {"hidden": (16, 8)}, {"hidden": (32, 16, 9)}]
)
def test_native_code_of_another_network_is_refused(changes):
    network = random_network(hidden=(32, 16, 8))
    scripted = load_network(save_network(FoldedNeuCF(network).eval()), torch.device("cpu"))
    code = compile_score(dimensions_of(network, **changes), "cc")
    with pytest.raises(CompiledUnusable, match="is for a network of shape"):
        load_compiled(code, scripted, dimensions_of(network))
