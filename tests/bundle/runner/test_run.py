"""The stage runner on a toy bundle whose stages append to a journal and write small text files."""

from __future__ import annotations

import gc
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import monai_plan.bundle.runner.record as record
import monai_plan.bundle.runner.run as runner
from monai_plan.bundle import StageOutcome, run_bundle
from monai_plan.utils import ArtifactError, ConfigError, DataError

MODULE = '''
"""Stages of the toy bundle: each notes that it ran, keeps a part in its work folder and writes its output."""
import json, time, weakref
from pathlib import Path
from monai_plan.utils import DataError, write_text


ALIVE, MOST = weakref.WeakSet(), []


class ToyStage:
    def __init__(self, name, output_dir, writes, dataset_dir=None, reads=(), fail=None, forget=False, **settings):
        self.name, self.output, self.writes, self.reads = name, Path(output_dir), writes, reads
        self.dataset, self.fail, self.forget, self.settings = dataset_dir, fail, forget, settings
        self.cycle = self
        ALIVE.add(self)
        MOST.append(len(ALIVE))
        if fail == "on_init":
            raise DataError("a.png is damaged: remove it.")

    def run(self):
        part = self.output / "private" / self.name / "part.txt"
        with open(self.output / "journal.txt", "a") as journal:
            journal.write(f"{self.name} {'resumed' if part.exists() else 'fresh'} {json.dumps(self.settings)}\\n")
        write_text(part, json.dumps(self.settings))
        if self.fail == "sleep":
            time.sleep(120)
        if self.fail == "on_run":
            raise DataError("b.png is damaged: remove it.")
        if self.fail == "bug":
            raise ZeroDivisionError("a bug")
        if self.fail == "interrupt":
            raise KeyboardInterrupt
        if self.forget:
            return
        text = self.name + json.dumps(self.settings) + "".join((self.output / read).read_text() for read in self.reads)
        for write in self.writes:
            if write.endswith("/"):
                for index in range(self.settings.get("steps", 1) // 100):
                    write_text(self.output / write / f"{index}.txt", text)
            else:
                write_text(self.output / write, text)
'''

TRAIN: dict[str, Any] = {
    "dataset_dir": "nowhere",
    "output_dir": "nowhere",
    "bundle_root": "nowhere",
    "max_epochs": 3,
    "log_level": 1,
    "verbose": False,
    "optimiser": {"lr": 0.1, "betas": [0.0, 0.99]},
    "train": {
        "trainer": {
            "_target_": "toy_stages.ToyStage",
            "name": "train",
            "output_dir": "@output_dir",
            "dataset_dir": "@dataset_dir",
            "writes": ["private/model.pt"],
            "max_epochs": "@max_epochs",
            "lr": "@optimiser#lr",
        }
    },
    "initialize": [],
    "run": ["$@train#trainer.run()"],
}
WALK: dict[str, Any] = {
    "walk": {
        "_target_": "toy_stages.ToyStage",
        "name": "walk",
        "output_dir": "@output_dir",
        "reads": ["private/model.pt"],
        "writes": ["private/paths.txt"],
        "steps": 500,
        "fail": None,
        "forget": False,
    },
    "run": ["$@walk.run()"],
}
EMIT: dict[str, Any] = {
    "emit": {
        "_target_": "toy_stages.ToyStage",
        "name": "emit",
        "output_dir": "@output_dir",
        "reads": ["private/paths.txt"],
        "writes": ["release/images/"],
        "steps": 400,
        "colour": "%palette#1",
    },
    "palette": ["grey", "bone"],
    "run": ["$@emit.run()"],
}
STAGES: dict[str, Any] = {
    "stages": [
        {"name": "train", "config": ["train.json"], "writes": ["private/model.pt"]},
        {
            "name": "walk",
            "config": ["train.json", "walk.json"],
            "reads": ["private/model.pt"],
            "writes": ["private/paths.txt"],
        },
        {
            "name": "emit",
            "config": ["train.json", "emit.json"],
            "reads": ["private/paths.txt"],
            "writes": ["release/images"],
        },
    ]
}


