"""What several test files share: a tiny data set with patients' names in it, and a tiny run of a whole bundle."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# MKL's own allocator can wait for ever in a process that was forked while a thread that had computed was ending:
# about one in 500 DataLoaders with forked workers. It is read when MKL first allocates, so before torch is imported.
os.environ.setdefault("MKL_DISABLE_FAST_MM", "1")
if "PYTEST_XDIST_WORKER" in os.environ:  # the workers share the cores; two threads each would wait for each other
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from tiny_bundle import BUNDLE, PATIENT, TINY, known_secret


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--quickstart-dir", metavar="DIR", help="a finished quickstart to judge, see test_phantom_truth.py"
    )


@contextmanager
def logging_restored() -> Iterator[None]:
    """MONAI configures logging for a bundle in the whole process, with handlers on the standard output of the test."""
    loggers = [logging.getLogger(name) for name in (None, *list(logging.root.manager.loggerDict))]
    before = [(logger, logger.level, logger.propagate, logger.disabled, logger.handlers[:]) for logger in loggers]
    try:
        yield
    finally:
        for logger, level, propagate, disabled, handlers in before:
            logger.setLevel(level)
            logger.propagate, logger.disabled, logger.handlers = propagate, disabled, handlers


@pytest.fixture
def clean_logging() -> Iterator[None]:
    with logging_restored():
        yield


@pytest.fixture
def checked_here(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """``verify_bundle`` runs a bundle's configs in this process: seconds faster than in one that imports all anew."""
    from monai_plan.bundle.zoo import verify
    from monai_plan.bundle.zoo.check_running import check_running
    from monai_plan.bundle.zoo.findings import Finding

    def run_here(folder: Path, *, dataset_dir: Path | None = None) -> list[Finding]:
        return check_running(folder, tmp_path_factory.mktemp("work"), begin=str, dataset_dir=dataset_dir)

    with logging_restored():
        monkeypatch.setattr(verify, "run_apart", run_here)
        yield


@pytest.fixture(scope="session")
def patients(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of 12 training and 6 test subjects, 16 x 16 pixels, whose ids and files have names to look for."""
    from monai_plan.data import make_phantoms

    root = tmp_path_factory.mktemp("source") / "ward_seven"
    datalist = make_phantoms(root, img_size=16, num_subjects=12, num_test_subjects=6)
    content = json.loads(datalist.read_text())
    for section in ("training", "test"):
        for number, item in enumerate(content[section]):
            patient = PATIENT.format(int(item["subject"].removeprefix("phantom_")))
            image = f"{patient.lower()}/accession{section[:2]}{number:04d}.png"
            (root / image).parent.mkdir(exist_ok=True)
            os.rename(root / item["image"], root / image)
            item.update(image=image, subject=patient)
    datalist.write_text(json.dumps(content))
    (root / "images").rmdir()
    return root


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, patients: Path) -> Path:
    """The output folder of a whole tiny run. Read it only; ``copied`` gives one to change."""
    from monai_plan.bundle import run_bundle

    output = tmp_path_factory.mktemp("finished") / "out"
    with logging_restored(), pytest.MonkeyPatch.context() as patch:
        patch.setattr("secrets.token_hex", known_secret)
        outcomes = run_bundle(BUNDLE, dataset_dir=patients, output_dir=output, overrides=TINY, echo=lambda line: None)
    assert {outcome.status for outcome in outcomes} == {"ran"}
    return output


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished run."""
    return Path(shutil.copytree(finished, tmp_path / "out"))
