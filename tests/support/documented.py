"""The examples of docs/client.md in other languages than Python, and running them."""

import asyncio
import os
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/client.md").read_text(encoding="utf-8")


def example(language: str) -> tuple[str, str]:
    """The program of the only block of a language, and what the page says that it prints."""
    ((program, printed),) = re.findall(rf"```{language}\n(.*?)```\s*prints\s*```\n(.*?)```", PAGE, re.DOTALL)
    return program, printed


def protoc_command(heading: str) -> str:
    """The command `protoc` under a heading, as a shell takes it."""
    section = PAGE.split(f"\n### {heading}\n")[1].split("\n### ")[0]
    commands: list[str] = re.findall(r"^\$ (protoc (?:.*\\\n)*.*)", section, re.MULTILINE)
    return commands[0]


def replaced(text: str, changes: dict[str, str]) -> str:
    """The text with each key, which it must contain, replaced by its value."""
    for old, new in changes.items():
        assert old in text, old
        text = text.replace(old, new)
    return text


async def output(*command: str | Path, folder: Path, stdin: str = "", **environment: str) -> str:
    """What a command prints. Fails with its stderr where it does not exit with 0."""
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=folder,
        env=os.environ | environment,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate(stdin.encode())
    if process.returncode != 0:
        pytest.fail(f"{command} exited with {process.returncode}: {err.decode()}")
    return out.decode()