class Toy:
    """The toy bundle, its data set and its output folder below one temporary folder."""

    def __init__(self, root: Path) -> None:
        self.root, self.bundle, self.data, self.out = root, root / "toy", root / "data", root / "out"
        self.lines: list[str] = []
        (self.bundle / "configs").mkdir(parents=True)
        self.data.mkdir()
        for name in ("a", "b", "c"):
            (self.data / f"{name}.png").write_text(name)
        self.write_datalist("a", "b", "c")
        for name, content in {"train": TRAIN, "walk": WALK, "emit": EMIT, "stages": STAGES}.items():
            self.write_config(name, content)
        self.write_config("metadata", {"version": "0.1.0"})

    def write_config(self, name: str, content: Any) -> None:
        (self.bundle / "configs" / f"{name}.json").write_text(json.dumps(content))

    def write_datalist(self, *names: str) -> None:
        items = [{"image": f"{name}.png", "label": 0, "subject": name} for name in names]
        (self.data / "datalist.json").write_text(json.dumps({"labels": {"0": "x"}, "training": items}))

    def run(self, overrides: dict[str, object] | None = None, only: list[str] | None = None) -> list[StageOutcome]:
        self.lines.clear()
        return run_bundle(
            self.bundle,
            dataset_dir=self.data,
            output_dir=self.out,
            overrides=overrides,
            only=only,
            echo=self.lines.append,
        )

    def reasons(self, overrides: dict[str, object] | None = None, only: list[str] | None = None) -> dict[str, str]:
        """Run, and give the reason of every stage that was not skipped."""
        return {item.name: item.reason for item in self.run(overrides, only) if item.status == "ran"}

    def journal(self) -> list[str]:
        file = self.out / "journal.txt"
        return file.read_text().splitlines() if file.exists() else []


