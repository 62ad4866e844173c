"""What a stranger gets: the source distribution whole, a description without dead links, files that say the truth."""

from __future__ import annotations

import configparser
import json
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from monai_plan import __version__

ROOT = Path(__file__).parents[1]
NOT_SHIPPED = {".gitattributes", ".gitignore"}


def _tracked() -> list[str]:
    done = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        pytest.skip("no checkout")
    return [name for name in done.stdout.splitlines() if (ROOT / name).is_file()]


def test_the_source_distribution_is_whole(tmp_path: Path) -> None:
    """Every tracked file is in it: tests, docs, examples, benchmarks, bundles."""
    pytest.importorskip("setuptools", minversion="77")
    tracked = _tracked()
    for name in tracked:
        (tmp_path / "source" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, tmp_path / "source" / name)
    code = "import sys, setuptools.build_meta as build; build.build_sdist(sys.argv[1])"
    command = [sys.executable, "-c", code, str(tmp_path)]
    subprocess.run(command, cwd=tmp_path / "source", check=True, capture_output=True)
    with tarfile.open(tmp_path / f"monai_plan-{__version__}.tar.gz") as archive:
        shipped = {name.partition("/")[2] for name in archive.getnames()}
        metadata = archive.extractfile(f"monai_plan-{__version__}/PKG-INFO").read().decode()  # type: ignore[union-attr]
    assert set(tracked) - shipped <= NOT_SHIPPED
    assert "Project-URL: Paper, https://arxiv.org/abs/2307.02984" in metadata
    assert "Author: monai_plan authors" in metadata
    assert "monai-plan quickstart" in metadata  # the description


def test_the_index_page_needs_no_file_beside_it() -> None:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    page = ROOT / parser["metadata"]["long_description"].removeprefix("file: ")
    links = re.findall(r"\]\(([^)]+)\)", page.read_text(encoding="utf-8"))
    assert links
    assert all(link.startswith("https://") for link in links)


PAGES = ["README.md", "CONTRIBUTING.md", *(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_somewhere(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    for link in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text):
        if not link.startswith("https://"):
            assert ((ROOT / name).parent / link).exists(), link


def test_the_citation_is_of_this_version() -> None:
    text = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\nversion: {__version__}\n" in text
    assert "arXiv:2307.02984" in text


def test_the_dockerfile_is_in_form() -> None:
    """As far as that can be told without Docker: known instructions, whole lines, files that are there."""
    text = re.sub(r"(?m)^#.*\n", "", (ROOT / "Dockerfile").read_text(encoding="utf-8")).replace("\\\n", " ")
    lines = [line.split(maxsplit=1) for line in text.splitlines() if line.strip()]
    assert lines[0] == ["FROM", "python:3.11-slim"]
    assert {name for name, _ in lines} <= {"FROM", "ARG", "ENV", "WORKDIR", "COPY", "RUN", "ENTRYPOINT", "CMD"}
    assert ["ARG", "TORCH_INDEX=https://download.pytorch.org/whl/cpu"] in lines
    assert [json.loads(rest) for name, rest in lines if name in ("ENTRYPOINT", "CMD")] == [["monai-plan"], ["--help"]]
    for name, rest in lines:
        if name == "COPY":
            *sources, _ = rest.split()
            assert sources
            assert all((ROOT / source).exists() for source in sources)
        if name == "ENV":
            assert all("=" in word for word in rest.split())
        if name == "RUN":
            assert shlex.split(rest)[:2] == ["pip", "install"]
