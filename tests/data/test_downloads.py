"""The data lists of official downloads, whose folders are taken as they are."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from pathlib import Path

import pytest
from download_fakes import fake_aptos, fake_shenzhen

from monai_plan.data import download_datalist, read_datalist
from monai_plan.utils import ConfigError, DataError


def _labels(path: Path, section: str) -> Counter[int]:
    return Counter(item["label"] for item in read_datalist(path).sections[section])


@pytest.fixture
def shenzhen(tmp_path: Path) -> Path:
    return fake_shenzhen(tmp_path)


@pytest.fixture
def aptos(tmp_path: Path) -> Path:
    return fake_aptos(tmp_path)


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
