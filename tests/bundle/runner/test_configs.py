"""Configs and overrides: where they go, what counts, and what is wrong with them before anything runs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from toy import LATER, TRAIN, WALK, Toy, toy_bundle

from monai_plan.utils import ConfigError


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Toy]:
    yield from toy_bundle(tmp_path, monkeypatch)


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


def test_overrides_that_are_containers_are_not_altered(toy: Toy) -> None:
    """MONAI expands macros in place; here the stage must get the true path and the caller keep the dictionary."""
    given: dict[str, object] = {"optimiser": {"lr": "%dataset_dir", "betas": []}}
    toy.run(given, only=["train"])
    assert json.loads(toy.journal()[0].split(" ", 2)[2])["lr"] == str(toy.data)
    assert given == {"optimiser": {"lr": "%dataset_dir", "betas": []}}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
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
def test_wrong_configs_end_before_anything_runs(toy: Toy, name: str, content: Any, message: str) -> None:
    toy.write_config(name, content)
    with pytest.raises(ConfigError, match=message):
        toy.run()
    assert not toy.out.exists()
