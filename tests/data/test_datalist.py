from __future__ import annotations

import json
import os
import re
import sys

import nibabel
import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.data import load_decathlon_datalist
from PIL import Image
from variants import GREY, dicom, plane, series

from monai_plan.data import (
    check_split,
    datalist_from_aptos,
    datalist_from_csv,
    datalist_from_folders,
    datalist_from_medmnist,
    datalist_from_shenzhen,
    read_datalist,
    split_by_subject,
    write_datalist,
)
from monai_plan.utils import ConfigError, DataError

pytestmark = pytest.mark.filterwarnings("ignore:NvImgCodecPydicomReader")

LABELS = {"0": "normal", "1": "lesion"}


def write(tmp_path, content):
    path = tmp_path / "datalist.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def item(image, label=0, **more):
    return {"image": image, "label": label, **more}


def picture(path, value=100, mode="L"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, (8, 8), value).save(path)


def test_read(tmp_path):
    path = write(
        tmp_path,
        {
            "labels": LABELS,
            "modality": ["CR"],
            "training": [item("images/a.png", 1, subject=7), item("./b.png", 0, subject="p2")],
            "test": [item("c.png", 0, subject="p3")],
            "test_known": [item("d.png", 0, subject="p2")],
        },
    )
    datalist = read_datalist(path)
    assert datalist.path == path
    assert datalist.labels == {0: "normal", 1: "lesion"}
    assert list(datalist.sections) == ["training", "test", "test_known"]
    assert datalist.sections["training"][0] == {
        "image": str(tmp_path / "images/a.png"),
        "label": 1,
        "subject": "7",
        "key": "images/a.png",
    }
    assert datalist.has_subjects


def test_without_subjects_every_image_is_its_own(tmp_path):
    datalist = read_datalist(write(tmp_path, {"labels": LABELS, "training": [item("a.png"), item("b.png")]}))
    assert not datalist.has_subjects
    assert [i["subject"] for i in datalist.sections["training"]] == ["a.png", "b.png"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "cannot be read"),
        ([], '"labels"'),
        ({"training": []}, '"labels"'),
        ({"labels": LABELS}, '"training"'),
        ({"labels": {"no": "x"}, "training": []}, "whole numbers"),
        ({"labels": LABELS, "training": [{"label": 0}]}, 'item 0 has no "image"'),
        ({"labels": LABELS, "training": [item("a.png"), {"image": "b.png"}]}, 'item 1 has no "label"'),
        ({"labels": LABELS, "training": [item("a.png")], "test": ["b.png"]}, '"test" item 0'),
        ({"labels": LABELS, "training": [item("a.png", "1")]}, "'1'"),
        ({"labels": LABELS, "training": [item("a.png", True)]}, "True"),
        ({"labels": LABELS, "training": [item("a.png", 0.5)]}, "0.5"),
        ({"labels": LABELS, "training": [item(["a.png", "b.png"])]}, "one file"),
        ({"labels": LABELS, "training": [item("a.png"), item("./a.png")]}, "twice"),
        ({"labels": LABELS, "training": [item("a.png")], "test": [item("x/../a.png")]}, "twice"),
        ({"labels": LABELS, "training": [item("a.png", subject="p"), item("b.png")]}, "for 1 images and none for 1"),
        (
            {"labels": LABELS, "training": [item("a.png", subject="p")], "test": [item("b.png", subject="p")]},
            r"p is in both .*a\.png.*b\.png",
        ),
    ],
)
def test_bad_files(tmp_path, content, message):
    with pytest.raises(DataError, match=message):
        read_datalist(write(tmp_path, content))


def test_missing_file(tmp_path):
    with pytest.raises(DataError, match=r"none\.json does not exist"):
        read_datalist(tmp_path / "none.json")


