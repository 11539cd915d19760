"""The GPU benchmark on a CPU: all parts with reduced sizes; parts that are cut, fail, or lack packages."""

import json
import os
import subprocess
import sys

import pytest
import torch

from tests.benchmarks.gpu.__main__ import write
from tests.benchmarks.gpu.figures import (
    CALLS,
    IN_COPIES,
    IN_KERNELS,
    NOT_MEASURED,
    TESTS_FAILED,
    TESTS_PASSED,
    Figure,
    figures,
    number,
    table,
)
from tests.benchmarks.gpu.parts import PACKAGES, PARTS, ROOT, Part, python_path, run

ON_A_GPU = (IN_KERNELS, IN_COPIES)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_on_a_cpu_every_row_but_those_of_a_gpu_is_measured_and_no_file_is_written(tmp_path):
    result = tmp_path / "gpu.json"
    ended = subprocess.run(
        (sys.executable, "-m", "tests.benchmarks.gpu", "--result", str(result)),
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    lines = {line.split("  ")[0]: line for line in ended.stdout.splitlines()}
    for row in figures(small=True):
        assert (NOT_MEASURED in lines[row.name]) == (row.name in ON_A_GPU), ended.stdout
    assert not result.exists()


def test_names_of_rows_are_unique_and_goals_are_of_full_sizes_only():
    full, small = figures(small=False), figures(small=True)
    assert len({row.name for row in full}) == len(full) == len(small)
    goals = {row.name: row.goal for row in full if row.goal}
    assert goals["scoring, a call of 1,024 rows, bfloat16, captured"] == "≤ 80"
    assert goals["scoring, the network on 1,048,576 rows, float16, captured"] == "≥ 1,000,000,000"
    assert goals["training, 8 factors"] == "≥ 50,000,000"
    assert [row.name for row in small if row.goal] == [TESTS_FAILED]


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (71.26, "71.3"), (0.0123, "0.0123"), (1234.5, "1,234"), (13.0, "13")]
)
def test_numbers_have_three_digits_or_more(value, text):
    assert number(value) == text


def test_a_cell_without_a_value_is_not_measured():
    rows = (Figure("a", "µs", at_most=80), Figure("b", "calls/s"))
    head, first, second = table(rows, {"a": 71.26}, "a GPU").splitlines()
    assert head.split() == ["figure", "a", "GPU", "goal", "unit"]
    assert first.split() == ["a", "71.3", "≤", "80", "µs"]
    assert second.split() == ["b", *NOT_MEASURED.split(), "calls/s"]


def test_the_file_has_every_figure_and_null_for_those_that_were_not_measured(tmp_path):
    path = tmp_path / "new" / "gpu.json"
    write(path, "a GPU", "2.11", {TESTS_PASSED: 26})
    content = json.loads(path.read_text())
    assert content["device"] == "a GPU"
    assert content["figures"][TESTS_PASSED]["value"] == 26
    assert content["figures"][CALLS] == {"value": None, "unit": "calls/s", "goal": ""}


def test_a_part_that_takes_too_long_is_cut_and_a_line_says_so():
    said: list[str] = []
    assert run(PARTS[1], 0.05, True, said.append) == {}
    assert "scoring: cut after 0 s; what it had not measured is left out" in said


def test_a_part_that_fails_does_not_end_the_others():
    said: list[str] = []
    assert run(Part("absent", "no_such_module", 1.0, ()), 60.0, True, said.append) == {}
    assert said[-1] == "absent: failed with status 1; what it had not measured is left out"


def test_a_part_finds_the_checkout_before_the_environments_packages_and_prepared_ones_last():
    path = python_path({"PYTHONPATH": "/given"})
    assert path[0] == str(ROOT / "proto")
    assert path[-2:] == ["/given", str(PACKAGES)]


def test_missing_packages_are_named_packages_within_packages_too():
    part = Part("a", "b", 1.0, ("json", "no_such_package", "no_such.package"))
    assert part.missing() == ["no_such_package", "no_such.package"]
    assert not any(each.missing() for each in PARTS)
