"""Links, anchors and file names in the documentation resolve."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    page.relative_to(ROOT).as_posix()
    for pattern in ("*.md", ".github/*.md", "deploy/*.md", "docs/**/*.md")
    for page in ROOT.glob(pattern)
)
# History: names of modules may be those of an earlier release.
HISTORY = ("CHANGELOG.md",)
LINK = re.compile(r"\]\((?!https?:)([^)\s]+)\)")
MODULE = re.compile(r"`([a-z0-9_/]+\.py)`")  # without placeholders in capitals


def text(page: Path) -> str:
    """A page without its blocks of code."""
    return re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", text(page), re.MULTILINE)
    plain = (re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower() for heading in headings)
    return {re.sub(r"[^\w\- ]", "", heading).strip().replace(" ", "-") for heading in plain}


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_to_files_and_headings(name: str):
    page = ROOT / name
    broken = []
    for link in LINK.findall(text(page)):
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert broken == []


@pytest.mark.parametrize("name", [name for name in PAGES if name not in HISTORY])
def test_modules_that_a_page_names_exist(name: str):
    tops = ("client", "deploy", "proto", "server", "tests", "training")
    files = {f"/{path.relative_to(ROOT).as_posix()}" for top in tops for path in (ROOT / top).rglob("*.py")}
    named = MODULE.findall(text(ROOT / name))
    assert [module for module in named if not any(file.endswith(f"/{module}") for file in files)] == []


def test_help_shows_every_target_that_has_a_description():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    described = re.findall(r"^([a-z-]+):.*## ", makefile, re.MULTILINE)
    listed = subprocess.run(("make", "help"), cwd=ROOT, check=True, capture_output=True, text=True).stdout
    assert re.findall(r"^  ([a-z-]+) ", listed, re.MULTILINE) == described
