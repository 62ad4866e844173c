"""The stage audit, and its attack on averages: by who knows all patients behind one but the last."""

from __future__ import annotations

import json

import pytest
import torch
from stage_fakes import K, draw_anchors, make_dataset, make_inverter, make_walk, released_to, synthesize, walk_anchors

from monai_plan.audit import Evaluation
from monai_plan.audit.evaluation import EvaluationRow
from monai_plan.bundle.stages import AuditStage
from monai_plan.bundle.stages.audit import differencing
from monai_plan.release import read_release


def evaluation_file(folder):
    """The table of a run whose measures said nothing of membership."""
    rows = tuple(EvaluationRow(name, 7, "", {}) for name in ("real", "PLAN"))
    (folder / "evaluation.json").write_text(Evaluation(rows, "pixels", 20, 10, 20, 10, True).to_json())
    return folder / "evaluation.json"


@pytest.fixture(scope="module")
def held_out(case, tmp_path_factory):
    """Images of other patients, and the folder of the parts that all tests of a case share."""
    folder = tmp_path_factory.mktemp("held_out")
    return make_dataset(folder / "data", case.dims, seed=5, section="test"), folder / "work"


def audit(case, held_out, folder, *, anchors, paths, release):
    test, work_dir = held_out
    folder.mkdir(parents=True)
    stage = AuditStage(
        training=case.dataset, test=test,
        released=read_release(release / "datalist.json"), anchors_file=anchors, paths_file=paths,
        latents_file=case.files.latents, evaluation_file=evaluation_file(folder),
        inverter=make_inverter(case.generator), page_file=folder / "audit.html", results_file=folder / "audit.json",
        report_page="report.html", gallery_dir=folder / "exposed", work_dir=work_dir,
    )  # fmt: skip
    stage.run()
    return json.loads((folder / "audit.json").read_text()), (folder / "audit.html").read_text()


def test_averages_are_attacked_by_who_knows_all_patients_but_one(case, held_out, tmp_path):
    found, page = audit(
        case,
        held_out,
        tmp_path / "audit",
        anchors=case.files.anchors,
        paths=case.files.paths,
        release=case.files.release,
    )
    row = {row["name"]: row for row in found["rows"]}["differencing"]
    assert row["verdict"] == "If the generator leaks"
    assert row["power"].startswith("10 patients")  # each of 5 patients in 2 classes is hidden once
    assert 0.2 < row["figures"]["guess"] < 0.4  # among those of the class who are not behind the average
    assert "All patients of an average but one" in page
    assert f"averages of at least {K} patients" in page
    assert f"k: {K} patients at least." in page
    assert 'href="report.html"' in page


def test_points_of_the_generators_own_have_nobody_behind_them(case, held_out, tmp_path):
    draw_anchors(case, tmp_path / "anchors.pt")
    walk_anchors(
        walk=make_walk(case.generator), anchors_file=tmp_path / "anchors.pt", dataset=case.dataset, kind="plan",
        output_file=tmp_path / "paths.pt", parts_dir=tmp_path / "parts", num_images=7,
    )  # fmt: skip
    synthesize(
        generator=case.generator, paths_file=tmp_path / "paths.pt", anchors_file=tmp_path / "anchors.pt",
        dataset=case.dataset, name="tiny {synthetic}", **released_to(tmp_path / "release"),
    )  # fmt: skip
    found, page = audit(
        case, held_out, tmp_path / "audit", anchors=tmp_path / "anchors.pt", paths=tmp_path / "paths.pt",
        release=tmp_path / "release",
    )  # fmt: skip
    assert "generator" in {row["name"] for row in found["rows"]}
    assert "differencing" not in {row["name"] for row in found["rows"]}
    assert "k: none" in page
    assert "of an average but one" not in page


def test_a_patient_counts_once_in_each_class():
    """Averages of 4 patients with 1 to 3 images each, one of them with images of both classes."""
    subjects = ["a", "a", "b", "c", "c", "c", "d", "a", *"efghij"]
    labels = torch.tensor([0] * 7 + [1] * 7)
    found = torch.randn(len(subjects), 2, 3, generator=torch.Generator().manual_seed(0))
    groups = [[0, 1, 2, 3, 4, 5, 6], [7, 8, 9, 10]]  # a b c d; a e f g
    means = [
        torch.stack([found[[r for r in rows if subjects[r] == s]].mean(0) for s in sorted({subjects[r] for r in rows})])
        for rows in groups
    ]
    averages = torch.stack([mean.mean(0) for mean in means]).flatten(1)
    row = differencing(found, {"labels": labels, "subjects": subjects}, groups, averages)
    assert row.figures["rate"] == 1
    assert row.power.startswith("8 patients")
    assert row.figures["guess"] == pytest.approx((4 * 1 + 4 * 1 / 4) / 8)  # nobody else in class 0; h, i and j in 1
    far = differencing(found, {"labels": labels, "subjects": subjects}, groups, averages + 5)
    assert far.figures["rate"] < 1
