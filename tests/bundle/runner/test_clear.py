"""What a stage leaves behind when it begins anew: nothing of a removed patient, and no old release beside new files."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from toy import EMIT, STAGES, TRAIN, Toy, toy_bundle

from monai_plan.data import read_datalist
from monai_plan.data.loading import image_marks
from monai_plan.utils import ArtifactError, DataError, temporary_name, write_tensors, write_text


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Toy]:
    """Its outputs hold the content of all images of the data set, as a network holds its patients."""
    yield from toy_bundle(tmp_path, monkeypatch)


def _stop(toy: Toy, stage: str, **overrides: object) -> None:
    key = "train#trainer#fail" if stage == "train" else f"{stage}#fail"
    with pytest.raises(KeyboardInterrupt):
        toy.run({key: "interrupt", **overrides})


def _with_report(toy: Toy) -> None:
    """A fourth stage, which reports of the images in the release."""
    report = {**EMIT["emit"], "name": "report", "work": "$@private_dir + '/report'", "colour": "grey"}
    report |= {"reads": ["$@output_dir + '/release/images/0.txt'"], "writes": ["$@output_dir + '/release/report.txt'"]}
    toy.write_config("report", {"report": report, "run": ["$@report.run()"]})
    entry = {"name": "report", "config": ["train.json", "report.json"], "reads": ["release/images"]}
    toy.write_config("stages", {"stages": [*STAGES["stages"], {**entry, "writes": ["release/report.txt"]}]})


# ---- erasure -------------------------------------------------------------------------------------------------------

PATIENT = "<the pixels of patient b>"


def _traces(toy: Toy) -> list[str]:
    """Files of the run in which the patient, or the digest of a file that was made with him, is found."""
    texts = {file.relative_to(toy.out).as_posix(): file.read_text() for file in toy.out.rglob("*") if file.is_file()}
    digest = hashlib.sha256(PATIENT.encode()).hexdigest()
    return sorted(name for name, text in texts.items() if PATIENT in text or digest in text)


def _finished(toy: Toy) -> None:
    toy.run()


def _stopped_in_each(toy: Toy) -> None:
    """With files that were written and not recorded."""
    for stage in ("train", "walk", "emit"):
        _stop(toy, stage)
        write = {"train": "private/model.pt", "walk": "private/paths.txt", "emit": "release/images/0.txt"}[stage]
        write_text(toy.out / write, f"written before the stop of {stage} {PATIENT}")


def _stopped_anew(toy: Toy) -> None:
    """Finished, changed, and stopped while it was redone."""
    toy.run()
    _stop(toy, "train", max_epochs=7)
    write_text(toy.out / "private" / "model.pt", f"of another number of epochs {PATIENT}")


def _killed_while_writing(toy: Toy) -> None:
    toy.run()
    for place in ("private/model.pt", "private/train/checkpoint.pt", "release/images", "release/images/0.txt"):
        temporary = temporary_name(toy.out / place)
        write_text(temporary / "0.txt" if place.endswith("images") else temporary, PATIENT)


def _killed_while_clearing(toy: Toy) -> None:
    toy.run()
    (toy.out / "release" / "images" / "0.txt").unlink()
    (toy.out / "private" / "train" / "part.txt").unlink()


def _with_a_foreign_file_beside(toy: Toy) -> None:
    toy.run()
    (toy.out / "release" / "images" / "mine.txt").write_text("mine")


def _by_an_older_bundle(toy: Toy) -> None:
    """Whose stage had another name and another file."""
    stages = json.loads(json.dumps(STAGES))
    stages["stages"][1] |= {"name": "stroll", "writes": ["private/strolls.txt"]}
    stages["stages"][2] |= {"reads": ["private/strolls.txt"]}
    toy.write_config("stages", stages)
    walk = json.loads((toy.bundle / "configs" / "walk.json").read_text())
    walk["walk"]["work"] = "$@private_dir + '/stroll'"
    toy.write_config("walk", walk)
    toy.write_config("train", {**TRAIN, "paths_file": "$@private_dir + '/strolls.txt'"})
    toy.run()
    assert (toy.out / "private" / "stroll" / "part.txt").exists()
    toy.write_config("train", TRAIN)
    toy.write_config("stages", STAGES)
    walk["walk"]["work"] = "$@private_dir + '/walk'"
    toy.write_config("walk", walk)


@pytest.mark.parametrize(
    "earlier",
    [
        _finished,
        _stopped_in_each,
        _stopped_anew,
        _killed_while_writing,
        _killed_while_clearing,
        _with_a_foreign_file_beside,
        _by_an_older_bundle,
    ],
)
def test_a_removed_patient_is_gone(toy: Toy, earlier: Callable[[Toy], None]) -> None:
    (toy.data / "b.png").write_text(PATIENT)
    earlier(toy)
    assert len(_traces(toy)) >= 3  # the search finds what is there
    (toy.data / "b.png").unlink()
    toy.write_datalist("a", "c")
    toy.run()
    assert _traces(toy) == []
    assert toy.reasons() == {}
    assert len(list((toy.out / "release" / "images").iterdir())) == 4


def test_the_cache_of_images_is_cleared_before_anything_else(toy: Toy) -> None:
    """Also if no stage reads a picture, and the first one fails."""
    file = toy.out / "private" / "cache" / "training.pt"
    marks = image_marks(read_datalist(toy.data / "datalist.json").sections["training"])
    write_tensors(file, {"key": "of a transform", "belongs": marks, "images": {"stored": torch.zeros(3)}})
    for names in (("a", "b", "c"), ("a", "c")):
        toy.write_datalist(*names)
        with pytest.raises(DataError):
            toy.run({"train#trainer#fail": "on_init"})
        assert file.exists() == ("b" in names)


def test_a_work_folder_behind_a_link_is_emptied(toy: Toy) -> None:
    """A small disk, and checkpoints on another one: the link is the user's and stays."""
    elsewhere = toy.root / "scratch"
    elsewhere.mkdir()
    (toy.out / "private").mkdir(parents=True)
    os.symlink(elsewhere, toy.out / "private" / "train")
    toy.run()
    old = (elsewhere / "part.txt").read_text()
    toy.run({"max_epochs": 7})
    assert (toy.out / "private" / "train").is_symlink()
    assert (elsewhere / "part.txt").read_text() != old
    assert [line.split()[1] for line in toy.journal() if line.startswith("train")] == ["fresh", "fresh"]


