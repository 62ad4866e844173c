"""A toy bundle whose stages append to a journal and write small text files."""

from __future__ import annotations

import gc
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from monai_plan.bundle import StageOutcome, run_bundle

MODULE = '''
"""Stages of the toy bundle: each notes that it ran, keeps a part in its work folder and writes its output."""
import json, time, weakref
from pathlib import Path
from monai_plan.utils import DataError, write_text


ALIVE, MOST = weakref.WeakSet(), []
JOURNAL = Path(__file__).parents[1] / "journal.txt"


class ToyStage:
    def __init__(self, name, work, writes, reads=(), dataset_dir=None, fail=None, forget=False, **settings):
        self.name, self.work, self.writes, self.reads = name, Path(work), writes, reads
        self.dataset, self.fail, self.forget, self.settings = dataset_dir, fail, forget, settings
        self.cycle = self
        ALIVE.add(self)
        MOST.append(len(ALIVE))
        if fail == "on_init":
            raise DataError("a.png is damaged: remove it.")

    def run(self):
        part = self.work / "part.txt"
        with open(JOURNAL, "a") as journal:
            journal.write(f"{self.name} {'resumed' if part.exists() else 'fresh'} {json.dumps(self.settings)}\\n")
        files = sorted(Path(self.dataset).glob("*.png")) if self.dataset else []
        seen = "".join(file.read_text() for file in files if file.is_file())
        text = self.name + json.dumps(self.settings) + seen + "".join(Path(read).read_text() for read in self.reads)
        write_text(part, "part of " + text)
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
        for write in self.writes:
            if write.endswith("/"):
                for index in range(self.settings.get("steps", 1) // 100):
                    write_text(Path(write) / f"{index}.txt", f"{index} {text}")
            else:
                write_text(write, text)
'''

TRAIN: dict[str, Any] = {
    "dataset_dir": "nowhere",
    "output_dir": "nowhere",
    "bundle_root": "nowhere",
    "private_dir": "$@output_dir + '/private'",
    "model_file": "$@private_dir + '/model.pt'",
    "paths_file": "$@private_dir + '/paths.txt'",
    "max_epochs": 3,
    "log_level": 1,
    "verbose": False,
    "optimiser": {"lr": 0.1, "betas": [0.0, 0.99]},
    "train": {
        "trainer": {
            "_target_": "toy_stages.ToyStage",
            "name": "train",
            "work": "$@private_dir + '/train'",
            "dataset_dir": "@dataset_dir",
            "writes": ["@model_file"],
            "max_epochs": "@max_epochs",
            "lr": "@optimiser#lr",
            "fail": None,
        }
    },
    "initialize": [],
    "run": ["$@train#trainer.run()"],
}
WALK: dict[str, Any] = {
    "walk": {
        "_target_": "toy_stages.ToyStage",
        "name": "walk",
        "work": "$@private_dir + '/walk'",
        "reads": ["@model_file"],
        "writes": ["@paths_file"],
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
        "work": "$@private_dir + '/emit'",
        "reads": ["@paths_file"],
        "writes": ["$@output_dir + '/release/images/'"],
        "steps": 400,
        "fail": None,
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

LATER = {"walk": "stage train was redone", "emit": "stage walk was redone"}  # of a changed training


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

    def read_config(self, name: str) -> Any:
        return json.loads((self.bundle / "configs" / f"{name}.json").read_text())

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
        file = self.root / "journal.txt"
        return file.read_text().splitlines() if file.exists() else []


def toy_bundle(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Toy]:
    """For a fixture."""
    gc.freeze()  # the runner collects garbage after every stage; without MONAI's and torch's objects that is quick
    (folder / "modules").mkdir()
    (folder / "modules" / "toy_stages.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(folder / "modules"))
    yield Toy(folder)
    sys.modules.pop("toy_stages", None)
    gc.unfreeze()
