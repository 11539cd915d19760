"""Compiled code that cannot be used: it is refused without harm, and said why."""

from typing import Any

import pytest
import torch
from torch import Tensor

from animora_artifact import CompiledUnusable
from animora_artifact.compiled import load_compiled, open_library
from animora_artifact.network import load_network, save_network
from tests.artifact.artifacts import DotProduct, make_artifact
from tests.compilers import FINE, NO_SUCH_CPU, ZEROS, library, needs_compiler, of_another_machine

pytestmark = needs_compiler
CPU = torch.device("cpu")


class Compilable(DotProduct):
    @torch.jit.export
    def compiled_tensors(self) -> list[Tensor]:
        return [self.users]


@pytest.fixture
def dimensions():
    return make_artifact().manifest.dimensions


@pytest.fixture
def network():
    return load_network(save_network(Compilable()), CPU)


def test_scores_are_the_codes(network, dimensions, tmp_path):
    compiled = load_compiled(library(ZEROS, tmp_path), network, dimensions)
    row = torch.zeros(3, dtype=torch.int64)
    assert compiled.score(row[:1], row, torch.ones(2, 2), row).tolist() == [0, 0, 0]


def test_equal_code_is_loaded_once(tmp_path):
    code = library(ZEROS, tmp_path)
    assert open_library(code).score is open_library(bytes(bytearray(code))).score
    assert open_library(code).score is not open_library(code + b"\0").score


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda code: b"", "does not load on this machine"),
        (lambda code: b"not a library", "does not load on this machine"),
        (lambda code: code[:100], "does not load on this machine"),
        (of_another_machine, "does not load on this machine"),
    ],
)
def test_what_is_no_library_of_this_machine_is_refused(tmp_path, spoil, why):
    with pytest.raises(CompiledUnusable, match=why):
        open_library(spoil(library(ZEROS, tmp_path)))


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("int something;", "another interface"),
        (FINE, "another interface"),
        (ZEROS.replace("_1", "_2"), "another interface"),
        (NO_SUCH_CPU, "this CPU has none of the instruction sets"),
    ],
)
def test_code_that_this_program_or_cpu_cannot_run_is_refused(tmp_path, source, why):
    with pytest.raises(CompiledUnusable, match=why):
        open_library(library(source, tmp_path))


def test_a_network_that_was_not_made_for_compiled_code_is_refused(dimensions, tmp_path):
    plain = load_network(save_network(DotProduct()), CPU)
    with pytest.raises(CompiledUnusable, match="has no tensors"):
        load_compiled(library(ZEROS, tmp_path), plain, dimensions)


def test_a_network_of_another_precision_is_refused(dimensions, tmp_path):
    half: Any = load_network(save_network(Compilable()), CPU, torch.float16)
    with pytest.raises(CompiledUnusable, match=r"other tensors: torch.float16"):
        load_compiled(library(ZEROS, tmp_path), half, dimensions)