# ---- what nobody vouches for ---------------------------------------------------------------------------------------


def test_files_of_others_are_moved_aside(toy: Toy) -> None:
    for _ in range(2):
        for path in ("private/model.pt", "private/train/checkpoint.pt", "release/images/mine.txt"):
            (toy.out / path).parent.mkdir(parents=True, exist_ok=True)
            (toy.out / path).write_text("mine")
        toy.run()
        for file in (toy.out / "private" / "run").glob("*.json"):
            file.unlink()
    replaced = toy.out / "private" / "replaced"
    for number in (1, 2):
        assert (replaced / f"train-{number}/private/model.pt").read_text() == "mine"
        assert (replaced / f"train-{number}/private/train/checkpoint.pt").read_text() == "mine"
        assert (replaced / f"emit-{number}/release/images/mine.txt").read_text() == "mine"
    assert any("private/train and 1 more: not left there by a recorded stage" in line for line in toy.lines)
    assert len(list((toy.out / "release" / "images").iterdir())) == 4


def test_only_the_foreign_file_of_a_folder_is_moved_aside(toy: Toy) -> None:
    toy.run()
    (toy.out / "release" / "images" / "1.txt").write_text("changed by hand")
    (toy.out / "release" / "images" / "mine.txt").write_text("mine")
    toy.run()
    kept = toy.out / "private" / "replaced" / "emit-1" / "release" / "images"
    assert {file.name: file.read_text() for file in kept.iterdir()} == {"1.txt": "changed by hand", "mine.txt": "mine"}
    assert len(list((toy.out / "release" / "images").iterdir())) == 4


def test_every_run_says_that_files_lie_aside(toy: Toy) -> None:
    toy.run()
    assert not any("holds files that were in the way" in line for line in toy.lines)
    (toy.out / "private" / "model.pt").write_text("mine")
    for _ in range(2):
        toy.run()
        assert "private/replaced holds files that were in the way" in toy.lines[-1]
        assert "delete the folder" in toy.lines[-1]


def test_folders_written_by_a_redone_stage_hold_nothing_old(toy: Toy) -> None:
    toy.run()
    toy.run({"emit#steps": 200})
    assert sorted(file.name for file in (toy.out / "release/images").iterdir()) == ["0.txt", "1.txt"]
    assert not (toy.out / "private" / "replaced").exists()


