"""``phantoms`` and ``datalist``."""

from __future__ import annotations

import argparse
from typing import Any

from monai_plan.cli.arguments import FOLDER, INT, NEEDED, PATH, Argument, Command, add_parser

__all__ = ["COMMANDS"]


def _phantoms(output_dir: str, img_size: list[int] | None = None, **options: Any) -> None:
    from monai_plan.data import make_phantoms

    if img_size is not None:
        options["img_size"] = img_size[0] if len(img_size) == 1 else img_size
    print(f"wrote {make_phantoms(output_dir, **options)}")


def _datalist(kind: str, **options: Any) -> None:
    from monai_plan import data

    builders: dict[str, Any] = {
        "folders": data.datalist_from_folders,
        "csv": data.datalist_from_csv,
        "shenzhen": data.datalist_from_shenzhen,
        "aptos": data.datalist_from_aptos,
        "medmnist": data.datalist_from_medmnist,
    }
    source = options.pop({"csv": "csv_file", "medmnist": "npz_file"}.get(kind, "root"))
    print(f"wrote {builders[kind](source, **options)}")


def _complete_datalist(datalist: argparse.ArgumentParser) -> None:
    kinds = datalist.add_subparsers(required=True, metavar="KIND")
    for name, (help, arguments) in _KINDS.items():
        kind = add_parser(kinds, name, help, arguments)
        kind.set_defaults(kind=name)
        if name in ("folders", "csv"):
            alike = kind.add_mutually_exclusive_group()
            for remedy, text in (("merge", "count as one"), ("keep", "keep apart")):
                alike.add_argument(
                    f"--{remedy}_look_alikes",
                    dest="look_alikes",
                    action="store_const",
                    const=remedy,
                    help=f"{text} patients or classes that differ only in case, spaces, .0 or leading zeros",
                )


_ROOT: dict[str, Any] = PATH | {"metavar": "ROOT"}
_SPLIT: dict[str, Argument] = {
    "--output": ("the data list to write, such as DIR/datalist.json", NEEDED),
    "--test_fraction": ("share of each class that goes to test, by whole patients (default: 0.2)", {"type": float}),
    "--seed": ("seed of the split (default: 0)", INT),
}
_KINDS: dict[str, tuple[str, dict[str, Argument]]] = {
    "folders": (
        "from folders of images, one folder per class",
        {
            "root": ("holds one folder per class; the folder's name is the class's, numbers go by the alphabet", _ROOT),
            "--subject_pattern": (
                "regular expression that finds the patient in a file's name: its first group, or the whole match "
                "('^[^_]+' is all before the first underscore); without it every image counts as a patient, but for "
                "DICOM, which names its patients",
                {},
            ),
            **_SPLIT,
        },
    ),
    "csv": (
        "from a CSV, one row per image",
        {
            "csv_file": (
                "with a header line; commas, semicolons, tabs or bars between cells; UTF-8, UTF-16 or cp1252",
                PATH | {"metavar": "CSV"},
            ),
            "--image_root": ("the folder that the paths in the CSV are relative to", NEEDED),
            "--image_column": ("column of image paths (default: image)", {}),
            "--label_column": ("column of classes, numbers or text (default: label)", {}),
            "--subject_column": ("column of patients; without it every image counts as a patient", {}),
            **_SPLIT,
        },
    ),
    "shenzhen": (
        "from the Shenzhen Hospital chest radiographs",
        {"root": ("holds, at any depth, CHNCXR_####_0.png (normal) and _1.png (tuberculosis)", _ROOT), **_SPLIT},
    ),
    "aptos": (
        "from APTOS 2019, fundus photographs of five grades",
        {
            "root": ("holds train.csv and train_images/", _ROOT),
            "--max_per_class": (
                "at most so many images of a grade, drawn by --seed (190 makes the paper's 950; default: all)",
                INT,
            ),
            **_SPLIT,
        },
    ),
    "medmnist": (
        "from a MedMNIST file, whose split is kept",
        {"npz_file": ("the .npz file", PATH | {"metavar": "NPZ"}), "--output_dir": FOLDER},
    ),
}

COMMANDS: dict[str, Command] = {
    "phantoms": Command(
        "make a data set of artificial chest images, to try things on",
        _phantoms,
        {
            "--output_dir": FOLDER,
            "--spatial_dims": ("2 for images, 3 for volumes (default: 2)", INT | {"choices": (2, 3)}),
            "--img_size": ("pixels: one number for all axes, or one per axis (default: 64)", INT | {"nargs": "+"}),
            "--num_subjects": ("subjects of the training section (default: 120)", INT),
            "--num_test_subjects": ("further subjects, of the test section (default: 40)", INT),
            "--seed": ("seed of the population (default: 0)", INT),
        },
    ),
    "datalist": Command(
        "write the data list (datalist.json) of your images: their classes, patients and split",
        _datalist,
        {},
        complete=_complete_datalist,
    ),
}
