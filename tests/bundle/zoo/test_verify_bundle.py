"""The zoo's checks, off line: every bundle of the repository passes, and each fault is told by its rule."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from monai_plan.__main__ import main
from monai_plan.bundle.zoo import bundle_path, bundles, verify_bundle
from monai_plan.bundle.zoo.check_files import check_nothing_private
from monai_plan.utils import ConfigError, file_digest, save_artifact

pytestmark = pytest.mark.usefixtures("checked_here")

GOOD = "phantom_plan"


@pytest.mark.parametrize("name", list(bundles()))
def test_a_bundle_of_the_repository(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From another folder."""
    monkeypatch.chdir(tmp_path)
    found = [(finding.level, finding.id) for finding in verify_bundle(bundle_path(name))]
    assert found == ([] if name == GOOD else [("warning", "files.weights")])
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundle_path(GOOD), tmp_path / GOOD))


def _metadata(**changes: Any) -> Callable[[Path], None]:
    """None takes a key out."""

    def change(bundle: Path) -> None:
        file = bundle / "configs" / "metadata.json"
        content = {**json.loads(file.read_text()), **changes}
        file.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))

    return change


def _tensor(side: str, name: str, **changes: Any) -> Callable[[Path], None]:
    def change(bundle: Path) -> None:
        file = bundle / "configs" / "metadata.json"
        content = json.loads(file.read_text())
        content["network_data_format"][side][name].update(changes)
        file.write_text(json.dumps(content))

    return change


def _removed(name: str) -> Callable[[Path], None]:
    return lambda bundle: (bundle / name).unlink()


def _written(name: str, content: bytes) -> Callable[[Path], None]:
    def write(bundle: Path) -> None:
        (bundle / name).parent.mkdir(exist_ok=True, parents=True)
        (bundle / name).write_bytes(content)

    return write


def _an_artifact(bundle: Path) -> None:
    save_artifact(bundle / "models" / "x.pt", kind="latents", data={"latents": torch.zeros(2)}, made_by={"seed": 0})
    _metadata(provenance={"models/x.pt": {"sha256": file_digest(bundle / "models" / "x.pt"), "made_of": "phantoms"}})(
        bundle
    )


def _code(bundle: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return (os.mkdir, (str(bundle / "ran"),))

    file = bundle / "models" / "model.pt"
    torch.save({"weight": Evil()}, file)
    _metadata(provenance={"models/model.pt": {"sha256": file_digest(file), "made_of": "phantoms"}})(bundle)


def _other_weights(bundle: Path) -> None:
    file = bundle / "models" / "model.pt"
    torch.save({"weight": torch.zeros(2)}, file)
    _metadata(provenance={"models/model.pt": {"sha256": file_digest(file), "made_of": "phantoms"}})(bundle)


def _config(file: str, change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def apply(bundle: Path) -> None:
        path = bundle / "configs" / file
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))

    return apply


