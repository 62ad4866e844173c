"""What every room shares: files written whole, one digest, finished parts."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.data import MetaTensor
from torch import nn

import monai_plan
from monai_plan import utils
from monai_plan.utils import (
    ArtifactError,
    ConfigError,
    DataError,
    atomic_path,
    digest,
    file_digest,
    files_below,
    finished_part,
    is_temporary,
    load_artifact,
    read_json,
    save_artifact,
    sync,
    temporary_name,
    write_json,
    write_text,
)


@dataclass(frozen=True)
class _Walk:
    steps: int
    rate: float


@dataclass(frozen=True)
class _Inversion:
    steps: int
    rate: float


# ---- files from outside -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("[" * 100_000, "it is nested too deeply"),
        ('{"a":' * 100_000, "it is nested too deeply"),
        ('[{"a": 1, "b": 2, "a": 3}]', "the key 'a' occurs twice"),
        ("[1, 2", "Expecting ',' delimiter"),
        ("\udcff", "can't decode byte 0xff"),
        ("9" * 5000, "Exceeds the limit"),
    ],
)
def test_json_from_outside_is_refused_in_one_sentence(tmp_path: Path, content: str, reason: str) -> None:
    file = tmp_path / "a.json"
    file.write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(DataError, match=rf"a\.json cannot be read as a list: .*{reason}.*Mend the JSON file\.$"):
        read_json(file, what="a list")


def test_json_without_end_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a.json"
    file.write_text("[1]")
    assert read_json(file) == [1]
    monkeypatch.setattr(utils, "MOST_JSON", 2)
    os.mkfifo(tmp_path / "pipe")  # nobody writes: to open it would wait for ever
    for endless in (file, tmp_path / "pipe", tmp_path):
        with pytest.raises(DataError, match=f"{endless.name} cannot be read as JSON: it is no file of at most"):
            read_json(endless)
    with pytest.raises(DataError, match="none does not exist: give the path of JSON"):
        read_json(tmp_path / "none")


# ---- files ---------------------------------------------------------------------------------------------------------


def test_a_path_that_nobody_means_is_not_written(tmp_path):
    """MONAI's configs make :: of #, and what a shell has not replaced would be a folder called ~."""
    for path in (tmp_path / "a::b" / "c.json", "~/c.json"):
        with pytest.raises(ConfigError, match="is not written"):
            write_json(path, 1)
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_the_old_one_or_the_new_one(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "a.txt"
    write_text(file, "old")

    def fail() -> None:
        with atomic_path(file) as temporary:
            temporary.write_text("half")
            assert temporary.suffix == ".txt"
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert file.read_text() == "old"
    assert os.listdir(file.parent) == ["a.txt"]


def test_two_writers_do_not_meet(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    with atomic_path(file) as first, atomic_path(file) as second:
        first.write_text("first")
        second.write_text("second")
    assert file.read_text() == "first"  # the last one to finish
    assert os.listdir(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("name", ["model.pt", "a.nii.gz", "images", ".hidden"])
def test_temporary_names_are_known(name: str, tmp_path: Path) -> None:
    assert is_temporary(temporary_name(tmp_path / name).name)
    assert temporary_name(tmp_path / name) != temporary_name(tmp_path / name)
    assert not is_temporary(name)


@pytest.mark.parametrize("name", ["a.tmp", ".a.tmp", ".a.1234.tmp", "a.0123abcd.tmp.pt"])
def test_files_of_others_are_not_taken_for_temporary_ones(name: str) -> None:
    assert not is_temporary(name)


def test_file_and_folder_are_synced_around_the_rename(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    replace = os.replace
    monkeypatch.setattr(utils, "sync", lambda path: done.append("file" if Path(path).is_file() else "folder"))
    monkeypatch.setattr(os, "replace", lambda a, b: (done.append("rename"), replace(a, b)))
    write_text(tmp_path / "a.txt", "text")
    assert done == ["file", "rename", "folder"]


def test_a_folder_that_cannot_be_synced_does_no_harm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Any, flags: int) -> int:
        raise PermissionError(path)

    monkeypatch.setattr(os, "open", refuse)  # as on Windows
    sync(tmp_path)
    with pytest.raises(PermissionError):
        sync(Path(__file__))


def test_files_below_a_folder(tmp_path: Path) -> None:
    """In order, behind links too, but not round and round."""
    for name in ("b/z.txt", "b/a.txt", "a.txt"):
        write_text(tmp_path / "top" / name, name)
    write_text(tmp_path / "elsewhere" / "linked.txt", "linked")
    os.symlink(tmp_path / "elsewhere", tmp_path / "top" / "c")
    os.symlink(tmp_path / "top", tmp_path / "top" / "b" / "loop")
    os.symlink(tmp_path / "nothing", tmp_path / "top" / "broken")
    found = [file.relative_to(tmp_path / "top").as_posix() for file in files_below(tmp_path / "top")]
    assert found == ["a.txt", "b/a.txt", "b/z.txt", "c/linked.txt"]


def test_the_same_artifact_is_the_same_file(tmp_path: Path) -> None:
    for name in ("a", "b"):
        save_artifact(tmp_path / name / "model.pt", kind="part", data={"x": torch.arange(9.0)}, made_by={"steps": 1})
    assert digest(tmp_path / "a") == digest(tmp_path / "b")


# ---- the digest ----------------------------------------------------------------------------------------------------


def _network(value: float = 1.0, *, buffer: float = 0.0) -> nn.Module:
    network = nn.Sequential(nn.Linear(1, 1))
    nn.init.constant_(network[0].weight, value)
    nn.init.zeros_(network[0].bias)
    network.register_buffer("shift", torch.tensor(buffer), persistent=False)
    return network


def _folder(root: Path, **files: str) -> Path:
    for name, content in files.items():
        write_text(root / name.replace("__", "/"), content)
    return root


PLAIN: list[Any] = [
    None, True, False, 1, 0, -1, 1.0, 0.0, -0.0, 0.1, float("nan"), float("inf"), "", "1", "a", "None", b"", b"a",
    [], {}, [1], [1, 2], [2, 1], [[1], 2], [1, [2]], [[1, 2]], ["a", "b"], ["ab"], [["a"], "b"], {"a": 1}, {"a": None},
    {"b": 1}, {"a": 1, "b": 2}, {1: "a"}, {"1": "a"}, [{"a": 1}, {"b": 2}], _Walk(1, 0.5), _Walk(2, 0.5),
    _Inversion(1, 0.5), {"steps": 1, "rate": 0.5}, torch.float32, torch.device("cpu"), "torch.float32", "cpu",
]  # fmt: skip
TENSORS: list[Any] = [
    torch.zeros(2, 3), torch.zeros(3, 2), torch.zeros(6), torch.zeros(2, 3, dtype=torch.float64), torch.zeros(0),
    torch.zeros(0, 3), torch.zeros(()), torch.ones(6), torch.zeros(6, dtype=torch.int32), torch.zeros(1).bool(),
    torch.arange(6), torch.arange(6).flip(0), torch.zeros(6).bfloat16(), torch.zeros(6).half(),
]  # fmt: skip


def test_different_values_have_different_digests(tmp_path: Path) -> None:
    folders = [
        _folder(tmp_path / "1", a="x"),
        _folder(tmp_path / "2", b="x"),
        _folder(tmp_path / "3", a="y"),
        _folder(tmp_path / "4", a="x", b="x"),
        _folder(tmp_path / "5", c__a="x"),
        _folder(tmp_path / "6", a="", b="x"),
        _folder(tmp_path / "7", a="x", b=""),
    ]
    (tmp_path / "empty").mkdir()
    paths = [*folders, tmp_path / "empty", tmp_path / "1" / "a", tmp_path / "3" / "a", tmp_path / "6" / "a"]
    networks = [_network(), _network(2.0), _network(buffer=1.0), nn.Linear(1, 1, bias=False)]
    values = [*PLAIN, *TENSORS, *paths, *networks, str(tmp_path / "1"), file_digest(tmp_path / "1" / "a")]
    digests = [digest(value) for value in values]
    for number, found in enumerate(digests):
        assert digests.index(found) == number, values[number]
    assert len({digest(), digest(1), digest(1, 2), digest([1, 2]), digest([1], 2), digest(12)}) == 6


def test_equal_values_have_equal_digests(tmp_path: Path) -> None:
    base = torch.arange(12.0).reshape(3, 4)
    pairs: list[tuple[Any, Any]] = [
        ((1, (2, 3)), [1, [2, 3]]),
        ({"a": 1, "b": 2}, OrderedDict(b=2, a=1)),
        (np.float64(0.1), 0.1),
        (base[:, 1], base[:, 1].clone()),
        (MetaTensor(base, meta={"filename_or_obj": "patient.png"}), base),
        (nn.Parameter(base), base),
        (_network(), _network().eval()),
        (_Walk(1, 0.5), _Walk(1, 0.5)),
        (_folder(tmp_path / "1", a="x", b__c="y"), _folder(tmp_path / "2", a="x", b__c="y")),
        (tmp_path / "1" / "a", tmp_path / "2" / "a"),
    ]
    for first, second in pairs:
        assert digest(first) == digest(second), first


def test_a_digest_is_the_same_in_another_process() -> None:
    code = "import torch; from monai_plan.utils import digest; print(digest({'b': [1, 'x'], 'a': torch.ones(3)}, None))"
    options: dict[str, Any] = {"capture_output": True, "text": True, "check": True}
    found = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}, **options
    )
    assert found.stdout.strip() == digest({"a": torch.ones(3), "b": [1, "x"]}, None)


def test_what_cannot_be_written_down_has_no_digest(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="of the type function has no digest"):
        digest([1, lambda: None])
    with pytest.raises(FileNotFoundError):
        digest(tmp_path / "nothing")


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


def _same(a: Any, b: Any) -> bool:
    """Equality that tells True from 1 and 0.0 from −0.0."""
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(_same, a, b))
    return type(a) is type(b) and repr(a) == repr(b)


