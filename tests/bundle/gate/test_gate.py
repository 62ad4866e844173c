"""The gate: what is smuggled is refused by name, and what leaves is what was audited, the same bytes each time."""

from __future__ import annotations

import json
import logging
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from gate_fakes import audit_of, record, say
from monai_versions import AS_NETWORK
from PIL import Image, PngImagePlugin

import monai_plan.bundle.gate.audited
import monai_plan.bundle.gate.leave
from monai_plan.__main__ import main
from monai_plan.bundle.gate import MANIFEST_NAME, check_manifest, release_bundle
from monai_plan.bundle.gate.strangers import hidden_in
from monai_plan.bundle.runner.run import locked
from monai_plan.utils import ConfigError, DataError, file_digest, load_artifact, save_artifact

pytestmark = pytest.mark.usefixtures("clean_logging")


@pytest.fixture
def run(copied: Path) -> Path:
    """A tiny run whose audit found nothing."""
    say(copied)
    return copied


def _first_image(run: Path) -> Path:
    return run / "release" / "images" / "000000.png"


def _refused(run: Path, match: str, kind: str = "data", **options: bool) -> None:
    target = run.parent / "left"
    with pytest.raises(DataError, match=match):
        release_bundle(run, kind=kind, to=target, **options)
    assert not target.exists()
    assert [path.name for path in run.parent.iterdir()] == [run.name]  # nor anything half made beside it


# ---- what is smuggled ----------------------------------------------------------------------------------------------


def _identity_network(run: Path, patients: Path) -> str:
    shutil.copy(run / "private" / "identity_net.pt", run / "release" / "weights.bin")
    return r"release/weights\.bin is private/identity_net\.pt"


def _identity_network_saved_anew(run: Path, patients: Path) -> str:
    weights = load_artifact(run / "private" / "identity_net.pt", kind="identity_net")["state_dict"]
    torch.save(weights, run / "release" / "model.pt")
    return r"release/model\.pt is a file of \d+ tensors: weights, or latents"


def _latent_file(run: Path, patients: Path) -> str:
    data = load_artifact(run / "private" / "latents.pt", kind="latents")
    save_artifact(run / "release" / "figures" / "samples.pt", kind="latents", data={"latents": data["latents"] + 1})
    return r"release/figures/samples\.pt is a private file of monai_plan that holds latents"


def _real_image(run: Path, patients: Path) -> str:
    shutil.copy(next(patients.rglob("*.png")), run / "release" / "images" / "000033.png")
    return r"images/000033\.png is the real image \S+accession\S+png under another name"


def _real_image_in_the_place_of_another(run: Path, patients: Path) -> str:
    """And on record, and in the audit."""
    shutil.copy(next(patients.rglob("*.png")), _first_image(run))
    record(run, "synthesize")
    for stage in ("evaluate", "audit"):
        record(run, stage, reads=True)
    say(run)
    return r"images/000000\.png is the real image \S+accession\S+png under another name"


def _stale_report(run: Path, patients: Path) -> str:
    """The images were made anew and audited, the report is of the others."""
    _change_a_pixel(run)
    record(run, "synthesize")
    record(run, "audit", reads=True)
    say(run)
    return r"the stage evaluate read another release/images"


def _stale_audit(run: Path, patients: Path) -> str:
    _change_a_pixel(run)
    record(run, "synthesize")
    record(run, "evaluate", reads=True)
    return r"the stage audit read another release/images"


def _changed_pixel(run: Path, patients: Path) -> str:
    _change_a_pixel(run)
    return r"images/000000\.png was changed after it was written"


def _changed_pixel_on_record(run: Path, patients: Path) -> str:
    """All records say so, the audit's own hashes do not."""
    _change_a_pixel(run)
    record(run, "synthesize")
    for stage in ("evaluate", "audit"):
        record(run, stage, reads=True)
    return r"images/000000\.png is not the file that was audited"


def _change_a_pixel(run: Path) -> None:
    with Image.open(_first_image(run)) as image:
        image.putpixel((3, 3), (image.getpixel((3, 3)) + 1) % 256)
        image.save(_first_image(run), compress_level=0)


def _exif_name(run: Path, patients: Path) -> str:
    """Before the audit."""
    with Image.open(_first_image(run)) as image:
        exif = image.getexif()
        exif[0x013B] = "Mustermann, Max"
        image.save(_first_image(run), exif=exif, compress_level=0)
    record(run, "synthesize")
    for stage in ("evaluate", "audit"):
        record(run, stage, reads=True)
    say(run)
    return r"images/000000\.png holds metadata \(eXIf\) beside its pixels"