DATALIST = json.dumps({"training": [{"image": "images/a.png", "label": 0, "subject": "somebody"}]}).encode()
FAULTS: dict[str, tuple[Callable[[Path], None], str]] = {
    "no metadata": (_removed("configs/metadata.json"), "error files.needed"),
    "metadata no JSON": (_written("configs/metadata.json", b"{"), "error metadata.json"),
    "no licence": (_removed("LICENSE"), "error files.needed"),
    "no inference": (_removed("configs/inference.json"), "error files.needed"),
    "no logging": (_removed("configs/logging.conf"), "warning files.customary"),
    "a large file": (_written("docs/large.txt", b"x" * 26_000_000), "error files.large"),
    "no schema": (_metadata(schema=None), "error metadata.key"),
    "no authors": (_metadata(authors=" "), "error metadata.key"),
    "a number as version": (_metadata(monai_version=1.4), "error metadata.version"),
    "a local version": (_metadata(pytorch_version="2.13.0+cpu"), "error metadata.version"),
    "no changelog of it": (_metadata(changelog={"0.0.1": "first"}), "error metadata.changelog"),
    "no packages": (_metadata(required_packages_version=None), "error metadata.packages"),
    "a range": (_metadata(required_packages_version={"nibabel": ">=5"}), "error metadata.packages"),
    "of no index": (_metadata(required_packages_version={"monai_plan": "0.1.0"}), "error metadata.packages"),
    "another monai_plan": (_metadata(monai_plan_version="0.0.1"), "warning metadata.monai_plan"),
    "no input": (_metadata(network_data_format={"inputs": {}, "outputs": {}}), "error metadata.tensor"),
    "an odd type": (_tensor("inputs", "image", type="latent"), "error metadata.tensor"),
    "an odd range": (_tensor("outputs", "pred", value_range=[1]), "error metadata.tensor"),
    "a text as channels": (_tensor("outputs", "pred", num_channels="1"), "error metadata.tensor"),
    "a link": (lambda bundle: (bundle / "docs" / "x.md").symlink_to("README.md"), "error private.link"),
    "a linked folder": (lambda bundle: (bundle / "data").symlink_to(bundle / "docs"), "error private.link"),
    "a hidden file": (_written(".DS_Store", b"x"), "error private.hidden"),
    "a hidden folder": (_written(".cache/x.txt", b"x"), "error private.hidden"),
    "compiled code": (_written("scripts/__pycache__/x.pyc", b"x"), "error private.hidden"),
    "a pipe": (lambda bundle: os.mkfifo(bundle / "docs" / "pipe"), "error private.file"),
    "a picture": (_written("docs/sample.png", b"\x89PNG\r\n\x1a\n\0"), "error private.provenance"),
    "other weights": (lambda bundle: torch.save({}, bundle / "models" / "model.pt"), "error private.provenance"),
    "provenance of nothing": (_metadata(provenance={"models/y.pt": {}}), "error private.provenance"),
    "latents": (_an_artifact, "error private.artifact"),
    "a data list": (_written("configs/list.json", DATALIST), "error private.datalist"),
    "a machine's folder": (_written("docs/notes.md", b"see /home/mustermann/ward"), "error private.path"),
    "a broken config": (_written("configs/other.json", b"{"), "error files.json"),
    "code in the weights": (_code, "error weights"),
    "weights of another network": (_other_weights, "error weights"),
    "a network that ends it": (
        _config("inference.json", lambda c: c.update(network_def="$__import__('sys').exit(0)")),
        "error network",
    ),
    "a network that is none": (_config("inference.json", lambda c: c.pop("network_def")), "error network"),
    "another input": (_tensor("inputs", "image", num_channels=64), "error network.in_out"),
    "another size": (_tensor("outputs", "pred", spatial_shape=[64, 64]), "error network.in_out"),
    "no evaluator": (_config("inference.json", lambda c: c.pop("evaluator")), "error properties.inference"),
    "no trainer": (_config("train.json", lambda c: c["train"].pop("trainer")), "error properties.train"),
    "handlers elsewhere": (
        _config("train.json", lambda c: c["train"]["trainer"].update(train_handlers="@stage")),
        "error properties.train",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_told_by_its_rule(fault: str, bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change, told = FAULTS[fault]
    change(bundle)
    code = main(["verify-bundle", str(bundle)])
    printed = capsys.readouterr().out
    assert f"  {told}: " in printed
    assert code == (2 if told.startswith("error") else 0)
    assert not (bundle / "ran").exists()


def test_a_name_that_the_zoo_does_not_take(bundle: Path) -> None:
    found = verify_bundle(bundle.rename(bundle.with_name("Phantom-PLAN")))
    assert [(finding.id, finding.level) for finding in found] == [("files.name", "error")]


@pytest.mark.parametrize(
    "text",
    [
        "file:///home/mustermann/ward",
        "C:/Users/Mustermann", '{"x": "C:\\\\Users\\\\Mustermann"}', r"C:\Users\Mustermann",
        r"on \\srv\ward7", r'"\\\\srv\\ward7"', "'/data/ward'", "/srv/ward", "in /tmp/ward", "/work/ward", "/gpfs/ward",
        "/cluster/home/mustermann", "/Volumes/USB/ward",
    ],
)  # fmt: skip
def test_a_machines_folder_in_any_form(text: str, tmp_path: Path) -> None:
    (tmp_path / "notes.md").write_text(text)
    assert [finding.id for finding in check_nothing_private(tmp_path, {})] == ["private.path"]


@pytest.mark.parametrize(
    "text", ["$@bundle_root + '/data/images'", "https://host.org/data/x", "docs/data/x", "a: b", r"'\w+\d+'", "[/tmp/]"]
)
def test_what_is_no_machines_folder(text: str, tmp_path: Path) -> None:
    (tmp_path / "notes.md").write_text(text)
    assert check_nothing_private(tmp_path, {}) == []


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.json", '[{"image": "a", "label": 1}]'),
        ("a.json", '{"data": {"fold0": [{"image": "a.png", "subject": "x"}]}}'),
        ("a.jsonl", '{"image": "a.PNG", "label": 1}\n'),
        ("a.yaml", "training:\n- image: ward/a.nii.gz\n  label: 0\n"),
        ("a.yml", "training:\n  - {label: 0, image: a b.dcm}\n"),
        ("a.csv", "file,label\nward/a.png,1\n"),
        ("a.tsv", "label\timage\n1\ta.jpg\n"),
    ],
)
def test_a_data_list_in_any_form(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    assert [finding.id for finding in check_nothing_private(tmp_path, {})] == ["private.datalist"]


def test_nothing_is_run_if_files_alone_are_asked_for(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And what is run is announced."""
    mark = f"$__import__('os').mkdir({str(bundle.parent / 'ran')!r})"
    _config("inference.json", lambda c: c.update(network_def=mark.replace("/tmp/", "/tm' + 'p/")))(bundle)
    assert main(["verify-bundle", str(bundle), "--files-only"]) == 0
    assert "its configs are run" not in capsys.readouterr().out
    assert not (bundle.parent / "ran").exists()
    assert main(["verify-bundle", str(bundle)]) == 2
    assert "its configs are run" in capsys.readouterr().out
    assert (bundle.parent / "ran").exists()


def test_nothing_runs_where_a_file_is_wrong(bundle: Path) -> None:
    """For configs are code."""
    _config("inference.json", lambda c: c.update(network_def=f"$__import__('os').mkdir({str(bundle / 'ran')!r})"))(
        bundle
    )
    _written("docs/sample.png", b"\0")(bundle)
    assert "private.provenance" in [finding.id for finding in verify_bundle(bundle)]
    assert not (bundle / "ran").exists()


def test_there_is_no_such_bundle(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError, match="is no folder"):
        verify_bundle(tmp_path / "absent")
    assert main(["verify-bundle", "absent_plan"]) == 2
    assert "no bundle is called 'absent_plan'" in capsys.readouterr().err