@pytest.fixture(scope="module", autouse=True)
def _quick_collection() -> Iterator[None]:
    """The runner collects garbage after every stage; without MONAI's and torch's own objects that takes no time."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Toy]:
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "toy_stages.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))
    yield Toy(tmp_path)
    sys.modules.pop("toy_stages", None)


LATER = {"walk": "stage train was redone", "emit": "stage walk was redone"}


def test_stages_run_in_order_and_are_skipped_when_nothing_changed(toy: Toy) -> None:
    first = toy.run()
    assert [(item.name, item.status) for item in first] == [("train", "ran"), ("walk", "ran"), ("emit", "ran")]
    assert {item.reason for item in first} == {"no record of an earlier run"}
    assert [line.split()[0] for line in toy.journal()] == ["train", "walk", "emit"]
    assert len(list((toy.out / "release" / "images").iterdir())) == 4
    assert not list((toy.out / "private" / "run").glob("*.started.json"))
    second = toy.run()
    assert [(item.name, item.status, item.seconds) for item in second] == [
        ("train", "skipped", 0.0),
        ("walk", "skipped", 0.0),
        ("emit", "skipped", 0.0),
    ]
    assert len(toy.journal()) == 3
    assert "[2/3] walk: skipped, unchanged since" in toy.lines[1]


def test_overrides_go_to_the_stages_that_know_them_and_redo_those_after(toy: Toy) -> None:
    toy.run()
    assert toy.reasons({"walk#steps": 300}) == {
        "walk": "config walk#steps changed from 500 to 300",
        "emit": "stage walk was redone",
    }
    assert [line for line in toy.journal() if line.startswith("walk")][-1] == 'walk fresh {"steps": 300}'
    assert toy.reasons({"walk::steps": 300}) == {}  # both forms of an id are one
    assert toy.reasons({"walk#steps": 300, "max_epochs": 5}) == {
        "train": "config max_epochs changed from 3 to 5",
        **LATER,
    }
    assert toy.reasons({"walk#steps": 300, "max_epochs": 5, "palette": ["grey", "hot"]}) == {
        "emit": 'config emit#colour changed from "bone" to "hot"'
    }


def test_only_what_a_stage_reaches_counts(toy: Toy) -> None:
    toy.run()
    # log_level is reached by no stage, palette#0 not by the macro, betas not by the reference to lr.
    assert toy.reasons({"log_level": 2, "palette#0": "red", "optimiser#betas#0": 0.5, "verbose": True}) == {}
    assert toy.reasons({"optimiser#lr": 0.2}) == {"train": "config optimiser#lr changed from 0.1 to 0.2", **LATER}
    changed = {**WALK, "walk": {**WALK["walk"], "extra": [1, 2]}}
    toy.write_config("walk", changed)
    assert toy.reasons({"optimiser#lr": 0.2}) == {
        "walk": "config walk#extra#0 is new: 1; config walk#extra#1 is new: 2",
        "emit": "stage walk was redone",
    }
    toy.write_config("walk", WALK)
    assert toy.reasons({"optimiser#lr": 0.2})["walk"] == (
        "config walk#extra#0 was removed; config walk#extra#1 was removed"
    )


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
    with pytest.raises(DataError, match=r"datalist\.json is no JSON object"):
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
    toy.write_config("train", {**TRAIN, "train": {**TRAIN["train"], "copy": "%output_dir"}, "initialize": ["@train"]})
    toy.run()
    for name in ("bundle", "data", "out"):
        moved = toy.root / f"moved_{name}"
        getattr(toy, name).rename(moved)
        setattr(toy, name, moved)
    assert toy.reasons() == {}


def test_only_runs_the_named_stages_and_asks_for_what_they_read(toy: Toy) -> None:
    with pytest.raises(ArtifactError, match=r"stage walk reads private/model\.pt, .*: run stage train first"):
        toy.run(only=["walk", "emit"])
    assert toy.journal() == []
    assert list(toy.reasons(only=["train"])) == ["train"]
    assert list(toy.reasons(only=["emit", "walk"])) == ["walk", "emit"]
    with pytest.raises(ConfigError, match=r"no stage 'wlak'\. The closest known: walk"):
        toy.run(only=["wlak"])


def test_a_read_that_nobody_writes_must_be_there(toy: Toy) -> None:
    stages = json.loads(json.dumps(STAGES))
    stages["stages"][0]["reads"] = ["private/pretrained.pt"]
    toy.write_config("stages", stages)
    with pytest.raises(ArtifactError, match=r"reads private/pretrained\.pt.*no stage writes it"):
        toy.run()
    (toy.out / "private").mkdir(parents=True)
    (toy.out / "private" / "pretrained.pt").write_text("weights")
    assert len(toy.reasons()) == 3


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"walk#step": 3}, r"no stage has the config id 'walk#step'\. The closest known: walk#steps"),
        ({"steps": 3}, r"'steps'.*walk#steps"),
        ({"max_epoch": 3}, r"'max_epoch'.*max_epochs"),
        ({"zzz": 3}, r"'zzz'\. Nothing known is like it"),
        ({"max_epochs": "ten"}, r"max_epochs is a number \(3\), found 'ten'"),
        ({"max_epochs": True}, r"max_epochs is a number \(3\), found True"),
        ({"verbose": "false"}, r"verbose is True or False, found 'false'"),
        ({"output_dir": "x"}, r"output_dir is not an override"),
    ],
)
def test_wrong_overrides_end_before_anything_runs(toy: Toy, overrides: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        toy.run(overrides)
    assert not toy.out.exists()


def test_references_and_expressions_may_stand_for_numbers(toy: Toy) -> None:
    toy.run({"max_epochs": "$2 + 2"}, only=["train"])
    assert json.loads(toy.journal()[0].split(" ", 2)[2])["max_epochs"] == 4


def _stages(**changes: Any) -> dict[str, Any]:
    return {"stages": [{**STAGES["stages"][0], **changes}, STAGES["stages"][1]]}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("stages", {}, r"stages\.json has no stages"),
        ("stages", _stages(name="../x"), r"letters, digits and _"),
        ("stages", _stages(name="walk"), r"two stages are called 'walk'"),
        ("stages", _stages(name="run"), r"private/run of the runner and private/run of run overlap"),
        ("stages", _stages(config="train.json"), r"config of stage train must be a list of paths"),
        ("stages", _stages(config=["trian.json"]), r"trian\.json does not exist"),
        ("stages", _stages(write=["x"]), r"unknown entry 'write'"),
        ("stages", _stages(writes=["../x"]), r"'\.\./x' of stage train must be a path inside output_dir"),
        ("stages", _stages(writes=["private/paths.txt/x"]), r"overlap"),
        ("stages", _stages(writes=["private/walk"]), r"private/walk of walk and private/walk of train overlap"),
        ("stages", _stages(reads=["private/model.pt"]), r"stage train writes over what it reads"),
        ("walk", {"run": ["$@wakl.run()"], "walk": {}}, r"stage walk: its config refers to @wakl\. .*walk"),
        ("walk", {"walk#x#y": 1}, r"stage walk: its config files cannot be merged"),
        ("walk", {"a": "%b#c"}, r"stage walk: its config cannot be parsed"),
        ("walk", {**WALK, "run": ["$@walk.run("]}, r"stage walk: config id run#0 is no expression: \$@walk\.run\("),
        ("walk", {**WALK, "x": "$__import__('os').stat(@walk)"}, r'id x is no .* cannot hold both "import" and a ref'),
        ("walk", [1], r"walk\.json must hold an object, not list"),
        ("train", {"dataset_dir": "", "output_dir": "", "bundle_root": ""}, r"stage train.*lacks the id 'run'"),
        ("train", {**TRAIN, "datalist_file": "$@dataset_dir / 2"}, r"datalist_file is no path"),
    ],
)
def test_wrong_bundles_end_before_anything_runs(toy: Toy, name: str, content: Any, message: str) -> None:
    toy.write_config(name, content)
    with pytest.raises(ConfigError, match=message):
        toy.run()
    assert not toy.out.exists()


def test_wrong_folders_are_named(toy: Toy) -> None:
    (toy.bundle / "configs" / "walk.json").write_text('{"a": 1,}')
    with pytest.raises(ConfigError, match=r"walk\.json cannot be read"):
        toy.run()
    with pytest.raises(ConfigError, match=r"data is no bundle with stages"):
        run_bundle(toy.data, dataset_dir=toy.data, output_dir=toy.out)
    toy.write_config("walk", WALK)
    with pytest.raises(ConfigError, match=r"dataset_dir .*absent does not exist"):
        run_bundle(toy.bundle, dataset_dir=toy.root / "absent", output_dir=toy.out)
    toy.out.write_text("a file")
    with pytest.raises(ConfigError, match=r"output_dir .*out is a file"):
        toy.run()


@pytest.mark.parametrize(("fail", "file"), [("on_init", "a.png"), ("on_run", "b.png")])
def test_errors_for_people_are_unwrapped_and_finished_stages_kept(toy: Toy, fail: str, file: str) -> None:
    with pytest.raises(DataError, match=rf"^{file} is damaged: remove it\.$"):
        toy.run({"walk#fail": fail})
    assert toy.lines[-1].startswith("[2/3] walk: failed. The finished stages are kept")
    assert list(toy.reasons()) == ["walk", "emit"]


def test_other_errors_pass(toy: Toy) -> None:
    with pytest.raises(RuntimeError, match="Failed to evaluate") as caught:
        toy.run({"walk#fail": "bug"})
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    assert toy.lines[-1].startswith("[2/3] walk: failed.")


def test_a_stage_that_breaks_its_promise_is_an_error(toy: Toy) -> None:
    with pytest.raises(ArtifactError, match=r"walk ended without writing private/paths\.txt"):
        toy.run({"walk#forget": True})
    assert toy.reasons()["walk"] == "it was stopped before its end; config walk#forget changed from true to false"


def test_a_stopped_stage_resumes_and_a_changed_one_begins_anew(toy: Toy) -> None:
    with pytest.raises(KeyboardInterrupt):
        toy.run({"walk#fail": "interrupt"})
    with pytest.raises(KeyboardInterrupt):
        toy.run({"walk#fail": "interrupt"})
    assert "[2/3] walk: resuming, it was stopped before its end" in toy.lines
    assert toy.reasons()["walk"] == 'it was stopped before its end; config walk#fail changed from "interrupt" to null'
    states = [line.split()[1] for line in toy.journal() if line.startswith("walk")]
    assert states == ["fresh", "resumed", "fresh"]


def test_a_stopped_change_can_be_taken_back(toy: Toy) -> None:
    """A stop before the old output was touched does not mix the parts of two configs."""
    toy.run()
    with pytest.raises(KeyboardInterrupt):
        toy.run({"walk#fail": "interrupt", "walk#steps": 300})
    assert toy.reasons() == {
        "walk": "private/paths.txt is missing",
        "emit": "stage walk was redone",
    }
    assert toy.journal()[-2] == 'walk fresh {"steps": 500}'


def test_resuming_touches_no_file(toy: Toy) -> None:
    """A stage that wrote one of its files before it was stopped finds it again."""
    with pytest.raises(KeyboardInterrupt):
        toy.run({"walk#fail": "interrupt"})
    (toy.out / "private" / "paths.txt").write_text("half of it")
    with pytest.raises(KeyboardInterrupt):
        toy.run({"walk#fail": "interrupt"})
    assert (toy.out / "private" / "paths.txt").read_text() == "half of it"


def test_killed_between_the_record_and_the_end(toy: Toy) -> None:
    toy.run()
    record, started = (toy.out / "private" / "run" / f"walk{suffix}.json" for suffix in ("", ".started"))
    started.write_text(record.read_text())
    assert toy.reasons() == {}
    assert not started.exists()


def test_the_output_folder_may_lie_in_the_data_set(toy: Toy) -> None:
    (toy.data / "datalist.json").unlink()
    toy.out = toy.data / "out"
    toy.run()
    assert toy.reasons() == {}


def test_overrides_that_are_containers_are_not_altered(toy: Toy) -> None:
    """MONAI expands macros in place; here the stage must get the true path and the caller keep the dictionary."""
    given: dict[str, object] = {"optimiser": {"lr": "%output_dir", "betas": []}}
    toy.run(given, only=["train"])
    assert json.loads(toy.journal()[0].split(" ", 2)[2])["lr"] == str(toy.out)
    assert given == {"optimiser": {"lr": "%output_dir", "betas": []}}


def test_folders_written_by_a_redone_stage_hold_nothing_old(toy: Toy) -> None:
    toy.run()
    toy.run({"emit#steps": 200})
    assert sorted(file.name for file in (toy.out / "release/images").iterdir()) == ["0.txt", "1.txt"]
    assert not (toy.out / "private" / "replaced").exists()


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
    assert any("private/model.pt was not left there by a finished stage" in line for line in toy.lines)
    assert len(list((toy.out / "release" / "images").iterdir())) == 4


def test_damaged_record_is_named(toy: Toy) -> None:
    toy.run()
    (toy.out / "private/run/walk.json").write_text("{")
    with pytest.raises(ArtifactError, match=r"walk\.json is damaged: delete it"):
        toy.run()


def test_one_run_at_a_time(toy: Toy) -> None:
    with (
        runner._locked(toy.out / "private" / "run"),
        pytest.raises(ConfigError, match=r"another run is writing to .*out"),
    ):
        toy.run()
    toy.run()


def test_working_folder_and_search_path_do_not_matter(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    before = list(sys.path)
    toy.run()
    assert sys.path == before
    monkeypatch.chdir(toy.root)
    outcomes = run_bundle("toy", dataset_dir="data", output_dir="out", echo=toy.lines.append)
    assert {item.status for item in outcomes} == {"skipped"}


def test_a_stage_leaves_memory_before_the_next(toy: Toy) -> None:
    toy.run()
    import toy_stages  # type: ignore[import-not-found]

    assert toy_stages.MOST == [1, 1, 1]
    assert len(toy_stages.ALIVE) == 0


def test_logging_conf_of_the_bundle_is_used(toy: Toy, capfd: pytest.CaptureFixture[str]) -> None:
    (toy.bundle / "configs" / "logging.conf").write_text(
        "[loggers]\nkeys=root,toy\n[handlers]\nkeys=out\n[formatters]\nkeys=plain\n[logger_root]\nlevel=INFO\nhandlers=\n"
        "[logger_toy]\nlevel=INFO\nhandlers=out\nqualname=toy\npropagate=0\n"
        "[handler_out]\nclass=StreamHandler\nlevel=INFO\nformatter=plain\nargs=(sys.stdout,)\n"
        "[formatter_plain]\nformat=TOY %(message)s\n"
    )
    toy.write_config("train", {**TRAIN, "initialize": ["$__import__('logging').getLogger('toy').info('hello')"]})
    toy.run(only=["train"])
    assert "TOY hello" in capfd.readouterr().out


def test_killed_inside_a_stage_and_started_again(toy: Toy) -> None:
    """SIGKILL: the finished stage is kept, the killed one goes on from its work folder."""
    code = (
        "import sys; from monai_plan.bundle import run_bundle; "
        "run_bundle(sys.argv[1], dataset_dir=sys.argv[2], output_dir=sys.argv[3], overrides={'walk#fail': 'sleep'})"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(toy.bundle), str(toy.data), str(toy.out)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 60
        while not (toy.out / "private" / "walk" / "part.txt").exists():
            assert process.poll() is None, "ended before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
    finally:
        process.kill()
        process.wait()
    assert (toy.out / "private/run/walk.started.json").exists()
    # The same settings: no longer asleep, for the module itself is not part of the fingerprint.
    module = toy.root / "modules" / "toy_stages.py"
    module.write_text(module.read_text().replace("time.sleep(120)", "time.sleep(0)"))
    reasons = toy.reasons({"walk#fail": "sleep"})
    assert reasons["walk"] == "resuming, it was stopped before its end"
    assert "train" not in reasons
    assert [line.split()[:2] for line in toy.journal()] == [
        ["train", "fresh"],
        ["walk", "fresh"],
        ["walk", "resumed"],
        ["emit", "fresh"],
    ]


def test_a_stage_runs_alone_by_monai_bundle(toy: Toy, tmp_path: Path) -> None:
    """`python -m monai.bundle run` writes what the runner writes, from another working folder."""
    toy.run({"walk#steps": 7}, only=["train", "walk"])
    expected = (toy.out / "private/paths.txt").read_text()
    (toy.out / "private/paths.txt").unlink()
    configs = [str(toy.bundle / "configs" / name) for name in ("train.json", "walk.json")]
    options = ["--bundle_root", str(toy.bundle), "--dataset_dir", str(toy.data), "--output_dir", str(toy.out)]
    options += ["--walk#steps", "7"]
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    subprocess.run(
        [sys.executable, "-m", "monai.bundle", "run", "--config_file", str(configs), *options],
        cwd=elsewhere,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        check=True,
        capture_output=True,
        timeout=90,
    )
    assert (toy.out / "private/paths.txt").read_text() == expected
    assert not list(elsewhere.iterdir())


def test_a_stage_that_reads_nothing_of_it_is_not_redone(toy: Toy) -> None:
    """A changed k must not train the GAN again only because the data are checked anew."""
    stages = json.loads(json.dumps(STAGES))
    stages["stages"][2]["reads"] = stages["stages"][1]["reads"]
    toy.write_config("stages", stages)
    toy.run()
    assert toy.reasons({"walk#steps": 300}) == {"walk": "config walk#steps changed from 500 to 300"}
