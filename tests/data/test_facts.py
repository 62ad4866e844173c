"""What is taken from the data list and the headers, and the scaling that is chosen."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from monai.data.meta_tensor import MetaTensor
from PIL import Image
from variants import dicom, picture, rgb, volume

from monai_plan.data import DatalistFacts, IntensityScaling, ScaleShownd, choose_scaling, inspect_datalist
from monai_plan.data.facts import STARTS, fitting_size
from monai_plan.utils import ConfigError, DataError


def dataset(folder: Path, arrays: list[Any], *, names: int = 2, suffix: str = ".png", **tags: Any) -> Path:
    """A data list of files made of arrays; the classes take turns."""
    items = []
    for number, array in enumerate(arrays):
        file = folder / f"{number}{suffix}"
        if suffix == ".png":
            Image.fromarray(array).save(file)
        elif suffix == ".dcm":
            dicom(file, array, **tags)
        else:
            nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), file)
        items.append({"image": file.name, "label": number % names})
    content = {"labels": {str(n): f"c{n}" for n in range(names)}, "training": items}
    (folder / "datalist.json").write_text(json.dumps(content))
    return folder / "datalist.json"


GREY = [picture(seed, 40, 60) for seed in range(6)]
DEEP = [array.astype(np.uint16) * 16 for array in GREY]  # up to 4000: 12 bits
VOLUMES = [np.random.default_rng(seed).random((20, 30, 20)).astype(np.float32) * 50 for seed in range(6)]
HOUNSFIELD = [array * 40 - 1024 for array in VOLUMES]


@pytest.mark.parametrize(
    ("arrays", "options", "expected"),
    [
        (GREY, {}, (2, 2, 1, (56, 40))),
        (GREY, {"names": 3}, (3, 2, 1, (56, 40))),
        ([rgb(array) for array in GREY], {}, (2, 2, 3, (56, 40))),
        ([np.stack([array] * 3, -1) for array in GREY], {}, (2, 2, 1, (56, 40))),  # grey stored as RGB
        (VOLUMES, {"suffix": ".nii.gz"}, (2, 3, 1, (20, 28, 20))),
        (GREY, {"suffix": ".dcm"}, (2, 2, 1, (56, 40))),
        ([rgb(array) for array in GREY], {"suffix": ".dcm", "photometric": "RGB"}, (2, 2, 3, (56, 40))),
    ],
)
def test_facts(tmp_path: Path, arrays: list[Any], options: Any, expected: Any) -> None:
    facts = inspect_datalist(dataset(tmp_path, arrays, **options))
    assert (facts.num_classes, facts.spatial_dims, facts.img_channels, facts.img_size) == expected
    assert len(facts.headers) == 6


def test_they_are_said_in_one_line_and_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = dataset(tmp_path, GREY)
    with caplog.at_level(logging.INFO, logger="monai_plan"):
        assert inspect_datalist(path) is inspect_datalist(str(path))
    (line,) = [record.getMessage() for record in caplog.records if "found in the data" in record.getMessage()]
    assert "num_classes 2, spatial_dims 2, img_channels 1, 8 bits, sizes 60 x 40, by default img_size [56, 40]" in line


def test_volumes_that_do_not_say_where_left_is_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = dataset(tmp_path, VOLUMES, suffix=".nii")
    inspect_datalist(path)
    assert "left and right" not in caplog.text
    image = nibabel.Nifti1Image(VOLUMES[3], None)  # both codes are 0
    nibabel.save(image, tmp_path / "3.nii")
    nibabel.save(nibabel.AnalyzeImage(VOLUMES[4], np.diag([-1.0, 1, 1, 1])), tmp_path / "4.img")
    path.write_text(path.read_text().replace("4.nii", "4.img"))
    inspect_datalist(path)
    assert re.search(
        r"2 of 6 volumes do not say where left and right are .* such as \S*3\.nii: .*to the left", caplog.text
    )


def test_a_changed_list_is_looked_at_again(tmp_path: Path) -> None:
    inspect_datalist(dataset(tmp_path, GREY))
    assert inspect_datalist(dataset(tmp_path, GREY, names=3)).num_classes == 3


def test_without_data_a_network_can_still_be_built(tmp_path: Path) -> None:
    facts = inspect_datalist(tmp_path / "datalist.json")
    assert facts == DatalistFacts()
    assert (facts.num_classes, facts.img_size) == (2, (64, 64))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"labels": {"1": "a", "2": "b"}, "shift": 1},
            "labels from 1 to 2, but labels begin at 0: subtract 1 from each",
        ),
        ({"labels": {"0": "a", "2": "b"}}, r"names the classes \[0, 2\]"),
        ({"labels": {"0": "a", "1": "b", "2": "c"}}, r"no image of class 2 \(c\)"),
        ({"folder": "elsewhere"}, "none of the 6 images .* exists"),
    ],
)
def test_what_the_list_alone_shows_comes_before_a_file_is_opened(
    tmp_path: Path, change: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = dataset(tmp_path, GREY)
    content = json.loads(path.read_text())
    content["labels"] = change.get("labels", content["labels"])
    for item in content["training"]:
        item["label"] += change.get("shift", 0)
        item["image"] = f"{change.get('folder', '.')}/{item['image']}"
    path.write_text(json.dumps(content))
    monkeypatch.setattr("monai_plan.data.facts.image_header", None)
    with pytest.raises(DataError, match=message):
        inspect_datalist(path)


def test_a_set_of_which_nothing_can_be_used_is_refused_with_the_reason(tmp_path: Path) -> None:
    path = dataset(tmp_path, [np.stack([array] * 2, -1) for array in VOLUMES], suffix=".nii")
    with pytest.raises(DataError, match=r"6 images, of which none can be used: .*0\.nii has 4 axes, 20 x 30 x 20 x 2"):
        inspect_datalist(path)


@given(st.lists(st.tuples(st.integers(8, 4000), st.integers(8, 4000)), min_size=1, max_size=5))
def test_a_fitting_size(sizes: list[tuple[int, int]]) -> None:
    size = fitting_size(sizes)
    power = min(n & -n for n in size)
    assert any(all(n % 2**p == 0 and n // 2**p in STARTS for n in size) for p in range(1, 5)), power
    assert all(n <= 64 for n in size)
    assert all(n <= sorted(axis)[len(axis) // 2] for n, axis in zip(size, zip(*sizes, strict=True), strict=True))


def test_some_fitting_sizes() -> None:
    assert fitting_size([(256, 256)]) == (64, 64)
    assert fitting_size([(28, 28)]) == (28, 28)
    assert fitting_size([(35, 50, 35)]) == (32, 48, 32)
    assert fitting_size([(2000, 3000)]) == (40, 56)


# ---- scaling ---------------------------------------------------------------------------------------------------------

CHOICES = {
    "8 bits": (GREY, {}, "range 0 to 255, for all values have 8 bits"),
    "12 of 16 bits in a PNG": (DEEP, {}, "range 0 to 4095, for 12 of 16 bits are used"),
    "16 bits": ([array * 16 for array in DEEP], {}, "range 0 to 65535, for 16 of 16 bits are used"),
    "DX of 12 bits": (DEEP, {"suffix": ".dcm", "bits": 12}, "range 0 to 4095, for 12 of 12 bits are used"),
    "CT in DICOM": ([array.astype(np.int16) for array in DEEP], {"suffix": ".dcm", "Modality": "CT"},
                    "window -1000 to 400, for all files are CT"),
    "MR in DICOM": (DEEP, {"suffix": ".dcm", "Modality": "MR"}, "percentiles 0.5 to 99.5, for MR has no scale"),
    "CT in NIfTI": (HOUNSFIELD, {"suffix": ".nii.gz"}, "window -1000 to 400, for values .* look like Hounsfield units"),
    "MR in NIfTI": (VOLUMES, {"suffix": ".nii.gz"},
                    "percentiles 0.5 to 99.5, for values without a scale end between"),
    "volumes of 8 bits": ([volume().astype(np.uint8)] * 3, {"suffix": ".nii"}, "range 0 to 255, for all"),
    "some of 8, some of 16 bits": ([*GREY[:3], *DEEP[3:]], {}, "for files of 16 bits and 8 bits have no common scale"),
}  # fmt: skip


@pytest.mark.parametrize("case", CHOICES)
def test_the_choice_and_its_reason(case: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    arrays, options, text = CHOICES[case]
    with caplog.at_level(logging.INFO, logger="monai_plan"):
        scaling = choose_scaling(datalist_file=dataset(tmp_path, arrays, **options))
    assert re.search(text, str(scaling)), scaling


def test_changed_proportions_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    inspect_datalist(dataset(tmp_path, [np.zeros((64, 64, 24), np.int16)] * 3, suffix=".nii"))
    told = r"\[28, 28, 16\] changes the proportions of images of 64 x 64 x 24, .* 7 : 4 apart; the size of the voxels"
    assert re.search(told, caplog.text)
    caplog.clear()
    (tmp_path / "square").mkdir()
    inspect_datalist(dataset(tmp_path / "square", [np.zeros((32, 32, 32), np.int16)] * 3, suffix=".nii"))
    assert "proportions" not in caplog.text


def test_a_stray_file_does_not_decide_for_all(tmp_path: Path) -> None:
    arrays = [*[picture(seed) for seed in range(40)], DEEP[0]]
    assert str(choose_scaling(datalist_file=dataset(tmp_path, arrays))).startswith("range 0 to 255")


def test_a_stray_volume_does_not_take_the_window_from_ct(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    stray = np.full_like(HOUNSFIELD[0], 17)
    arrays = [HOUNSFIELD[0] + seed for seed in range(20)]
    scaling = choose_scaling(datalist_file=dataset(tmp_path, [*arrays, stray], suffix=".nii"))
    assert str(scaling).startswith("window -1000 to 400")
    assert re.search(r"1 of 21 files .* have no values of CT, such as .*\.nii \(17 to 17\)", caplog.text)
    (tmp_path / "few").mkdir()
    few = choose_scaling(datalist_file=dataset(tmp_path / "few", [*arrays[:4], stray], suffix=".nii"))
    assert re.search(r"percentiles .*, for values without a scale end between 17 \(.*\.nii\) and", str(few))


def test_what_is_given_goes_before(tmp_path: Path) -> None:
    def choose(**options: Any) -> str:
        return str(choose_scaling(datalist_file=tmp_path / "no such list", **options))

    assert choose(intensity_range=[0, 4095]) == "range 0 to 4095, as given"
    assert choose(intensity="window", intensity_range=[-160, 240]) == "window -160 to 240, as given"
    assert choose(intensity="window").startswith("window -1000 to 400")
    assert choose(intensity="percentiles", intensity_percentiles=[1, 99]) == "percentiles 1 to 99, as given"
    for options, message in (
        ({"intensity": "linear"}, "intensity is 'linear', but must be one of auto, range"),
        ({"intensity_range": [5, 5]}, "first must be less than the second"),
        ({"intensity_range": 255}, "must be two numbers"),
        ({"intensity": "percentiles", "intensity_percentiles": [0, 120]}, "between 0 and 100"),
        ({"intensity": "percentiles", "intensity_range": [0, 255]}, "leave intensity_range out"),
    ):
        with pytest.raises(ConfigError, match=message):
            choose(**options)


def test_a_range_is_not_guessed_where_there_is_none(tmp_path: Path) -> None:
    path = dataset(tmp_path, VOLUMES, suffix=".nii")
    with pytest.raises(ConfigError, match=r"values without a scale end between .*: give intensity_range as well"):
        choose_scaling(datalist_file=path, intensity="range")


def test_scaling() -> None:
    values = torch.tensor([[-50.0, 0.0, 100.0, 200.0, 300.0]])
    by_range = ScaleShownd("image", IntensityScaling("range", (0.0, 200.0)))({"image": values, "label": 1})
    assert torch.equal(by_range["image"], torch.tensor([[-1.0, -1.0, 0.0, 1.0, 1.0]]))
    assert by_range["label"] == 1
    by_percentiles = ScaleShownd("image", IntensityScaling("percentiles", None, (25.0, 75.0)))
    assert torch.equal(by_percentiles({"image": values})["image"], torch.tensor([[-1.0, -1.0, 0.0, 1.0, 1.0]]))
    assert torch.equal(by_percentiles({"image": values * 1e6})["image"], torch.tensor([[-1.0, -1.0, 0.0, 1.0, 1.0]]))
    flat = by_percentiles({"image": torch.full((1, 4), 7.0)})["image"]
    assert torch.equal(flat, torch.full((1, 4), -1.0))
    sparse = by_percentiles({"image": torch.tensor([[0.0] * 9 + [5.0]])})["image"]
    assert sparse.tolist() == [[-1.0] * 9 + [1.0]]  # what differs is the picture
    placed = ScaleShownd("image", IntensityScaling("range", (0.0, 200.0)))(
        {"image": MetaTensor(values[None], affine=torch.eye(4) * 2)}
    )
    assert torch.equal(placed["image"].affine, torch.eye(4) * 2)
