"""The manifest: what was changed, added, taken away or linked since, and whose seal it bears."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from monai_plan.bundle.gate.manifest import MANIFEST_NAME, check_manifest, write_manifest
from monai_plan.utils import DataError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "left"
    (folder / "images").mkdir(parents=True)
    (folder / "images" / "0.png").write_bytes(b"picture")
    (folder / "card.md").write_text("what it is")
    write_manifest(folder, kind="data", key_file=tmp_path / "private" / "key.json")
    return folder


def test_a_whole_folder(folder: Path, tmp_path: Path) -> None:
    assert check_manifest(folder, key_file=tmp_path / "private" / "key.json") == []
    content = json.loads((folder / MANIFEST_NAME).read_text())
    assert sorted(content["files"]) == ["card.md", "images/0.png"]
    (folder / f"{MANIFEST_NAME}.sig").write_text("of ssh-keygen")
    assert check_manifest(folder) == []


def test_what_became_of_it(folder: Path) -> None:
    (folder / "images" / "0.png").write_bytes(b"pictura")
    (folder / "card.md").unlink()
    (folder / "notes.txt").write_text("mine")
    (folder / "more").symlink_to(folder / "images")
    problems = check_manifest(folder)
    assert [problem.split(" ")[0] for problem in problems] == ["card.md", "images/0.png", "more", "notes.txt"]
    for problem, word in zip(
        problems, ["not in the folder", "changed", "is a link", "not in the manifest"], strict=True
    ):
        assert word in problem


def test_a_manifest_that_was_changed_with_its_files(folder: Path, tmp_path: Path) -> None:
    """Whoever changes both leaves another digest, and cannot make the seal."""
    before = json.loads((folder / MANIFEST_NAME).read_text())["digest"]
    (folder / MANIFEST_NAME).unlink()
    (folder / "card.md").write_text("something else")
    assert write_manifest(folder, kind="data", key_file=tmp_path / "other.json") != before
    assert check_manifest(folder) == []
    (problem,) = check_manifest(folder, key_file=tmp_path / "private" / "key.json")
    assert "seal is not of this key" in problem


def test_a_file_that_was_taken_out_of_both(folder: Path) -> None:
    content = json.loads((folder / MANIFEST_NAME).read_text())
    content["files"].pop("card.md")
    (folder / MANIFEST_NAME).write_text(json.dumps(content))
    (folder / "card.md").unlink()
    (problem,) = check_manifest(folder)
    assert "the digest of the manifest" in problem


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"schema": "monai_plan.manifest", "schema_version": 9}', '{"files": {"a": "no hash"}}'],
)
def test_what_is_no_manifest(folder: Path, text: str) -> None:
    (folder / MANIFEST_NAME).write_text(text)
    with pytest.raises(DataError, match=r"manifest"):
        check_manifest(folder)


def test_a_key_that_is_not_there(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere\.json does not exist"):
        check_manifest(folder, key_file=tmp_path / "nowhere.json")
