"""The audit from folder to page: what is written where, what never leaves, and the command's exit codes."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from test_report import Page

from monai_plan.__main__ import main
from monai_plan.audit.attacks import RegisteredCopies
from monai_plan.audit.command import FIGURES, audit_release, check_conditions, failures
from monai_plan.audit.page import verdict_line, write_audit
from monai_plan.audit.privacy import Audit, rounded, shortlist_embedding
from monai_plan.audit.rows import Row
from monai_plan.audit.surroundings import ClassFindings
from monai_plan.data import make_phantoms, read_datalist, write_image
from monai_plan.utils import ConfigError, DataError, read_json

ROW = Row("copies", "Registered copies", "singling out", "images", "0 of 9", "0 of 8", "0", "5 of 5", "Nothing found",
          "No copy found.", {"p": 0.123456, "found": 0, "fewest_noticed": None})  # fmt: skip
AUDIT = Audit("cats & dogs", (ROW,), 9, 3, 20, 10, 12, 8, True, parameters={"k": "5"})


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Real phantoms of 30 + 24 patients, a clean release of other ones without a data list, and one with copies."""
    folder = tmp_path_factory.mktemp("audit")
    sizes = {"img_size": 16, "num_subjects": 30, "num_test_subjects": 24, "images_per_subject": (1, 1)}
    real = make_phantoms(folder / "real", **sizes)
    made = make_phantoms(folder / "made", **sizes | {"seed": 1})
    (folder / "made" / "datalist.json").unlink()
    shutil.copytree(folder / "made", folder / "copies")
    for item in read_datalist(real).sections["training"][:6]:
        shutil.copy(item["image"], folder / "copies" / "images")
    assert made.parent.is_dir()
    return folder


@pytest.fixture(scope="module")
def audits(data):
    """Both releases audited by the command: exit codes."""
    return {
        name: main(
            ["audit", "--release", str(data / name), "--real", str(data / "real" / "datalist.json"), "--private",
             str(data / f"private_{name}"), "--output", str(data / f"out_{name}"), "--fail-on", "copies.p<0.01"]
        )
        for name in ("made", "copies")
    }  # fmt: skip


def test_a_condition_that_holds_makes_the_exit_code_3(audits):
    assert audits == {"made": 0, "copies": 3}


def test_the_page_and_the_json_say_the_same(audits, data):
    for name, verdict in (("made", "Nothing found"), ("copies", "Alarm")):
        content = read_json(data / f"out_{name}" / "audit.json")
        assert (content["schema"], content["schema_version"]) == ("monai_plan.audit", 1)
        copies = content["rows"][0]
        assert copies["name"] == "copies"
        assert (copies["verdict"] == "Alarm") == (verdict == "Alarm")
        page = Page()
        page.feed((data / f"out_{name}" / "audit.html").read_text())
        text = "".join(page.text)
        assert not page.open
        assert page.links == []
        assert copies["sentence"] in text
        assert f"Privacy audit of {name}" in text


def test_the_gallery_names_the_exposed_and_stays_private(audits, data):
    exposed = read_json(data / "private_copies" / "audit" / "exposed.json")
    assert (data / "private_copies" / "audit" / "exposed.png").stat().st_size > 1000
    copied = [entry for entry in exposed[:6] if entry["released"] == entry["real"].replace("images/", "images/")]
    assert len(copied) >= 5
    page = (data / "out_copies" / "audit.html").read_text()
    results = read_json(data / "out_copies" / "audit.json")
    assert {Path(name).name for name in results.pop("files")} == {f.name for f in (data / "copies").rglob("*.png")}
    for text in (page, json.dumps(results)):
        assert "phantom_0" not in text
        assert str(data) not in text
    assert sorted(file.name for file in (data / "out_copies").iterdir()) == ["audit.html", "audit.json"]


