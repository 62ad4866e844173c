"""A full disk, a folder that is none: one sentence with the path and what to do, exit code 2, nothing half written.

The limit on the size of a file stands for a full disk: as there, a write fails in the middle.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from PIL import Image
from tiny_bundle import BUNDLE, TINY

import monai_plan.bundle.quickstart
from monai_plan.__main__ import main
from monai_plan.networks import StyleGAN2Generator, import_stylegan2
from monai_plan.utils import is_temporary, write_tensors

resource = pytest.importorskip("resource")


@contextmanager
def full_disk(most: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def told(capsys: pytest.CaptureFixture[str], *parts: str) -> None:
    """That stderr ends with one sentence that has these parts."""
    lines = capsys.readouterr().err.strip().splitlines()
    assert lines[-1].startswith("monai_plan: ")
    assert not any("Traceback" in line for line in lines)
    for part in parts:
        assert part in lines[-1]


def half_written(folder: Path) -> list[str]:
    return [name for _, folders, files in os.walk(folder) for name in (*folders, *files) if name.startswith(".")]


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    for number in range(12):
        file = tmp_path / "pictures" / "ab"[number % 2] / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (4, 4), number).save(file)
    return tmp_path / "pictures"


def small_generator(file: str) -> StyleGAN2Generator:
    return StyleGAN2Generator(2, 8, 1, 5, 6, 2, channel_base=64, channel_max=4, mapping_layers=2)


@pytest.mark.parametrize("command", ["datalist", "phantoms", "import-stylegan2", "quickstart"])
def test_a_full_disk(tmp_path: Path, pictures: Path, capsys, monkeypatch, command: str) -> None:
    monkeypatch.setattr(import_stylegan2, "load_stylegan2_pickle", small_generator)
    (tmp_path / "a.pkl").touch()
    out = tmp_path / "out"
    arguments = {
        "datalist": ["datalist", "folders", str(pictures), "--output", str(out / "datalist.json")],
        "phantoms": ["phantoms", "--output_dir", str(out), "--img_size", "32", "--num_subjects", "4"],
        "import-stylegan2": ["import-stylegan2", str(tmp_path / "a.pkl"), "--output", str(out / "model.pt")],
        "quickstart": ["quickstart", "--output_dir", str(out)],
    }[command]
    with full_disk(400):
        assert main(arguments) == 2
    told(capsys, str(out), "(File too large): make room on that disk")
    assert half_written(tmp_path) == []


@pytest.mark.parametrize("command", ["datalist", "phantoms", "import-stylegan2", "quickstart", "run"])
def test_a_file_in_the_place_of_a_folder(tmp_path: Path, pictures: Path, capsys, monkeypatch, command: str) -> None:
    monkeypatch.setattr(import_stylegan2, "load_stylegan2_pickle", small_generator)
    out = tmp_path / "a.pkl"
    out.touch()
    arguments = {
        "datalist": ["datalist", "folders", str(pictures), "--output", str(out / "datalist.json")],
        "phantoms": ["phantoms", "--output_dir", str(out / "x"), "--num_subjects", "4"],
        "import-stylegan2": ["import-stylegan2", str(out), "--output", str(out / "model.pt")],
        "quickstart": ["quickstart", "--output_dir", str(out / "x")],
        "run": ["run", str(BUNDLE), "--dataset_dir", str(pictures), "--output_dir", str(out / "x")],
    }[command]
    assert main(arguments) == 2
    told(capsys, str(out), "a file stands where a folder is needed")


def test_a_folder_in_the_place_of_a_file(tmp_path: Path, pictures: Path, capsys, monkeypatch) -> None:
    monkeypatch.setattr(import_stylegan2, "load_stylegan2_pickle", small_generator)
    (tmp_path / "a.pkl").touch()
    assert main(["import-stylegan2", str(tmp_path / "a.pkl"), "--output", str(pictures)]) == 2
    told(capsys, f"{pictures} cannot be", "a folder stands where a file is needed")
    assert half_written(tmp_path) == []


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.ENOSPC, "make room"),
        (errno.EROFS, "where you may read and write"),
        (errno.EACCES, "where you may read and write"),
        (errno.ENOENT, "it is gone"),
        (errno.EIO, "see that the disk is there"),
    ],
)
def test_what_goes_wrong_with_a_disk_has_a_remedy(capsys, monkeypatch, number: int, remedy: str) -> None:
    def refuse(output_dir: str, **options: object) -> None:
        raise OSError(number, os.strerror(number), "/mnt/x/a.pt")

    monkeypatch.setattr(monai_plan.bundle.quickstart, "quickstart", refuse)
    assert main(["quickstart"]) == 2
    told(capsys, "/mnt/x/a.pt", os.strerror(number), remedy, "Finished stages are kept; the same command goes on")


def test_a_disk_that_fills_in_a_stage_keeps_what_is_done(tmp_path: Path, patients: Path, capsys, clean_logging) -> None:
    out = tmp_path / "out"
    ids = [f"--{id}={value}" for id, value in TINY.items()]
    run = [
        "run",
        str(BUNDLE),
        "--dataset_dir",
        str(patients),
        "--output_dir",
        str(out),
        *ids,
        "--only",
        "check",
        "train_autoencoder",
        "train",
    ]
    with full_disk(50_000):
        assert main(run) == 2
    told(capsys, str(out / "private"), "make room on that disk", "Finished stages are kept")
    assert [name for name in half_written(out) if is_temporary(name)] == []
    assert main(run) == 0
    assert "check: skipped" in capsys.readouterr().out


def test_why_torch_could_not_write_is_told(tmp_path: Path) -> None:
    with full_disk(10_000), pytest.raises(OSError, match="File too large") as error:
        write_tensors(tmp_path / "a.pt", torch.zeros(100_000))
    assert error.value.filename == str(tmp_path / "a.pt")
    assert list(tmp_path.iterdir()) == []