def _link(run: Path, patients: Path) -> str:
    (run / "release" / "more").symlink_to(patients)
    return r"release/more is a link to .*ward_seven"


def _link_in_the_place_of_an_image(run: Path, patients: Path) -> str:
    elsewhere = run / "private" / "elsewhere.png"
    shutil.move(_first_image(run), elsewhere)
    _first_image(run).symlink_to(elsewhere)
    return r"images/000000\.png is a link to"


class _Code:
    def __reduce__(self) -> tuple[Callable[..., int], tuple[str]]:
        return os.system, ("false",)


def _pickle_with_code(run: Path, patients: Path) -> str:
    (run / "release" / "statistics.pkl").write_bytes(pickle.dumps(_Code()))
    return r"release/statistics\.pkl is a pickle that could run code"


def _torch_file_with_code(run: Path, patients: Path) -> str:
    torch.save({"weights": torch.zeros(2), "code": _Code()}, run / "release" / "model.pt")
    return r"release/model\.pt is a pickle that could run code"


def _note(run: Path, patients: Path) -> str:
    (run / "release" / "notes.txt").write_text("the third one is Mustermann")
    return r"release/notes\.txt is no file that a stage on record wrote"


def _pipe(run: Path, patients: Path) -> str:
    """To be read for ever."""
    os.mkfifo(run / "release" / "pipe")
    return r"release/pipe is neither a file nor a folder"


def _missing_image(run: Path, patients: Path) -> str:
    _first_image(run).unlink()
    return r"images/000000\.png is on record and is missing"


@pytest.mark.parametrize(
    "smuggle",
    [
        _identity_network,
        _identity_network_saved_anew,
        _latent_file,
        _real_image,
        _real_image_in_the_place_of_another,
        _stale_report,
        _stale_audit,
        _changed_pixel,
        _changed_pixel_on_record,
        _exif_name,
        _link,
        _link_in_the_place_of_an_image,
        _pickle_with_code,
        _torch_file_with_code,
        _note,
        _pipe,
        _missing_image,
    ],
)
def test_what_is_smuggled_is_refused_by_name(smuggle: Callable[[Path, Path], str], run: Path, patients: Path) -> None:
    _refused(run, smuggle(run, patients))


@pytest.mark.parametrize("part", ["tEXt", "iTXt", "end"])
def test_what_hides_in_a_png(part: str, tmp_path: Path) -> None:
    information = PngImagePlugin.PngInfo()
    if part == "tEXt":
        information.add_text("Patient", "Mustermann")
    elif part == "iTXt":
        information.add_itxt("Patient", "Müstermann")
    Image.new("L", (4, 4)).save(tmp_path / "a.png", pnginfo=information)
    if part == "end":
        with open(tmp_path / "a.png", "ab") as file:
            file.write(b"Mustermann")
    expected = {"tEXt": "metadata (tEXt)", "iTXt": "metadata (iTXt)", "end": "10 bytes behind its end"}
    assert hidden_in(tmp_path / "a.png") == expected[part]


def test_what_hides_in_a_volume(tmp_path: Path) -> None:
    import nibabel
    import numpy as np

    from monai_plan.data.writers import write_image

    write_image(tmp_path / "clean.nii", torch.rand(1, 4, 4, 4))
    assert hidden_in(tmp_path / "clean.nii") is None
    volume = nibabel.Nifti1Image(np.zeros((4, 4, 4), np.uint8), np.eye(4))
    volume.header["descrip"] = b"Mustermann"
    nibabel.save(volume, tmp_path / "named.nii")
    assert hidden_in(tmp_path / "named.nii") == "text in its header (descrip)"
    volume = nibabel.Nifti1Image(np.zeros((4, 4, 4), np.uint8), np.eye(4))
    volume.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", b"Mustermann"))
    nibabel.save(volume, tmp_path / "extended.nii")
    assert hidden_in(tmp_path / "extended.nii") == "an extension of its header"


# ---- the audit -----------------------------------------------------------------------------------------------------


def test_nothing_leaves_on_an_alarm(run: Path) -> None:
    say(run, found={"reconstructions": "Alarm"})
    _refused(run, 'the audit says of "Soft reconstructions"')


def test_nothing_leaves_without_an_answer_on_copies(run: Path) -> None:
    say(run, found={"copies": "No answer"})
    _refused(run, "no answer on copies")


def test_other_rows_may_have_no_answer(run: Path, tmp_path: Path) -> None:
    say(run, found={"membership": "No answer"})
    release_bundle(run, kind="data", to=tmp_path / "left")


