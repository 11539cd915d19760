"""The table of failures: every row has tests, and a row is ok only if these passed."""

import ast
import sys
from collections import Counter
from itertools import takewhile
from pathlib import Path

import pytest

from tests.faults.table import rows

TESTS = Path(__file__).parents[1]
PLUGIN = ("-p", "tests.faults.table", "-p", "no:cacheprovider", "--color=no")


def marked(source: str) -> list[int]:
    """The rows that the markers of a module name."""
    return [
        argument.value
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "failure"
        for argument in node.args
        if isinstance(argument, ast.Constant) and isinstance(argument.value, int)
    ]


def test_every_row_of_the_page_has_a_test_and_no_test_shows_another():
    numbers = [row.number for row in rows()]
    assert numbers == list(range(1, 31))
    tests = Counter(row for module in TESTS.rglob("test_*.py") for row in marked(module.read_text()))
    assert tests.keys() == set(numbers)


@pytest.fixture
def run(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch):
    """Runs pytest on a module with tests of rows, as `make faults` does."""
    monkeypatch.setenv("PYTHONPATH", str(TESTS.parent))
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    pytester.makeini("[pytest]\nmarkers = failure(row): x")

    def run(source: str, *arguments: str) -> pytest.RunResult:
        pytester.makepyfile(test_rows=f"import pytest\n{source}")
        return pytester.run(sys.executable, "-m", "pytest", *PLUGIN, *arguments)

    return run


def row_of(result: pytest.RunResult, number: int) -> str:
    """What the printed table says in a row's last two columns."""
    cells = [[cell.strip() for cell in line.split("│")] for line in result.outlines if line.startswith("│")]
    first = next(index for index, line in enumerate(cells) if line[1] == str(number))
    rest = takewhile(lambda line: line[1] == "", cells[first + 1 :])
    return " ".join(text for line in (cells[first], *rest) for text in line[4:6] if text)


def test_the_table_shows_what_was_seen_and_how_the_tests_ended(run):
    result = run(
        """
@pytest.mark.failure(1)
def test_passes(seen):
    seen.note("no harm")
@pytest.mark.failure(2)
def test_fails():
    assert False
@pytest.mark.failure(3, 4)
def test_is_skipped():
    pytest.skip("no program")
@pytest.mark.failure(4)
def test_passes_as_well():
    pass
""",
        "--judge-times",
    )
    assert row_of(result, 1) == "no harm ok 1 passed"
    assert row_of(result, 2) == "1 failed NOT OK"
    assert row_of(result, 3) == "1 skipped not shown"
    assert row_of(result, 4) == "1 passed, 1 skipped ok"
    assert row_of(result, 5) == "not shown"


@pytest.mark.parametrize(("arguments", "failed"), [([], 0), (["--judge-times"], 1)])
def test_times_are_judged_only_where_that_is_asked_for(run, arguments, failed):
    result = run(
        """
@pytest.mark.failure(20)
def test_takes_long(seen):
    seen.number("slowest", 30.0, at_most=20.0, unit="ms")
""",
        *arguments,
    )
    assert result.parseoutcomes().get("failed", 0) == failed
    if failed:
        assert "slowest 30 ms (at most 20)" in row_of(result, 20)
