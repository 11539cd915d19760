"""The hash-locked dependencies of the images agree with pyproject.toml, constraints.txt and the Makefile."""

import re
import tomllib
from typing import NamedTuple

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

OF_TORCH = re.compile(r"torch|triton|cuda-.*|nvidia-.*")
EXTRAS = {"server": {"s3", "server", "signing"}, "trainer": {"s3", "signing", "training"}}
# Only on Windows or an early Python 3.11; constraints.txt is of the tests' own environment.
ELSEWHERE = {"async-timeout", "colorama", "pywin32"}


class Pin(NamedTuple):
    """A locked package."""

    requirement: Requirement
    hashes: list[str]

    @property
    def version(self) -> str:
        (specifier,) = self.requirement.specifier
        assert specifier.operator == "=="
        return specifier.version


@pytest.fixture
def locked(checkout):
    """Reads a lock: its packages by name."""

    def read(name: str) -> dict[str, Pin]:
        text = (checkout / f"deploy/requirements/{name}.txt").read_text().replace("\\\n", " ")
        pins: dict[str, Pin] = {}
        for line in text.splitlines():
            if line and not line.startswith("#"):
                requirement, *hashes = line.split("--hash=")
                pin = Pin(Requirement(requirement), [each.strip() for each in hashes])
                pins[canonicalize_name(pin.requirement.name)] = pin
        return pins

    return read


@pytest.fixture
def constraints(checkout):
    lines = (checkout / "constraints.txt").read_text().splitlines()
    return {canonicalize_name(name): version for name, _, version in (line.partition("==") for line in lines)}


@pytest.fixture
def project(checkout):
    return tomllib.loads((checkout / "pyproject.toml").read_text())["project"]


@pytest.fixture
def makefile(checkout):
    return (checkout / "Makefile").read_text()


@pytest.mark.parametrize("name", ["server", "trainer", "torch", "build"])
def test_every_package_has_a_version_and_hashes(locked, name):
    for pin in locked(name).values():
        assert pin.version
        assert pin.hashes
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", each) for each in pin.hashes)


@pytest.mark.parametrize("name", ["server", "trainer", "torch", "build"])
def test_no_lock_names_an_index(checkout, name):
    assert "://" not in (checkout / f"deploy/requirements/{name}.txt").read_text()


@pytest.mark.parametrize("name", ["server", "trainer", "torch", "build"])
def test_versions_are_those_of_the_constraints(locked, constraints, name):
    pins = locked(name)
    assert {package: pin.version for package, pin in pins.items() if package in constraints} == {
        package: constraints[package] for package in pins if package in constraints
    }


@pytest.mark.parametrize("program", EXTRAS)
def test_the_lock_of_an_image_has_all_that_its_extras_need_but_pytorch(locked, project, makefile, program):
    named = re.search(rf"^LOCK_{program} := (.*)", makefile, re.MULTILINE)
    assert named
    assert set(re.findall(r"--extra (\w+)", named[1])) == EXTRAS[program]
    pins = locked(program)
    needed = [Requirement(each) for each in project["dependencies"]]
    pending = [*EXTRAS[program]]
    while pending:
        for each in map(Requirement, project["optional-dependencies"][pending.pop()]):
            if each.name == project["name"]:
                pending += each.extras
            else:
                needed.append(each)
    for requirement in needed:
        if requirement.name != "torch":
            pin = pins[canonicalize_name(requirement.name)]
            assert requirement.specifier.contains(pin.version), requirement
    assert not [package for package in pins if OF_TORCH.fullmatch(package)]


def test_packages_that_the_constraints_do_not_pin_come_with_other_systems_or_pytorch(locked, constraints):
    for program in EXTRAS:
        unpinned = locked(program).keys() - constraints.keys() - ELSEWHERE
        assert unpinned <= locked("torch").keys()


def test_the_lock_of_pytorch_is_of_the_default_build(locked, makefile):
    default = re.search(r"^TORCH \?= torch==(\S+)$", makefile, re.MULTILINE)
    assert default
    assert locked("torch")["torch"].version == default[1]


def test_the_build_backend_is_locked(locked, checkout):
    text = (checkout / "pyproject.toml").read_text()
    for requirement in map(Requirement, tomllib.loads(text)["build-system"]["requires"]):
        assert requirement.specifier.contains(locked("build")[requirement.name].version)