def test_check_split_names_the_subject():
    one, two = ({"subject": s, "key": f"{s}.png"} for s in ("p1", "p2"))
    check_split([one], [two])
    with pytest.raises(DataError, match=r"p1.*p1\.png.*other\.png.*2 subjects"):
        check_split([one, two], [{"subject": "p1", "key": "other.png"}, two])


def test_write_and_read_back(tmp_path):
    training = [item(str(tmp_path / "raw/a.png"), 1, subject="p1"), item("b.png", 0, subject="p2")]
    path = write_datalist(
        tmp_path / "lists/datalist.json", labels={1: "b", 0: "a"}, sections={"training": training, "test": []}, name="n"
    )
    datalist = read_datalist(path)
    assert [i["key"] for i in datalist.sections["training"]] == ["../raw/a.png", "b.png"]
    assert datalist.sections["training"][0]["image"] == str(tmp_path / "raw/a.png")
    assert "test" not in datalist.sections
    loaded = load_decathlon_datalist(path, is_segmentation=False)
    assert [i["label"] for i in loaded] == [1, 0]


@st.composite
def populations(draw):
    """At least two single-class subjects a class, and some of mixed classes."""
    num_classes = draw(st.integers(1, 4))
    subjects = [[label] * draw(st.integers(1, 5)) for label in range(num_classes) for _ in range(2)]
    subjects += draw(st.lists(st.lists(st.integers(0, num_classes - 1), min_size=1, max_size=5), max_size=12))
    items = [
        item(f"{s}_{i}.png", label, subject=f"p{s}") for s, of in enumerate(subjects) for i, label in enumerate(of)
    ]
    return draw(st.permutations(items))


@settings(max_examples=100, deadline=None)
@given(items=populations(), test_fraction=st.floats(0.05, 0.9), seed=st.integers(0, 2**32))
def test_split_by_subject(items, test_fraction, seed):
    training, test = split_by_subject(items, test_fraction=test_fraction, seed=seed)
    assert not {i["subject"] for i in training} & {i["subject"] for i in test}  # no subject on both sides
    images = [i["image"] for i in training + test]
    assert sorted(images) == sorted(i["image"] for i in items)  # nobody lost, nobody twice
    labels = {i["label"] for i in items}
    assert {i["label"] for i in training} == {i["label"] for i in test} == labels
    assert (training, test) == split_by_subject(items, test_fraction=test_fraction, seed=seed)


@pytest.mark.parametrize("with_subjects", [True, False])
def test_split_keeps_the_fraction_in_every_class(with_subjects):
    items = [item(f"{i}.png", int(i < 40)) | ({"subject": str(i)} if with_subjects else {}) for i in range(200)]
    training, test = split_by_subject(items, test_fraction=0.25, seed=3)
    assert sum(i["label"] for i in test) == 10
    assert len(test) == 50
    assert test != split_by_subject(items, test_fraction=0.25, seed=4)[1]
    assert [i["image"] for i in training] == [i["image"] for i in items if i not in test]


def test_split_spares_a_subject_with_most_images():
    items = [item(f"a{i}.png", subject="a") for i in range(90)] + [item(f"{i}.png", subject=str(i)) for i in range(10)]
    for seed in range(5):
        assert all(i["subject"] != "a" for i in split_by_subject(items, test_fraction=0.1, seed=seed)[1])


def test_impossible_splits():
    items = [item("a.png", 0, subject="a"), item("b.png", 0, subject="b"), item("c.png", 1, subject="c")]
    with pytest.raises(DataError, match=r"Class 1 has images of 1 subject"):
        split_by_subject(items, test_fraction=0.5, seed=0)
    for fraction in (0.0, 1.0, -1.0):
        with pytest.raises(ConfigError, match="test_fraction"):
            split_by_subject(items, test_fraction=fraction, seed=0)


def sides(path):
    datalist = read_datalist(path)
    return datalist, datalist.sections["training"], datalist.sections["test"]


