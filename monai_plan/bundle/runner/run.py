"""Run all stages of a bundle in order; skip what is done, resume what was stopped, say why anything is redone.

A bundle says in ``configs/stages.json`` which config files make a stage and which files pass between stages::

    {"stages": [
        {"name": "train", "config": ["train.json"], "reads": [], "writes": ["private/model.pt"]},
        {"name": "invert", "config": ["common.json", "invert.json"],
         "reads": ["private/model.pt"], "writes": ["private/latents.pt"]}
    ]}

``config`` is relative to ``BUNDLE/configs``, later files merged over earlier ones as ``python -m monai.bundle run``
does it; ``reads`` and ``writes`` are relative to ``output_dir`` and may be folders. Beside its writes a stage owns the
work folder ``OUTPUT/private/<stage>/``, from which it resumes by itself (checkpoints, finished parts). A stage whose
config leads to any other file below ``output_dir`` is refused: nobody would see that file change, or clear it.

What a stage depends on is its *fingerprint*: the config items that ``initialize``, ``run`` and ``finalize`` reach
through ``@`` references, the content of its reads and of any other file or folder that these items name (weights, say),
the data set if it reaches ``dataset_dir`` or ``datalist_file``, and the version of monai_plan. The config id
``datalist_file``, where there is one, is the path of the data list; without it, ``dataset_dir/datalist.json`` is looked
at, and without that every file below ``dataset_dir`` counts. The code that a config calls is not part of the
fingerprint, except by the version of monai_plan.
"""

from __future__ import annotations

import gc
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import filelock
import torch
from monai.bundle import ConfigWorkflow

from monai_plan.bundle.names import bundle_folder
from monai_plan.bundle.runner.clear import Echo, make_way, remove_leftovers, tell_of_replaced, withdraw_release
from monai_plan.bundle.runner.configs import Plan, closest, make_plans
from monai_plan.bundle.runner.record import (
    RECORDS,
    Fingerprint,
    StageRecord,
    contents,
    data_digests,
    differences,
    fingerprint,
    record_settings,
    written_differences,
)
from monai_plan.bundle.runner.stages_file import CACHE, Stage, check_reads, covers, feeds, load_stages
from monai_plan.data.loading import clear_cache
from monai_plan.progress import hushed, say
from monai_plan.utils import ArtifactError, ConfigError, PLANError

__all__ = ["StageOutcome", "run_bundle"]


@dataclass(frozen=True)
class StageOutcome:
    """What became of one stage.

    Attributes:
        name: the stage.
        status: ``"ran"`` or ``"skipped"``.
        reason: why, in words.
        seconds: wall-clock time it took, 0 for a skipped stage.
    """

    name: str
    status: Literal["ran", "skipped"]
    reason: str
    seconds: float