@settings(max_examples=200, deadline=None)
@given(_VALUES, _VALUES)
def test_digests_are_equal_only_for_the_same(a: Any, b: Any) -> None:
    assert (digest(a) == digest(b)) == _same(a, b)


# ---- finished parts ------------------------------------------------------------------------------------------------


class _Part:
    """Makes a part and counts how often."""

    def __init__(self, file: Path) -> None:
        self.file, self.made = file, 0

    def __call__(self, made_by: Any, kind: str = "part") -> dict[str, Any]:
        return finished_part(self.file, kind=kind, made_by=made_by, make=self._make)

    def _make(self) -> dict[str, Any]:
        self.made += 1
        return {"value": torch.full((3,), float(self.made)), "name": "x"}


@pytest.fixture
def part(tmp_path: Path) -> _Part:
    return _Part(tmp_path / "parts" / "a.pt")


def test_a_part_is_made_once(part: _Part) -> None:
    inputs = {"network": _network(), "settings": _Walk(1, 0.5)}
    first, second = part(inputs), part({"network": _network(), "settings": _Walk(1, 0.5)})
    assert part.made == 1
    assert first.keys() == second.keys() == {"value", "name"}
    assert torch.equal(first["value"], second["value"])


def test_other_inputs_make_it_again(part: _Part, monkeypatch: pytest.MonkeyPatch) -> None:
    part([1])
    assert part([2])["value"].tolist() == [2.0] * 3
    monkeypatch.setattr(monai_plan, "__version__", "99")
    part([2])
    assert part.made == 3


