"""The example scripts, as a user runs them: one added transform, and nothing real is left in the pipeline."""

from __future__ import annotations

import difflib
import gc
import json
import pickle
import runpy
import shutil
import sys
from pathlib import Path

import monai.data
import numpy as np
import pytest
import torch
from monai.data import CacheDataset, MetaTensor, PersistentDataset
from PIL import Image
from release_fakes import read_back

from monai_plan.data import make_phantoms
from monai_plan.release import write_synthetic

EXAMPLES = Path(__file__).parents[2] / "examples"
ORDINARY, SYNTHETIC = EXAMPLES / "train_classifier.py", EXAMPLES / "train_classifier_on_synthetic.py"
SIZE = 16


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Real phantoms under telling names, and a release of noise."""
    root = tmp_path_factory.mktemp("example")
    datalist = make_phantoms(root / "drawn", img_size=SIZE, num_subjects=8, num_test_subjects=4, seed=1)
    content = json.loads(Path(datalist).read_text())
    (root / "real" / "images").mkdir(parents=True)
    for section in ("training", "test"):
        for number, item in enumerate(content[section]):
            name = f"images/PATIENT_{section}_{number:03d}.png"
            shutil.copy(Path(datalist).parent / item["image"], root / "real" / name)
            item |= {"image": name, "subject": f"SUBJECT_{item['subject']}", "report": "SECRET text of the report"}
    (root / "real" / "datalist.json").write_text(json.dumps(content))
    count = 24
    images = torch.rand(count, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(0)) * 2 - 1
    write_synthetic(
        root / "release", images=images, labels=[i % 2 for i in range(count)], label_names={0: "none", 1: "lesion"},
        groups=list(range(count)), name="noise", description="noise",
    )  # fmt: skip
    return root


def run(script, *arguments, monkeypatch):
    monkeypatch.setattr(sys, "argv", [str(script), *map(str, arguments)])
    return runpy.run_path(str(script), run_name="__main__")


def test_one_transform_is_added():
    ordinary, synthetic = (path.read_text().split('"""', 2)[2].splitlines() for path in (ORDINARY, SYNTHETIC))
    changes = [line for line in difflib.ndiff(ordinary, synthetic) if line[0] in "+-"]
    assert all(line.startswith("+") for line in changes)
    added = [line[2:].strip() for line in changes if line[2:].strip()]
    assert [line for line in added if "import" not in line and "add_argument" not in line] == [
        'SubstituteSyntheticd(keys="image", label_key="label", release_dir=options.release_dir),'
    ]
    assert len(added) == 3


def test_the_ordinary_script_trains(folders, monkeypatch, capsys):
    run(ORDINARY, folders / "real" / "datalist.json", "--epochs", 1, "--img_size", SIZE, monkeypatch=monkeypatch)
    assert "accuracy on" in capsys.readouterr().out


def everything(value, depth=0):
    """All values inside containers, tensors and their metadata."""
    yield value
    if isinstance(value, MetaTensor):
        yield from everything(dict(value.meta), depth + 1)
        yield from everything(value.applied_operations, depth + 1)
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from everything(key, depth + 1)
            yield from everything(inner, depth + 1)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from everything(inner, depth + 1)


def traces(value, real_images):
    """What of the real data is found in a value."""
    found = []
    for part in everything(value):
        if isinstance(part, (str, bytes, Path)):
            text = part.decode(errors="replace") if isinstance(part, bytes) else str(part)
            found += [word for word in ("PATIENT", "SUBJECT", "SECRET") if word in text]
        elif isinstance(part, (torch.Tensor, np.ndarray)):
            pixels = np.asarray(part, dtype=np.float64).squeeze()
            if pixels.ndim == 2 and pixels.std() > 0:
                scaled = (pixels - pixels.mean()) / pixels.std()
                found += [
                    "pixels" for real in real_images if real.shape == scaled.shape and abs((scaled * real).mean()) > 0.9
                ]
    return found


def scaled_images(folder):
    images = [np.asarray(Image.open(path), dtype=np.float64).T for path in sorted(folder.glob("*training*.png"))]
    return [(image - image.mean()) / image.std() for image in images]


def run_and_keep(script, folders, monkeypatch, *arguments):
    """Run a script with its training data kept: the cache, one epoch of items, and which files were opened."""
    kept = {}
    opened = []

    class Kept(CacheDataset):
        def __init__(self, data, transform, **options):
            super().__init__(data, transform, **options)
            kept.setdefault("training", self)  # the first one

    original = monai.data.PILReader.read

    def read(self, data, **options):
        opened.extend(map(str, [data] if isinstance(data, (str, Path)) else data))
        return original(self, data, **options)

    monkeypatch.setattr(monai.data, "CacheDataset", Kept)
    monkeypatch.setattr(monai.data.PILReader, "read", read)
    options = ("--epochs", 1, "--img_size", SIZE, *arguments)
    run(script, folders / "real" / "datalist.json", *options, monkeypatch=monkeypatch)
    return kept["training"], opened


def test_nothing_real_is_in_the_cache_or_the_items(folders, monkeypatch):
    real = scaled_images(folders / "real" / "images")
    dataset, opened = run_and_keep(SYNTHETIC, folders, monkeypatch, "--release_dir", folders / "release")
    assert len(dataset) > 8
    assert not [name for name in opened if "PATIENT_training" in name]
    assert [name for name in opened if "release" in name]
    for value in (list(dataset._cache), [dataset[index] for index in range(len(dataset))]):
        assert traces(value, real) == []
        data = pickle.dumps(value)
        assert not [word for word in (b"PATIENT", b"SUBJECT", b"SECRET") if word in data]
        gc.collect()


def test_the_walk_over_a_cache_finds_real_data_where_it_is(folders, monkeypatch):
    """The control: without the transform, everything is found."""
    real = scaled_images(folders / "real" / "images")
    dataset, opened = run_and_keep(ORDINARY, folders, monkeypatch)
    assert [name for name in opened if "PATIENT_training" in name]
    assert set(traces(list(dataset._cache), real)) == {"PATIENT", "SUBJECT", "SECRET", "pixels"}


@read_back
def test_nothing_real_is_in_the_files_of_a_cache(folders, tmp_path, monkeypatch):
    """The pipeline of the script over a PersistentDataset: the names and the bytes of every file."""
    kept, _ = run_and_keep(SYNTHETIC, folders, monkeypatch, "--release_dir", folders / "release")
    real = scaled_images(folders / "real" / "images")
    content = json.loads((folders / "real" / "datalist.json").read_text())["training"]
    data = [{**item, "image": str(folders / "real" / item["image"])} for item in content]
    dataset = PersistentDataset(data, kept.transform, cache_dir=tmp_path / "cache")
    for index in range(len(dataset)):
        dataset[index]
    files = list((tmp_path / "cache").iterdir())
    assert files
    for file in files:
        assert "PATIENT" not in file.name
        assert not [word for word in (b"PATIENT", b"SUBJECT", b"SECRET") if word in file.read_bytes()]
        assert traces(torch.load(file, weights_only=True), real) == []