def test_from_folders(tmp_path):
    for patient in range(5):
        for shot in range(2):
            picture(tmp_path / f"data/healthy/p{patient}_{shot}.png")
            picture(tmp_path / f"data/ill/deep/q{patient}_{shot}.JPG")
    (tmp_path / "data/healthy/notes.txt").write_text("no image")
    path = datalist_from_folders(
        tmp_path / "data", output=tmp_path / "out/datalist.json", subject_pattern=r"^([pq]\d)_", test_fraction=0.4
    )
    datalist, training, test = sides(path)
    assert datalist.labels == {0: "healthy", 1: "ill"}
    assert (len(training), len(test)) == (12, 8)
    assert {i["subject"] for i in training + test} == {f"{c}{n}" for c in "pq" for n in range(5)}
    assert training[0]["key"].startswith("../data/healthy/p")
    path = datalist_from_folders(tmp_path / "data", output=tmp_path / "datalist.json")
    assert not read_datalist(path).has_subjects


def test_from_folders_bad_input(tmp_path):
    output = tmp_path / "datalist.json"
    with pytest.raises(DataError, match="no folder"):
        datalist_from_folders(tmp_path / "none", output=output)
    with pytest.raises(DataError, match="holds no folders"):
        datalist_from_folders(tmp_path, output=output)
    (tmp_path / "a").mkdir()
    with pytest.raises(DataError, match="holds no images"):
        datalist_from_folders(tmp_path, output=output)
    picture(tmp_path / "a/x.png")
    with pytest.raises(DataError, match=r"x\.png has no subject"):
        datalist_from_folders(tmp_path, output=output, subject_pattern=r"p\d+")
    with pytest.raises(ConfigError, match="regular expression"):
        datalist_from_folders(tmp_path, output=output, subject_pattern="(")
    (tmp_path / "a").rename(tmp_path / "train")
    with pytest.raises(DataError, match="folders of a split"):
        datalist_from_folders(tmp_path, output=output)
    assert not output.exists()


