"""The published files: a source archive, and a wheel built from it."""

import importlib.util
import re
import subprocess
import sys
import tarfile
import zipfile
from email.parser import HeaderParser
from importlib.metadata import version
from pathlib import Path, PurePosixPath

import pytest

PACKAGES = {
    "animora_artifact",
    "animora_client",
    "animora_database",
    "animora_demo",
    "animora_process",
    "animora_proto",
    "animora_server",
    "animora_training",
}
COMMANDS = {"animora-client", "animora-server", "animora-train"}


@pytest.fixture(scope="module")
def wheel(checkout, tmp_path_factory):
    """A wheel built from an unpacked source archive."""
    if importlib.util.find_spec("hatchling") is None:
        pytest.skip("hatchling is not installed")
    folder = tmp_path_factory.mktemp("dist")
    build(checkout, "sdist", folder)
    (archive,) = folder.glob("*.tar.gz")
    with tarfile.open(archive) as unpacked:
        unpacked.extractall(folder, filter="data")
    build(folder / archive.name.removesuffix(".tar.gz"), "wheel", folder)
    (built,) = folder.glob("*.whl")
    with zipfile.ZipFile(built) as opened:
        yield opened


def build(source: Path, target: str, folder: Path) -> None:
    command = (sys.executable, "-m", "hatchling", "build", "--target", target, "--directory", str(folder))
    subprocess.run(command, cwd=source, check=True, capture_output=True)


def test_the_top_level_of_the_wheel_has_our_packages_alone(wheel):
    top = {PurePosixPath(name).parts[0] for name in wheel.namelist()}
    assert {name for name in top if not name.endswith(".dist-info")} == PACKAGES


def test_the_wheel_holds_every_file_of_the_packages(wheel, checkout):
    tracked = subprocess.run(
        ("git", "ls-files", "proto/animora_proto", "client", "training", "server", "deploy/animora_demo"),
        cwd=checkout,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split()
    names = [name.partition("/")[2] for name in tracked if (checkout / name).exists()]
    assert set(names) <= set(wheel.namelist())


def test_the_wheel_has_our_commands_and_no_others(wheel):
    (points,) = (name for name in wheel.namelist() if name.endswith(".dist-info/entry_points.txt"))
    lines = wheel.read(points).decode().split("\n")
    assert {line.partition(" =")[0] for line in lines if "=" in line} == COMMANDS


def test_the_wheel_names_its_licence_and_shows_the_readme(wheel):
    (metadata,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    fields = HeaderParser().parsestr(wheel.read(metadata).decode())
    assert (fields["Name"], fields["License-Expression"]) == ("animora-ranking", "Apache-2.0")
    assert fields["Description-Content-Type"] == "text/markdown"
    assert [name for name in wheel.namelist() if name.endswith("licenses/LICENSE")]


def test_the_proto_files_in_the_wheel_compile_by_themselves(wheel, tmp_path):
    if importlib.util.find_spec("grpc_tools") is None:
        pytest.skip("grpcio-tools is not installed")
    wheel.extractall(tmp_path)
    protoc = (sys.executable, "-m", "grpc_tools.protoc", "-I", str(tmp_path / "animora_proto/proto"))
    output = f"--descriptor_set_out={tmp_path / 'set'}"
    subprocess.run((*protoc, output, "animora/ranking/v1/ranking.proto"), check=True)


READ = ("README.md", "docs", "deploy", "client", "server", "training", "Makefile", "proto")
# The requirement after `pip install` and its options; no path or file.
INSTALLED = re.compile(
    r"pip3? install (?:--?\S+ )*(?:'([a-zA-Z][^'\[ ]*)|\"([a-zA-Z][^\"\[ ]*)|(animora[\w.-]*))"
)


def test_docs_and_messages_name_only_our_distribution_to_install(checkout):
    tops = [checkout / name for name in READ]
    paths = [path for top in tops for path in (top, *top.rglob("*")) if path.is_file()]
    texts = {path: path.read_text(encoding="utf-8", errors="replace") for path in paths}
    named = [(path, next(filter(None, found))) for path in texts for found in INSTALLED.findall(texts[path])]
    assert {path.name for path, _ in named} >= {"README.md", "models.md", "binaries.py", "entry_point.py"}
    wheel = f"dist/animora_ranking-{version('animora-ranking')}-py3-none-any.whl"
    assert {name for _, name in named} == {"animora-ranking", wheel}
    # `animora` is another project's, with or without an extra.
    assert [path for path, text in texts.items() if re.search(r"\banimora\[", text)] == []
