"""The examples of docs/client.md run, and print what the page says."""

import asyncio
import re
import shutil
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "client.md"
EXAMPLES = re.findall(r"```python\n(.*?)```.*?```text\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


@pytest.fixture
def folder(certificates, tmp_path):
    """Where the examples run, with the files that they name."""
    for name in ("ca.pem", "leaf.pem", "leaf.key"):
        shutil.copy(certificates / name, tmp_path / name.replace("leaf", "client"))
    (tmp_path / "token.txt").write_text("example\n")
    return tmp_path


def test_every_example_of_the_page_is_followed_by_its_output():
    assert len(EXAMPLES) == PAGE.read_text(encoding="utf-8").count("```python") > 0


@pytest.mark.parametrize(("program", "printed"), EXAMPLES)
async def test_an_example_prints_what_the_page_says(program, printed, server, tls_server, folder):
    for name, target in (("localhost:50051", server.target), ("ranking.internal:50051", tls_server.target)):
        patient = "" if "timeout=" in program else ", timeout=60"  # however busy the machine is
        program = program.replace(f'Client("{name}"', f'Client("{target}"{patient}')

    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", program), cwd=folder, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()

    assert out.decode() == printed
