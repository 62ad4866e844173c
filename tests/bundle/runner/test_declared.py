"""A file that a stage reaches and ``stages.json`` does not name would be neither compared nor cleared."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from toy import WALK, Toy, toy_bundle

from monai_plan.utils import ConfigError


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Toy]:
    yield from toy_bundle(tmp_path, monkeypatch)


def _with(toy: Toy, ids: dict[str, Any], extra: Any) -> None:
    """The stage walk with further ids and something more that it is given."""
    toy.write_config("walk", {**WALK, **ids, "walk": {**WALK["walk"], "extra": extra}})


@pytest.mark.parametrize(
    ("ids", "extra", "id", "path"),
    [
        ({}, "$@output_dir + '/private/best.pt'", "walk#extra", "private/best.pt"),
        ({}, "$@private_dir + '/train/checkpoint.pt'", "walk#extra", "private/train/checkpoint.pt"),
        ({}, '$f"{@private_dir}/best.pt"', "walk#extra", "private/best.pt"),
        ({}, "%output_dir", "walk#extra", "."),
        ({}, "@private_dir", "walk#extra", "private"),
        ({}, "$@private_dir + '/walk/../best.pt'", "walk#extra", "private/best.pt"),
        ({}, "$@output_dir + '/../elsewhere'", "walk#extra", "../elsewhere"),
        ({}, ["a", {"b": "$@private_dir + '/best.pt'"}], "walk#extra#1#b", "private/best.pt"),
        ({"best": "$@private_dir + '/best.pt'"}, "@best", "walk#extra", "private/best.pt"),
        ({"best": "$@private_dir + '/best.pt'", "b": "@best"}, "@b", "walk#extra", "private/best.pt"),
        ({"best": "$@private_dir + '/best.pt'"}, "$len(@best)", "walk#extra", "private/best.pt"),
        ({"best": "$@private_dir + '/best.pt'"}, "$@best if @verbose else @model_file", "walk#extra", "private/best"),
        ({"best": "$@private_dir + '/best.pt'"}, "$@model_file if @verbose else @best", "walk#extra", "private/best"),
        ({"net": {"file": "$@private_dir + '/best.pt'"}}, "@net", "net#file", "private/best.pt"),
        ({"net": {"file": "$@private_dir + '/best.pt'"}}, ["@net", "$len(@net#file)"], "net#file", "private/best.pt"),
        ({"net": "$len(@private_dir + '/best.pt')"}, "@net", "net", "private/best.pt"),
        ({"name": "best"}, "$@private_dir + '/' + @name + '.pt'", "walk#extra", "private/best.pt"),
        # the same places by another way than the id output_dir
        ({}, "$@bundle_root + '/../out/private/best.pt'", "walk#extra", "private/best.pt"),
        ({"here": "OUT"}, "$@here + '/private/best.pt'", "walk#extra", "private/best.pt"),
        # what cannot be followed counts as it stands
        ({}, "$@model_file + '2'", "walk#extra", "private/model.pt2"),
        ({}, "$len([@private_dir + '/walk', '../best.pt'])", "walk#extra", "private/best.pt"),
        ({}, "$@model_file + str(2)", "walk#extra", r"private/model\.pt…"),
        ({}, '$f"{@private_dir}/walk{len([1])}.pt"', "walk#extra", "private/walk…"),
        ({"name": 3}, "$@private_dir + '/walk' + str(@name) + '/part.pt'", "walk#extra", "private/walk…"),
        ({}, "$@private_dir + '/best%d.pt' % 1", "walk#extra", "private"),
        ({"name": "best"}, "$'/'.join([@private_dir, @name])", "walk#extra", "private"),
        ({}, "$open(@output_dir + '/release/x').read()", "walk#extra", "release/x"),
        ({"x": "$'a' + @x"}, "@x", "walk#extra", "itself"),
    ],
)
def test_undeclared(toy: Toy, ids: dict[str, Any], extra: Any, id: str, path: str) -> None:
    _with(toy, {name: str(toy.out) if value == "OUT" else value for name, value in ids.items()}, extra)
    expected = f"leads to {path}" if path != "itself" else "refers to itself"
    with pytest.raises(ConfigError, match=rf"stage walk: config id {id} {expected}"):
        toy.run()
    assert not toy.out.exists()


@pytest.mark.parametrize(
    ("ids", "extra"),
    [
        ({}, "@model_file"),
        ({}, "$len(@paths_file)"),
        ({}, "$@private_dir + '/walk/deep/part.pt'"),
        ({"work_dir": "$@private_dir + '/walk'"}, ["@work_dir", "$@work_dir + '/checkpoint.pt'"]),
        ({"release_dir": "$@output_dir + '/release'"}, 3),  # reached by nothing
        ({}, "$@dataset_dir + '/private/best.pt'"),
        ({}, "private/best.pt"),
        ({}, "$@private_dir + '/walk/part' + str(3) + '.pt'"),  # what follows is a name within the folder
        ({"name": 3}, '$f"{@private_dir}/walk/{@name}/part.pt"'),
        ({}, "$len('x/../y')"),
        ({"deep": {"folder": "$@output_dir + '/private'"}}, "$@deep#folder + '/model.pt'"),  # begins another path only
    ],
)
def test_declared(toy: Toy, ids: dict[str, Any], extra: Any) -> None:
    _with(toy, ids, extra)
    assert len(toy.run()) == 3


def test_nothing_is_executed(toy: Toy) -> None:
    _with(toy, {"harm": "$open(@bundle_root + '/harm', 'w')"}, "$@private_dir + @harm")
    with pytest.raises(ConfigError, match="leads to private… in"):
        toy.run()
    assert not (toy.bundle / "harm").exists()


def test_an_override_is_held_to_it_too(toy: Toy) -> None:
    with pytest.raises(ConfigError, match=r"stage train: config id train#trainer#writes#0 leads to private/other\.pt"):
        toy.run({"model_file": "$@private_dir + '/other.pt'"})


def test_a_declared_file_in_the_work_folder_of_another_stage(toy: Toy) -> None:
    """It feeds the stage: compared, and made first."""
    _with(toy, {}, "$@private_dir + '/train/part.txt'")
    stages = toy.read_config("stages")
    stages["stages"][1]["reads"].append("private/train/part.txt")
    toy.write_config("stages", stages)
    toy.run()
    (toy.out / "private" / "train" / "part.txt").write_text("changed")
    assert toy.reasons()["walk"] == "private/train/part.txt changed"


def test_an_f_string_in_single_quotes_has_a_hint(toy: Toy) -> None:
    """Python 3.12 reads ``f'{x['a']}'``, which MONAI makes of it; earlier ones do not."""
    _with(toy, {}, "$f'{@private_dir}/walk/part.pt'")
    if sys.version_info < (3, 12):
        with pytest.raises(ConfigError, match=r"walk#extra is no expression: .* give the f-string double ones\."):
            toy.run()
    else:
        assert len(toy.run()) == 3


def test_a_data_set_within_the_output_is_no_output(toy: Toy) -> None:
    """As that of the quickstart."""
    toy.data.rename(toy.root / "out_data")
    toy.out.mkdir()
    (toy.root / "out_data").rename(toy.out / "data")
    toy.data = toy.out / "data"
    _with(toy, {}, ["$@dataset_dir + '/a.png'", str(toy.data / "a.png")])
    assert len(toy.run()) == 3


@pytest.mark.parametrize(("id", "stage"), [("private_dir", "train"), ("model_file", "train"), ("paths_file", "walk")])
def test_outputs_cannot_be_led_elsewhere(toy: Toy, id: str, stage: str) -> None:
    """The stage would compute for hours and end without what it promises."""
    with pytest.raises(
        ConfigError, match=rf"stage {stage}: nothing in its config leads to private/\w+\.\w+ in output_dir"
    ):
        toy.run({id: str(toy.root / "elsewhere")})
    assert not toy.out.exists()
