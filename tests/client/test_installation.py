"""What the base install must be able to do without the extra."""

import subprocess
import sys

EXTRAS = ("matplotlib", "numpy", "rich", "typer")
FORBIDDEN = ("asyncpg", "redis", "torch", "animora_artifact", "animora_server")

WITHOUT = f"""
import sys
for name in {(*EXTRAS, *FORBIDDEN)!r}:
    sys.modules[name] = None  # as if it were not installed
"""


def python(program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)


def test_the_library_imports_with_the_base_dependencies_alone():
    done = python(WITHOUT + "import animora_client; print(*animora_client.__all__)")

    assert done.returncode == 0, done.stderr
    assert "AsyncRankingClient" in done.stdout


def test_the_command_says_which_extra_it_needs():
    done = python(WITHOUT + "from animora_client.cli import main; main()")

    assert done.returncode == 1
    assert done.stderr.endswith("typer is not installed; this needs: pip install 'animora-ranking[cli]'\n")


def test_the_command_needs_nothing_of_the_server():
    assert (
        python(
            f"import sys\nfor name in {FORBIDDEN!r}: sys.modules[name] = None\n"
            "import animora_client.cli.app, animora_client.bench.plot"
        ).returncode
        == 0
    )
