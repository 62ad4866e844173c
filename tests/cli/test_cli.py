"""The command line: what it passes on, what it prints, how it ends."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tiny_bundle import BUNDLE

import monai_plan.bundle
from monai_plan import __version__
from monai_plan.__main__ import main
from monai_plan.bundle.options import OPTIONS
from monai_plan.cli.running import _is_text
from monai_plan.utils import ConfigError


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[tuple[Any, ...], dict[str, Any]]]:
    """What ``run_bundle`` was called with."""
    made: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
    monkeypatch.setattr(monai_plan.bundle, "run_bundle", lambda *args, **options: made.append((args, options)))
    return made


RUN = ["run", "B", "--dataset_dir", "D", "--output_dir", "O"]


@pytest.mark.parametrize(
    ("arguments", "overrides"),
    [
        ([], {}),
        (["--walk#steps", "300"], {"walk#steps": 300}),
        (["--walk::lr=1e-3"], {"walk::lr": 0.001}),
        (["--img_size", "[64,64]", "--name", "grey"], {"img_size": [64, 64], "name": "grey"}),
        (["--text=a=b", "--offset", "-3"], {"text": "a=b", "offset": -3}),
        (["--balanced", "True", "--other", "None"], {"balanced": True, "other": None}),
        (["--balanced", "--max-epochs", "3"], {"balanced": True, "max_epochs": 3}),
        (["--x", "$@y + 1", "--z", "@walk#lr"], {"x": "$@y + 1", "z": "@walk#lr"}),
        (["--skip-bad-images"], {"skip_bad_images": True}),
        (["--skip_bad_images", "--k", "5"], {"skip_bad_images": True, "k": 5}),
    ],
)
@pytest.mark.parametrize("first", [True, False])
def test_free_overrides_are_read_as_by_monai(
    calls: list[Any], arguments: list[str], overrides: dict[str, Any], first: bool
) -> None:
    """Before or after the options that are known."""
    assert main(["run", *arguments, *RUN[2:], "B"] if first else [*RUN, *arguments]) == 0
    ((args, options),) = calls
    assert args == ("B",)
    assert (options.pop("dataset_dir"), options.pop("output_dir")) == ("D", "O")
    assert options.pop("overrides") == overrides
    assert set(options) == {"echo", "quiet"}


def test_only_takes_several_stages(calls: list[Any]) -> None:
    assert main([*RUN, "--only", "train", "invert", "--k", "5"]) == 0
    assert calls[0][1]["only"] == ["train", "invert"]
    assert calls[0][1]["overrides"] == {"k": 5}


def _bundle(folder: Path, run: str) -> list[str]:
    """The arguments to run a bundle of one stage."""
    config = {"dataset_dir": "", "output_dir": "", "bundle_root": "", "k": 5, "run": [run]}
    config["utils"] = "$from monai_plan import utils"
    (folder / "configs").mkdir()
    (folder / "configs" / "train.json").write_text(json.dumps(config))
    stages = {"stages": [{"name": "train", "config": ["train.json"], "writes": ["private/model.pt"]}]}
    (folder / "configs" / "stages.json").write_text(json.dumps(stages))
    (folder / "data").mkdir()
    return ["run", str(folder), "--dataset_dir", str(folder / "data"), "--output_dir", str(folder / "out")]


def test_a_bundle_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [*_bundle(tmp_path, "$@utils.write_text(@output_dir + '/private/model.pt', str(@k))"), "--k", "7"]
    assert main(arguments) == 0
    assert (tmp_path / "out" / "private" / "model.pt").read_text() == "7"
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert "INFO [1/1] train: no record of an earlier run" in printed
    assert "INFO [1/1] train: skipped" in printed
    assert all(re.match(r"\d\d:\d\d:\d\d INFO ", line) for line in printed.splitlines())
    assert main([*arguments, "--quiet"]) == 0
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("rows", "verdict", "next_step"),
    [
        ({}, "Alarm", "do not release. {}/private/exposed shows whom"),
        ({"copies": "No answer"}, "No answer", "nothing leaves without an answer on copies"),
        ({"copies": "Attention"}, "Attention", "look at {}/private/exposed, then"),
        ({"copies": "Nothing found"}, "No answer", "look at {}/private/figures/real_and_synthetic.png, then"),
    ],
)
def test_a_run_ends_with_report_verdict_and_what_is_next(
    calls: list[Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    rows: dict[str, str],
    verdict: str,
    next_step: str,
) -> None:
    run = ["run", "B", "--dataset_dir", "D", "--output_dir", str(tmp_path)]
    assert main(run) == 0
    assert capsys.readouterr().out == ""
    release = tmp_path / "release"
    release.mkdir()
    (release / "report.html").touch()
    listed = [{"name": name, "verdict": said} for name, said in rows.items()]
    (release / "audit.json").write_text(json.dumps({"verdict": verdict, "summary": "So it is.", "rows": listed}))
    assert main([*run, "--quiet"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:3] == [
        f"Report:  {release / 'report.html'}",
        f"Audit:   {release / 'audit.html'}",
        f"Verdict: {verdict}. So it is.",
    ]
    assert lines[3].startswith(f"Next:    {next_step.format(tmp_path)}")
    assert len(lines) == 4


def test_help_of_a_bundle_lists_its_ids(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["run", "--help", str(BUNDLE)], ["run", str(BUNDLE), "--help"]):
        assert main(arguments) == 0
        usage, printed = capsys.readouterr().out.split("The ids of chest_xray_plan")
        assert usage.startswith("usage: monai_plan run BUNDLE")
        for id in OPTIONS:
            assert len([line for line in printed.splitlines() if line.startswith(f"  --{id} ")]) == 1, id
        assert "patients behind an anchor (default: 5)" in printed
        assert "elements of each axis, after resizing (default: that of the data)" in printed
    assert main(["run", "--help", "nowhere"]) == 2


def test_errors_for_people_are_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*_bundle(tmp_path, "$1"), "--kk", "7"]) == 2
    error = capsys.readouterr().err
    assert error == "monai_plan: no stage has the config id 'kk'. The closest known: k.\n"


def test_errors_that_are_ours_pass(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="Failed to evaluate"):
        main(_bundle(tmp_path, "$1 / 0 + len(@output_dir + '/private/model.pt')"))


def test_paths_are_completed_as_by_a_shell(calls: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Which does not do it behind = or within quotes."""
    monkeypatch.setenv("HOME", "/home/somebody")
    monkeypatch.setenv("WARD", "ward_7")
    assert main(["run", "~/B", "--dataset_dir=~/$WARD", "--output_dir", "2025", "--name", "~"]) == 0
    ((args, options),) = calls
    assert args == ("/home/somebody/B",)
    assert (options["dataset_dir"], options["output_dir"]) == ("/home/somebody/ward_7", "2025")
    assert options["overrides"] == {"name": "~"}


