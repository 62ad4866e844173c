"""The bundles of the repository are what ``scripts/make_bundles.py`` makes."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from monai_plan.bundle.names import TEMPLATE
from monai_plan.bundle.options import OPTIONS, check_options
from monai_plan.bundle.zoo import BundleRecipe, bundle_path, write_bundle
from monai_plan.utils import ConfigError

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_bundles", ROOT / "scripts" / "make_bundles.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {path.relative_to(folder).as_posix(): path.read_bytes().replace(b"\r\n", b"\n") for path in files}


def test_the_bundles_are_those_of_the_recipes(script: ModuleType, tmp_path: Path) -> None:
    script.make_bundles(tmp_path, ROOT / "bundles" / "phantom_plan" / "models" / "model.pt")
    made, there = _contents(tmp_path), _contents(ROOT / "bundles")
    assert made.keys() == there.keys()
    # another PyTorch writes the same weights in other bytes, whose hash is in the metadata
    same = torch.__version__.partition("+")[0] == script.VERSIONS["torch"]
    of_version = set() if same else {f"phantom_plan/{name}" for name in ("models/model.pt", "configs/metadata.json")}
    different = [name for name in there if made[name] != there[name] and name not in of_version]
    assert different == [], "run python scripts/make_bundles.py"


def test_the_ids_of_a_recipe_are_what_people_may_set(script: ModuleType) -> None:
    """And of the kind that the template has there."""
    template: dict[str, Any] = {}
    for file in (bundle_path(TEMPLATE) / "configs").glob("*.json"):
        template |= {id: value for id, value in json.loads(file.read_text()).items() if id in OPTIONS}
    for recipe in script.RECIPES:
        ids = {id: value for id, value in recipe.ids.items() if id != "datalist_file"}
        check_options(ids)
        for id, value in ids.items():
            if isinstance(template[id], list):
                assert isinstance(value, list), id
                assert len(value) == len(template[id]), id


def _recipe(**changes: Any) -> BundleRecipe:
    texts = dict.fromkeys(("title", "task", "description", "data_source", "data_type", "modality", "authors"), "text")
    texts |= dict.fromkeys(("about", "data", "performance", "data_license"), "text")
    return BundleRecipe(**{"name": "a_plan", "classes": ("a", "b"), **texts, **changes})


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        (_recipe(ids={"walk_stps": 3}), "has the id 'walk_stps'"),
        (_recipe(name="A-plan"), "such as a_plan"),
        (_recipe(weights_of="phantoms"), "weights are given if and only if"),
    ],
)
def test_what_makes_no_bundle(recipe: BundleRecipe, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        write_bundle(recipe, tmp_path, versions={})
    assert list(tmp_path.iterdir()) == []
