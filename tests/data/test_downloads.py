"""The data lists of official downloads, whose folders are taken as they are."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from pathlib import Path

import pytest
import torch

from monai_plan.bundle import run_bundle
from monai_plan.data import download_datalist, read_datalist, write_image
from monai_plan.utils import ConfigError, DataError, seeded_generator

# as small as it goes, for the check of the two benchmarks
SMALL = {
    "img_size": [16, 16], "z_dim": 16, "w_dim": 16, "channel_base": 64, "channel_max": 8, "batch_size": 4,
    "classifier_channels": [4, 4, 4, 4], "encoder_channels": [4, 4, 4, 4], "k": 2, "evaluation_seeds": 1,
    "device": "cpu", "backbone": "random", "min_distance_quantile": None,
}  # fmt: skip


def _image(path: Path, channels: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = torch.rand(1, 24, 20, generator=seeded_generator(0, path.name)).expand(channels, -1, -1).clone()
    if channels == 3 and "CHN" not in path.name:
        image[0] = 1 - image[0]
    write_image(path, image)


@pytest.fixture
def shenzhen(tmp_path: Path) -> Path:
    """Unpacked ``ChinaSet_AllFiles.zip``: pictures, some grey stored as RGB, readings as text, and what a Mac
    leaves."""
    root = tmp_path / "ChinaSet_AllFiles"
    for number in range(1, 31):
        label = int(number > 14)
        _image(root / "CXR_png" / f"CHNCXR_{number:04d}_{label}.png", 3 if number % 2 else 1)
        reading = root / "ClinicalReadings" / f"CHNCXR_{number:04d}_{label}.txt"
        reading.parent.mkdir(exist_ok=True)
        reading.write_text("male 45yrs\nnormal\n")
    (root / "CXR_png" / "Thumbs.db").write_bytes(b"\0")
    (root / "NLM-ChinaCXRSet-ReadMe.docx").write_bytes(b"PK")
    return root


@pytest.fixture
def aptos(tmp_path: Path) -> Path:
    root = tmp_path / "aptos2019"
    rows = ["id_code,diagnosis"]
    for number in range(60):
        rows.append(f"{number:012x},{number % 5}")
        _image(root / "train_images" / f"{number:012x}.png", 3)
    (root / "train.csv").write_text("\n".join(rows) + "\n")
    (root / "test.csv").write_text("id_code\nffff\n")
    (root / "test_images").mkdir()
    return root


def _labels(path: Path, section: str) -> Counter[int]:
    return Counter(item["label"] for item in read_datalist(path).sections[section])


def test_the_lists(shenzhen: Path, aptos: Path, tmp_path: Path) -> None:
    output = tmp_path / "private" / "datalist.json"
    assert download_datalist("shenzhen", shenzhen, output=output, test_fraction=0.2, seed=0) == output
    assert _labels(output, "training") + _labels(output, "test") == {0: 14, 1: 16}
    assert _labels(output, "test") == {0: 3, 1: 3}
    other = download_datalist("aptos", aptos, output=tmp_path / "aptos.json", max_per_class=10)
    assert _labels(other, "training") == dict.fromkeys(range(5), 8)


def test_who_is_taken_out_of_the_folder_is_out_of_the_list(shenzhen: Path, tmp_path: Path) -> None:
    output = tmp_path / "datalist.json"
    download_datalist("shenzhen", shenzhen, output=output)
    before = output.stat().st_mtime_ns
    download_datalist("shenzhen", shenzhen, output=output)
    assert output.stat().st_mtime_ns == before
    (shenzhen / "CXR_png" / "CHNCXR_0003_0.png").unlink()
    download_datalist("shenzhen", shenzhen, output=output)
    assert "CHNCXR_0003" not in output.read_text()
    output.unlink()
    download_datalist("shenzhen", shenzhen, output=output)
    assert "CHNCXR_0004" in output.read_text()


def test_a_list_of_ones_own_goes_before(aptos: Path, tmp_path: Path) -> None:
    shutil.copy(aptos / "train.csv", aptos / "datalist.json")
    assert download_datalist("aptos", aptos, output=tmp_path / "x.json") == aptos / "datalist.json"
    assert not (tmp_path / "x.json").exists()


def test_what_is_no_download(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"source is 'mednist', but must be 'aptos' or 'shenzhen'\."):
        download_datalist("mednist", tmp_path, output=tmp_path / "x.json")
    with pytest.raises(DataError, match=r"holds no files named like CHNCXR_0001_0\.png"):
        download_datalist("shenzhen", tmp_path, output=tmp_path / "x.json")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("bundle", ["chest_xray_tuberculosis_plan", "fundus_retinopathy_plan"])
def test_a_benchmark_takes_the_folder_as_it_is(
    bundle: str, shenzhen: Path, aptos: Path, tmp_path: Path, clean_logging: None
) -> None:
    root = shenzhen if "tuberculosis" in bundle else aptos
    changes = {} if root == shenzhen else {"datalist_file#max_per_class": 8}
    before = sorted(path for path in root.rglob("*"))
    output = tmp_path / "out"
    run_bundle(
        bundle, dataset_dir=root, output_dir=output, overrides=SMALL | changes, only=["check"], echo=lambda line: None
    )
    assert sorted(path for path in root.rglob("*")) == before, "nothing is written there"
    found = json.loads((output / "private" / "data.json").read_text())
    assert found["training"]["images"] == (24 if root == shenzhen else 30)
    datalist = read_datalist(output / "private" / "cache" / "datalist.json")
    assert len(datalist.labels) == (2 if root == shenzhen else 5)
    outcomes = run_bundle(
        bundle, dataset_dir=root, output_dir=output, overrides=SMALL | changes, only=["check"], echo=lambda line: None
    )
    assert [outcome.status for outcome in outcomes] == ["skipped"]
