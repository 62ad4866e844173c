"""``stages.json``: what it may say, and which files must be there."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from toy import EMIT, STAGES, WALK, Toy, toy_bundle

from monai_plan.bundle import run_bundle
from monai_plan.utils import ArtifactError, ConfigError


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Toy]:
    yield from toy_bundle(tmp_path, monkeypatch)


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


def test_a_stage_that_reads_nothing_of_it_is_not_redone(toy: Toy) -> None:
    """A changed k must not train the GAN again only because the data are checked anew."""
    stages = json.loads(json.dumps(STAGES))
    stages["stages"][2]["reads"] = stages["stages"][1]["reads"]
    toy.write_config("stages", stages)
    toy.write_config("emit", {**EMIT, "emit": {**EMIT["emit"], "reads": ["@model_file"]}})
    toy.run()
    assert toy.reasons({"walk#steps": 300}) == {"walk": "config walk#steps changed from 500 to 300"}


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
    ],
)
def test_wrong_stages_end_before_anything_runs(toy: Toy, name: str, content: Any, message: str) -> None:
    toy.write_config(name, content)
    with pytest.raises(ConfigError, match=message):
        toy.run()
    assert not toy.out.exists()
