"""What a gate compares: every audited file, and the real images without a word about them."""

from __future__ import annotations

from types import SimpleNamespace

from monai_plan.audit.digests import real_digest, released_files
from monai_plan.utils import file_digest


def test_every_image_and_the_data_list_are_named_below_the_release(tmp_path):
    (tmp_path / "images").mkdir()
    files = [tmp_path / "images" / "b.png", tmp_path / "images" / "a.png"]
    for file in files:
        file.write_text(file.name)
    assert list(released_files(list(map(str, files)), tmp_path)) == ["images/a.png", "images/b.png"]
    (tmp_path / "datalist.json").write_text("{}")
    found = released_files(list(map(str, files)), tmp_path)
    assert found == {name: file_digest(tmp_path / name) for name in ("datalist.json", "images/a.png", "images/b.png")}


def test_images_that_lie_elsewhere_do_not_tell_where(tmp_path):
    (tmp_path / "secret place" / "x").mkdir(parents=True)
    (tmp_path / "release").mkdir()
    files = [tmp_path / "secret place" / name for name in ("a.png", "x/b.png")]
    for file in files:
        file.write_text(file.name)
    assert list(released_files(list(map(str, files)), tmp_path / "release")) == ["a.png", "x/b.png"]


def test_the_real_images_have_one_digest_that_needs_the_key(tmp_path):
    def of(members, held_out, key="a"):
        sides = [SimpleNamespace(digests=side) for side in (members, held_out)]
        return real_digest(*sides, secret_file=tmp_path / f"{key}.json")

    first = of(["1", "2"], ["3"])
    assert len(first) == 64
    assert of(["2", "1"], ["3"]) == first, "their order says nothing"
    assert of(["1"], ["2", "3"]) != first
    assert of(["1", "2"], ["4"]) != first
    assert of(["1", "2"], ["3"], key="b") != first
