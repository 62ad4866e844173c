"""The stage runner on a toy bundle whose stages append to a journal and write small text files."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from toy import TRAIN, Toy, toy_bundle

import monai_plan.bundle.runner.run as runner
from monai_plan.bundle import run_bundle
from monai_plan.utils import ArtifactError, ConfigError, DataError


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Toy]:
    yield from toy_bundle(tmp_path, monkeypatch)


def test_stages_run_in_order_and_are_skipped_when_nothing_changed(toy: Toy) -> None:
    first = toy.run()
    assert [(item.name, item.status) for item in first] == [("train", "ran"), ("walk", "ran"), ("emit", "ran")]
    assert {item.reason for item in first} == {"no record of an earlier run"}
    assert [line.split()[0] for line in toy.journal()] == ["train", "walk", "emit"]
    assert len(list((toy.out / "release" / "images").iterdir())) == 4
    assert not list((toy.out / "private" / "run").glob("*.started.json"))
    second = toy.run()
    assert [(item.name, item.status, item.seconds) for item in second] == [
        ("train", "skipped", 0.0),
        ("walk", "skipped", 0.0),
        ("emit", "skipped", 0.0),
    ]
    assert len(toy.journal()) == 3
    assert "[2/3] walk: skipped, unchanged since" in toy.lines[1]


@pytest.mark.parametrize(("fail", "file"), [("on_init", "a.png"), ("on_run", "b.png")])
def test_errors_for_people_are_unwrapped_and_finished_stages_kept(toy: Toy, fail: str, file: str) -> None:
    with pytest.raises(DataError, match=rf"^{file} is damaged: remove it\.$"):
        toy.run({"walk#fail": fail})
    assert toy.lines[-1].startswith("[2/3] walk: failed. The finished stages are kept")
    assert list(toy.reasons()) == ["walk", "emit"]


def test_other_errors_pass(toy: Toy) -> None:
    with pytest.raises(RuntimeError, match="Failed to evaluate") as caught:
        toy.run({"walk#fail": "bug"})
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    assert toy.lines[-1].startswith("[2/3] walk: failed.")


def test_a_stage_that_breaks_its_promise_is_an_error(toy: Toy) -> None:
    with pytest.raises(ArtifactError, match=r"walk ended without writing private/paths\.txt"):
        toy.run({"walk#forget": True})
    assert toy.reasons()["walk"] == "it was stopped before its end; config walk#forget changed from true to false"


def test_a_stopped_stage_resumes_and_a_changed_one_begins_anew(toy: Toy) -> None:
    with pytest.raises(KeyboardInterrupt):
        toy.run({"walk#fail": "interrupt"})
    with pytest.raises(KeyboardInterrupt):
        toy.run({"walk#fail": "interrupt"})
    assert "[2/3] walk: resuming, it was stopped before its end" in toy.lines
    assert toy.reasons()["walk"] == 'it was stopped before its end; config walk#fail changed from "interrupt" to null'
    states = [line.split()[1] for line in toy.journal() if line.startswith("walk")]
    assert states == ["fresh", "resumed", "fresh"]


def test_a_stopped_change_can_be_taken_back(toy: Toy) -> None:
    """A stop before the old output was touched does not mix the parts of two configs."""
    toy.run()
    with pytest.raises(KeyboardInterrupt):
        toy.run({"walk#fail": "interrupt", "walk#steps": 300})
    assert toy.reasons() == {
        "walk": "private/paths.txt is missing",
        "emit": "stage walk was redone",
    }
    assert toy.journal()[-2] == 'walk fresh {"steps": 500}'


def test_resuming_touches_no_file(toy: Toy) -> None:
    """A stage that wrote one of its files before it was stopped finds it again."""
    with pytest.raises(KeyboardInterrupt):
        toy.run({"walk#fail": "interrupt"})
    (toy.out / "private" / "paths.txt").write_text("half of it")
    with pytest.raises(KeyboardInterrupt):
        toy.run({"walk#fail": "interrupt"})
    assert (toy.out / "private" / "paths.txt").read_text() == "half of it"


def test_one_run_at_a_time(toy: Toy) -> None:
    with (
        runner.locked(toy.out / "private" / "run"),
        pytest.raises(ConfigError, match=r"another run is writing to .*out"),
    ):
        toy.run()
    toy.run()


def test_working_folder_and_search_path_do_not_matter(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    before = list(sys.path)
    toy.run()
    assert sys.path == before
    monkeypatch.chdir(toy.root)
    outcomes = run_bundle("toy", dataset_dir="data", output_dir="out", echo=toy.lines.append)
    assert {item.status for item in outcomes} == {"skipped"}


def test_a_stage_leaves_memory_before_the_next(toy: Toy) -> None:
    toy.run()
    import toy_stages  # type: ignore[import-not-found]

    assert toy_stages.MOST == [1, 1, 1]
    assert len(toy_stages.ALIVE) == 0


def test_logging_conf_of_the_bundle_is_used(toy: Toy, capfd: pytest.CaptureFixture[str]) -> None:
    (toy.bundle / "configs" / "logging.conf").write_text(
        "[loggers]\nkeys=root,toy\n[handlers]\nkeys=out\n[formatters]\nkeys=plain\n[logger_root]\nlevel=INFO\nhandlers=\n"
        "[logger_toy]\nlevel=INFO\nhandlers=out\nqualname=toy\npropagate=0\n"
        "[handler_out]\nclass=StreamHandler\nlevel=INFO\nformatter=plain\nargs=(sys.stdout,)\n"
        "[formatter_plain]\nformat=TOY %(message)s\n"
    )
    toy.write_config("train", {**TRAIN, "initialize": ["$__import__('logging').getLogger('toy').info('hello')"]})
    toy.run(only=["train"])
    assert "TOY hello" in capfd.readouterr().out


def test_killed_inside_a_stage_and_started_again(toy: Toy) -> None:
    """SIGKILL: the finished stage is kept, the killed one goes on from its work folder."""
    code = (
        "import sys; from monai_plan.bundle import run_bundle; "
        "run_bundle(sys.argv[1], dataset_dir=sys.argv[2], output_dir=sys.argv[3], overrides={'walk#fail': 'sleep'})"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(toy.bundle), str(toy.data), str(toy.out)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 60
        while not (toy.out / "private" / "walk" / "part.txt").exists():
            assert process.poll() is None, "ended before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
    finally:
        process.kill()
        process.wait()
    assert (toy.out / "private/run/walk.started.json").exists()
    # The same settings: no longer asleep, for the module itself is not part of the fingerprint.
    module = toy.root / "modules" / "toy_stages.py"
    module.write_text(module.read_text().replace("time.sleep(120)", "time.sleep(0)"))
    reasons = toy.reasons({"walk#fail": "sleep"})
    assert reasons["walk"] == "resuming, it was stopped before its end"
    assert "train" not in reasons
    assert [line.split()[:2] for line in toy.journal()] == [
        ["train", "fresh"],
        ["walk", "fresh"],
        ["walk", "resumed"],
        ["emit", "fresh"],
    ]


def test_a_stage_runs_alone_by_monai_bundle(toy: Toy, tmp_path: Path) -> None:
    """`python -m monai.bundle run` writes what the runner writes, from another working folder."""
    toy.run({"walk#steps": 7}, only=["train", "walk"])
    expected = (toy.out / "private/paths.txt").read_text()
    (toy.out / "private/paths.txt").unlink()
    configs = [str(toy.bundle / "configs" / name) for name in ("train.json", "walk.json")]
    options = ["--bundle_root", str(toy.bundle), "--dataset_dir", str(toy.data), "--output_dir", str(toy.out)]
    options += ["--walk#steps", "7"]
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    subprocess.run(
        [sys.executable, "-m", "monai.bundle", "run", "--config_file", str(configs), *options],
        cwd=elsewhere,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        check=True,
        capture_output=True,
        timeout=90,
    )
    assert (toy.out / "private/paths.txt").read_text() == expected
    assert not list(elsewhere.iterdir())