def run_bundle(
    bundle_root: str | os.PathLike[str],
    *,
    dataset_dir: str | os.PathLike[str],
    output_dir: str | os.PathLike[str],
    overrides: Mapping[str, object] | None = None,
    only: Sequence[str] | None = None,
    echo: Echo = say,
    quiet: bool = False,
) -> list[StageOutcome]:
    """Run the stages of a bundle in order, each as ``python -m monai.bundle run`` would, in this process.

    A stage is skipped if nothing that it depends on has changed since it finished and its writes are as it left them.
    A stage that is redone has those redone as well that read what it writes, and so on. A stage that was stopped goes
    on from its work folder if nothing has changed, and begins anew otherwise. Before a stage is redone, what later ones
    released is withdrawn. What earlier runs wrote is deleted when it is redone; files in the way that they did not
    write are moved to ``OUTPUT/private/replaced/``.

    Args:
        bundle_root: the bundle's folder, with ``configs/stages.json``, or the name of one that comes with monai_plan.
        dataset_dir: the data set's folder; set on every stage, as are ``output_dir`` and ``bundle_root``.
        output_dir: where the stages write; made if missing.
        overrides: config id (``"walk#steps"`` or ``"walk::steps"``) to value, applied to the stages that know the id.
        only: names of the stages to look at; the others are left as they are, but for a release that is withdrawn. All
            by default.
        echo: called with each line of progress.
        quiet: leave nothing but warnings and errors: neither progress bars nor lines of the log.

    Returns:
        One outcome for each stage looked at, in order.

    Raises:
        ConfigError: before anything runs, if the bundle, a config, an override or a name in ``only`` is wrong, a stage
            uses a file that it does not name, or another run is using ``output_dir``.
        ArtifactError: if a file that a stage reads is missing, or a stage ended without writing what it promised.
        PLANError: as a stage raised it, freed of MONAI's wrapping.
    """
    given = (bundle_folder(bundle_root), dataset_dir, output_dir)
    bundle, dataset, output = (Path(os.path.abspath(path)) for path in given)
    paths = {"dataset_dir": str(dataset), "output_dir": str(output), "bundle_root": str(bundle)}
    for name, value in (*paths.items(), *(overrides or {}).items()):
        _check_text(name, value)
    stages = load_stages(bundle)
    if not dataset.is_dir():
        raise ConfigError(f"dataset_dir {dataset} does not exist or is no folder: give the data set's folder.")
    if output.exists() and not output.is_dir():
        raise ConfigError(f"output_dir {output} is a file: give a folder.")
    plans = make_plans(stages, overrides or {}, paths)
    datalists = {plan.datalist for plan in plans if plan.datalist is not None}
    if only is not None:
        names = [stage.name for stage in stages]
        for name in only:
            if name not in names:
                raise ConfigError(f"the bundle has no stage {name!r}. {closest(name, names)}")
        plans = [plan for plan in plans if plan.stage.name in only]
    check_reads([plan.stage for plan in plans], stages, output)
    _check_writes(plans)

    with locked(output / RECORDS), hushed(quiet=quiet):
        clear_cache(output / CACHE, datalists)  # first of all: who was removed from the data is gone from there
        remove_leftovers(stages, output, echo)
        run = _Run(stages, output, {stage.name: StageRecord(output, stage.name, echo) for stage in stages}, echo)
        data: dict[Path, dict[str, Any]] = {}
        outcomes = []
        for number, plan in enumerate(plans, start=1):
            check_reads([plan.stage], stages, output)  # again: what was released may be withdrawn by now
            if plan.datalist is not None and plan.datalist not in data:
                data[plan.datalist] = data_digests(plan.datalist, dataset, output)
                how = {"bundle_root": str(bundle), "dataset_dir": str(dataset), "overrides": dict(overrides or {})}
                how["datalist"] = str(plan.datalist)
                record_settings(output, how, data[plan.datalist], partly=only is not None)
            label = f"[{number}/{len(plans)}] {plan.stage.name}"
            outcomes.append(run.stage(plan, fingerprint(plan, data, output), label))
        run.tell_of_the_rest()
    return outcomes


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep a second run away from the same output folder; the lock ends with the process, however it ends.

    Args:
        folder: of the records, ``RECORDS`` below the output folder; made if missing.

    Raises:
        ConfigError: if another run has it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(folder / "lock")
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout as error:
        raise ConfigError(
            f"another run is writing to {folder.parent.parent}: wait for its end or give another output_dir."
        ) from error
    try:
        yield
    finally:
        lock.release()


def _check_text(name: str, value: object) -> None:
    """Refuse what MONAI's configs would silently make another text of: they read # as :: in every text."""
    if isinstance(value, str) and not value.startswith(("$", "@", "%")) and ("#" in value or "::" in value):
        raise ConfigError(
            f"{name} is {value!r}, and MONAI's configs write # as ::, so that it would name something else: do without "
            "it, in a path by renaming the folder or by a link to it."
        )


def _check_writes(plans: Sequence[Plan]) -> None:
    """Refuse a stage all of whose files were led elsewhere by an override, before hours of computing for nothing."""
    for plan in plans:
        writes = plan.stage.writes
        if writes and not any(covers(write, path) for write in writes for path in plan.below):
            raise ConfigError(
                f"stage {plan.stage.name}: nothing in its config leads to {writes[0]} in output_dir, which "
                "stages.json promises: leave the ids of its files as they are, or correct stages.json."
            )


