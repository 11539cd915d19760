"""The .proto files compile by themselves, as other languages' tools are given them."""

import importlib.util
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import google.rpc
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorSet

PROTO = Path(__file__).parents[2] / "proto"
OURS = "animora/ranking/v1/ranking.proto"
GOOGLES = sorted(str(path.relative_to(PROTO)) for path in (PROTO / "google").rglob("*.proto"))


def compile_alone(*arguments: str) -> None:
    """Runs protoc with `proto` as its only include path."""
    if importlib.util.find_spec("grpc_tools") is None:
        pytest.skip("grpcio-tools is not installed")
    subprocess.run((sys.executable, "-m", "grpc_tools.protoc", "-I", str(PROTO), *arguments), check=True)


@pytest.mark.parametrize("name", [OURS, *GOOGLES])
def test_each_file_compiles_with_proto_as_the_only_include_path(name, tmp_path):
    compile_alone(f"--descriptor_set_out={tmp_path / 'set'}", "--include_imports", name)
    files = FileDescriptorSet.FromString((tmp_path / "set").read_bytes()).file
    assert name in [file.name for file in files]
    assert all(file.options.go_package and file.options.java_package for file in files)


def test_googles_proto_files_equal_those_of_the_imported_package():
    requirements = (PROTO / "requirements.txt").read_text().split()
    if f"googleapis-common-protos=={version('googleapis-common-protos')}" not in requirements:
        pytest.skip("another googleapis-common-protos is installed than make proto copies from")
    installed = {
        path.name: path.read_text()
        for folder in google.rpc.__path__
        if Path(folder) != PROTO / "google/rpc"
        for path in Path(folder).glob("*.proto")
    }
    assert GOOGLES == ["google/rpc/error_details.proto", "google/rpc/status.proto"]
    for name in GOOGLES:
        text = (PROTO / name).read_text()
        assert text == installed[Path(name).name], "run make proto"
        assert "Apache License, Version 2.0" in text


@pytest.mark.parametrize("command", ["build", "lint"])
def test_the_proto_folder_is_a_buf_module(command):
    buf = shutil.which("buf", path=Path(sys.executable).parent) or shutil.which("buf")
    if buf is None:
        pytest.skip("buf is not installed")
    subprocess.run((buf, command), cwd=PROTO, check=True)