@pytest.mark.parametrize("path", ["$NOT_SET_ANYWHERE/x", "${NOT_SET_ANYWHERE}", "~nobody_of_this_name/x"])
def test_a_variable_that_is_not_set_is_an_error(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["run", "B", "--dataset_dir", path, "--output_dir", "O"])
    assert ended.value.code == 2
    assert f"{path} names a variable or a user that is not known here" in capsys.readouterr().err


@pytest.mark.parametrize(
    "change", [{"output_dir": "out#1"}, {"dataset_dir": "set#1"}, {"overrides": {"release_name": "set #1"}}]
)
def test_what_monai_would_rewrite_is_refused_before_anything_is_written(change: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "set#1").mkdir()
    (tmp_path / "set").mkdir()
    paths = {"dataset_dir": "set", "output_dir": "out"} | {k: v for k, v in change.items() if k != "overrides"}
    with pytest.raises(ConfigError, match="#1', and MONAI's configs write # as ::"):
        monai_plan.bundle.run_bundle(
            BUNDLE, **{k: tmp_path / v for k, v in paths.items()}, overrides=change.get("overrides")
        )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["set", "set#1"]


def test_a_file_that_cannot_be_written_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("in the way")
    for name in "ab":
        _write_images(tmp_path / "set" / name, [f"{number}.png" for number in range(4)])
    output = tmp_path / "file" / "datalist.json"
    assert main(["datalist", "folders", str(tmp_path / "set"), "--output", str(output)]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("monai_plan:")]
    assert str(tmp_path / "file") in line
    assert "a file stands where a folder is needed: use another place" in line


@pytest.mark.parametrize("flag", ["--merge-look-alikes", "--keep_look_alikes"])
def test_look_alikes(flag: str, tmp_path: Path) -> None:
    _write_images(tmp_path, [f"{number}.png" for number in range(16)])
    lines = [f"{number}.png,{number // 4 % 2},{number // 2}{'.0' * (number % 2)}" for number in range(16)]
    (tmp_path / "t.csv").write_text("\n".join(["image,label,who", *lines]))
    command = ["datalist", "csv", str(tmp_path / "t.csv"), "--image_root", str(tmp_path), "--subject_column", "who"]
    command += ["--output", str(tmp_path / "datalist.json")]
    assert main(command) == 2
    assert main([*command, flag]) == 0
    content = json.loads((tmp_path / "datalist.json").read_text())
    subjects = {item["subject"] for item in content["training"] + content["test"]}
    assert len(subjects) == (8 if "merge" in flag else 16)


def test_ctrl_c_says_how_to_go_on(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupt(*args: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(monai_plan.bundle, "run_bundle", interrupt)
    assert main(RUN) == 130
    assert "the same command goes on from here" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["rum"], ["run"], ["datalist"], ["datalist", "folders", "x"], ["--seed"]])
def test_wrong_usage_ends_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert "usage: monai_plan" in capsys.readouterr().err