def _cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


def _no_header(file: Path) -> None:
    torch.save({"header": {"format": "monai_plan"}, "data": {}}, file)


def _of_another_kind(file: Path) -> None:
    save_artifact(file, kind="something else", data={})


DAMAGE: list[Callable[[Path], Any]] = [
    lambda file: file.write_bytes(b""),
    lambda file: file.write_bytes(b"\0" * file.stat().st_size),
    _cut,
    _no_header,
    _of_another_kind,
]


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_part_is_made_again_and_says_so(
    damage: Callable[[Path], Any], part: _Part, caplog: pytest.LogCaptureFixture
) -> None:
    part([1])
    damage(part.file)
    with caplog.at_level(logging.WARNING):
        assert part([1])["value"].tolist() == [2.0] * 3
    assert [record.getMessage() for record in caplog.records] == [
        f"{part.file} is damaged or no part and is made again"
    ]
    assert part([1])["value"].tolist() == [2.0] * 3


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_artifact_is_an_error_for_people(damage: Callable[[Path], Any], tmp_path: Path) -> None:
    save_artifact(tmp_path / "a.pt", kind="part", data={"x": torch.zeros(100)})
    damage(tmp_path / "a.pt")
    with pytest.raises(ArtifactError, match=r"a\.pt"):
        load_artifact(tmp_path / "a.pt", kind="part")
