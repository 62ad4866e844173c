"""A whole tiny bundle, from images to the release: by the runner, by MONAI's own command, killed, damaged, in 3D."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import monai.bundle
import nibabel
import numpy as np
import pytest
import torch
from monai.data import load_decathlon_datalist
from monai.transforms import LoadImage
from PIL import Image
from tiny_bundle import BUNDLE, PATIENT, TINY, known_secret

from monai_plan.__main__ import main
from monai_plan.audit import Evaluation
from monai_plan.bundle import StageOutcome, run_bundle
from monai_plan.data import make_phantoms
from monai_plan.metrics import embed, perceptual_embedding
from monai_plan.utils import DataError, file_digest, load_artifact

pytestmark = pytest.mark.usefixtures("clean_logging")

STAGES: list[dict[str, Any]] = json.loads((BUNDLE / "configs" / "stages.json").read_text())["stages"]
NAMES = [stage["name"] for stage in STAGES]
PRIVATE_FILES = [
    "model.pt", "encoder.pt", "latents.pt", "identity_net.pt", "class_net.pt", "anchors.pt", "paths.pt"
]  # fmt: skip


def _run(dataset: Path, output: Path, overrides: dict[str, Any] | None = None, **options: Any) -> list[StageOutcome]:
    values = {**TINY, **(overrides or {})}
    return run_bundle(BUNDLE, dataset_dir=dataset, output_dir=output, overrides=values, **options)


def _reasons(outcomes: list[StageOutcome]) -> dict[str, str]:
    return {outcome.name: outcome.reason for outcome in outcomes if outcome.status == "ran"}


def _datalist(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "datalist.json").read_text())


def _environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}


# ---- the release ---------------------------------------------------------------------------------------------------


def test_everything_is_there(finished: Path) -> None:
    for stage in STAGES:
        for path in stage["writes"]:
            assert (finished / path).exists(), path
    for path in ("data.json", "train/samples.png", "figures/path.png", "figures/real_and_synthetic.png"):
        assert (finished / "private" / path).is_file(), path


def test_only_what_may_leave_is_in_the_release(finished: Path) -> None:
    """An allow-list: a file that nobody thought of has no place here."""
    files = {path.relative_to(finished / "release").as_posix() for path in _files(finished / "release")}
    images = {path for path in files if re.fullmatch(r"images/\d{6}\.png", path)}
    assert len(images) == 33
    assert files - images == {
        "audit.html",
        "audit.json",
        "datalist.json",
        "dataset_card.md",
        "evaluation.json",
        "evaluation.md",
        "report.html",
        "figures/samples.png",
    }


def test_monai_reads_the_release(finished: Path, patients: Path) -> None:
    release = finished / "release"
    items = load_decathlon_datalist(str(release / "datalist.json"), is_segmentation=False)
    load = LoadImage(image_only=True, ensure_channel_first=True)
    for item in items:
        image = load(item["image"])
        assert tuple(image.shape) == (1, 16, 16)
        assert 0 <= float(image.min()) < float(image.max()) <= 255
    assert {Path(item["image"]) for item in items} == set((release / "images").iterdir())
    assert _datalist(release)["labels"] == _datalist(patients)["labels"]


def test_the_classes_are_as_frequent_as_in_the_real_set(finished: Path, patients: Path) -> None:
    def counts(folder: Path) -> Counter[int]:
        return Counter(item["label"] for item in _datalist(folder)["training"])

    assert len(counts(patients)) == 2
    assert counts(finished / "release") == counts(patients)


def test_the_images_are_points_of_the_private_paths(finished: Path) -> None:
    """Every anchor is used, every image comes from a walk of its own class, and no image is an end point."""
    paths = load_artifact(finished / "private" / "paths.pt", kind="paths")
    anchors = load_artifact(finished / "private" / "anchors.pt", kind="anchors")
    assert set(paths["pairs"].flatten().tolist()) == set(range(len(anchors["labels"])))
    items = _datalist(finished / "release")["training"]
    walks = {item["subject"]: item["label"] for item in items}
    assert len(walks) == len(paths["pairs"])
    assert Counter(walks.values()) == Counter(paths["labels"].tolist())
    subjects = load_artifact(finished / "private" / "latents.pt", kind="latents")["subjects"]
    assert all(len({subjects[i] for i in members}) >= TINY["k"] for members in anchors["members"])


def test_the_evaluation_has_the_rows_of_the_paper(finished: Path) -> None:
    evaluation = Evaluation.from_json((finished / "private" / "evaluation.json").read_text())
    rows = ["real", "linear", "selection", "k-same", "PLAN"]
    assert [row.name for row in evaluation.rows] == rows
    for row in evaluation.rows:
        assert list(row.results) == ["utility", "classes", "membership", "fidelity", "distance", "identity"]
        for measure, score in (("utility", "accuracy"), ("utility", "auc"), ("membership", "accuracy")):
            values = row.results[measure][score]
            assert len(values) == TINY["evaluation_seeds"]
            assert all(0 <= value <= 1 for value in values)
        assert row.results["fidelity"]["frechet"] > 0
        assert 0 < row.results["distance"]["least"] <= row.results["distance"]["mean"]
    assert (evaluation.num_train_images, evaluation.num_train_patients) == (33, 12)
    table = (finished / "release" / "evaluation.md").read_text()
    assert [line.split("|")[1].strip() for line in table.splitlines()[2:7]] == [
        "real",
        "linear",
        "selection",
        "k-same",
        "PLAN",
    ]


@pytest.mark.parametrize("walk", ["none", "plan"])
def test_points_of_the_generators_own(copied: Path, patients: Path, walk: str) -> None:
    """The anchors of the other kind, as they are and walked between; nothing before them is made again."""
    outcomes = _run(patients, copied, {"anchor_kind": "prior", "walk_kind": walk, "num_points": 6})
    anew = ["check", "anchors", "walk", "synthesize", "evaluate", "audit"]
    assert [outcome.name for outcome in outcomes if outcome.status == "ran"] == anew
    rows = Evaluation.from_json((copied / "private" / "evaluation.json").read_text()).rows
    released = {"none": ["selection"], "plan": ["PLAN"]}[walk]
    beside = {"none": ["k-same"], "plan": ["linear", "selection", "k-same"]}[walk]
    assert [row.name for row in rows] == ["real", *beside, *released]
    card = (copied / "release" / "dataset_card.md").read_text()
    assert ("points of the generator's own distribution" in card, "average" in card) == (True, False)
    assert (copied / "private" / "figures" / "path.png").exists() == (walk == "plan")
    items = _datalist(copied / "release")["training"]
    assert len({item["subject"] for item in items}) == (len(items) if walk == "none" else 6)


class _References(HTMLParser):
    """What a page loads or leads to, and its tags."""

    def __init__(self) -> None:
        super().__init__()
        self.targets: list[str] = []
        self.tags: Counter[str] = Counter()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.targets += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data", "action")]


@pytest.mark.parametrize(("name", "pictures", "other"), [("report", 1, "audit"), ("audit", 0, "report")])
def test_either_page_is_one_file(name: str, pictures: int, other: str, finished: Path) -> None:
    """It loads nothing, and leads to the other page alone."""
    page = (finished / "release" / f"{name}.html").read_text(encoding="utf-8")
    seen = _References()
    seen.feed(page)
    assert seen.tags["img"] == pictures
    assert not seen.tags.keys() & {"script", "link", "iframe", "object", "embed"}
    assert {target for target in seen.targets if not target.startswith("data:image/png;base64,")} == {f"{other}.html"}
    assert "@import" not in page
    assert "url(" not in page


# ---- what the release must not hold --------------------------------------------------------------------------------


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _pictures_in(page: bytes) -> list[bytes]:
    return [base64.b64decode(text) for text in re.findall(rb"data:image/png;base64,([A-Za-z0-9+/=]+)", page)]


@pytest.fixture(scope="module")
def contents(finished: Path) -> dict[str, bytes]:
    """Every file of the release and every picture within the report, as bytes."""
    found = {}
    for file in _files(finished / "release"):
        found[file.relative_to(finished / "release").as_posix()] = file.read_bytes()
    found.update({f"report.html, picture {i}": data for i, data in enumerate(_pictures_in(found["report.html"]))})
    return found


def test_the_release_names_nobody(contents: dict[str, bytes], finished: Path, patients: Path) -> None:
    """No patient, file or folder, in any letters, also not in what a PNG says about itself."""
    words = {str(patients), patients.name, str(finished), str(BUNDLE), "accession", PATIENT.split("-")[0]}
    items = [item for section in ("training", "test") for item in _datalist(patients)[section]]
    for item in items:
        words |= {item["subject"], item["image"], Path(item["image"]).stem}
    assert len(words) > 2 * 50
    for name, content in contents.items():
        text = content.lower()
        if name.endswith(".png") or "picture" in name:
            with Image.open(io.BytesIO(content)) as image:
                text += repr(image.info).lower().encode()
        for word in words:
            assert word.lower().encode() not in text, f"{word} in {name}"


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item)


def _traces(tensor: torch.Tensor) -> set[bytes]:
    """What betrays a tensor: sixteen bytes of it, a place in every few."""
    rows = tensor.detach().contiguous().flatten()[: tensor.numel() // 4 * 4].view(-1, 4)
    return {row.numpy().tobytes() for row in rows if len(set(row.tolist())) == 4}


def test_the_release_holds_no_weight_and_no_latent(contents: dict[str, bytes], finished: Path) -> None:
    released = b"\n".join(contents.values())
    private = [path for path in _files(finished / "private") if path.suffix == ".pt"]
    assert {path.name for path in private} >= {*PRIVATE_FILES, "checkpoint.pt"}
    for file in private:
        content = torch.load(file, weights_only=True)
        tensors = [t for t in _tensors(content) if t.dtype == torch.float32]
        traces = set().union(*map(_traces, tensors))
        empty = file.name == "autoencoder.pt" or file.parent.name in ("evaluate", "audit", "cache")
        assert traces or empty, file  # there is no autoencoder; figures, and 8-bit pixels
        stored = file.read_bytes()
        assert all(trace in stored for trace in list(traces)[:50]), "a trace is what the file holds"
        assert not any(trace in released for trace in traces), file
        if file.name in ("latents.pt", "anchors.pt", "paths.pt"):
            numbers = {repr(number).encode() for t in tensors for number in t.flatten()[:2000].tolist() if number % 1}
            assert not any(number in released for number in numbers if len(number) > 8), file


def _grey(content: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(content)) as image:
        return np.asarray(image.convert("L"))


def _runs(row: np.ndarray) -> np.ndarray:
    """A row of pixels with repeated values dropped: what stays the same if it is enlarged without smoothing."""
    return row[np.r_[True, row[1:] != row[:-1]]].astype(np.int16)


def _lines(picture: np.ndarray) -> np.ndarray:
    """All different rows of a picture as one line of runs."""
    return np.concatenate([np.r_[-9, _runs(row)] for row in np.unique(picture, axis=0)])


def _shown(image: np.ndarray, lines: np.ndarray) -> bool:
    """Whether one of the liveliest rows of ``image`` is in a picture at any size; the figures round down."""
    rows = sorted(map(_runs, image), key=lambda row: -np.abs(np.diff(row)).sum())[:6]
    for row in rows:
        windows = np.flatnonzero(np.abs(lines[: len(lines) - len(row) + 1] - row[0]) <= 1)[:, None]
        if (np.abs(lines[windows + np.arange(len(row))] - row) <= 1).all(1).any():
            return True
    return False


def test_the_release_shows_no_real_image(contents: dict[str, bytes], finished: Path, patients: Path) -> None:
    """Neither as a file nor within a figure."""
    items = [item for section in ("training", "test") for item in _datalist(patients)[section]]
    reals = [_grey((patients / item["image"]).read_bytes()) for item in items]
    sheet = _lines(_grey((finished / "private" / "figures" / "real_and_synthetic.png").read_bytes()))
    assert sum(_shown(real, sheet) for real in reals) >= 30, (
        "the private sheet shows 31 real images, and they are found"
    )

    pictures = {name: _grey(data) for name, data in contents.items() if name.endswith(".png") or "picture" in name}
    assert len(pictures) == 33 + 1 + 1
    synthetic = [picture for name, picture in pictures.items() if name.startswith("images/")]
    samples = _lines(pictures["figures/samples.png"])
    assert sum(_shown(image, samples) for image in synthetic) >= 31, "and so are the synthetic ones in the public sheet"
    for name, picture in pictures.items():
        lines = _lines(picture)
        for item, real in zip(items, reals, strict=True):
            assert not np.array_equal(picture, real), f"{name} is {item['image']}"
            assert not _shown(real, lines), f"{name} shows {item['image']}"


# ---- running again -------------------------------------------------------------------------------------------------


def test_a_second_run_skips_every_stage(copied: Path, patients: Path) -> None:
    before = {file: file.read_bytes() for file in _files(copied / "release")}
    outcomes = _run(patients, copied)
    assert {outcome.name: outcome.status for outcome in outcomes} == dict.fromkeys(NAMES, "skipped")
    assert {file: file.read_bytes() for file in _files(copied / "release")} == before


def test_a_changed_walk_redoes_the_walk_and_what_follows(copied: Path, patients: Path) -> None:
    outcomes = _run(patients, copied, {"walk_steps": 3})
    assert _reasons(outcomes) == {
        "check": "config walk_steps changed from 2 to 3",
        "walk": "config walk_steps changed from 2 to 3",
        "synthesize": "stage walk was redone",
        "evaluate": "stage walk was redone",
        "audit": "stage walk was redone",
    }
    paths = load_artifact(copied / "private" / "paths.pt", kind="paths")
    assert paths["losses"]["identity"].shape[1] == 3 + 1
    assert paths["header"]["made_by"]["min_distance_quantile"] == 0.1  # checked unless one says no


def test_a_removed_patient_leaves_nothing_behind(
    copied: Path, patients: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the last generator asked for the second time: all is as if he had never been there."""
    monkeypatch.setattr("secrets.token_hex", known_secret)
    measured = {"metric_images": 32, "tensorboard": False}
    _run(patients, copied, measured)
    without = Path(shutil.copytree(patients, tmp_path / "without"))
    content = _datalist(without)
    removed = content["training"][0]["subject"]
    content["training"] = [item for item in content["training"] if item["subject"] != removed]
    (without / "datalist.json").write_text(json.dumps(content))
    overrides = {**measured, "use_best": False}
    assert [outcome.status for outcome in _run(without, copied, overrides)] == ["ran"] * len(STAGES)
    _run(without, tmp_path / "never", overrides)

    def digests(output: Path) -> dict[str, str]:
        return {file.relative_to(output).as_posix(): file_digest(file) for file in _files(output)}

    after, never = digests(copied), digests(tmp_path / "never")
    assert {name for name in after.keys() | never.keys() if after.get(name) != never.get(name)} == {
        f"private/run/{name}.json"
        for name in NAMES  # times and seconds
    }
    assert not any(removed.encode() in file.read_bytes() for file in _files(copied))