def test_a_verdict_that_nobody_knows_counts_as_an_alarm(run: Path) -> None:
    say(run, found={"reconstructions": "Fine"})
    _refused(run, 'the audit says of "Soft reconstructions"')


def test_an_audit_that_somebody_mended_is_none(run: Path) -> None:
    audit = audit_of(run) | {"verdict": "Nothing found at all"}
    (run / "release" / "audit.json").write_text(json.dumps(audit))
    _refused(run, r"release/audit\.json was changed after it was written")


def test_an_audit_of_another_version_is_none(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = run / "private" / "run" / "audit.json"
    content = json.loads(file.read_text())
    content["fingerprint"]["monai_plan"] = "0.0.1"
    file.write_text(json.dumps(content))
    _refused(run, r"the audit was made by monai_plan 0\.0\.1")


def test_a_run_without_an_audit(run: Path) -> None:
    (run / "private" / "run" / "audit.json").unlink()
    _refused(run, "has no audit on record")


def test_a_stage_that_was_begun_again(run: Path) -> None:
    finished = json.loads((run / "private" / "run" / "evaluate.json").read_text())
    started = {"fingerprint": finished["fingerprint"], "started": "now"}
    (run / "private" / "run" / "evaluate.started.json").write_text(json.dumps(started))
    _refused(run, "stage evaluate .* was begun and not finished")


def test_what_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is no finished run"):
        release_bundle(tmp_path, kind="data", to=tmp_path / "left")


# ---- data ----------------------------------------------------------------------------------------------------------


def _bytes(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_data_leave_as_they_were_audited(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "left"
    assert main(["release", str(run), "--kind", "data", "--to", str(target), "--authors", "The *ward*"]) == 0
    left, released = _bytes(target), _bytes(run / "release")
    card = released.pop("dataset_card.md").decode()
    manifest, readme = json.loads(left.pop(MANIFEST_NAME)), left.pop("README.md").decode()
    assert left == released
    assert readme.startswith(card.rstrip())
    assert r"Released by: The \*ward\*." in readme
    for row in audit_of(run)["rows"]:
        assert row["title"] in readme
        assert row["power"].split("(")[0].split(";")[0].strip() in readme.replace("\\", "")
    assert manifest["digest"] in capsys.readouterr().out
    assert {path.stat().st_mtime for path in target.rglob("*")} == {315532800}
    assert {path.stat().st_mode & 0o777 for path in target.rglob("*")} <= {0o644, 0o755}
    assert check_manifest(target, key_file=run / "private" / "gate" / "key.json") == []


def test_the_same_run_gives_the_same_bytes(run: Path, tmp_path: Path) -> None:
    """Also over what an earlier call wrote."""
    first = release_bundle(run, kind="data", to=tmp_path / "a")
    for name in ("a", "b"):
        assert release_bundle(run, kind="data", to=tmp_path / name) == first
    assert _bytes(tmp_path / "a") == _bytes(tmp_path / "b")


def test_what_the_owner_put_there_stays(run: Path, tmp_path: Path) -> None:
    """The signature, where nothing changes; a release of another kind or of another run."""
    target = tmp_path / "ward_plan"
    release_bundle(run, kind="data", to=target)
    signature = target / f"{MANIFEST_NAME}.asc"
    signature.write_text("-----BEGIN PGP SIGNATURE-----\n\niQEz\n=abcd\n-----END PGP SIGNATURE-----\n")
    before = _bytes(target)
    release_bundle(run, kind="data", to=target)
    assert _bytes(target) == before
    with pytest.raises(ConfigError, match="holds a release of the kind data"):
        release_bundle(run, kind="classifier", to=target)
    (run / "private" / "gate" / "key.json").unlink()
    with pytest.raises(ConfigError, match="does not bear the seal of"):
        release_bundle(run, kind="data", to=target)
    assert _bytes(target) == before


def test_a_link_is_no_place(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which is said before anything is made."""
    monkeypatch.setattr("monai_plan.bundle.gate.leave.audited_copy", None)
    (tmp_path / "empty").mkdir()
    (tmp_path / "left").symlink_to(tmp_path / "empty")
    with pytest.raises(ConfigError, match="left, which is a link"):
        release_bundle(run, kind="data", to=tmp_path / "left")


def test_no_run_writes_meanwhile(run: Path) -> None:
    with locked(run / "private" / "run"), pytest.raises(ConfigError, match="another run is writing"):
        release_bundle(run, kind="data", to=run.parent / "left")


def test_what_changes_while_it_is_copied_is_refused(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checked = monai_plan.bundle.gate.audited.audited_release

    def late(*args: Any, **options: Any) -> Any:
        audited = checked(*args, **options)
        _change_a_pixel(run)
        return audited

    monkeypatch.setattr("monai_plan.bundle.gate.audited.audited_release", late)
    _refused(run, r"release/images/000000\.png was changed while it was let out")
    assert not (run / "private" / "gate" / "copy").exists()


def test_folders_of_others_are_left_alone(run: Path, tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "thesis.txt").write_text("all of it")
    release_bundle(run, kind="data", to=tmp_path / "ours")
    (tmp_path / "ours" / "notes.txt").write_text("mine")
    for name in ("theirs", "ours"):
        before = _bytes(tmp_path / name)
        with pytest.raises(ConfigError, match="did not write, or was changed"):
            release_bundle(run, kind="data", to=tmp_path / name)
        assert _bytes(tmp_path / name) == before
    for place in (run / "release" / "left", run / "private", run):
        with pytest.raises(ConfigError, match="a folder of its own"):
            release_bundle(run, kind="data", to=place)
    with pytest.raises(ConfigError, match="kind is 'all'"):
        release_bundle(run, kind="all", to=tmp_path / "left")


# ---- a classifier --------------------------------------------------------------------------------------------------


def test_a_classifier_knows_the_synthetic_images_alone(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever lies in ``private/`` while it is trained."""
    digests = []
    for name in ("a", "b"):
        target = tmp_path / name / "tiny_classifier"
        release_bundle(run, kind="classifier", to=target)
        digests.append(file_digest(target / "models" / "model.pt"))
        for file in ("model.pt", "class_net.pt", "identity_net.pt", "latents.pt", "encoder.pt"):
            (run / "private" / file).write_bytes(b"of no use")
    assert digests[0] == digests[1]
    text = b"".join(_bytes(tmp_path / "a" / "tiny_classifier" / "configs").values())
    assert b"monai_plan" not in text
    assert str(run).encode() not in text


@pytest.mark.parametrize("id", ["evaluation_lr", "evaluation_epochs", "evaluation_batch_size"])
def test_an_expression_of_the_run_does_not_leave(run: Path, id: str) -> None:
    """It would run wherever the bundle goes."""
    file = run / "private" / "run" / "evaluate.json"
    content = json.loads(file.read_text())
    content["fingerprint"]["config"][id] = "$float(open('/home/alice/x').read())"
    file.write_text(json.dumps(content))
    with pytest.raises(DataError, match=f"{id} of the run is .* only a plain"):
        release_bundle(run, kind="classifier", to=run.parent / "tiny_classifier")


@pytest.mark.parametrize(("seeds", "told"), [(2, "(in %, mean ± sd):"), (1, "(in %, of one training each):")])
def test_the_card_of_a_classifier(run: Path, seeds: int, told: str) -> None:
    """What others need to use it, and how good it is: a spread only where there is one."""
    file = run / "release" / "evaluation.json"
    content = json.loads(file.read_text())
    for row in content["rows"]:
        scores = {"accuracy": [0.8, 0.9][:seeds], "balanced_accuracy": [0.5] * seeds, "auc": [1.0] * seeds}
        row["results"]["utility"].update(scores)
    file.write_text(json.dumps(content))
    record(run, "evaluate")
    record(run, "audit", reads=True)
    target = run.parent / "tiny_classifier"
    release_bundle(run, kind="classifier", to=target)
    card = (target / "docs" / "README.md").read_text()
    assert 'pip install "monai[fire,ignite,pillow]"' in card
    assert told in card
    cells = "85.0 ± 7.1 | 50.0 ± 0.0 | 100.0 ± 0.0" if seeds == 2 else "80.0 | 50.0 | 100.0"
    assert card.count(f" | {cells} |\n") == 2


def test_a_classifier_leaves_in_silence(
    run: Path, caplog: pytest.LogCaptureFixture, recwarn: pytest.WarningsRecorder
) -> None:
    release_bundle(run, kind="classifier", to=run.parent / "tiny_classifier")
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == []
    assert [str(warning.message) for warning in recwarn if "NvImgCodec" in str(warning.message)] == []


WITHOUT = """
import csv, pathlib, sys
sys.modules["monai_plan"] = None  # as where it is not installed
import monai.bundle
from monai.bundle import ConfigWorkflow

bundle, images = map(pathlib.Path, sys.argv[1:])
network = monai.bundle.load(bundle.name, bundle_dir=str(bundle.parent), workflow_type="inference", **AS_NETWORK)
assert not network.training or list(network.parameters())
for kind in ("train", "inference"):
    config, meta = (str(bundle / "configs" / f"{name}.json") for name in (kind, "metadata"))
    workflow = ConfigWorkflow(config, meta, logging_file=False, workflow_type=kind)
    workflow.parser.update({"bundle_root": str(bundle), "dataset_dir": str(images)})
    workflow.initialize()
    assert workflow.check_properties() == [], kind
    monai.bundle.verify_net_in_out(net_id="network_def", meta_file=meta, config_file=config, device="cpu")
paths = {"bundle_root": str(bundle), "dataset_dir": str(images), "logging_file": False}
monai.bundle.run(config_file=config, output_dir=str(bundle / "eval"), **paths)
evaluate = [config, str(bundle / "configs" / "evaluate.json")]
monai.bundle.run(config_file=evaluate, output_dir=str(bundle / "metrics"), **(paths | {"dataset_dir": sys.argv[2]}))
rows = list(csv.reader(open(bundle / "eval" / "predictions.csv")))
assert all(abs(sum(map(float, row[1:])) - 1) < 1e-5 and len(row) == 3 for row in rows)
print(len(rows), (bundle / "metrics" / "metrics.csv").read_text().split(",")[0])
"""


def test_a_classifier_is_used_where_monai_plan_is_not_installed(run: Path, patients: Path, tmp_path: Path) -> None:
    """By MONAI alone, from another directory, on images of any size and on labelled ones."""
    target = tmp_path / "tiny_classifier"
    release_bundle(run, kind="classifier", to=target)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, "-c", f"{AS_NETWORK = }\n{WITHOUT}", str(target), str(patients)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"{len(list(patients.rglob('*.png')))} auc"


def test_a_classifier_is_built_of_numbers(run: Path, tmp_path: Path) -> None:
    """An expression on record could load weights of patients."""
    file = run / "private" / "run" / "evaluate.json"
    content = json.loads(file.read_text())
    content["fingerprint"]["config"]["classifier_stride"] = "$__import__('torch').load(@identity_file)"
    file.write_text(json.dumps(content))
    with pytest.raises(DataError, match="described by more than numbers"):
        release_bundle(run, kind="classifier", to=tmp_path / "tiny_classifier")


@pytest.mark.parametrize("name", ["Classifier", "my classifier", "1st", "klassifikator-1"])
def test_names_of_bundles(run: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="the bundle's name"):
        release_bundle(run, kind="classifier", to=tmp_path / name)


# ---- a generator ---------------------------------------------------------------------------------------------------


def test_a_generator_needs_to_be_accepted(run: Path, tmp_path: Path) -> None:
    arguments = ["release", str(run), "--kind", "generator", "--to", str(tmp_path / "tiny_generator")]
    assert main(arguments) == 2
    assert main([*arguments, "--accept-generator-risk"]) == 0
    models = tmp_path / "tiny_generator" / "models"
    weights, points = (torch.load(models / name, weights_only=True) for name in ("model.pt", "points.pt"))
    own = load_artifact(run / "private" / "model.pt", kind="generator")["state_dict"]
    assert weights.keys() == own.keys()
    assert all(torch.equal(weights[name], own[name]) for name in own)
    assert points.keys() == {"latents", "labels"}  # no pairs, no secret, nobody's name
    assert len(points["latents"]) == len(list((run / "release" / "images").iterdir()))
    assert check_manifest(tmp_path / "tiny_generator") == []


def test_a_generator_that_was_not_attacked(run: Path) -> None:
    say(run, rows=[row for row in audit_of(run)["rows"] if row["name"] != "generator"])
    _refused(run, "has not played the attacker", kind="generator", accept_generator_risk=True)


def test_a_generator_that_tells_of_patients(run: Path, tmp_path: Path) -> None:
    say(run, told=True)
    _refused(run, "the generator does not leave", kind="generator", accept_generator_risk=True)
    release_bundle(run, kind="data", to=tmp_path / "left")


@pytest.mark.parametrize("file", ["model.pt", "paths.pt"])
def test_another_generator_than_the_audited_one(run: Path, file: str) -> None:
    with open(run / "private" / file, "ab") as opened:
        opened.write(b"\0")
    _refused(run, rf"private/{file} is not the file that was audited", kind="generator", accept_generator_risk=True)


def test_nothing_private_leaves_by_mistake(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last look does not trust the rest of the gate."""

    def careless(audited: object, folder: Path, **options: str) -> None:
        shutil.copy(run / "private" / "class_net.pt", folder / "model.pt")

    monkeypatch.setitem(monai_plan.bundle.gate.leave.KINDS, "classifier", careless)
    with pytest.raises(DataError, match=r"model\.pt is private/class_net\.pt"):
        release_bundle(run, kind="classifier", to=tmp_path / "tiny_classifier")
