"""The table of failures: which tests show which row of docs/failures.md, and what they have seen.

A pytest plugin. A test of a row has the marker `failure(number)`; the fixture `seen` takes what it saw.
"""

import re
from collections.abc import Generator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from rich.console import Console
from rich.table import Table

PAGE = Path(__file__).parents[2] / "docs" / "failures.md"
ROW = re.compile(r"^\| (\d+) \| (.+) \| (.+) \|$", re.MULTILINE)
OUTCOMES = ("passed", "failed", "error", "skipped")


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the page."""

    number: int
    fault: str
    required: str


def rows() -> list[Row]:
    """The rows of docs/failures.md."""
    return [Row(int(number), fault, required) for number, fault, required in ROW.findall(PAGE.read_text())]


class Seen:
    """Collects what a test has seen.

    Args:
        properties: Those of the test's report.
        judges_times: Whether times are compared with their limits.
    """

    def __init__(self, properties: list[tuple[str, object]], judges_times: bool) -> None:
        self.judges_times = judges_times
        self._properties = properties

    def note(self, text: str) -> None:
        """Notes what was seen, for the column `seen` of the table."""
        self._properties.append(("seen", text))

    def number(self, what: str, value: float, at_most: float, unit: str = "") -> None:
        """Notes a measurement, and fails if it is above its limit where times are judged."""
        self.note(f"{what} {value:.3g} {unit}".rstrip() + f" (at most {at_most:g})")
        if self.judges_times:
            assert value <= at_most, f"{what}: {value} {unit}"


@pytest.fixture
def seen(request: pytest.FixtureRequest) -> Seen:
    """What this test has seen: for the table of `make faults`."""
    return Seen(request.node.user_properties, request.config.getoption("--judge-times"))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--judge-times",
        action="store_true",
        help="judge the times of docs/failures.md, repeat as often as it says, and print what was seen",
    )


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        for marker in item.iter_markers("failure"):
            item.user_properties += [("failure", number) for number in marker.args]


@dataclass
class Result:
    """What the tests of a row have seen, and how many had which outcome."""

    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(OUTCOMES, 0))
    seen: list[str] = field(default_factory=list)

    @property
    def verdict(self) -> str:
        """Whether the row is true."""
        if self.counts["failed"] or self.counts["error"]:
            return "NOT OK"
        return "ok" if self.counts["passed"] else "not shown"

    @property
    def tests(self) -> str:
        """The numbers of tests, by outcome."""
        return ", ".join(f"{count} {outcome}" for outcome, count in self.counts.items() if count)


@pytest.hookimpl(wrapper=True)
def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> Generator[None]:
    yield
    if config.getoption("--judge-times"):
        results: dict[int, Result] = {row.number: Result() for row in rows()}
        for outcome in OUTCOMES:
            for report in terminalreporter.stats.get(outcome, []):
                _add(results, outcome, report)
        _print(results)


def _add(results: dict[int, Result], outcome: str, report: pytest.TestReport) -> None:
    seen = [str(value) for name, value in report.user_properties if name == "seen"]
    for name, value in report.user_properties:
        if name == "failure" and isinstance(value, int):
            results[value].counts[outcome] += 1
            results[value].seen += seen


def _print(results: dict[int, Result]) -> None:
    table = Table(title="Failures", show_lines=True)
    for header in ("#", "fault", "required", "seen", ""):
        table.add_column(header, justify="right" if header == "#" else "left", overflow="fold")
    for row in rows():
        result = results[row.number]
        seen = "\n".join([*dict.fromkeys(result.seen), result.tests])
        table.add_row(str(row.number), row.fault, row.required, seen, result.verdict)
    Console(width=160).print(table, markup=False)
