"""What an audit writes beside the page: the sheet for a reader, whose key stays apart."""

from __future__ import annotations

import json

import torch

from monai_plan.audit.page import write_reading
from monai_plan.audit.reading import ReadImages


def read(count, per_subject, name):
    images = torch.rand(count, 1, 12, 12, generator=torch.Generator().manual_seed(count)) * 2 - 1
    keys = [f"{name}/{number}.png" for number in range(count)]
    return ReadImages(images, [f"{name}{number // per_subject}" for number in range(count)], True, keys, None, {}, "x")


def test_real_and_synthetic_are_mixed_by_the_secret_alone(tmp_path):
    released, held_out = read(60, 2, "made"), read(20, 2, "real")
    orders = []
    for secret in ("a" * 64, "a" * 64, "b" * 64):
        write_reading(released, held_out, secret=secret, folder=tmp_path)
        key = json.loads((tmp_path / "reading_key.json").read_text())
        orders.append([(entry["kind"], entry["file"]) for entry in key["images"]])
    assert orders[0] == orders[1] != orders[2]
    assert [entry["number"] for entry in key["images"]] == list(range(1, 21))
    for kind, name in (("real", "real"), ("synthetic", "made")):
        shown = [file for of, file in orders[0] if of == kind]
        assert len(shown) == 10, "one of each of the fewer patients"
        assert len({int(file.split("/")[1][:-4]) // 2 for file in shown}) == 10
        assert all(file.startswith(name) for file in shown)
    assert key["right by guessing"] == 10
    assert key["told apart from so many right"] == 15  # P(Binomial(20, 1/2) >= 15) = 0.021, of 14 0.058
    assert sorted(file.name for file in (tmp_path / "reading").iterdir()) == ["answers.csv", "sheet.png"]
    assert (tmp_path / "reading" / "answers.csv").read_text().splitlines()[:2] == ["number,real or synthetic", "1,"]
    assert b"real/" not in (tmp_path / "reading" / "sheet.png").read_bytes()


def test_a_volume_is_shown_by_its_middle_slice(tmp_path):
    volumes = ReadImages(torch.zeros(1, 1, 8, 8, 8), ["a"], True, ["a"], None, {}, "x")
    write_reading(volumes, volumes, secret="c" * 64, folder=tmp_path)
    key = json.loads((tmp_path / "reading_key.json").read_text())
    assert len(key["images"]) == 2
    assert key["told apart from so many right"] is None, "two answers prove nothing"
