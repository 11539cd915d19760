import json
import re
import tomllib
from dataclasses import dataclass
from fnmatch import fnmatch

import pytest

from animora_server.configuration import options

INSTRUCTIONS = {
    "ARG", "CMD", "COPY", "ENTRYPOINT", "ENV", "EXPOSE", "FROM", "HEALTHCHECK", "LABEL", "RUN", "STOPSIGNAL",
    "USER", "WORKDIR",
}  # fmt: skip


@dataclass(frozen=True)
class Dockerfile:
    """Its instructions in order, as (word, arguments)."""

    instructions: list[tuple[str, str]]

    def all(self, word):
        return [arguments for name, arguments in self.instructions if name == word]

    def last(self, word):
        return self.all(word)[-1]


@pytest.fixture(params=["server", "trainer"])
def program(request):
    return request.param


@pytest.fixture
def dockerfile(checkout, program):
    text = (checkout / f"deploy/{program}.Dockerfile").read_text()
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    joined = re.sub(r"\\\n", "", "\n".join(lines)).splitlines()
    return Dockerfile([(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in joined)])


@pytest.fixture(scope="module")
def project(checkout):
    return tomllib.loads((checkout / "pyproject.toml").read_text())


def is_ignored(path, patterns):
    """Whether .dockerignore keeps a path out: the last pattern to match it or a parent decides."""
    ignored = False
    for pattern in patterns:
        name = pattern.removeprefix("!")
        if fnmatch(path, name) or path.startswith(f"{name}/"):
            ignored = not pattern.startswith("!")
    return ignored


def test_every_instruction_is_known(dockerfile):
    assert {word for word, _ in dockerfile.instructions} <= INSTRUCTIONS


def test_copied_files_exist_and_are_not_ignored(dockerfile, checkout):
    patterns = [
        line for line in (checkout / ".dockerignore").read_text().splitlines() if not line.startswith("#")
    ]
    sources = [
        source
        for arguments in dockerfile.all("COPY")
        if not arguments.startswith("--from")
        for source in arguments.split()[:-1]
    ]
    assert sources
    for source in sources:
        assert (checkout / source).exists(), source
        assert not is_ignored(source, patterns), source


def test_all_sources_of_the_wheel_are_copied(dockerfile, project):
    copied = {source for arguments in dockerfile.all("COPY") for source in arguments.split()[:-1]}
    packages = project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    assert all({package, package.split("/")[0]} & copied for package in packages)
    assert {"pyproject.toml", project["project"]["readme"], "LICENSE"} <= copied


def test_the_last_stage_has_no_build_tools_of_the_first(dockerfile):
    assert len(dockerfile.all("FROM")) == 2
    last = max(at for at, (word, _) in enumerate(dockerfile.instructions) if word == "FROM")
    assert not any("pip install" in rest for _, rest in dockerfile.instructions[last:])


def test_the_image_runs_as_an_unprivileged_numeric_user(dockerfile):
    assert dockerfile.last("USER") == "10001:10001"
    at = [word for word, _ in dockerfile.instructions].index("USER")
    assert "RUN" not in [word for word, _ in dockerfile.instructions[at:]]


def test_an_init_starts_the_program_without_a_shell(dockerfile, project):
    """A program that runs as process 1 loses a signal that arrives before Python handles it."""
    entrypoint = json.loads(dockerfile.last("ENTRYPOINT"))
    assert entrypoint[:-1] == ["tini", "-s", "--"]
    assert entrypoint[-1] in project["project"]["scripts"]
    assert all(isinstance(word, str) for word in json.loads(dockerfile.last("CMD")))
    assert dockerfile.last("STOPSIGNAL") == "SIGTERM"


def test_the_last_stage_installs_the_init(dockerfile):
    last = max(at for at, (word, _) in enumerate(dockerfile.instructions) if word == "FROM")
    (installed,) = [rest for word, rest in dockerfile.instructions[last:] if "apt-get install" in rest]
    packages = installed.split("--no-install-recommends ")[1].split(" && ")[0].split()
    assert "tini" in packages


def test_everything_but_another_pytorch_build_is_installed_by_hash(dockerfile, program):
    steps = [step for rest in dockerfile.all("RUN") for step in re.split(r"&&|;|\bthen\b|\belse\b", rest)]
    installing = [step for step in steps if "pip install" in step]
    unlocked = [step for step in installing if "--require-hashes" not in step and "dist/*.whl" not in step]
    assert [re.findall(r'"\$\{\w+\}"', step) for step in unlocked] == [['"${TORCH}"']]
    locks = re.findall(r"--requirement (\w+)\.txt", " ".join(installing))
    assert locks == ["torch", program, "build"]


def test_the_default_pytorch_build_is_that_of_the_makefile(dockerfile, checkout):
    default = re.search(r"^TORCH \?= (\S+)$", (checkout / "Makefile").read_text(), re.MULTILINE)
    assert default
    assert f"TORCH={default[1]}" in dockerfile.all("ARG")


def test_no_package_index_is_hard_coded(dockerfile):
    assert {"PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL"} <= set(dockerfile.all("ARG"))
    hosts = re.findall(r"https?://([\w.-]+)", str(dockerfile.instructions))
    assert set(hosts) <= {"127.0.0.1"}


def test_every_variable_is_an_option(dockerfile):
    known = {option.variable for option in options()}
    names = re.findall(r"(ANIMORA_\w+)=", "\n".join(dockerfile.all("ENV")))
    assert names
    assert set(names) <= known


def test_the_health_check_of_the_image_is_liveness(checkout):
    text = (checkout / "deploy/server.Dockerfile").read_text()
    command = json.loads(re.sub(r"\\\n", "", text.split("    CMD ", 1)[1].split("\nENTRYPOINT")[0]))
    assert command[:2] == ["python", "-c"]
    assert "/livez" in command[2]
    compile(command[2], "healthcheck", "exec")
