"""What the check says of a whole set: pictures that occur twice, values that fit no range, volumes that lie askew."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from monai.transforms import Compose
from PIL import Image

from monai_plan.data import CheckedDataset, IntensityScaling, LoadShownImaged, ScaleShownd, describe_data
from monai_plan.data.dataset import join_subjects
from monai_plan.utils import DataError

SIZE = 24


def noise(seed: int) -> np.ndarray:
    """Smooth enough that two pictures with a little noise are nearly alike, and two seeds are not."""
    coarse = np.random.default_rng(seed).integers(0, 200, (6, 6)).astype(np.uint8)
    return np.array(Image.fromarray(coarse).resize((SIZE, SIZE), Image.Resampling.BICUBIC))


def sections(
    folder: Path, training: list[tuple[Any, str, int]], test: list[tuple[Any, str, int]] = (), **options: Any
) -> dict[str, CheckedDataset]:
    """Sections of pictures or volumes, each with its subject and label."""
    content: dict[str, Any] = {"labels": {"0": "a", "1": "b"}}
    for section, entries in (("training", training), ("test", test or [(noise(90 + n), f"t{n}", n) for n in (0, 1)])):
        content[section] = []
        for number, (array, subject, label) in enumerate(entries):
            if isinstance(array, np.ndarray):
                file = f"{section}{number}.png"
                Image.fromarray(array).save(folder / file)
            else:
                file = f"{section}{number}.nii"
                nibabel.save(array, folder / file)
            content[section].append({"image": file, "label": label, "subject": subject})
    (folder / "datalist.json").write_text(json.dumps(content))
    steps = Compose(
        [
            LoadShownImaged("image"),
            ScaleShownd("image", options.pop("scaling", IntensityScaling("range", (0.0, 255.0)))),
        ]
    )
    arguments = {
        "datalist_file": folder / "datalist.json", "transform": steps, "img_size": (SIZE, SIZE), "img_channels": 1,
        "num_classes": 2, **options,
    }  # fmt: skip
    data = CheckedDataset(**arguments)
    known = data.digests if options.get("merge_duplicates") else ()
    return {"training": data, "test": CheckedDataset(section="test", known=known, **arguments)}


def ordinary(count: int = 12) -> list[tuple[Any, str, int]]:
    return [(noise(seed), f"p{seed}", seed % 2) for seed in range(count)]


def test_an_ordinary_set_raises_no_suspicion(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="monai_plan"):
        found = describe_data(sections(tmp_path, ordinary()))
    assert caplog.text == ""
    assert found["duplicates"] == found["near_duplicates"] == found["look_alikes"] == []
    assert found["intensity"] == "range 0 to 255, as given"
    assert found["training"]["images_per_class"] == {0: 6, 1: 6}
    assert 0.5 < found["training"]["range_used"] < 0.9
    json.dumps(found)


def test_the_same_picture_of_two_patients_in_both_sections_or_under_two_classes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    training = [*ordinary(), (noise(0), "other", 0), (np.stack([noise(3)] * 3, -1), "p3", 0), (noise(5), "p5", 1)]
    test = [(noise(1), "t1", 1), (noise(77), "t2", 0)]
    with caplog.at_level(logging.WARNING, logger="monai_plan"):
        found = describe_data(sections(tmp_path, training, test))
    assert [group["images"] for group in found["duplicates"]] == [
        ["training0.png", "training12.png"],  # two patients
        ["training1.png", "test0.png"],  # two sections
        ["training3.png", "training13.png"],  # two classes, one file as RGB
    ]  # twice of one patient, section and class is no matter: training5 and 14
    assert found["near_duplicates"] == []
    assert "3 pictures occur more than once" in caplog.text
    assert "--merge_duplicates" in caplog.text


def test_blank_images_are_no_duplicates(tmp_path: Path) -> None:
    blank = np.full((SIZE, SIZE), 7, np.uint8)
    training = [*ordinary(40), (blank, "x", 0), (blank, "y", 1)]
    found = describe_data(sections(tmp_path, training))
    assert found["duplicates"] == []
    assert found["training"]["constant"] == ["training40.png", "training41.png"]


def test_nearly_the_same_picture_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    like = np.clip(noise(2).astype(int) + np.random.default_rng(0).integers(-1, 2, (SIZE, SIZE)), 0, 255)
    training = [*ordinary(), (like.astype(np.uint8), "other", 0), (255 - noise(4), "inverse", 0)]
    with caplog.at_level(logging.WARNING, logger="monai_plan"):
        found = describe_data(sections(tmp_path, training))
    assert found["near_duplicates"] == [("training2.png", "training12.png")]
    assert (
        "1 pairs of images of different patients are nearly the same (training2.png and training12.png)" in caplog.text
    )


def test_patients_who_share_a_picture_can_count_as_one(tmp_path: Path) -> None:
    training = [*ordinary(), (noise(0), "other", 0), (noise(50), "other", 1)]
    test = [(noise(1), "t1", 1), (noise(77), "t2", 0), (noise(78), "t3", 1)]
    data = sections(tmp_path, training, test, merge_duplicates=True)
    assert data["training"].num_subjects == 12
    assert data["training"].subjects[12:] == ["other", "other"]
    assert data["training"].subjects[0] == "other"  # the first in sorted order
    assert data["test"].keys == ["test1.png", "test2.png"]  # the training section has the first
    assert torch.equal(data["test"].images[0, 0], torch.from_numpy(noise(77)).float().T / 127.5 - 1)
    assert len(data["test"].labels) == len(data["test"].images) == len(data["test"].digests) == 2


def test_chains_of_subjects_are_joined() -> None:
    joined = join_subjects(["x", "x", "y", "y", "z", "w"], ["d", "c", "c", "b", "a", "b"])
    assert joined == {"a": "a", "b": "b", "c": "b", "d": "b"}


def test_a_range_that_does_not_fit(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="monai_plan"):
        found = describe_data(sections(tmp_path, ordinary(), scaling=IntensityScaling("range", (0.0, 60.0))))
    assert found["training"]["white"] > 0.5
    assert "of all pixels are white" in caplog.text
    assert "images white in more than half of their pixels: " in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING, logger="monai_plan"):
        found = describe_data(sections(tmp_path, ordinary(), scaling=IntensityScaling("range", (0.0, 4095.0))))
    assert found["training"]["range_used"] < 0.06
    assert "only 5 % of the range is used" in caplog.text
    with pytest.raises(DataError, match=r"12 of 12 training images are of one value .*range 1000 to 2000"):
        describe_data(sections(tmp_path, ordinary(), scaling=IntensityScaling("range", (1000.0, 2000.0))))


def test_an_outlying_image_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    training = [*ordinary(), (np.uint8(255) - noise(20) // 8, "bright", 0)]
    with caplog.at_level(logging.WARNING, logger="monai_plan"):
        found = describe_data(sections(tmp_path, training))
    assert found["training"]["outlying"] == ["training12.png"]
    assert "much brighter, darker, flatter or harsher than the others: 1 (training12.png)" in caplog.text


def test_subjects_that_look_alike_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    training = [*ordinary(), (noise(30), "P 01", 0), (noise(31), "p1.0", 1)]
    with caplog.at_level(logging.WARNING, logger="monai_plan"):
        found = describe_data(sections(tmp_path, training))
    assert found["look_alikes"] == [["P 01", "p1", "p1.0"]]
    assert "1 groups of subjects differ only in case" in caplog.text


def test_volumes_that_lie_otherwise_are_listed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def stack(seed: int, affine: np.ndarray) -> nibabel.Nifti1Image:
        return nibabel.Nifti1Image(np.random.default_rng(seed).random((8, 8, 8)).astype(np.float32), affine)

    turn = np.eye(4)
    turn[:2, :2] = [[0.9, -0.43589], [0.43589, 0.9]]
    tilted = np.eye(4)
    tilted[1, 2] = 0.2
    affines = [np.eye(4)] * 8 + [np.diag([1, 1, 2.5, 1]), turn, np.diag([-1.0, -1.0, 1.0, 1.0]), tilted]
    training = [(stack(n, affine), f"p{n}", n % 2) for n, affine in enumerate(affines)]
    test = [(stack(90 + n, np.eye(4)), f"t{n}", n) for n in (0, 1)]
    with caplog.at_level(logging.WARNING, logger="monai_plan"):
        found = describe_data(
            sections(tmp_path, training, test, img_size=(8, 8, 8), scaling=IntensityScaling("range", (0.0, 1.0)))
        )
    # LPS was brought to RAS
    assert found["training"]["lie_otherwise"] == ["training8.nii", "training9.nii", "training11.nii"]
    assert found["training"]["oblique_angled"] == ["training11.nii"]
    assert found["test"]["oblique_angled"] == []
    assert "1 volumes have axes that are not at right angles to each other" in caplog.text
    assert "3 volumes differ from the others in spacing or direction" in caplog.text
