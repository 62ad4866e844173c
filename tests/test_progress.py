"""Progress: a bar on a terminal, a line a minute elsewhere, nothing where INFO is not wanted."""

from __future__ import annotations

import io
import logging
import re
import warnings

import pytest
from ignite.engine import Engine
from tqdm import TqdmWarning

from monai_plan import progress
from monai_plan.engines import LossProgressBar
from monai_plan.progress import Progress, hushed


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A minute is what the test says."""
    now = [1000.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(Progress, "last_line", now[0])
    return now


def test_a_line_a_minute(
    clock: list[float], caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.INFO)
    with Progress(total=300, desc="invert", mininterval=0) as bar:
        for _ in range(300):
            clock[0] += 1
            bar.set_postfix(distance=2.5, refresh=False)
            bar.update()
    lines = [record.message for record in caplog.records]
    assert len(lines) == 5
    assert re.fullmatch(r"invert: 60 of 300 \[\S+<\S+, distance=2.5\]", lines[0])
    assert capfd.readouterr() == ("", "")


def test_bars_share_the_minute(clock: list[float], caplog: pytest.LogCaptureFixture) -> None:
    """A bar of every epoch, none of which takes a minute."""
    caplog.set_level(logging.INFO)
    engine = Engine(lambda engine, batch: clock.__setitem__(0, clock[0] + 1) or {"loss": 0.25})
    LossProgressBar(desc="train_class").attach(engine)
    engine.run(range(30), max_epochs=10)
    lines = [record.message for record in caplog.records if record.name == "monai_plan.progress"]
    assert len(lines) == 5
    assert lines[0].startswith("train_class [2/10]: 20 of 30 [")
    assert "loss=0.25" in lines[0]


def test_a_line_that_falls_due_with_a_new_bar_says_which_epoch(
    clock: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    engine = Engine(lambda engine, batch: clock.__setitem__(0, clock[0] + 7) or {"loss": 0.25})
    LossProgressBar(desc="train_class").attach(engine)
    engine.run(range(10), max_epochs=5)
    lines = [record.message for record in caplog.records if record.name == "monai_plan.progress"]
    assert [line[: line.index(":")] for line in lines] == [f"train_class [{epoch}/5]" for epoch in range(1, 6)]


def test_counts_of_parts_stay(clock: list[float], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with Progress(total=4, desc="walk", bar_format="{l_bar}{bar}| {n:.1f}/{total_fmt} paths") as bar:
        clock[0] += 61
        bar.update(1.5)
        bar.refresh()
    assert caplog.records[0].message.startswith("walk: 1.5 of 4 [")


def test_a_bar_on_a_terminal() -> None:
    terminal = Terminal()
    with Progress(total=3, desc="walk", file=terminal) as bar:
        bar.update(3)
    assert "100%|" in terminal.getvalue()
    assert terminal.getvalue().count("\n") == 1


def test_bars_of_notebooks_are_not_missed() -> None:
    """Ignite warns there where ipywidgets are not installed."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        with hushed():
            warnings.warn("IProgress not found", TqdmWarning, stacklevel=1)
            warnings.warn("something else", UserWarning, stacklevel=1)
    assert [str(warning.message) for warning in told] == ["something else"]


def test_what_is_said_has_the_form_of_the_log(capsys: pytest.CaptureFixture[str]) -> None:
    progress.say("[1/2] check: done")
    assert re.fullmatch(r"\d\d:\d\d:\d\d INFO \[1/2\] check: done\n", capsys.readouterr().out)


def test_quiet_is_quiet(clock: list[float], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    terminal = Terminal()
    with hushed(quiet=True):
        for file in (terminal, io.StringIO()):
            with Progress(total=3, file=file) as bar:
                clock[0] += 61
                bar.update(3)
        logging.getLogger("monai_plan").info("nobody hears it")
        logging.getLogger("monai_plan").warning("this is said")
    assert terminal.getvalue() == ""
    assert [record.message for record in caplog.records] == ["this is said"]
    logging.getLogger("monai_plan").info("heard again")
    assert caplog.records[-1].message == "heard again"


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_an_engine_that_ends_says_nothing(error: type[BaseException], caplog: pytest.LogCaptureFixture) -> None:
    def step(engine: Engine, batch: int) -> None:
        raise error("stopped")

    with hushed(), pytest.raises(error):
        Engine(step).run(range(3))
    assert caplog.records == []
    with pytest.raises(error):
        Engine(step).run(range(3))
    assert "terminating" in caplog.text  # as Ignite has it by itself
