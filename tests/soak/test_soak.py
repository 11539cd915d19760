"""Short soaks: of the server, and of builds that are broken on purpose."""

import sys
from pathlib import Path

import pytest

from tests.soak.__main__ import SERVE, summary
from tests.soak.picture import draw
from tests.soak.soak import soak

SHORT = 0.5  # minutes
SHORT_GROWTH = 0.2  # memory is still settling; a leak of 30 MiB a second is more


@pytest.fixture
def folder(server_directory: Path, tmp_path: Path) -> Path:
    """A folder with a short path that lets unprivileged servers through."""
    folder = server_directory / f"soak{abs(hash(tmp_path)) % 10**6}"
    folder.mkdir(mode=0o711)
    return folder


async def test_a_soak_of_the_server_finds_nothing(folder: Path, tmp_path: Path):
    soaked = await soak(folder, SHORT, SERVE)
    assert soaked.problems(SHORT_GROWTH) == []
    assert soaked.cancelled
    assert len({name for _, name in soaked.events}) >= 2
    assert len(summary(soaked)) == 5
    draw(soaked, tmp_path / "soak.png")
    assert (tmp_path / "soak.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("kind", "problem"), [("leaking-with-time", "memory grew"), ("refusing", "RESOURCE_EXHAUSTED")]
)
async def test_a_soak_notices_a_build_that_is(kind: str, problem: str, folder: Path):
    soaked = await soak(folder, SHORT, (sys.executable, "-m", "tests.support.broken_builds", kind, "serve"))
    assert problem in " ".join(soaked.problems(SHORT_GROWTH))
