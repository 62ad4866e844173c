"""The table of options: it has every id that people set, and what cannot work is refused before an image is read."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_bundle import BUNDLE, TINY

from monai_plan.bundle import run_bundle
from monai_plan.bundle.options import OPTIONS, check_options
from monai_plan.bundle.runner.configs import make_plans
from monai_plan.bundle.runner.stages_file import load_stages
from monai_plan.utils import ConfigError

PATHS = {"bundle_root"}


def _config(name: str) -> dict[str, Any]:
    return json.loads((BUNDLE / "configs" / name).read_text(encoding="utf-8"))


def _is_option(id: str, value: Any) -> bool:
    """Whether people set it: a plain value, or one that follows from the data or the image size until it is set."""
    if isinstance(value, str):
        derived = ("$@defaults.", "$@data_facts.", "$list(@data_facts.")
        return id == "device" or value.startswith(derived) or (value[:1] not in "$@" and id not in PATHS)
    return not isinstance(value, dict) and not (isinstance(value, list) and any(isinstance(v, str) for v in value))


def test_the_table_and_the_check_have_every_option() -> None:
    stages = _config("stages.json")["stages"]
    configs = {name for stage in stages for name in stage["config"]}
    ids = {id for name in configs for id, value in _config(name).items() if _is_option(id, value) and "#" not in id}
    assert ids == set(OPTIONS)
    assert _config("check.json")["options"] == {id: f"@{id}" for id in OPTIONS}


WRONG = {
    "k": [3.5, 1, True, "5", None],
    "num_images": [20.5, 0],
    "total_images": [0, -5, 1e6],
    "epoch_images": [0],
    "batch_size": [0, 2.0],
    "g_lr": [float("nan"), 0, float("inf")],
    "r1_interval": [0, 1.5],
    "r1_weight": [-1, float("nan")],
    "encoder_epochs": [0],
    "identity_epochs": [0],
    "class_epochs": [0],
    "evaluation_epochs": [0],
    "evaluation_seeds": [0],
    "evaluation_batch_size": [1],
    "patience": [0],
    "classifier_batch_size": [0, 1],
    "img_size": [[16.0, 16], [4, 4], 16, [16], {}],
    "device": ["cuda:7", "tpu", "meta", 3.5],
    "intensity_range": [[255, 0], [0, 0], [0], [0, float("nan")], 255, ["0", "255"]],
    "seed": [1.5, -1, None],
    "ema_half_life": [-1, 0],
    "spatial_dims": [4, 2.0, "2"],
    "inversion_init": ["zero"],
    "balance": ["even"],
    "min_distance_quantile": [1.5, "0.1"],
    "walk_steps": [-1, 2.5],
    "release_name": ["", 3],
    "classifier_layers": [[1, 1, 1], [1, 1, 1, 0]],
    "perceptual": ["vgg"],
    "tensorboard": ["yes"],
}


@pytest.mark.parametrize(("id", "value"), [(id, value) for id, values in WRONG.items() for value in values], ids=repr)
def test_what_cannot_work_is_refused(id: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=rf"^{id} \(.+\) is .*, but must be .+\.$") as error:
        check_options({"skip_bad_images": False, id: value})
    assert "\n" not in str(error.value)


def test_what_works_passes() -> None:
    check_options({"k": 2, "num_images": None, "img_size": (96, 64, 96), "intensity_range": [-1000, 400.5], "seed": 0})
    check_options({"device": torch.device("cpu"), "min_distance_quantile": None, "walk_steps": 0, "g_lr": 1e-3})
    with pytest.raises(ConfigError, match="not in the table of options"):
        check_options({"new_id": 1})


@pytest.mark.parametrize(
    ("id", "value"), [("k", 3.5), ("class_epochs", 0), ("img_size", [16.0, 16]), ("device", "tpu"), ("seed", 1.5)]
)
def test_the_stage_check_refuses_before_an_image_is_read(
    tmp_path: Path, patients: Path, clean_logging: None, id: str, value: Any
) -> None:
    shutil.copytree(patients, tmp_path / "data")
    for image in (tmp_path / "data").rglob("*.png"):
        image.write_bytes(image.read_bytes()[:60])  # a header without pixels
    with pytest.raises(ConfigError, match=id):
        run_bundle(
            BUNDLE, dataset_dir=tmp_path / "data", output_dir=tmp_path / "out", overrides={**TINY, id: value},
            only=["check"], echo=lambda line: None,
        )  # fmt: skip
    assert not (tmp_path / "out" / "private" / "data.json").exists()


def test_the_docs_name_the_stages_that_use_an_id(tmp_path: Path) -> None:
    """The last column of the table of ids; ``check`` looks at all of them."""
    settings = {"dataset_dir": str(tmp_path), "output_dir": str(tmp_path / "out"), "bundle_root": str(BUNDLE)}
    plans = [plan for plan in make_plans(load_stages(BUNDLE), {}, settings) if plan.stage.name != "check"]
    used = {
        id: [plan.stage.name for plan in plans if any(key.partition("#")[0] == id for key in plan.config)]
        for id in OPTIONS
    }
    text = (Path(__file__).parents[2] / "docs" / "stages.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(\w+)` \| .* \| ([^|]*?) \|$", text.partition("## The ids")[2], re.MULTILINE))
    assert set(OPTIONS) <= rows.keys()
    for id, names in used.items():
        left_out = [plan.stage.name for plan in plans if plan.stage.name not in names]
        short = "all" if not left_out else f"all but {', '.join(left_out)}"
        assert rows[id] in (short, ", ".join(names)), id
