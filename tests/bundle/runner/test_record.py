"""What is recorded of a stage, and how a later run tells what changed."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from toy import LATER, TRAIN, WALK, Toy, toy_bundle

from monai_plan.bundle.runner import record
from monai_plan.utils import DataError, write_text


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Toy]:
    yield from toy_bundle(tmp_path, monkeypatch)


def test_changed_and_missing_files_are_named(toy: Toy) -> None:
    toy.run()
    (toy.out / "private" / "paths.txt").unlink()
    assert toy.reasons() == {"walk": "private/paths.txt is missing", "emit": "stage walk was redone"}
    (toy.out / "release" / "images" / "2.txt").unlink()
    assert toy.reasons() == {"emit": "release/images changed"}
    (toy.out / "private" / "model.pt").write_text("imported")
    assert toy.reasons(only=["walk"]) == {"walk": "private/model.pt changed"}  # as a read
    assert toy.reasons()["train"] == "private/model.pt changed"  # as a write
    assert (toy.out / "private/replaced/train-1/private/model.pt").read_text() == "imported"


def test_the_content_of_a_folder_counts(toy: Toy) -> None:
    """A foreign image of the same size and time among the released ones, a corrected slice of a volume."""
    (toy.data / "a.png").unlink()
    (toy.data / "a.png").mkdir()  # a series of slices
    for name in ("1.dcm", "2.dcm"):
        (toy.data / "a.png" / name).write_text(name)
    toy.run()
    image = toy.out / "release" / "images" / "2.txt"
    before, content = image.stat(), image.read_text()
    image.write_text("x" + content[1:])
    os.utime(image, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert toy.reasons() == {"emit": "release/images changed"}
    (toy.data / "a.png" / "2.dcm").write_text("3.dcm")
    assert toy.reasons()["train"] == "data set: 1 image changed"


@pytest.mark.parametrize("folder", [False, True])
@pytest.mark.parametrize(
    ("ids", "extra"),
    [
        ({}, "PATH"),
        ({}, ["x", {"deep": "PATH"}]),
        ({"weights": "PATH"}, "@weights"),
        ({"weights": "PATH"}, "$len(@weights)"),
        ({"base": "ROOT"}, "$@base + '/given/w.pt'"),
        ({"base": "ROOT"}, '$len(f"{@base}/given/w.pt")'),
        ({}, "$@bundle_root + '/../given/w.pt'"),
        ({}, "$@dataset_dir + '/../given/w.pt'"),
    ],
)
def test_files_elsewhere_that_a_config_names_count_by_content(
    toy: Toy, folder: bool, ids: dict[str, Any], extra: Any
) -> None:
    """Weights of a network, a generator from another run; also whole folders."""
    file = toy.root / "given" / "w.pt"
    write_text(file / "part.txt" if folder else file, "old")

    def filled(value: Any) -> Any:
        return json.loads(json.dumps(value).replace("PATH", str(file)).replace("ROOT", str(toy.root)))

    toy.write_config("walk", {**WALK, **filled(ids), "walk": {**WALK["walk"], "extra": filled(extra)}})
    toy.run()
    assert toy.reasons() == {}
    file.with_name("beside.pt").write_text("new")
    assert toy.reasons() == {}
    write_text(file / "part.txt" if folder else file, "new")
    (reason,) = [text for name, text in toy.reasons().items() if name == "walk"]
    assert re.fullmatch(r"\S*w\.pt changed", reason)
    file.rename(file.with_name("gone.pt"))
    assert re.fullmatch(r"\S*w\.pt changed", toy.reasons()["walk"])
    assert toy.reasons() == {}


def test_a_given_file_in_place_of_one_of_the_run_counts_by_content(toy: Toy) -> None:
    toy.run()
    given = toy.root / "model.pt"
    given.write_text("given")
    overrides: dict[str, object] = {"model_file": str(given)}
    toy.run(overrides, only=["walk"])
    assert toy.reasons(overrides, only=["walk"]) == {}
    given.write_text("another")
    assert toy.reasons(overrides, only=["walk"]) == {"walk": f"{given} changed"}


def test_what_only_sounds_like_a_file_and_folders_above_the_output_do_not_count(
    toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    extra = ["images", "/", str(toy.root), ".", "..", "a" * 5000, "a\0b", "~"]
    toy.write_config("walk", {**WALK, "walk": {**WALK["walk"], "extra": extra, "cache_dir": str(toy.root / "cache")}})
    (toy.root / "images").mkdir()
    (toy.root / "cache").mkdir()
    monkeypatch.chdir(toy.root)
    toy.run()
    for folder in ("images", "cache"):
        (toy.root / folder / "new.txt").write_text("new")
    assert toy.reasons() == {}


def test_data_set_changes_are_counted(toy: Toy) -> None:
    toy.run()
    (toy.data / "a.png").write_text("longer")
    assert toy.reasons() == {"train": "data set: 1 image changed", **LATER}
    (toy.data / "d.png").write_text("d")
    assert toy.reasons() == {}  # not in the list
    toy.write_datalist("a", "d")
    os.utime(toy.data / "a.png", ns=(1, 1))  # copied or touched: the content counts
    assert toy.reasons() == {"train": "data set: 1 image added, 2 removed", **LATER}
    toy.write_datalist("d", "a")
    assert toy.reasons()["train"] == "data set: the data list changed, its images did not"
    (toy.data / "datalist.json").write_text("[")
    with pytest.raises(DataError, match=r"datalist\.json cannot be read as a data list"):
        toy.run()


def test_the_data_list_may_be_named_or_absent(toy: Toy) -> None:
    (toy.data / "datalist.json").rename(toy.data / "other.json")
    toy.run()
    (toy.data / "new.txt").write_text("any file counts where there is no data list")
    assert toy.reasons()["train"] == "data set: 1 image added"
    toy.write_config("train", {**TRAIN, "datalist_file": "$@dataset_dir + '/other.json'"})
    assert toy.reasons()["train"] == "data set: 2 images removed"  # new.txt and other.json
    (toy.data / "c.png").unlink()
    assert toy.reasons()["train"] == "data set: 1 image changed"


def test_a_data_list_elsewhere_counts(toy: Toy) -> None:
    """Overridden by a plain path, the id of the data list no longer leads to ``dataset_dir``."""
    reached = {**TRAIN["train"]["trainer"], "dataset_dir": "@datalist_file"}
    toy.write_config("train", {**TRAIN, "datalist_file": "$@dataset_dir + '/x'", "train": {"trainer": reached}})
    (toy.data / "datalist.json").rename(toy.root / "elsewhere.json")
    overrides: dict[str, object] = {"datalist_file": str(toy.root / "elsewhere.json")}
    toy.run(overrides)
    assert toy.reasons(overrides) == {}
    (toy.root / "elsewhere.json").write_text('{"training": []}')
    assert toy.reasons(overrides)["train"] == "data set: 3 images removed"


def test_a_new_version_redoes_everything(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record, "__version__", "0.1.0")
    toy.run()
    monkeypatch.setattr(record, "__version__", "0.2.0")
    reasons = toy.reasons()
    assert reasons["train"] == "monai_plan changed from 0.1.0 to 0.2.0"
    assert reasons["walk"] == "stage train was redone; monai_plan changed from 0.1.0 to 0.2.0"


def test_moved_folders_change_nothing(toy: Toy) -> None:
    toy.write_config("train", {**TRAIN, "copied": {"path": "%dataset_dir"}, "initialize": ["@copied"]})
    toy.run()
    for name in ("bundle", "data", "out"):
        moved = toy.root / f"moved_{name}"
        getattr(toy, name).rename(moved)
        setattr(toy, name, moved)
    assert toy.reasons() == {}


def test_the_output_folder_may_lie_in_the_data_set(toy: Toy) -> None:
    (toy.data / "datalist.json").unlink()
    toy.out = toy.data / "out"
    toy.run()
    assert toy.reasons() == {}


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", "null", '{"fingerprint": {}}', "\0\0", '{"fingerprint": 1}'])
def test_a_damaged_record_counts_as_none(toy: Toy, content: str) -> None:
    toy.run()
    for name in ("walk.json", "emit.started.json"):
        (toy.out / "private" / "run" / name).write_text(content)
    assert toy.reasons() == {"walk": "no record of an earlier run", "emit": "stage walk was redone"}
    named = [Path(line.split()[2]).name for line in toy.lines if "is damaged and counts as none" in line]
    assert named == ["walk.json", "emit.started.json"]
    assert toy.reasons() == {}


def test_killed_between_the_record_and_the_end(toy: Toy) -> None:
    toy.run()
    record, started = (toy.out / "private" / "run" / f"walk{suffix}.json" for suffix in ("", ".started"))
    started.write_text(record.read_text())
    assert toy.reasons() == {}
    assert not started.exists()