def test_phantoms(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sizes = ["--num-subjects", "4", "--num_test_subjects", "2", "--img_size", "16", "24", "--seed", "3"]
    assert main(["phantoms", "--output_dir", str(tmp_path), *sizes]) == 0
    datalist = tmp_path / "datalist.json"
    assert str(datalist) in capsys.readouterr().out
    training = json.loads(datalist.read_text())["training"]
    assert len({item["subject"] for item in training}) == 4
    with Image.open(tmp_path / training[0]["image"]) as image:
        assert sorted(image.size) == [16, 24]
    assert main(["phantoms", "--output_dir", str(tmp_path), "--spatial_dims", "3", *sizes]) == 2  # 3 axes, 2 sizes
    assert main(["phantoms", "--output_dir", str(tmp_path), "--spatial_dims", "3", *sizes[:4], "--img_size", "16"]) == 0


def _write_images(folder: Path, names: list[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        Image.fromarray(np.zeros((8, 8), dtype=np.uint8)).save(folder / name)


@pytest.mark.parametrize("kind", ["folders", "csv", "shenzhen", "aptos", "medmnist"])
def test_datalists(tmp_path: Path, kind: str) -> None:
    root, output = tmp_path / "root", tmp_path / "out" / "datalist.json"
    columns = ["--image_column", "file", "--label_column", "diagnosis", "--subject_column", "id_code"]
    arguments = {
        "folders": [str(root), "--subject-pattern", r"p\d+"],
        "csv": [str(root / "train.csv"), "--image_root", str(root), *columns],
        "shenzhen": [str(root), "--test_fraction", "0.5", "--seed", "1"],
        "aptos": [str(root), "--max_per_class", "3"],
        "medmnist": [str(root / "tiny.npz")],
    }[kind]
    for label, name in enumerate(("healthy", "ill")):
        if kind == "folders":
            _write_images(root / name, [f"p{label}{number}.png" for number in range(4)])
        elif kind == "shenzhen":
            _write_images(root, [f"CHNCXR_{label}{number}_{label}.png" for number in range(4)])
    if kind in ("csv", "aptos"):
        _write_images(root, [f"p{number}.png" for number in range(20)])
        rows = [f"p{number}.png,p{number},{number % 5}" for number in range(20)]
        (root / "train.csv").write_text("\n".join(["file,id_code,diagnosis", *rows]))
    if kind == "medmnist":
        root.mkdir()
        arrays = {f"{split}_images": np.zeros((4, 8, 8), dtype=np.uint8) for split in ("train", "val", "test")}
        labels = {f"{split}_labels": np.arange(4, dtype=np.uint8)[:, None] % 2 for split in ("train", "val", "test")}
        np.savez(root / "tiny.npz", **arrays, **labels)
    target = ["--output_dir", str(output.parent)] if kind == "medmnist" else ["--output", str(output)]
    assert main(["datalist", kind, *arguments, *target]) == 0
    content = json.loads(output.read_text())
    sizes = {
        "folders": (8, 2),
        "csv": (20, 5),
        "shenzhen": (8, 2),
        "aptos": (15, 5),
        "medmnist": (12, 2),
    }
    items = content["training"] + content["test"]
    assert (len(items), len({item["label"] for item in items})) == sizes[kind]
    assert all((output.parent / item["image"]).exists() for item in items)
    if kind == "shenzhen":
        assert len(content["test"]) == 4
    if kind in ("folders", "csv"):
        assert all(item["subject"] in item["image"] for item in items)


def test_a_missing_source_is_an_error_for_people(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["datalist", "folders", str(tmp_path / "absent"), "--output", str(tmp_path / "x.json")]) == 2
    assert "absent" in capsys.readouterr().err


def test_quickstart_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    quickstart = pytest.importorskip("monai_plan.bundle.quickstart")
    made: list[Any] = []

    def record(output_dir: str, **options: Any) -> None:
        made.append((output_dir, options))
        raise ConfigError("seen")

    monkeypatch.setattr(quickstart, "quickstart", record)
    assert main(["quickstart", "--output_dir", "O"]) == 2
    assert main(["quickstart", "--output_dir", "O", "--seed", "4"]) == 2
    for (_, options), seed in zip(made, ({}, {"seed": 4}), strict=True):
        assert options.pop("echo") is not None
        assert options == {"quiet": False, **seed}


def test_help_and_version_import_nothing_heavy() -> None:
    code = (
        "import sys\nfrom monai_plan.__main__ import main\n"
        "for arguments in (['--version'], ['--help'], ['run', '--help'], ['datalist', 'csv', '--help']):\n"
        "    try:\n        main(arguments)\n    except SystemExit as end:\n        assert end.code == 0\n"
        "assert not {'torch', 'monai', 'numpy'} & set(sys.modules)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True)
    assert done.stdout.startswith(f"monai_plan {__version__}\n")
    assert "--skip_bad_images" in done.stdout


def test_a_text_with_a_hash_is_no_comment():
    assert _is_text("BraTS#2021")
    assert not _is_text("[1, 2]")
    assert not _is_text("'quoted # text'")
