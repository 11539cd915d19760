"""The example of docs/client.md for Node runs, and keeps ids that JavaScript's numbers cannot hold."""

import asyncio
import re
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NODE = Path(__file__).parent / "node"
EXAMPLE = re.compile(r"```js\n(.*?)```\s*prints\s*```\n(.*?)```", re.DOTALL)


async def test_the_example_for_node_prints_what_the_page_says(server):
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed")
    if not (NODE / "node_modules").is_dir():
        pytest.skip("@grpc/grpc-js is not installed: make node-client")
    ((program, printed),) = EXAMPLE.findall((ROOT / "docs/client.md").read_text(encoding="utf-8"))
    program = program.replace("localhost:50051", server.target).replace('"proto"', f'"{ROOT / "proto"}"')
    assert "Date.now() + 1000" in program
    program = program.replace("Date.now() + 1000", "Date.now() + 60_000")  # however busy the machine is

    process = await asyncio.create_subprocess_exec(
        *(node, "--input-type=module", "-"),
        cwd=NODE,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await process.communicate(program.encode())

    assert out.decode() == printed