@pytest.mark.parametrize(
    ("texts", "names"),
    [
        (["ill", "well"], {0: "ill", 1: "well"}),
        (["0", "1"], {0: "0", 1: "1"}),
        (["2", "10"], {0: "2", 1: "10"}),  # by value, not by alphabet
    ],
)
def test_from_csv(tmp_path, texts, names):
    lines = ["\ufefffile,class,patient"]
    for number in range(8):
        picture(tmp_path / f"img/{number}.png")
        lines.append(f"{number}.png, {texts[number % 2]},{number // 2 % 2}{number % 2}")
    (tmp_path / "table.csv").write_text("\n".join(lines), encoding="utf-8")
    path = datalist_from_csv(
        tmp_path / "table.csv",
        image_root=tmp_path / "img",
        image_column="file",
        label_column="class",
        subject_column="patient",
        output=tmp_path / "datalist.json",
        test_fraction=0.5,
    )
    datalist, training, test = sides(path)
    assert datalist.labels == names
    assert (len(training), len(test)) == (4, 4)
    assert all(names[i["label"]] == texts[int(i["key"][-5]) % 2] for i in training + test)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "does not exist"),
        ("", "no column 'image'"),
        ("image,class\na.png,1\n", "no column 'label'"),
        ("image,label\n", "no rows"),
        ("image,label\na.png,\n", "line 2, has no 'label'"),
        ("image,label\na.png\n", "line 2, has no 'label'"),
        ("image,label\na.png,0\nb.png,1\n", r"b\.png.*1 of 2"),
        (b"image,label\n\xff.png,0\n", "ÿ.png.*1 of 1"),  # cp1252
    ],
)
def test_from_csv_bad_input(tmp_path, text, message):
    picture(tmp_path / "a.png")
    if text is not None:
        (tmp_path / "t.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DataError, match=message):
        datalist_from_csv(tmp_path / "t.csv", image_root=tmp_path, output=tmp_path / "datalist.json")
    assert not (tmp_path / "datalist.json").exists()


def table(tmp_path, text, *, encoding="utf-8", **options):
    """The data list of a table of 24 pictures, in the columns image, label and patient."""
    for number in range(24):
        picture(tmp_path / f"{number}.png")
    (tmp_path / "t.csv").write_bytes(text.encode(encoding))
    columns = {"subject_column": "patient"} if "patient" in text.splitlines()[0] else {}
    return sides(
        datalist_from_csv(
            tmp_path / "t.csv", image_root=tmp_path, output=tmp_path / "datalist.json", **columns, **options
        )
    )


def rows(row, header="image,label,patient", end="\n"):
    return end.join([header, *map(row, range(24))]) + end


@pytest.mark.parametrize(
    ("separator", "encoding", "end"),
    [
        (",", "utf-8", "\n"), (";", "utf-8-sig", "\r\n"), ("\t", "utf-16", "\r\n"), ("|", "utf-16-le", "\n"),
        (";", "cp1252", "\r\n"), (",", "utf-8", "\r"),
    ],
)  # fmt: skip
def test_tables_as_programs_write_them(tmp_path, separator, encoding, end):
    def row(number):
        return separator.join([f"{number}.png", ("gesund", "grün")[number % 2], f"p{number // 2 * 7}"])

    text = rows(row, separator.join(["image", "label", "patient"]), end)
    datalist, training, test = table(tmp_path, text, encoding=encoding)
    assert datalist.labels == {0: "gesund", 1: "grün"}
    assert len({item["subject"] for item in training + test}) == 12


LOOK_ALIKE_PATIENTS = {
    "7.0 beside 7": lambda n: f"{n // 2}{'.0' if n % 2 else ''}",
    "zeros in front": lambda n: f"{n // 2:0{3 if n % 2 else 1}d}",
    "case and spaces": lambda n: ("p {}", "P{}")[n % 2].format(n // 2),
    "full width": lambda n: str(n // 2).translate({} if n % 2 else {48 + d: 0xFF10 + d for d in range(10)}),
    "an accent in two pieces": lambda n: ("\u00e9{}", "e\u0301{}")[n % 2].format(n // 2),
    "a letter of another alphabet": lambda n: ("A{}", "\u0410{}")[n % 2].format(n // 2),
    "another dash": lambda n: ("p-{}", "p\u2013{}")[n % 2].format(n // 2),
    "a character without a shape": lambda n: ("p{}", "p\u200b{}")[n % 2].format(n // 2),
    "a dot at the end": lambda n: f"{n // 2}{'.' * (n % 2)}",
    "a plus": lambda n: f"{'+' * (n % 2)}{n // 2}",
    "an apostrophe of a spreadsheet": lambda n: f"{chr(39) * (n % 2)}{n // 2}",
    "a formula of a spreadsheet": lambda n: (f'=""{n // 2}""', n // 2)[n % 2],
    "a power of ten": lambda n: (f"{n // 2 + 1}e3", f"{n // 2 + 1}000")[n % 2],
    "a hyphen in a word": lambda n: ("site-a{}", "site a{}")[n % 2].format(n // 2),
    "thirty digits": lambda n: f"1{n // 2:029d}{'.0' * (n % 2)}",
    "a decimal comma": lambda n: f"{n // 2}{'' if n % 2 else ',0'}",
    "one zero and two": lambda n: "0" * (n % 2 + 1) if n < 2 else f"{'0' * (n % 2)}{n // 2}",
}


@pytest.mark.parametrize("case", LOOK_ALIKE_PATIENTS)
def test_patients_that_look_alike(tmp_path, case, caplog):
    text = rows(lambda number: f'{number}.png,{number // 2 % 2},"{LOOK_ALIKE_PATIENTS[case](number)}"')
    with pytest.raises(DataError, match=r"patients that differ only in .*, .* = .*--merge-look-alikes"):
        table(tmp_path, text)
    _, training, test = table(tmp_path, text, look_alikes="merge")
    assert len({item["subject"] for item in training + test}) == 12
    _, training, test = table(tmp_path, text, look_alikes="keep")
    assert len({item["subject"] for item in training + test}) == 24
    with pytest.raises(ConfigError, match="look_alikes is 'guess'"):
        table(tmp_path, text, look_alikes="guess")


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (("0", "1", "0.0", "1.0"), {0: "0", 1: "1"}),
        (("1.0", "2.0", "10.0"), {0: "1", 1: "2", 2: "10"}),
        (("1.5", "0.25", "10"), {0: "0.25", 1: "1.5", 2: "10"}),
        (("+1", "01", "2"), {0: "1", 1: "2"}),
    ],
)
def test_numbers_are_numbers(tmp_path, labels, names):
    datalist, training, test = table(
        tmp_path, rows(lambda n: f"{n}.png,{labels[n % len(labels)]}", header="image,label"), test_fraction=0.4
    )
    assert datalist.labels == names
    for item in training + test:
        text = labels[int(item["key"].removesuffix(".png")) % len(labels)]
        assert float(names[item["label"]]) == float(text)


def test_classes_that_look_alike(tmp_path):
    text = rows(lambda n: f"{n}.png,{('Normal', 'normal', 'TB')[n % 3]}", header="image,label")
    with pytest.raises(DataError, match=r"classes that differ only in .*'Normal' = 'normal'"):
        table(tmp_path, text)
    datalist, training, test = table(tmp_path, text, look_alikes="merge", test_fraction=0.4)
    assert datalist.labels == {0: "TB", 1: "normal"}
    assert sum(item["label"] == 1 for item in training + test) == 16


@pytest.mark.parametrize(
    "nothing",
    [
        "nan",
        "NaN",
        "NA",
        "N/A",
        "None",
        "null",
        "",
        "  ",
        "<NA>",
        "#N/A",
        "#REF!",
        "-",
        "?",
        ".",
        "n.a.",
        "-nan",
        "\u200b",
    ],
)
def test_nothing_is_no_patient_and_no_class(tmp_path, nothing):
    for column in ("label", "patient"):
        text = rows(lambda n, c=column: f"{n}.png," + ",".join(
            nothing if n == 3 and name == c else str(n % 2) for name in ("label", "patient")))  # fmt: skip
        with pytest.raises(DataError, match=f"line 5, has no '{column}'"):
            table(tmp_path, text)


def test_cells_with_line_breaks_and_separators(tmp_path):
    text = rows(
        lambda n: f'"{n}.png","a ""b"";\r\nc{n % 2}",p{n},"free\ntext, of two lines"', "image,label,patient,note"
    )
    datalist, training, test = table(tmp_path, text)
    assert len(training) + len(test) == 24
    assert [" ".join(name.split()) for name in datalist.labels.values()] == ['a "b"; c0', 'a "b"; c1']


@pytest.mark.parametrize("short", ["1.23E+05", "1.23e+17"])
def test_numbers_that_a_spreadsheet_shortened_are_no_patients(tmp_path, short):
    text = rows(lambda n: f"{n}.png,{n % 2},{short if n == 7 else n}")
    with pytest.raises(DataError, match=rf"1 patients such as '{re.escape(short)}'.*export that column as text"):
        table(tmp_path, text)


@pytest.mark.parametrize(
    ("start", "header", "encoding"),
    [
        ("sep=;\r\n", "image;label;patient", "utf-8"),
        ("", 'image;label;patient;"note (a, b, c, d)"', "utf-8"),
        ("", '"image";"label";"patient"', "utf-32"),
    ],
)
def test_headers_that_hold_other_separators(tmp_path, start, header, encoding):
    for number in range(24):
        picture(tmp_path / f"{number}.png")
    text = start + rows(lambda n: f"{n}.png;{n % 2};p{n // 2}", header)
    (tmp_path / "t.csv").write_bytes(text.encode(encoding))
    made = datalist_from_csv(
        tmp_path / "t.csv", image_root=tmp_path, output=tmp_path / "datalist.json", subject_column="patient"
    )
    datalist, training, test = sides(made)
    assert datalist.labels == {0: "0", 1: "1"}
    assert {i["subject"] for i in training + test} == {f"p{number}" for number in range(12)}


def test_a_subject_that_says_nothing_is_missing(tmp_path):
    content = {"labels": LABELS, "training": [item("a.png", subject="p1"), item("b.png", subject="nan")]}
    with pytest.raises(DataError, match=r"for 1 images and none for 1"):
        read_datalist(write(tmp_path, content))


def test_a_cell_too_many_and_a_spreadsheet(tmp_path):
    picture(tmp_path / "a.png")
    for content, message in (
        (b"image,label\na.png,0,1\n", "line 2, has more cells than the header"),
        (b"PK\x03\x04 and so on", "is a spreadsheet"),
        (b"image,label,image\na.png,0,a.png\n", "has 'image' twice in its header"),
        (b"image,label\n\x81\x8d.png,0\n", "neither UTF-8, UTF-16 nor cp1252"),
    ):
        (tmp_path / "t.csv").write_bytes(content)
        with pytest.raises(DataError, match=message):
            datalist_from_csv(tmp_path / "t.csv", image_root=tmp_path, output=tmp_path / "datalist.json")


def test_folders_with_links_other_formats_and_what_is_left_out(tmp_path, caplog):
    root, store = tmp_path / "set", tmp_path / "store"
    for name in ("normal", "tb"):
        for number in range(4):
            picture(root / name / f"{name}{number}.png")
            picture(root / name / f"{name}{number}.tif")
            picture(store / name / f"{name}_far{number}.bmp")
        Image.new("L", (8, 8)).save(root / name / f"{name}_bare", format="PNG")
        (root / name / "notes.txt").write_text("no image")
        (root / name / "site_b").symlink_to(store / name)
        (store / name / "back").symlink_to(root / name)  # a loop
    (root / "readme.md").write_text("beside the classes")
    _, training, test = sides(datalist_from_folders(root, output=root / "datalist.json"))
    assert len(training) + len(test) == 2 * (4 + 4 + 4 + 1)
    assert len({i["image"] for i in training + test}) == 26
    assert "left out what is no image: 1 .md, 2 .txt" in caplog.text
    assert "datalist" not in caplog.text.split("left out")[1].splitlines()[0]
    (root / "tb" / "wrong").symlink_to(root / "normal")
    with pytest.raises(DataError, match="is in two classes, normal and tb, by a link"):
        datalist_from_folders(root, output=root / "datalist.json")


def test_a_volume_of_two_files_is_one(tmp_path):
    for number in range(8):
        folder = tmp_path / ("normal", "tb")[number % 2]
        folder.mkdir(exist_ok=True)
        nibabel.save(nibabel.Nifti1Pair(np.zeros((4, 4, 4), np.uint8), np.eye(4)), folder / f"{number}.img")
    for suffix in (".hdr", ".img"):
        (folder / f"7{suffix}").rename(folder / f"7{suffix.upper()}")
    _, training, test = sides(datalist_from_folders(tmp_path, output=tmp_path / "datalist.json"))
    assert sorted(i["key"][-5:].lower() for i in training + test) == [f"{number}.img" for number in range(8)]


def test_folders_of_dicom(tmp_path, caplog):
    """Patients by PatientID; the slices of a series are one volume; reports are left out."""
    for number in range(8):
        name = ("normal", "tb")[number % 2]
        (tmp_path / name).mkdir(exist_ok=True)
        dicom(tmp_path / name / f"1.2.{number}", GREY, PatientID=f"pat{number // 4}{number % 2}")
    report = pydicom.dcmread(dicom(tmp_path / "tb" / "report.dcm", GREY, Modality="SR"))
    del report.Rows, report.Columns
    report.save_as(tmp_path / "tb" / "report.dcm")
    for number in range(2):
        place = tmp_path / "tb" / f"study{number}"
        place.mkdir()
        series(place, PatientID=f"ct{number}")
    _, training, test = sides(datalist_from_folders(tmp_path, output=tmp_path / "datalist.json"))
    items = training + test
    assert len(items) == 10
    assert {i["subject"] for i in items} == {"pat00", "pat01", "pat10", "pat11", "ct0", "ct1"}
    assert sorted(i["key"] for i in items if "study" in i["key"]) == ["tb/study0/series", "tb/study1/series"]
    assert "patients are told apart by PatientID" in caplog.text
    assert "1 DICOM without an image" in caplog.text
    dicom(tmp_path / "tb" / "study0" / "series" / "other.dcm", GREY, **plane(9), SeriesInstanceUID="1.2.3")
    with pytest.raises(DataError, match="study0/series holds slices of 2 series"):
        datalist_from_folders(tmp_path, output=tmp_path / "datalist.json")


def test_from_folders_of_dicom_says_what_is_damaged_and_what_is_missing(tmp_path, caplog, monkeypatch):
    for number in range(4):
        name = ("normal", "tb")[number % 2]
        (tmp_path / name).mkdir(exist_ok=True)
        dicom(tmp_path / name / f"{number}.dcm", GREY, PatientID=f"pat{number}")
    (tmp_path / "tb" / "cut.dcm").write_bytes(b"")
    os.mkfifo(tmp_path / "tb" / "pipe")  # to look into it would wait for ever
    datalist_from_folders(tmp_path, output=tmp_path / "datalist.json", test_fraction=0.5)
    assert "1 damaged DICOM, 1 without suffix" in caplog.text
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(DataError, match=r"\.dcm is DICOM, which needs pydicom: pip install"):
        datalist_from_folders(tmp_path, output=tmp_path / "datalist.json", test_fraction=0.5)


def test_a_folder_is_no_data_list_to_write(tmp_path):
    with pytest.raises(DataError, match=r"is a folder: give the file to write, such as .*datalist\.json"):
        write_datalist(tmp_path, labels={0: "a"}, sections={"training": []}, name="n")


def test_from_shenzhen(tmp_path):
    for number in range(10):
        picture(tmp_path / f"CXR_png/CHNCXR_{number:04d}_{number % 2}.png")
    picture(tmp_path / "mask/CHNCXR_0001_1_mask.png")
    datalist, training, test = sides(datalist_from_shenzhen(tmp_path, output=tmp_path / "datalist.json"))
    assert datalist.labels[1] == "tuberculosis"
    assert (len(training), len(test)) == (8, 2)
    assert all(i["key"] == f"CXR_png/{i['subject']}_{i['label']}.png" for i in training + test)
    with pytest.raises(DataError, match="CHNCXR_0001_0"):
        datalist_from_shenzhen(tmp_path / "mask", output=tmp_path / "other.json")


@pytest.mark.parametrize("folder", ["train_images", "."])
def test_from_aptos(tmp_path, folder):
    rows = ["id_code,diagnosis"]
    for number in range(40):
        picture(tmp_path / folder / f"id{number}.png", (1, 2, 3), "RGB")
        rows.append(f"id{number},{min(number % 8, 4)}")
    (tmp_path / "train.csv").write_text("\n".join(rows))
    path = datalist_from_aptos(tmp_path, output=tmp_path / "datalist.json", max_per_class=4, test_fraction=0.25)
    datalist, training, test = sides(path)
    assert not datalist.has_subjects
    for grade in range(5):
        assert sum(i["label"] == grade for i in training) == 3
        assert sum(i["label"] == grade for i in test) == 1
    everything = read_datalist(datalist_from_aptos(tmp_path, output=tmp_path / "all.json")).sections
    assert len(everything["training"]) + len(everything["test"]) == 40


def test_from_aptos_bad_input(tmp_path):
    output = tmp_path / "datalist.json"
    with pytest.raises(DataError, match=r"train\.csv does not exist"):
        datalist_from_aptos(tmp_path, output=output)
    (tmp_path / "train.csv").write_text("id_code,diagnosis\na,7\n")
    with pytest.raises(DataError, match="'7' for a"):
        datalist_from_aptos(tmp_path, output=output)
    (tmp_path / "train.csv").write_text("id_code,diagnosis\na,1\n")
    with pytest.raises(DataError, match=r"a\.png"):
        datalist_from_aptos(tmp_path, output=output)
    with pytest.raises(ConfigError, match="max_per_class"):
        datalist_from_aptos(tmp_path, output=output, max_per_class=1)


def medmnist(path, shape, **change):
    rng = np.random.default_rng(0)
    arrays = {}
    for split, count in (("train", 4), ("val", 2), ("test", 3)):
        arrays[f"{split}_images"] = rng.integers(0, 256, (count, *shape), dtype=np.uint8)
        arrays[f"{split}_labels"] = np.arange(count)[:, None] % 2
    np.savez(path, **{**arrays, **change})
    return arrays


@pytest.mark.parametrize("shape", [(10, 12), (10, 12, 3), (10, 12, 14)], ids=["grey", "rgb", "3d"])
def test_from_medmnist(tmp_path, shape):
    from monai.transforms import LoadImage

    arrays = medmnist(tmp_path / "set.npz", shape)
    datalist, training, test = sides(datalist_from_medmnist(tmp_path / "set.npz", output_dir=tmp_path / "out"))
    assert (len(training), len(test)) == (6, 3)
    assert not datalist.has_subjects
    assert [i["label"] for i in training] == [0, 1, 0, 1, 0, 1]
    reader = "NibabelReader" if shape == (10, 12, 14) else "PILReader"
    images = np.concatenate([arrays["train_images"], arrays["val_images"]])
    for image, entry in zip(images, training, strict=True):
        loaded = LoadImage(reader=reader)(entry["image"]).numpy()
        if shape != (10, 12, 14):  # MNIST's rows are y, MONAI's first axis is x
            image = image.swapaxes(0, 1)
        assert np.array_equal(loaded, image)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"val_labels": np.zeros((2, 14), dtype=np.int64)}, "several labels"),
        ({"train_images": np.zeros((4, 8, 8))}, "float64"),
        ({"test_labels": np.array([[None], [1], [2]], dtype=object)}, "cannot be read"),
        ({"train_images": np.zeros((0, 8, 8), np.uint8), "train_labels": np.zeros((0, 1), int)}, "no training images"),
    ],
)
def test_from_medmnist_bad_input(tmp_path, change, message):
    medmnist(tmp_path / "set.npz", (8, 8), **change)
    with pytest.raises(DataError, match=message):
        datalist_from_medmnist(tmp_path / "set.npz", output_dir=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_from_medmnist_missing_or_damaged(tmp_path):
    path = tmp_path / "set.npz"
    with pytest.raises(DataError, match="does not exist"):
        datalist_from_medmnist(path, output_dir=tmp_path / "out")
    medmnist(path, (8, 8))
    content = path.read_bytes()
    for damaged in (content[: len(content) // 2], b"hello", b""):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match="cannot be read"):
            datalist_from_medmnist(path, output_dir=tmp_path / "out")
    np.savez(path, train_images=np.zeros((2, 8, 8), np.uint8))
    with pytest.raises(DataError, match="train_labels"):
        datalist_from_medmnist(path, output_dir=tmp_path / "out")