def test_figures_that_leave_have_three_digits(tmp_path):
    by_class = (ClassFindings("cats & mice", 7, 12, 1, 0.0123456),)
    write_audit(replace(AUDIT, classes=by_class), page_file=tmp_path / "a.html", results_file=tmp_path / "a.json")
    content = json.loads((tmp_path / "a.json").read_text())
    assert content["rows"][0]["figures"] == {"p": 0.123, "found": 0, "fewest_noticed": None}
    assert content["classes"] == [{"name": "cats & mice", "released": 7, "members": 12, "alarming": 1, "p": 0.0123}]
    assert "cats &amp; mice" in (tmp_path / "a.html").read_text()
    assert "0.1234" not in (tmp_path / "a.html").read_text() + (tmp_path / "a.json").read_text()
    assert "cats &amp; dogs" in (tmp_path / "a.html").read_text()
    assert rounded(float("nan")) is None
    assert rounded(12) == 12


def test_the_page_leads_to_the_report_where_there_is_one(tmp_path):
    for name in (None, "report.html"):
        write_audit(AUDIT, page_file=tmp_path / "a.html", results_file=tmp_path / "a.json", report_page=name)
        page = Page()
        page.feed((tmp_path / "a.html").read_text())
        assert not page.open
        assert page.links == ([name] if name else [])
    assert verdict_line(tmp_path / "a.json") == f"Nothing found. {AUDIT.summary}"


def test_the_gravest_row_is_the_reports_verdict():
    assert AUDIT.verdict == "Nothing found"
    rows = [replace(ROW, verdict=verdict) for verdict in ("Nothing found", "No answer", "Attention", "Alarm")]
    for count, verdict in enumerate(("Nothing found", "No answer", "Attention", "Alarm"), 1):
        assert replace(AUDIT, rows=tuple(rows[:count])).verdict == verdict
    assert replace(AUDIT, rows=()).verdict == "No answer"


def test_the_summary_names_what_the_generator_tells():
    leak = replace(ROW, title="All but one", verdict="If the generator leaks", told_by_generator=True)
    told = replace(AUDIT, rows=(ROW, leak))
    assert told.verdict == "Nothing found"
    assert told.summary.endswith("Keep the generator private: who has it learns who took part (All but one).")
    silent = replace(AUDIT, rows=(ROW, replace(leak, told_by_generator=False)))
    assert silent.summary.endswith("Who has the generator as well found nobody; keep it private all the same.")
    assert "generator" not in AUDIT.summary


@pytest.mark.parametrize("condition", ["p<0.05", "copies.p", "copies.p=0.05", "copies.p<x", ""])
def test_a_condition_that_cannot_be_read_is_refused_before_the_work(condition):
    with pytest.raises(ConfigError, match=r"write verdict, or ROW\.FIGURE"):
        check_conditions([condition])


def test_conditions():
    conditions = ["copies.p<0.2", "copies.p >= 0.2", "copies.found<=0", "copies.fewest_noticed>0", "verdict"]
    assert failures(AUDIT, conditions) == [
        "copies.p is 0.123, < 0.2",
        "copies.found is 0, <= 0",
        "copies.fewest_noticed has no value, so that it passes nothing",
    ]


def test_a_row_without_an_answer_and_a_verdict_pass_nothing():
    silent = replace(AUDIT, rows=(replace(ROW, verdict="No answer", figures={"p": None}),))
    assert failures(silent, ["copies.p<0.01"]) == ["copies gave no answer, so that copies.p passes nothing"]
    assert failures(silent, ["verdict"]) == ['the verdict is "No answer"']
    alarm = replace(AUDIT, rows=(ROW, replace(ROW, name="exclusion", verdict="Alarm")))
    assert failures(alarm, ["copies.p<0.01"]) == []
    assert failures(alarm, [" verdict "]) == ['the verdict is "Alarm"']