@dataclass
class _Run:
    """One run of some of the stages of a bundle."""

    stages: Sequence[Stage]
    output: Path
    records: Mapping[str, StageRecord]
    echo: Echo
    redone: list[Stage] = field(default_factory=list)
    withdrawn: set[str] = field(default_factory=set)  # stages of which something is no longer released

    def stage(self, plan: Plan, now: Fingerprint, label: str) -> StageOutcome:
        """Skip, resume or redo one stage, and keep its records."""
        stage, record = plan.stage, self.records[plan.stage.name]
        resuming = record.started is not None and not differences(record.started["fingerprint"], now)
        reasons = self._reasons(stage, record, now)
        if not reasons and record.finished is not None:
            record.forget_start()  # of a run that was killed between the record and its end
            reason = f"unchanged since {record.finished['finished']}"
            self.echo(f"{label}: skipped, {reason}")
            return StageOutcome(stage.name, "skipped", reason, 0.0)
        if resuming:
            reasons = ["resuming, it was stopped before its end"]
        reason = "; ".join(reasons[:3]) + (f"; and {len(reasons) - 3} more" if len(reasons) > 3 else "")
        self.echo(f"{label}: {reason}")
        self.withdrawn |= withdraw_release(stage, self.stages, self.records, self.output, self.echo)
        if not resuming:
            make_way(stage, record, now, self.output, self.echo)
        record.start(now)
        start = time.monotonic()
        try:
            _execute(plan)
        except Exception:
            self.echo(f"{label}: failed. The finished stages are kept; the same command goes on from here.")
            raise
        finally:
            _free_memory()
        seconds = time.monotonic() - start
        record.finish(now, self._written(stage), seconds)
        self.echo(f"{label}: done in {seconds:.1f} s")
        self.redone.append(stage)
        self.withdrawn.discard(stage.name)
        return StageOutcome(stage.name, "ran", reason, seconds)

    def _reasons(self, stage: Stage, record: StageRecord, now: Fingerprint) -> list[str]:
        """Why the stage has to run; empty if it has not."""
        if record.finished is None:
            if record.started is None:
                return ["no record of an earlier run"]
            return ["it was stopped before its end", *differences(record.started["fingerprint"], now)]
        changed = differences(record.finished["fingerprint"], now)
        changed += written_differences(record.finished, stage, self.output)
        source = next((other.name for other in self.redone if feeds(other, stage)), None)
        if source is None:
            return changed
        # That its reads changed and its release is withdrawn goes without saying where an earlier stage was redone.
        implied = {f"{read} changed" for read in stage.reads}
        implied |= {f"{write} is missing" for write in stage.writes if covers("release", write)}
        return [f"stage {source} was redone", *(text for text in changed if text not in implied)]

    def _written(self, stage: Stage) -> dict[str, str]:
        """The digests of all files that the stage wrote."""
        written: dict[str, str] = {}
        for write in stage.writes:
            found = contents(self.output, write)
            if not found:
                raise ArtifactError(
                    f"stage {stage.name} ended without writing {write}, which stages.json promises: correct the config."
                )
            written |= found
        return written

    def tell_of_the_rest(self) -> None:
        """Say at the end what is withdrawn and not made again, and what nobody but the user can judge."""
        if self.withdrawn:
            self.echo(f"release withdrawn: run the rest to make it again ({', '.join(sorted(self.withdrawn))})")
        tell_of_replaced(self.output, self.echo)


def _execute(plan: Plan) -> None:
    """Run one stage as ``python -m monai.bundle run`` does."""
    search_path = list(sys.path)  # ConfigWorkflow adds the bundle to it
    try:
        workflow = ConfigWorkflow(config_file=[str(file) for file in plan.stage.config])
        workflow.parser.update(deepcopy(plan.overrides))  # not as arguments: an id may have the name of one of them
        workflow.initialize()
        workflow.run()
        workflow.finalize()
        return
    except Exception as error:
        meant = meant_error(error)
        if meant is None:
            raise
    finally:
        sys.path[:] = search_path
    raise meant


def _free_memory() -> None:
    """Drop the networks and caches of the last stage, which reference each other in cycles."""
    gc.collect()
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def meant_error(error: BaseException | None) -> PLANError | OSError | None:
    """The error for people that MONAI has wrapped ("Failed to instantiate …"), if there is one."""
    while error is not None and not isinstance(error, (PLANError, OSError)):
        error = error.__cause__
    return error
