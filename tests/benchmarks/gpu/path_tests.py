"""The test part of `make bench-gpu`: runs tests/cuda by pytest and reports how many passed and failed."""

import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from xml.etree import ElementTree

from tests.benchmarks.gpu.figures import TESTS_FAILED, TESTS_PASSED
from tests.benchmarks.gpu.measuring import Options, report, say
from tests.cuda.conftest import SERVER_PACKAGES

FOLDER = "tests/cuda"
SMALL = ("-k", "refused or without_memory")


def main(options: Options) -> None:
    """Runs those of the GPU; without one, those of the CPU."""
    if missing := [package for package in SERVER_PACKAGES if find_spec(package) is None]:
        say(f"tests: those of swaps and of the shared device left out: {', '.join(missing)} not installed")
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder, "result.xml")
        subprocess.run(
            (
                *(sys.executable, "-m", "pytest", "-q", f"--confcutdir={FOLDER}", "-p", "no:cacheprovider"),
                # A warning of another version of PyTorch is no failure.
                *("-W", "ignore", f"--junitxml={result}", *(SMALL if options.small else ()), FOLDER),
                *("-m", "cuda" if options.device.type == "cuda" else "not cuda"),
            ),
            check=False,
        )
        suite = ElementTree.parse(result).getroot().find("testsuite")
    assert suite is not None  # pytest writes one
    total, failed, skipped = (
        sum(int(suite.attrib[name]) for name in names)
        for names in (("tests",), ("failures", "errors"), ("skipped",))
    )
    report(TESTS_PASSED, total - failed - skipped)
    if total:
        report(TESTS_FAILED, failed)


if __name__ == "__main__":
    main(Options.parse())