def test_conditions_on_what_there_is_not_are_refused_before_the_work(tmp_path, capsys):
    with pytest.raises(ConfigError, match="no row 'faces', only copies, reconstructions, reidentification, exclusion"):
        check_conditions(["faces.p<1"])
    with pytest.raises(ConfigError, match="no figure 'q', only p, found"):
        check_conditions(["copies.q<1"])
    with pytest.raises(ConfigError, match="no row 'generator' without --generator"):
        check_conditions(["generator.area>0.5"])
    assert check_conditions(["generator.area>0.5"], generator=True) == [("generator", "area", ">", 0.5)]
    missing = str(tmp_path / "none")
    assert main(["audit", "--release", missing, "--real", missing, "--fail-on", "copys.p<0.01"]) == 2
    assert "no row 'copys'" in capsys.readouterr().err


def test_the_figures_that_conditions_may_name_are_those_of_the_json(audits, data):
    rows = read_json(data / "out_made" / "audit.json")["rows"]
    played = {row["name"]: tuple(row["figures"]) for row in rows if row["main"] != "not played"}
    assert played.items() <= FIGURES.items()
    assert {row["name"] for row in rows} == set(FIGURES) - {"generator"}
    assert "turns of more than 14" in rows[0]["sentence"]


def test_what_cannot_be_audited_is_told(data, tmp_path):
    real = data / "real" / "datalist.json"
    with pytest.raises(ConfigError, match="within the release"):
        audit_release(data / "made", real, private=data / "made" / "private")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"holds neither datalist\.json nor images"):
        audit_release(tmp_path / "empty", real)
    alone = make_phantoms(tmp_path / "alone", img_size=16, num_subjects=4, num_test_subjects=0)
    with pytest.raises(DataError, match='no section "test"'):
        audit_release(data / "made", alone)


def test_an_audit_goes_on_where_it_was_stopped_and_keeps_its_key(data, audits, monkeypatch):
    scored = []
    original = RegisteredCopies.scores
    monkeypatch.setattr(RegisteredCopies, "scores", lambda self, *a, **k: scored.append(1) or original(self, *a, **k))
    private, before = data / "private_made", read_json(data / "out_made" / "audit.json")
    shutil.rmtree(data / "again", ignore_errors=True)
    shutil.copytree(private, data / "again")
    parts = sorted((data / "again" / "audit" / "parts").glob("copies-planted-*.pt"))
    parts[0].unlink()
    parts[1].write_bytes(b"half")
    audit_release(data / "made", data / "real" / "datalist.json", private=data / "again", output=data / "out_again")
    assert len(scored) == 2, "what was lost, and no more"
    assert read_json(data / "out_again" / "audit.json") == before
    assert before["real_digest"] != read_json(data / "out_copies" / "audit.json")["real_digest"], "each has its own key"


def test_a_generator_that_does_not_fit_is_refused(data, capsys):
    release, real = str(data / "made"), str(data / "real" / "datalist.json")
    assert main(["audit", "--release", release, "--real", real, "--generator", str(data / "no.pt")]) == 2
    assert "no.pt" in capsys.readouterr().err


def test_only_attacks_that_single_out_leave_the_report_without_an_answer():
    silent = replace(ROW, category="inference", verdict="No answer", title="Membership")
    told = replace(AUDIT, rows=(ROW, silent))
    assert told.verdict == "Nothing found"
    assert "Membership gave no answer." in told.summary


def test_volumes_are_audited_without_a_trained_network():
    shortlist, note = shortlist_embedding(3, 1)
    assert shortlist is None
    assert "coarse maps" in note


def test_images_of_another_size_and_colour_are_brought_to_that_of_the_real_ones(data, tmp_path):
    from monai_plan.audit.reading import read_real, read_released

    members, _ = read_real(data / "real" / "datalist.json", work_dir=tmp_path)
    (tmp_path / "a").mkdir()
    image = (members.images[0] + 1) / 2
    write_image(tmp_path / "a" / "x.png", image.repeat_interleave(2, 1).repeat_interleave(2, 2))
    read = read_released(tmp_path / "a", like=members, work_dir=tmp_path / "work")
    assert read.images.shape == (1, *members.images.shape[1:])
    assert (read.images[0] - members.images[0]).abs().max() < 0.02
    assert read.labels is None
    assert read.keys == ["x.png"]
