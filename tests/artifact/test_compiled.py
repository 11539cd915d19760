"""Unusable native code is refused with a reason."""

import resource
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from animora_artifact import CompiledUnusable
from animora_artifact.compiled import load_compiled, open_library
from animora_artifact.network import load_network, save_network
from tests.support.compilers import (
    FINE,
    NO_SUCH_CPU,
    ZEROS,
    library,
    needs_compiler,
    of_another_machine,
    shape,
)
from tests.support.dot_product import DotProduct, make_artifact

pytestmark = needs_compiler
CPU = torch.device("cpu")


class Compilable(DotProduct):
    """Has the tensors that code of the shape (3, 2) reads, all zero."""

    def __init__(self, users: int = 4, user_width: int = 6, above: int = 18) -> None:
        super().__init__()
        self.user_table = nn.Parameter(torch.zeros(users, user_width), requires_grad=False)
        self.above = nn.Parameter(torch.zeros(above), requires_grad=False)

    @torch.jit.export
    def compiled_tensors(self) -> list[Tensor]:
        return [self.user_table, self.above]


FITTING = ZEROS.replace(shape(9, 32, 16, 8), shape(3, 2))


@pytest.fixture
def dimensions():
    return make_artifact().manifest.dimensions.model_copy(update={"post_vector": 5})


@pytest.fixture
def network():
    return load_network(save_network(Compilable()), CPU)


def test_a_network_with_native_code_returns_its_scores(network, dimensions, tmp_path):
    compiled = load_compiled(library(FITTING, tmp_path), network, dimensions)
    row = torch.zeros(3, dtype=torch.int64)
    assert compiled.score(row[:1], row, torch.ones(2, 5), row).tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    "widths", [(), (3,), (2, 2), (3, 3), (3, 2, 1), (9, 32, 16, 8), (1 << 40, 2), tuple(range(100))], ids=str
)
def test_code_for_a_network_of_another_shape_is_refused_before_it_is_called(
    network, dimensions, tmp_path, widths
):
    code = library(ZEROS.replace(shape(9, 32, 16, 8), shape(*widths)), tmp_path)
    with pytest.raises(CompiledUnusable, match=r"for a network of shape \(.*\), not \(3, 2\)"):
        load_compiled(code, network, dimensions)


@pytest.mark.parametrize("changes", [{"users": 3}, {"user_width": 5}, {"above": 17}, {"above": 2}])
def test_tensors_of_another_shape_than_the_code_reads_are_refused(dimensions, tmp_path, changes):
    network = load_network(save_network(Compilable(**changes)), CPU)
    with pytest.raises(CompiledUnusable, match="wants other tensors: their shapes are"):
        load_compiled(library(FITTING, tmp_path), network, dimensions)


def test_post_vectors_of_another_width_than_the_code_reads_are_refused(network, dimensions, tmp_path):
    wider = dimensions.model_copy(update={"post_vector": 6})
    with pytest.raises(CompiledUnusable, match="post vectors are 6 wide; must be 5"):
        load_compiled(library(FITTING, tmp_path), network, wider)


def test_identical_native_code_is_loaded_once(tmp_path):
    code = library(ZEROS, tmp_path)
    assert open_library(code).score is open_library(bytes(bytearray(code))).score
    assert open_library(code).score is not open_library(code + b"\0").score


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (lambda code: b"", "does not load on this machine"),
        (lambda code: b"not a library", "does not load on this machine"),
        (lambda code: code[:100], "does not load on this machine"),
        (of_another_machine, "does not load on this machine"),
    ],
)
def test_native_code_that_is_not_a_library_is_refused(tmp_path, damage, why):
    with pytest.raises(CompiledUnusable, match=why):
        open_library(damage(library(ZEROS, tmp_path)))


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("int something;", "another interface"),
        (FINE, "another interface"),
        (ZEROS.replace("_2", "_1"), "another interface"),
        (ZEROS.replace(shape(9, 32, 16, 8), ""), "another interface"),
        (NO_SUCH_CPU, "this CPU has none of the instruction sets"),
    ],
)
def test_native_code_for_another_interface_or_cpu_is_refused(tmp_path, source, why):
    with pytest.raises(CompiledUnusable, match=why):
        open_library(library(source, tmp_path))


def test_a_network_without_support_for_native_code_is_refused(dimensions, tmp_path):
    plain = load_network(save_network(DotProduct()), CPU)
    with pytest.raises(CompiledUnusable, match="has no tensors"):
        load_compiled(library(ZEROS, tmp_path), plain, dimensions)


def test_a_network_of_another_precision_is_refused(dimensions, tmp_path):
    half: Any = load_network(save_network(Compilable()), CPU, torch.float16)
    with pytest.raises(CompiledUnusable, match=r"other tensors: torch.float16"):
        load_compiled(library(FITTING, tmp_path), half, dimensions)


def test_without_executable_memory_torchscript_scores(tmp_path):
    code = library(ZEROS + "int other;", tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1, hard))  # no descriptor is left for the library
    try:
        with pytest.raises(CompiledUnusable, match="refuses memory for native code: Too many open files"):
            open_library(code)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert open_library(code).level == 1
