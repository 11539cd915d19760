"""The three commands as installed: their versions, and errors for missing extras."""

import re
import subprocess
import sys
from importlib.metadata import version

import pytest

ENTRANCES = {
    "animora-client": ("animora_client.cli", "cli"),
    "animora-server": ("animora_server.__main__", "server"),
    "animora-train": ("animora_training.__main__", "training"),
}
# Modules of the base install; all other third-party modules are hidden.
BASE = ("google", "grpc", "grpc_health", "grpc_status", "typing_extensions")
HEAVY = ("asyncpg", "matplotlib", "numba", "redis", "scipy", "torch")
COMMANDS = [
    (program, command)
    for program, commands in {
        "animora-client": ["--help", "rank", "timeline", "health", "bench"],
        "animora-server": ["--help", "serve", "demo", "precompute", "check-config"],
        "animora-train": [
            *("--help", "fit", "evaluate", "compare", "publish", "activate", "rollback", "list"),
            "import sample",
        ],
    }.items()
    for command in commands
]
LACKING = """
import sys
from importlib.abc import MetaPathFinder

class Lacking(MetaPathFinder):
    def find_spec(self, name, path, target=None):
        top = name.partition(".")[0]
        if top in sys.stdlib_module_names or top.startswith("animora_") or top in {present!r}:
            return None
        raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Lacking())
sys.argv = {arguments!r}
from {module} import main
main()
"""


def run_lacking(program: str, *arguments: str, present: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
    """Runs a command with only these third-party modules."""
    source = LACKING.format(present=present, arguments=[program, *arguments], module=ENTRANCES[program][0])
    return subprocess.run((sys.executable, "-c", source), capture_output=True, text=True, check=False)


@pytest.mark.parametrize("program", ENTRANCES)
def test_each_command_prints_its_version_in_a_base_install(program):
    done = run_lacking(program, "--version", present=BASE)
    assert (done.returncode, done.stdout) == (0, f"{program} {version('animora-ranking')}\n"), done.stderr


@pytest.mark.parametrize(("program", "command"), COMMANDS)
def test_each_command_names_its_extra_in_a_base_install(program, command):
    done = run_lacking(program, *command.split(), present=BASE)
    extra = "cli,embedded,server,training" if command == "demo" else ENTRANCES[program][1]
    assert done.returncode == 1
    assert re.fullmatch(
        rf"{program}: \w+ is not installed; this needs: pip install 'animora-ranking\[{extra}\]'\n",
        done.stderr,
    )


@pytest.mark.parametrize(
    ("program", "command", "heavy"),
    [
        ("animora-client", "--help", HEAVY),
        ("animora-server", "--help", (*HEAVY, "grpc", "numpy")),
        ("animora-server", "check-config", (*HEAVY, "grpc", "numpy")),
    ],
)
def test_light_commands_import_no_heavy_packages(program, command, heavy):
    source = f"""
import sys
for name in {heavy!r}:
    sys.modules[name] = None
sys.argv = {[program, command]!r}
from {ENTRANCES[program][0]} import main
main()
"""
    done = subprocess.run((sys.executable, "-c", source), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