def test_the_same_seed_and_secret_give_the_same_release(
    finished: Path, patients: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def release(output: Path) -> dict[str, bytes]:
        folder = output / "release"
        return {
            file.relative_to(folder).as_posix(): file.read_bytes()
            for file in [*_files(folder / "images"), folder / "datalist.json", folder / "dataset_card.md"]
        }

    torch.manual_seed(12345)  # what was drawn before must not matter
    np.random.seed(54321)
    with monkeypatch.context() as patch:
        patch.setattr("secrets.token_hex", known_secret)
        _run(patients, tmp_path / "same", only=NAMES[: NAMES.index("evaluate")])
    assert release(tmp_path / "same") == release(finished)
    _run(patients, tmp_path / "other", {"seed": 918273645}, only=NAMES[: NAMES.index("evaluate")])
    other = release(tmp_path / "other")
    assert not {name for name, content in other.items() if b"918273645" in content}  # by which one could draw again
    images = [content for name, content in other.items() if name.startswith("images/")]
    assert not set(images) & set(release(finished).values())


def test_another_secret_gives_another_order(copied: Path, patients: Path) -> None:
    """Kept while the stage is, so that what is lost comes back as it was; gone with it, when one deletes it."""
    before = {file: file.read_bytes() for file in _files(copied / "release")}
    (copied / "private" / "paths.pt").unlink()
    assert [o.status for o in _run(patients, copied)].count("ran") == 4
    assert {file: file.read_bytes() for file in _files(copied / "release")} == before
    (copied / "private" / "paths.pt").unlink()
    (copied / "private" / "walk" / "secret.json").unlink()
    _run(patients, copied)
    images = [file for file in before if file.suffix == ".png" and file.parent.name == "images"]
    assert sum(file.exists() and file.read_bytes() == before[file] for file in images) < len(images) / 2


def test_no_time_and_no_remark_is_in_the_release(finished: Path) -> None:
    """All files are of one day long ago, and a PNG holds an image and nothing else."""
    places = [finished / "release", *(finished / "release").rglob("*")]
    assert {place.stat().st_mtime for place in places} == {315532800}
    for file in (finished / "release").rglob("*.png"):
        data, chunks = file.read_bytes()[8:], set()
        while data:
            length, kind = int.from_bytes(data[:4], "big"), data[4:8]
            chunks.add(kind)
            data = data[length + 12 :]
        assert chunks <= {b"IHDR", b"IDAT", b"IEND", b"pHYs"}, file  # the last: dots per inch of a figure


def _numbers(value: Any) -> Iterator[float]:
    if isinstance(value, float):
        yield value
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _numbers(item)


def test_no_released_figure_is_a_fingerprint(finished: Path, patients: Path) -> None:
    """Of no pair of a test and a training image can one say by its distance that it took part."""
    full, released = (
        json.loads((finished / folder / "evaluation.json").read_text()) for folder in ("private", "release")
    )

    images = []
    for section in ("test", "training"):
        files = [patients / item["image"] for item in _datalist(patients)[section]]
        pixels = torch.stack([LoadImage(ensure_channel_first=True)(file).as_tensor() for file in files])
        embedding = perceptual_embedding("random", spatial_dims=2, img_channels=1)
        images.append(embed(embedding, pixels / 127.5 - 1).double())
    pairs = torch.cdist(*images).square().flatten()

    def matches(figures: list[float]) -> int:
        return int(((pairs / torch.tensor(figures)[:, None] - 1).abs() < 1e-6).any(1).sum())

    assert matches([full["rows"][0]["results"]["distance"]["least"]]) == 1  # what the private one tells
    assert matches(list(_numbers([row["results"]["distance"] for row in released["rows"]]))) == 0
    audited = json.loads((finished / "release" / "audit.json").read_text())
    assert all(number == float(f"{number:.3g}") for number in _numbers([released, audited]))
    assert not any("least" in row["results"]["distance"] for row in released["rows"])
    for name in ("evaluation.md", "report.html", "audit.html", "audit.json", "dataset_card.md"):
        text = re.sub('base64,[^"]*|<style>.*</style>', "", (finished / "release" / name).read_text(), flags=re.DOTALL)
        found = re.findall(r"(?<![\w.])\d+\.\d+(?![\w.]*\w)", text.replace("arXiv 2307.02984", ""))
        assert [x for x in found if len(x.replace(".", "").strip("0")) > 3] == [], name


@pytest.mark.parametrize("name", ["train", "train_encoder", "invert", "train_identity", "train_class", "walk"])
def test_a_lost_output_is_made_again_from_the_work_folder(
    name: str, copied: Path, finished: Path, patients: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As after a kill between the last checkpoint and the output: nothing is computed twice."""
    write = STAGES[NAMES.index(name)]["writes"][0]
    (copied / write).unlink()
    work = copied / "private" / name
    parts = {file: file.stat().st_mtime_ns for file in _files(work) if not file.match("checkpoint.pt")}
    checkpoint = _weights(work / "checkpoint.pt")
    outcomes = _run(patients, copied, only=[name])
    assert _reasons(outcomes) == {name: f"{write} is missing"}
    assert {file: file.stat().st_mtime_ns for file in parts} == parts
    for lost, made in (
        (_weights(finished / write), _weights(copied / write)),
        (checkpoint, _weights(work / "checkpoint.pt")),
    ):
        assert len(lost) == len(made)
        assert all(map(torch.equal, lost, made))
    if checkpoint:
        assert "continues after epoch 2 from" in capsys.readouterr().out


def _weights(file: Path) -> list[torch.Tensor]:
    return list(_tensors(torch.load(file, weights_only=True))) if file.exists() else []


# ---- a stage alone, by MONAI's own command -------------------------------------------------------------------------


def _alone(stage: dict[str, Any], finished: Path, output: Path) -> list[str]:
    """Put what the stage reads, and nothing else, into ``output``; the stage's config files."""
    for path in stage["reads"]:
        (output / path).parent.mkdir(parents=True, exist_ok=True)
        copy = shutil.copytree if (finished / path).is_dir() else shutil.copy2
        copy(finished / path, output / path)
    return _configs(stage)


def _configs(stage: dict[str, Any]) -> list[str]:
    return [str(BUNDLE / "configs" / name) for name in stage["config"]]


def _run_alone(stage: dict[str, Any], dataset: Path, output: Path, **overrides: Any) -> None:
    monai.bundle.run(
        config_file=_configs(stage), bundle_root=str(BUNDLE), dataset_dir=str(dataset), output_dir=str(output),
        **{**TINY, **overrides},
    )  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_each_stage_alone(name: str, finished: Path, patients: Path, tmp_path: Path) -> None:
    """From the files that it says it reads to those that it says it writes."""
    stage = STAGES[NAMES.index(name)]
    _alone(stage, finished, tmp_path)
    _run_alone(stage, patients, tmp_path)
    for path in stage["writes"]:
        assert (tmp_path / path).exists(), path
        if path.endswith(".pt"):
            made, expected = (torch.load(folder / path, weights_only=True) for folder in (tmp_path, finished))
            assert made["header"] == expected["header"]
            assert [t.shape for t in _tensors(made)] == [t.shape for t in _tensors(expected)]


def _without_a_patient(content: dict[str, Any], folder: Path) -> None:
    removed = content["training"][0]["subject"]
    content["training"] = [item for item in content["training"] if item["subject"] != removed]


def _with_another_image(content: dict[str, Any], folder: Path) -> None:
    Image.fromarray(255 - np.asarray(Image.open(folder / content["training"][0]["image"]))).save(
        folder / content["training"][0]["image"]
    )


def _with_another_class(content: dict[str, Any], folder: Path) -> None:
    content["training"][0]["label"] = 1 - content["training"][0]["label"]


CHANGES = [_without_a_patient, _with_another_image, _with_another_class]


def _changed(change: Callable[[dict[str, Any], Path], None], patients: Path, folder: Path) -> Path:
    """The data set with a change."""
    changed = Path(shutil.copytree(patients, folder))
    content = _datalist(changed)
    change(content, changed)
    (changed / "datalist.json").write_text(json.dumps(content))
    return changed


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("name", ["train", "train_class"])
def test_a_training_alone_uses_nothing_that_it_made_of_other_data(
    name: str,
    change: Callable[[dict[str, Any], Path], None],
    copied: Path,
    finished: Path,
    patients: Path,
    tmp_path: Path,
) -> None:
    """With the work folder of another data set it ends as without one."""
    changed = _changed(change, patients, tmp_path / "changed")
    stage, fresh = STAGES[NAMES.index(name)], tmp_path / "fresh"
    _alone(stage, finished, fresh)
    for output in (fresh, copied):
        _run_alone(stage, changed, output)
    for path in stage["writes"]:
        assert (fresh / path).read_bytes() == (copied / path).read_bytes(), path


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("name", ["invert", "train_identity", "anchors", "walk", "synthesize", "evaluate", "audit"])
def test_a_stage_alone_goes_on_from_nothing_made_of_other_data(
    name: str, change: Callable[[dict[str, Any], Path], None], copied: Path, patients: Path, tmp_path: Path
) -> None:
    """Neither by MONAI's command nor by --only: a removed patient is behind all that was made with him."""
    changed = _changed(change, patients, tmp_path / "changed")
    before = {file: file.read_bytes() for file in _files(copied / "release")}
    with pytest.raises(RuntimeError) as refused:
        _run_alone(STAGES[NAMES.index(name)], changed, copied)
    assert isinstance(refused.value.__cause__, DataError)
    assert "was run on other images, classes or patients than the data list has now" in str(refused.value.__cause__)
    assert {file: file.read_bytes() for file in _files(copied / "release")} == before
    with pytest.raises(DataError, match="was run on other images, classes or patients than the data list has now"):
        _run(changed, copied, only=[name])


def test_the_encoder_alone_goes_on_from_no_other_generator_s(copied: Path, patients: Path, tmp_path: Path) -> None:
    stage, fresh = STAGES[NAMES.index("train_encoder")], tmp_path / "fresh"
    _run_alone(STAGES[NAMES.index("train")], patients, tmp_path / "other", seed=5)
    for output in (fresh, copied):
        _alone(stage, tmp_path / "other", output)
        _run_alone(stage, patients, output)
    assert (fresh / "private" / "encoder.pt").read_bytes() == (copied / "private" / "encoder.pt").read_bytes()


@pytest.mark.parametrize("name", ["train", "train_encoder", "train_identity", "train_class"])
@pytest.mark.parametrize("damage", [b"", b"truncated"])
def test_a_damaged_checkpoint_is_no_stop(
    name: str, damage: bytes, copied: Path, finished: Path, patients: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The stage begins anew, ends as before and says in one line why."""
    (write,) = STAGES[NAMES.index(name)]["writes"]
    checkpoint = copied / "private" / name / "checkpoint.pt"
    checkpoint.write_bytes(checkpoint.read_bytes()[:-100] if damage else damage)
    (copied / write).unlink()
    _run(patients, copied, only=[name])
    assert (copied / write).read_bytes() == (finished / write).read_bytes()
    told = capsys.readouterr()
    lines = [line for line in (told.out + told.err).splitlines() if "the training begins anew" in line]
    assert len(lines) == 1
    assert f"{checkpoint} is damaged or no checkpoint" in lines[0]


@pytest.mark.parametrize("name", ["check", "train_class"])
def test_a_stage_from_the_command_line(name: str, finished: Path, patients: Path, tmp_path: Path) -> None:
    """From another working directory, as a user types it."""
    stage, output = STAGES[NAMES.index(name)], tmp_path / "out"
    options = {"bundle_root": BUNDLE, "dataset_dir": patients, "output_dir": output, **TINY}
    command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", str(_alone(stage, finished, output))]
    for id, value in options.items():
        command += [f"--{id}", str(value)]
    (tmp_path / "elsewhere").mkdir()
    done = subprocess.run(
        command, cwd=tmp_path / "elsewhere", env=_environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, [line for line in done.stderr.splitlines() if re.match(r"\w*(Error|monai)", line)]
    assert [path for path in stage["writes"] if not (output / path).is_file()] == []
    assert list((tmp_path / "elsewhere").iterdir()) == []


# ---- killed and started again --------------------------------------------------------------------------------------


def _epoch(checkpoint: Path) -> int:
    if not checkpoint.exists():
        return 0
    trainer = torch.load(checkpoint, weights_only=True)["trainer"]
    return trainer["iteration"] // trainer["epoch_length"]


def test_killed_in_the_training_it_goes_on_from_the_checkpoint(patients: Path, tmp_path: Path) -> None:
    output, epochs = tmp_path / "out", 12
    command = [sys.executable, "-m", "monai_plan", "run", str(BUNDLE)]
    command += ["--dataset_dir", str(patients), "--output_dir", str(output)]
    for id, value in {**TINY, "total_images": epochs * TINY["epoch_images"], "evaluation_seeds": 1}.items():
        command += [f"--{id}", str(value)]
    checkpoint = output / "private" / "train" / "checkpoint.pt"
    with open(tmp_path / "first.log", "w", encoding="utf-8") as log:
        process = subprocess.Popen(command, env=_environment(), stdout=log, stderr=log)
        try:
            until = time.monotonic() + 120
            while _epoch(checkpoint) < 2 and process.poll() is None and time.monotonic() < until:
                time.sleep(0.02)
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()
    saved = _epoch(checkpoint)
    assert 2 <= saved < epochs, (tmp_path / "first.log").read_text()[-2000:]
    assert not (output / "private" / "model.pt").exists()

    done = subprocess.run(command, env=_environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, [line for line in done.stderr.splitlines() if re.match(r"\w*(Error|monai)", line)]
    assert f"[1/{len(STAGES)}] check: skipped, unchanged since" in done.stdout
    assert f"[3/{len(STAGES)}] train: resuming, it was stopped before its end" in done.stdout
    assert f"continues after epoch {saved} from" in done.stdout
    assert _epoch(checkpoint) == epochs
    assert (output / "release" / "report.html").is_file()
    again = _run(
        patients, output, {"total_images": epochs * TINY["epoch_images"], "evaluation_seeds": 1}, echo=lambda line: None
    )
    assert {outcome.status for outcome in again} == {"skipped"}


# ---- values without 8 bits -----------------------------------------------------------------------------------------


def _rescaled(root: Path, folder: Path, *, scale: int, low: int, suffix: str) -> Path:
    """The data set with its values v as scale · v + low, in files of another kind; names seed noise, so they matter."""
    shutil.copytree(root, folder)
    content = _datalist(folder)
    for item in content["training"] + content["test"]:
        file = folder / item["image"]
        values = np.asarray(Image.open(file)).astype(np.int32) * scale + low
        file.unlink()
        item["image"] = str(Path(item["image"]).with_suffix(suffix))
        if suffix == ".nii":
            nibabel.save(nibabel.Nifti1Image(values.T.astype(np.int16), np.eye(4)), folder / item["image"])
        else:
            Image.fromarray(values.astype(np.uint16)).save(folder / item["image"])
    (folder / "datalist.json").write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize(("low", "suffix"), [(0, ".png"), (-1024, ".nii")], ids=["12 bits", "CT"])
def test_the_table_is_that_of_the_same_set_with_eight_bits(
    low: int, suffix: str, patients: Path, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A release is stored as 0 to 255 whatever the real values are, and judged by what is stored."""
    monkeypatch.setattr("secrets.token_hex", known_secret)
    eight_bits = finished
    if suffix == ".nii":
        eight_bits = tmp_path / "eight"
        data = _rescaled(patients, tmp_path / "8", scale=1, low=0, suffix=suffix)
        _run(data, eight_bits, {"intensity_range": [0, 255]}, echo=lambda line: None)
    data = _rescaled(patients, tmp_path / "data", scale=16, low=low, suffix=suffix)
    _run(data, tmp_path / "out", {"intensity_range": [low, low + 4080]}, echo=lambda line: None)
    for name in ("evaluation.json", "images/000003.png"):
        assert (tmp_path / "out" / "release" / name).read_bytes() == (eight_bits / "release" / name).read_bytes()


# ---- bad input -----------------------------------------------------------------------------------------------------


class _Bad:
    """A copy of the data set in which one thing can be spoilt."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.content = _datalist(root)
        self.victim: str = self.content["training"][5]["image"]

    @property
    def file(self) -> Path:
        return self.root / self.victim

    def save(self) -> None:
        (self.root / "datalist.json").write_text(json.dumps(self.content))

    def replace_by(self, suffix: str, pixels: np.ndarray) -> None:
        """The victim as a NIfTI file."""
        self.file.unlink()
        self.victim = self.content["training"][5]["image"] = str(Path(self.victim).with_suffix(suffix))
        nibabel.save(nibabel.Nifti1Image(pixels, np.eye(4)), self.file)
        self.save()


@pytest.fixture
def bad(patients: Path, tmp_path: Path) -> _Bad:
    return _Bad(Path(shutil.copytree(patients, tmp_path / "bad")))


def _truncate(bad: _Bad) -> None:
    bad.file.write_bytes(bad.file.read_bytes()[: bad.file.stat().st_size // 2])


def _no_image(bad: _Bad) -> None:
    bad.file.write_text("not an image")


def _empty_file(bad: _Bad) -> None:
    bad.file.write_bytes(b"")


def _missing(bad: _Bad) -> None:
    bad.file.unlink()


def _rgb(bad: _Bad) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (16, 16, 3), dtype=np.uint8)).save(bad.file)


def _not_finite(value: float) -> Callable[[_Bad], None]:
    def spoil(bad: _Bad) -> None:
        pixels = np.full((16, 16), 100.0, dtype=np.float32)
        pixels[3, 4] = value
        bad.replace_by(".nii", pixels)

    return spoil


def _volume(bad: _Bad) -> None:
    bad.replace_by(".nii", np.full((16, 16, 16), 100.0, dtype=np.float32))


def _label_outside(bad: _Bad) -> None:
    bad.content["training"][5]["label"] = 2
    bad.save()


def _empty_class(bad: _Bad) -> None:
    bad.content["training"] = [item for item in bad.content["training"] if item["label"] == 0]
    bad.save()


def _both_sides(bad: _Bad) -> None:
    bad.content["test"][0]["subject"] = bad.content["training"][0]["subject"]
    bad.save()


def _no_test_of_a_class(bad: _Bad) -> None:
    bad.content["test"] = [item for item in bad.content["test"] if item["label"] == 0]
    bad.save()


def _no_test(bad: _Bad) -> None:
    del bad.content["test"]
    bad.save()


def _no_datalist(bad: _Bad) -> None:
    (bad.root / "datalist.json").unlink()


def _broken_datalist(bad: _Bad) -> None:
    (bad.root / "datalist.json").write_text('{"labels": {"0": ')


def _nothing(bad: _Bad) -> None:
    pass


IMAGE = "accessiontr0005"
SKIP = "--skip-bad-images"
BAD_IMAGES = {
    "truncated": (_truncate, [IMAGE, "cannot be read", "mend or remove it", SKIP]),
    "no image": (_no_image, [IMAGE, "is damaged, no picture or of a kind", SKIP]),
    "empty file": (_empty_file, [IMAGE, "is damaged, no picture or of a kind", SKIP]),
    "missing": (_missing, [IMAGE, "does not exist", SKIP]),
    "RGB for grey": (_rgb, [IMAGE, "has 3 channels", "img_channels is 1", SKIP]),
    "NaN": (_not_finite(float("nan")), [IMAGE, "1 of 256 pixels that are NaN or infinite", SKIP]),
    "infinite": (_not_finite(float("inf")), [IMAGE, "1 of 256 pixels that are NaN or infinite", SKIP]),
    "volume for image": (_volume, [IMAGE, SKIP]),
    "label outside": (_label_outside, [IMAGE, "has the label 2", "from 0 to 1", SKIP]),
}
BAD_SETS: dict[str, tuple[Callable[[_Bad], None], list[str], list[str]]] = {
    "empty class": (_empty_class, [], ["datalist.json", "class 1 (lesion)", "training", "labels"]),
    "subject on both sides": (_both_sides, [], [PATIENT.format(0), "training", "test", "to one side"]),
    "no test section": (_no_test, [], ["datalist.json", '"test"', "add some"]),
    "no data list": (_no_datalist, [], ["datalist.json", "does not exist"]),
    "broken data list": (_broken_datalist, [], ["datalist.json", "cannot be read as a data list", "Mend the JSON"]),
    "unknown config id": (_nothing, ["--img_sise", "3"], ["'img_sise'", "closest known", "img_size"]),
    "text for a number": (_nothing, ["--k", "five"], ["config id k", "'five'", "give a number"]),
    "k too large": (_nothing, ["--k", "4"], ["k = 4", "6 subjects", "use k <= 3"]),
    "k that hides nobody": (_nothing, ["--k", "1"], ["k (patients behind an anchor) is 1", "best 5 or more"]),
    "points without an inner one": (
        _nothing,
        ["--num_points", "2"],
        ["(points of a path) is 2", "at least 3"],
    ),
    "coarse path as fine as the fine": (
        _nothing,
        ["--walk_coarse_points", "96"],
        ["coarse_points of the walk is 96", "less than num_points = "],
    ),
    "rate of no kind": (
        _nothing,
        ["--walk_schedule", "soft"],
        ["(of this rate) is 'soft'", "or 'decay'"],
    ),
    "share above one": (
        _nothing,
        ["--min_distance_quantile", "2"],
        ["(of the final check) is 2", "0 to 1"],
    ),
    "space of no kind": (
        _nothing,
        ["--inversion_space", "z"],
        ["(where latents live) is 'z'", "'w_plus'"],
    ),
    "no evaluation": (
        _nothing,
        ["--evaluation_seeds", "0"],
        ["evaluation_seeds", "is 0", "at least 1"],
    ),
    "class without test images": (_no_test_of_a_class, [], ["class 1 (lesion)", '"test"']),
    "size that cannot be doubled": (
        _nothing,
        ["--img_size", "[15,15]"],
        ["img_size is [15, 15]", "even and at least 8", "take [16, 16]"],
    ),
}
CASES = {name: (spoil, [], words) for name, (spoil, words) in BAD_IMAGES.items()} | BAD_SETS


def _command(bad: _Bad, output: Path, *arguments: str) -> list[str]:
    command = ["run", str(BUNDLE), "--dataset_dir", str(bad.root), "--output_dir", str(output)]
    for id, value in TINY.items():
        command += [f"--{id}", str(value)]
    return [*command, *arguments]


@pytest.mark.parametrize("case", CASES)
def test_bad_input_ends_before_any_training(
    case: str, bad: _Bad, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil, arguments, words = CASES[case]
    spoil(bad)
    assert main(_command(bad, tmp_path / "out", *arguments)) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 1, errors
    assert errors[0].startswith("monai_plan: ")
    for word in words:
        assert word in errors[0]
    for path in ("private/train", "private/model.pt", "release"):
        assert not (tmp_path / "out" / path).exists(), path


def test_the_check_builds_what_the_walk_will_have(bad: _Bad, tmp_path: Path) -> None:
    options = ["--lambda_margin", "0.1", "--only", "check"]
    assert main(_command(bad, tmp_path / "out", *options)) == 0
    assert main(_command(bad, tmp_path / "out", *options, "--walk_margin", "-1.0")) == 2


@pytest.mark.parametrize("case", BAD_IMAGES)
def test_bad_images_can_be_left_out(case: str, bad: _Bad, tmp_path: Path) -> None:
    BAD_IMAGES[case][0](bad)
    assert main(_command(bad, tmp_path / "out", "--skip-bad-images", "--only", "check")) == 0
    found = json.loads((tmp_path / "out" / "private" / "data.json").read_text())
    ((name, reason),) = found["training"]["left_out"]
    assert name == bad.victim
    assert reason
    assert found["training"]["images"] == len(bad.content["training"]) - 1
    assert found["test"]["left_out"] == []


# ---- volumes -------------------------------------------------------------------------------------------------------


def test_volumes(tmp_path: Path) -> None:
    """The same configs in 3D by overrides, on values like Hounsfield units, cropped, behind an autoencoder."""
    size = [16, 24, 16]
    datalist = make_phantoms(
        tmp_path / "data", spatial_dims=3, img_size=[18, 22, 16], num_subjects=8, num_test_subjects=4,
        images_per_subject=(2, 2),
    )  # fmt: skip
    for file in (datalist.parent / "images").iterdir():
        volume = nibabel.load(file)
        hounsfield = np.asarray(volume.dataobj, dtype=np.float32) * 4 - 600
        nibabel.save(nibabel.Nifti1Image(hounsfield, volume.affine), file)
    overrides = {
        "spatial_dims": 3,
        "img_size": size,
        "shape_by": "cropping",
        "autoencoder": {"channels": [8, 8], "latent_channels": 2},
        "autoencoder_epochs": 1,
        "autoencoder_epoch_steps": 2,
        "intensity_range": [-600, 420],
        "total_images": 32,
        "num_images": 8,
        "evaluation_seeds": 1,
    }
    _run(datalist.parent, tmp_path / "out", overrides)
    generator = load_artifact(tmp_path / "out" / "private" / "model.pt", kind="generator")
    assert generator["architecture"]["spatial_dims"] == 3
    assert generator["architecture"]["autoencoder"] == overrides["autoencoder"]
    assert load_artifact(tmp_path / "out" / "private" / "autoencoder.pt", kind="autoencoder")["state_dict"]
    assert json.loads((tmp_path / "out" / "private" / "autoencoder.json").read_text())["frechet"] > 0
    items = load_decathlon_datalist(str(tmp_path / "out" / "release" / "datalist.json"), is_segmentation=False)
    assert len(items) == 8
    real = nibabel.load(next((datalist.parent / "images").iterdir()))
    for item in items:
        image = LoadImage(image_only=True, ensure_channel_first=True)(item["image"])
        assert tuple(image.shape) == (1, *size)
        spacing = np.diag(abs(real.affine))[:3].round(4)  # they are read in RAS, and cropping keeps it
        assert np.allclose(image.affine.numpy(), np.diag([*spacing, 1.0]))
        assert len(image.unique()) > 10
    assert (tmp_path / "out" / "release" / "report.html").is_file()
