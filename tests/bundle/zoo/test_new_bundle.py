"""A bundle for one's own data: complete, valid, runnable, and without anything of the data but its form."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tiny_bundle import TINY

from monai_plan.__main__ import main
from monai_plan.bundle import run_bundle
from monai_plan.bundle.zoo import new_bundle
from monai_plan.data import inspect_datalist, make_phantoms, write_datalist, write_image
from monai_plan.utils import ConfigError, DataError, seeded_generator

pytestmark = pytest.mark.usefixtures("clean_logging", "checked_here")


@pytest.fixture(scope="module")
def flowers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Colour images, 40 x 24, of three classes with odd names."""
    folder = tmp_path_factory.mktemp("mustermann_ward")
    items: dict[str, list[dict[str, object]]] = {"training": [], "test": []}
    for number in range(15):
        image = torch.rand(3, 24, 40, generator=seeded_generator(0, number))
        write_image(folder / f"{number}.png", image)
        section = "training" if number < 12 else "test"
        items[section].append({"image": f"{number}.png", "label": number % 3, "subject": f"Mustermann-{number}"})
    labels = {0: "no <finding>", 1: "$@rose: 100 %", 2: "tulip"}
    write_datalist(folder / "datalist.json", labels=labels, sections=items, name="flowers")
    return folder


def _ids(bundle: Path, file: str) -> dict[str, object]:
    return json.loads((bundle / "configs" / file).read_text())


def test_what_it_takes_from_the_data(flowers: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = [
        "new-bundle",
        "flower_plan",
        "--dataset_dir",
        str(flowers),
        "--output_dir",
        str(tmp_path),
        "--authors",
        "we",
    ]
    assert main(command) == 0
    assert "flower_plan: nothing that the model zoo or the gate would refuse, 1 warnings." in capsys.readouterr().out
    bundle = tmp_path / "flower_plan"
    for file in ("common.json", "train.json", "inference.json"):
        ids = _ids(bundle, file)
        found = [ids[id] for id in ("spatial_dims", "img_channels", "num_classes", "img_size")]
        assert found == [2, 3, 3, list(inspect_datalist(flowers / "datalist.json").img_size)]
    metadata = _ids(bundle, "metadata.json")
    assert metadata["authors"] == "we"
    assert "(no finding, rose 100, tulip)" in str(metadata["description"])
    everything = "".join(path.read_text() for path in bundle.rglob("*") if path.is_file())
    assert "ustermann" not in everything
    assert main(command) == 2
    assert "exists: choose another name" in capsys.readouterr().err


def test_it_runs(patients: Path, tmp_path: Path) -> None:
    """By the runner, from its folder; one stage shows that the ids fit."""
    bundle = new_bundle("ward_plan", patients, output_dir=tmp_path, img_size=[16, 16])
    (outcome,) = run_bundle(
        bundle,
        dataset_dir=patients,
        output_dir=tmp_path / "out",
        overrides=TINY,
        only=["check"],
        echo=lambda line: None,
    )
    assert outcome.status == "ran"


def test_volumes(tmp_path: Path) -> None:
    make_phantoms(tmp_path / "data", spatial_dims=3, img_size=16, num_subjects=4, num_test_subjects=2, seed=0)
    bundle = new_bundle("organ_plan", tmp_path / "data", output_dir=tmp_path)
    ids = _ids(bundle, "inference.json")
    assert (ids["spatial_dims"], ids["img_size"], ids["output_ext"]) == (3, [16, 16, 16], ".nii.gz")
    assert "[16, 16, 16]" in (bundle / "ci" / "unit_tests" / "test_organ_plan.py").read_text()


def test_what_makes_none(patients: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="phantom_plan is a bundle that comes with monai_plan"):
        new_bundle("phantom_plan", patients, output_dir=tmp_path)
    with pytest.raises(ConfigError, match=r"must be even and at least 8, and 17 is not: take \[16, 16\]"):
        new_bundle("a_plan", patients, output_dir=tmp_path, img_size=[17, 17])
    with pytest.raises(DataError, match=r"datalist\.json does not exist: make it by monai-plan datalist"):
        new_bundle("a_plan", tmp_path, output_dir=tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("names", [("<2 mm", "≥2 mm"), ("A/B", "A B")])
def test_classes_that_would_have_one_name(names: tuple[str, str], patients: Path, tmp_path: Path) -> None:
    content = json.loads((patients / "datalist.json").read_text())
    images = [{"image": str(patients / item["image"]), "label": item["label"]} for item in content["training"]]
    (tmp_path / "datalist.json").write_text(json.dumps({"labels": dict(enumerate(names)), "training": images}))
    with pytest.raises(DataError, match=f"names classes '{names[0]}' and '{names[1]}' in .*would both be"):
        new_bundle("a_plan", tmp_path, output_dir=tmp_path)


def test_a_data_list_without_images(tmp_path: Path) -> None:
    (tmp_path / "datalist.json").write_text('{"labels": {"0": "a", "1": "b"}, "training": []}')
    with pytest.raises(DataError, match='lists no image in "training"'):
        new_bundle("a_plan", tmp_path, output_dir=tmp_path)
