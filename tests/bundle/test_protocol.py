"""Both tables of the paper of one tiny run: the rows, what is kept, and what cannot be made."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from tiny_bundle import BUNDLE, TINY

from monai_plan.__main__ import main
from monai_plan.bundle import run_bundle
from monai_plan.bundle.finished_run import FinishedRun
from monai_plan.bundle.protocol import evaluate_protocol
from monai_plan.utils import ArtifactError, ConfigError, load_artifact


@pytest.fixture(scope="module")
def protocol(finished, tmp_path_factory):
    """Of a run whose folder is another one by now."""

    output = shutil.copytree(finished, tmp_path_factory.mktemp("protocol") / "out")
    return output, evaluate_protocol(output, seeds=2, ks=(2, 3, 50))


def test_the_rows_are_those_of_the_paper_and_the_selection(protocol):
    output, result = protocol
    names = [row.name for row in result.evaluation.rows]
    assert names == [
        "real",
        "linear",
        "PLAN",
        "selection",
        "k-same, k = 2",
        "PLAN, k = 2",
        "k-same, k = 3",
        "PLAN, k = 3",
    ]
    assert [text.split(" is left out")[0] for text in result.left_out] == ["k-same, k = 50", "PLAN, k = 50"]
    text = (output / "private" / "protocol" / "plan.md").read_text()
    first, second = text.split("Walks between averages")
    assert "| PLAN |" in first
    assert "| selection |" in first
    assert "k = 2" not in first.split("\n- ")[0]
    assert "| PLAN, k = 3 |" in second
    assert "| real |" in second
    assert len(result.lesions) == len(names)
    assert all(sum(shares) == pytest.approx(100) for shares in result.lesions.values())
    assert len(result.evaluation.row("PLAN").results["utility"]["accuracy"]) == 2


def test_each_row_is_made_as_it_says(protocol):
    output, _ = protocol
    folder = output / "private" / "protocol"
    linear, plan, selection, averages = (
        load_artifact(folder / name / "paths.pt", kind="paths") for name in ("linear", "PLAN", "selection", "PLAN_3")
    )
    torch.testing.assert_close(linear["paths"][:, [0, -1]], plan["paths"][:, [0, -1]])
    straight = linear["paths"][:, :1].lerp(
        linear["paths"][:, -1:], torch.linspace(0, 1, linear["paths"].shape[1])[:, None]
    )
    torch.testing.assert_close(linear["paths"], straight)
    assert not torch.allclose(plan["paths"], straight, atol=1e-3)
    assert [paths["anchor_kind"] for paths in (plan, selection, averages)] == ["prior", "prior", "k_same"]
    assert selection["paths"].shape[1] == 1
    assert load_artifact(folder / "PLAN_3" / "anchors.pt", kind="anchors")["k"] == 3


def test_it_goes_on_where_it_was(protocol, monkeypatch):
    output, result = protocol

    def refuse(*args, **options):
        raise AssertionError("trained again")

    monkeypatch.setattr("monai_plan.audit.inputs.fit_classifier", refuse)
    monkeypatch.setattr("monai_plan.latent.LatentWalk.walk_pairs", refuse)
    assert evaluate_protocol(output, seeds=2, ks=(2,)).evaluation.row("PLAN") == result.evaluation.row("PLAN")


def test_the_command_prints_the_rows_asked_for(protocol, capsys):
    output, _ = protocol
    assert main(["evaluate", str(output), "--protocol", "plan", "--seeds", "2", "--rows", "linear"]) == 0
    printed = capsys.readouterr().out
    assert "| linear |" in printed
    assert "| PLAN |" not in printed
    assert "never share" in printed
    assert main(["evaluate", str(output), "--rows", "walk"]) == 2
    assert "no row 'walk', only linear, PLAN" in capsys.readouterr().err


def test_what_is_no_run_is_told(tmp_path, copied):
    with pytest.raises(ArtifactError, match="no run of monai_plan"):
        evaluate_protocol(tmp_path)
    file = copied / "private" / "settings.json"
    settings = json.loads(file.read_text())
    for changed, told in (
        ({**settings, "dataset_dir": str(tmp_path / "gone")}, r"dataset_dir .*gone.* is gone: put it back"),
        ({**settings, "data": "of other images"}, r"datalist.json or its images are not those of the run"),
        ([], "is damaged: the same monai_plan run"),
    ):
        file.write_text(json.dumps(changed))
        with pytest.raises(ArtifactError, match=told):
            FinishedRun.read(copied)


def test_what_cannot_work_is_told_before_anything_is_made(copied):
    for options, told in (
        ({"seeds": 0}, "seeds must be at least 1"),
        ({"ks": (5, 1)}, "ks must be different numbers of at least 2, got 5, 1"),
        ({"ks": (2, 2)}, "different"),
    ):
        with pytest.raises(ConfigError, match=told):
            evaluate_protocol(copied, **options)
    (copied / "private" / "class_net.pt").unlink()
    with pytest.raises(ArtifactError, match=r"class_net.pt is missing: the run has to finish its stages"):
        evaluate_protocol(copied)
    assert not (copied / "private" / "protocol").exists()


def test_the_settings_are_of_the_whole_run(copied, patients):
    def run(**options):
        run_bundle(BUNDLE, dataset_dir=patients, output_dir=copied, echo=lambda line: None, **options)

    run(only=["check"])
    assert FinishedRun.read(copied).overrides == TINY
    run(only=["check"], overrides={"seed": 1})
    assert FinishedRun.read(copied).overrides == TINY
    config = FinishedRun.read(copied).config("common", "walk", k=7, num_points=5)
    assert (config["k"], config["num_points"], config["walk_steps"]) == (7, 5, TINY["walk_steps"])


def test_what_went_on_from_other_patients_is_deleted(copied, patients, tmp_path):

    folder = copied / "private" / "protocol"
    folder.mkdir()
    run_bundle(BUNDLE, dataset_dir=patients, output_dir=copied, overrides=TINY, only=["check"], echo=lambda line: None)
    assert folder.is_dir()
    fewer = shutil.copytree(patients, tmp_path / "fewer")
    content = json.loads((fewer / "datalist.json").read_text())
    removed = content["training"][-1]["subject"]
    content["training"] = [item for item in content["training"] if item["subject"] != removed]
    (fewer / "datalist.json").write_text(json.dumps(content))
    run_bundle(BUNDLE, dataset_dir=fewer, output_dir=copied, overrides=TINY, only=["check"], echo=lambda line: None)
    assert not folder.exists()
