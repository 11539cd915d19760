"""Commands import only what they need: torch alone takes seconds."""

import subprocess
import sys

import pytest

from animora_artifact import FolderStore
from tests.support.dot_product import make_artifact

HEAVY = ("torch", "matplotlib", "scipy", "implicit", "tensorboard", "jinja2")
# Runs the command line, then prints which of the modules it imported.
PROGRAM = """
import sys
from animora_training.__main__ import main
sys.argv = ["animora-train", *sys.argv[1:]]
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
print("imported:", *({heavy} & sys.modules.keys()))
"""


@pytest.fixture
def store(tmp_path):
    store = FolderStore(tmp_path / "store")
    for version in ("v1", "v2"):
        store.mark_verified(store.publish(make_artifact(version)))
        store.activate(version)
    return str(tmp_path / "store")


@pytest.mark.parametrize(
    "words",
    [
        *(
            ("--help",),
            ("--version",),
            ("fit", "--help"),
            ("compare", "--help"),
            ("import", "sample", "--help"),
        ),
        *(("list",), ("list", "--json"), ("activate", "v1"), ("rollback",)),
    ],
    ids=" ".join,
)
def test_commands_without_computation_import_no_heavy_packages(words, store):
    more = () if "--help" in words or "--version" in words else ("--store", store)
    program = PROGRAM.format(heavy=set(HEAVY))
    ended = subprocess.run(
        (sys.executable, "-c", program, *words, *more), capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines()[-1] == "imported:"
