"""Bundles by name: found from anywhere, and not where a folder is meant."""

from __future__ import annotations

import configparser
from pathlib import Path

import pytest

from monai_plan.__main__ import main
from monai_plan.bundle import run_bundle
from monai_plan.bundle.zoo import bundle_folder, bundle_path, bundles, check_name
from monai_plan.utils import ConfigError

ROOT = Path(__file__).parents[3]


def test_the_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bundles"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in printed[::2]] == list(bundles())
    assert [Path(line.strip()) for line in printed[1::2]] == list(bundles().values())
    assert "phantom_plan 0.1.0, with weights" in "\n".join(printed)


def test_a_name_is_a_bundle_and_a_folder_goes_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert bundle_folder("phantom_plan") == bundle_path("phantom_plan")
    (tmp_path / "phantom_plan" / "configs").mkdir(parents=True)
    assert bundle_folder("phantom_plan") == Path("phantom_plan")
    assert bundle_folder("./chest_xray_plan") == Path("chest_xray_plan")
    assert bundle_folder(".") == Path(".")
    assert bundle_folder(tmp_path) == tmp_path


def test_a_bundle_runs_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    with pytest.raises(ConfigError, match=r"the bundle has no stage 'wal'\. The closest known: walk"):
        run_bundle("phantom_plan", dataset_dir="data", output_dir="out", only=["wal"])
    with pytest.raises(ConfigError, match=r"no bundle is called 'fantom_plan'.* Did you mean phantom_plan\?"):
        run_bundle("fantom_plan", dataset_dir="data", output_dir="out")


@pytest.mark.parametrize("name", ["Knee", "knee-plan", "knee plan", "2d_plan", "knee__plan", "", "../knee", "knee_"])
def test_what_is_no_name(name: str) -> None:
    with pytest.raises(ConfigError, match="cannot be the name of a bundle"):
        check_name(name)


def test_the_bundles_travel_in_the_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the patterns of setup.cfg; and are found there."""
    options = configparser.ConfigParser()
    options.read(ROOT / "setup.cfg", encoding="utf-8")
    patterns = options["options.package_data"]["monai_plan.bundles"].split()
    travel = {path for pattern in patterns for path in (ROOT / "bundles").glob(pattern)}
    there = {path for path in (ROOT / "bundles").rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    assert there - travel == set()
    (tmp_path / "other_plan" / "configs").mkdir(parents=True)
    (tmp_path / "other_plan" / "configs" / "metadata.json").write_text("{}")
    monkeypatch.setattr("monai_plan.bundle.names._PLACES", (tmp_path, ROOT / "bundles"))
    assert bundle_path("other_plan") == tmp_path / "other_plan"
    assert "phantom_plan" in bundles()