def test_a_stage_that_is_no_more_takes_nothing_of_others(toy: Toy) -> None:
    """Files that were changed since, and what lies in a folder that another stage has now, stay."""
    stages = json.loads(json.dumps(STAGES))
    stages["stages"].append({"name": "old", "config": ["train.json", "old.json"], "writes": ["private/old.txt"]})
    old = {**TRAIN["train"]["trainer"], "name": "old", "work": "$@private_dir + '/old'"}
    toy.write_config(
        "old", {"old": {**old, "writes": ["$@private_dir + '/old.txt'"]}, "run": ["$@old.run()"], "initialize": []}
    )
    toy.write_config("stages", stages)
    toy.run()
    (toy.out / "private" / "old.txt").write_text("edited")
    toy.write_config("stages", STAGES)
    assert toy.reasons() == {}
    assert "old is no stage of this bundle any more: what it wrote is deleted" in toy.lines
    assert (toy.out / "private" / "old.txt").read_text() == "edited"
    assert not (toy.out / "private" / "old").exists()
    toy.run()
    assert not any("no stage of this bundle" in line for line in toy.lines)


# ---- the release ---------------------------------------------------------------------------------------------------


def _release(toy: Toy) -> list[str]:
    return sorted(file.name for file in (toy.out / "release").rglob("*") if file.is_file())


WHOLE = ["0.txt", "1.txt", "2.txt", "3.txt", "report.txt"]


@pytest.mark.parametrize(
    ("stage", "change", "left"),
    [
        ("train", {"max_epochs": 7}, []),
        ("walk", {"walk#steps": 300}, []),
        ("emit", {"emit#colour": "red"}, []),
        ("report", {"report#colour": "red"}, WHOLE[:4]),
    ],
)
def test_no_new_file_lies_beside_an_old_release(
    toy: Toy, stage: str, change: dict[str, object], left: list[str]
) -> None:
    _with_report(toy)
    toy.run()
    assert _release(toy) == WHOLE
    _stop(toy, stage, **change)
    assert _release(toy) == left
    toy.run(change)
    assert _release(toy) == WHOLE
    assert not (toy.out / "private" / "replaced").exists()


def test_a_release_that_is_withdrawn_and_not_made_again_is_told(toy: Toy) -> None:
    _with_report(toy)
    toy.run()
    toy.run({"walk#steps": 300}, only=["walk"])
    assert _release(toy) == []
    assert toy.lines[-1] == "release withdrawn: run the rest to make it again (emit, report)"
    toy.run({"walk#steps": 300}, only=["emit"])
    assert _release(toy) == WHOLE[:4]
    assert not any(line.startswith("release withdrawn") for line in toy.lines)
    assert toy.reasons({"walk#steps": 300}) == {"report": "release/images changed; release/report.txt is missing"}


def test_a_stage_whose_reads_are_withdrawn_asks_for_them(toy: Toy) -> None:
    _with_report(toy)
    toy.run()
    with pytest.raises(ArtifactError, match=r"report reads release/images, .*: run stage emit first"):
        toy.run({"walk#steps": 300}, only=["walk", "report"])


def test_a_foreign_file_in_a_withdrawn_release_is_moved_aside(toy: Toy) -> None:
    toy.run()
    (toy.out / "release" / "images" / "mine.txt").write_text("mine")
    (toy.out / "release" / "notes.txt").write_text("of no stage")
    _stop(toy, "train", max_epochs=7)
    assert _release(toy) == ["notes.txt"]
    assert (toy.out / "private/replaced/emit-1/release/images/mine.txt").read_text() == "mine"


def test_a_stage_before_which_nothing_is_released_withdraws_nothing(toy: Toy) -> None:
    stages: dict[str, Any] = json.loads(json.dumps(STAGES))
    stages["stages"][2]["reads"] = []
    emit = {**EMIT, "emit": {**EMIT["emit"], "reads": []}}
    toy.write_config("stages", stages)
    toy.write_config("emit", emit)
    toy.run()
    _stop(toy, "walk", **{"walk#steps": 300})
    assert _release(toy) == WHOLE[:4]


def test_a_work_folder_that_somebody_used_since_is_not_gone_on_from(toy: Toy) -> None:
    """A stage run alone, on other data perhaps, changes its output and its work folder; the record knows neither."""
    toy.run()
    checkpoint = toy.out / "private" / "train" / "checkpoint.pt"
    write_text(checkpoint, f"trained with {PATIENT}")
    write_text(toy.out / "private" / "model.pt", "of another training")
    toy.run()
    assert not checkpoint.exists() or PATIENT not in checkpoint.read_text()
