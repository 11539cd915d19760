"""The README's promises that can be executed."""

import asyncio
import re
import shlex
import sys
from pathlib import Path

import pytest
from typer.core import TyperGroup
from typer.main import get_command

from animora_client.cli.app import app
from animora_server.command_line import cli

PROGRAMS = {"animora-client": get_command(app), "animora-server": get_command(cli)}
README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


async def test_the_client_example_runs_as_printed(application):
    example = re.search(r"```python\n(.*?)```", README, re.DOTALL)
    assert example is not None
    program = example.group(1).replace("localhost:50051", f"127.0.0.1:{application.grpc.port}")
    assert program != example.group(1)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", program.replace("101, 102, 103", "100, 200, 300")),
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await process.communicate()
    assert process.returncode == 0
    assert re.fullmatch(rb"[\[(]\d+, \d+[\])] neucf\n", output)


@pytest.mark.parametrize("line", re.findall(r"^\$ \.venv/bin/(.*)", README, re.MULTILINE))
def test_the_commands_of_the_readme_exist(line: str):
    name, command, *arguments = shlex.split(line)
    program = PROGRAMS[name]
    assert isinstance(program, TyperGroup)
    with program.commands[command].make_context(command, arguments) as context:
        assert not context.args


def test_the_readme_is_short_and_its_links_resolve():
    assert len(README.splitlines()) < 150
    for link in re.findall(r"\]\((?!http)([^)#]+)", README):
        assert (Path(__file__).parents[2] / link).exists(), link
