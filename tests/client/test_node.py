"""The example of docs/client.md for Node runs, and keeps ids that JavaScript's numbers cannot hold."""

import shutil
from pathlib import Path

import pytest

from tests.support.documented import ROOT, example, output, replaced

NODE = Path(__file__).parent / "node"


async def test_the_example_for_node_prints_what_the_page_says(server):
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed")
    if not (NODE / "node_modules").is_dir():
        pytest.skip("@grpc/grpc-js is not installed: make node-client")
    program, printed = example("js")
    program = replaced(
        program,
        {
            "localhost:50051": server.target,
            '"proto"': f'"{ROOT / "proto"}"',
            "Date.now() + 1000": "Date.now() + 60_000",  # however busy the machine is
        },
    )

    assert await output(node, "--input-type=module", "-", folder=NODE, stdin=program) == printed
