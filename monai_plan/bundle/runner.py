"""Run all stages of a bundle in order; skip what is done, resume what was stopped, say why anything is redone.

A bundle says in ``configs/stages.json`` which config files make a stage and which files pass between stages::

    {"stages": [
        {"name": "train", "config": ["train.json"], "reads": [], "writes": ["private/model.pt"]},
        {"name": "invert", "config": ["train.json", "invert.json"],
         "reads": ["private/model.pt"], "writes": ["private/latents.pt"]}
    ]}

``config`` is relative to ``BUNDLE/configs``, later files merged over earlier ones as ``python -m monai.bundle run``
does it; ``reads`` and ``writes`` are relative to ``output_dir`` and may be folders. Beside its writes a stage owns the
work folder ``OUTPUT/private/<stage>/``, from which it resumes by itself (checkpoints, finished parts).

What a stage depends on is its *fingerprint*: the config items that ``initialize``, ``run`` and ``finalize`` reach
through ``@`` references, the content of its reads, the data set if it reaches ``dataset_dir`` or ``datalist_file``, and
the version of monai_plan. The config id ``datalist_file``, where there is one, is the path of the data list; without
it, ``dataset_dir/datalist.json`` is looked at, and without that every file below ``dataset_dir`` counts. The code that
a config calls is not part of the fingerprint, except by the version of monai_plan.
"""

from __future__ import annotations

import ast
import difflib
import fcntl
import gc
import hashlib
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import combinations
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import torch
from monai.bundle import ConfigExpression, ConfigParser, ConfigWorkflow, ReferenceResolver

from monai_plan import __version__
from monai_plan.data.datalist import DATALIST_NAME
from monai_plan.utils import ArtifactError, ConfigError, DataError, PLANError, file_digest, write_json

__all__ = ["StageOutcome", "run_bundle"]

PATH_IDS = ("dataset_dir", "output_dir", "bundle_root")
ENTRY_IDS = ("initialize", "run", "finalize")
OWN_FOLDERS = ("private/run", "private/replaced")  # of the runner, below output_dir

Fingerprint = dict[str, Any]
Echo = Callable[[str], object]


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


@dataclass(frozen=True)
class _Stage:
    """A stage as ``stages.json`` has it; ``config`` as absolute paths."""

    name: str
    config: tuple[Path, ...]
    reads: tuple[str, ...]
    writes: tuple[str, ...]


@dataclass(frozen=True)
class _Plan:
    """A stage with the overrides that it knows and what its config reaches."""

    stage: _Stage
    overrides: dict[str, object]
    config: dict[str, Any]  # id of each leaf that the stage reaches -> raw value, paths replaced by their names
    datalist: Path | None  # None: the stage does not look at the data set


def run_bundle(
    bundle_root: str | os.PathLike[str],
    *,
    dataset_dir: str | os.PathLike[str],
    output_dir: str | os.PathLike[str],
    overrides: Mapping[str, object] | None = None,
    only: Sequence[str] | None = None,
    echo: Echo = print,
) -> list[StageOutcome]:
    """Run the stages of a bundle in order, each as ``python -m monai.bundle run`` would, in this process.

    A stage is skipped if nothing that it depends on has changed since it finished and its writes are as it left them.
    A stage that is redone has those redone as well that read what it writes, and so on. A stage that was stopped goes
    on from its work folder if nothing has changed, and begins anew otherwise. Files in the way that this function did
    not write are moved to ``OUTPUT/private/replaced/``, never deleted.

    Args:
        bundle_root: the bundle's folder, with ``configs/stages.json``.
        dataset_dir: the data set's folder; set on every stage, as are ``output_dir`` and ``bundle_root``.
        output_dir: where the stages write; made if missing.
        overrides: config id (``"walk#steps"`` or ``"walk::steps"``) to value, applied to the stages that know the id.
        only: names of the stages to look at; the others are left as they are. All by default.
        echo: called with each line of progress.

    Returns:
        One outcome for each stage looked at, in order.

    Raises:
        ConfigError: before anything runs, if the bundle, a config, an override or a name in ``only`` is wrong, or
            another run is using ``output_dir``.
        ArtifactError: if a file that a stage reads is missing, or a stage ended without writing what it promised.
        PLANError: as a stage raised it, freed of MONAI's wrapping.
    """
    bundle, dataset, output = (Path(os.path.abspath(path)) for path in (bundle_root, dataset_dir, output_dir))
    paths = {"dataset_dir": str(dataset), "output_dir": str(output), "bundle_root": str(bundle)}
    stages = _load_stages(bundle)
    if not dataset.is_dir():
        raise ConfigError(f"dataset_dir {dataset} does not exist or is no folder: give the data set's folder.")
    if output.exists() and not output.is_dir():
        raise ConfigError(f"output_dir {output} is a file: give a folder.")
    plans = _make_plans(stages, overrides or {}, paths)
    if only is not None:
        names = [stage.name for stage in stages]
        for name in only:
            if name not in names:
                raise ConfigError(f"the bundle has no stage {name!r}. {_closest(name, names)}")
        plans = [plan for plan in plans if plan.stage.name in only]
    _check_reads([plan.stage for plan in plans], stages, output)

    outcomes: list[StageOutcome] = []
    data: dict[Path, dict[str, Any]] = {}
    redone: list[_Stage] = []
    with _locked(output / "private" / "run"):
        for number, plan in enumerate(plans, start=1):
            if plan.datalist is not None and plan.datalist not in data:
                data[plan.datalist] = _data_digests(plan.datalist, dataset, output)
            label = f"[{number}/{len(plans)}] {plan.stage.name}"
            source = next((stage.name for stage in redone if _feeds(stage, plan.stage)), None)
            outcome = _run_stage(plan, _fingerprint(plan, data, output), paths, source, label, echo)
            outcomes.append(outcome)
            if outcome.status == "ran":
                redone.append(plan.stage)
    return outcomes


# ---- the bundle and its configs ----------------------------------------------------------------------------------


def _load_stages(bundle: Path) -> list[_Stage]:
    """The stages of ``BUNDLE/configs/stages.json``, checked."""
    file = bundle / "configs" / "stages.json"
    if not file.is_file():
        raise ConfigError(f"{bundle} is no bundle with stages: {file} does not exist.")
    content = _read_config(file)
    entries = content.get("stages")
    if not isinstance(entries, list) or not entries:
        raise ConfigError(f'{file} has no stages: expected {{"stages": [{{"name": …, "config": [...]}}, …]}}.')
    stages = [_load_stage(entry, file) for entry in entries]
    names = [stage.name for stage in stages]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"{file}: two stages are called {name!r}; each needs its own name.")
    places = [("the runner", folder) for folder in OWN_FOLDERS]
    places += [(stage.name, f"private/{stage.name}") for stage in stages]
    places += [(stage.name, write) for stage in stages for write in stage.writes]
    for (owner, place), (other, path) in combinations(places, 2):
        in_own_work_folder = owner == other and place == f"private/{owner}"
        if not in_own_work_folder and (_covers(place, path) or _covers(path, place)):
            raise ConfigError(
                f"{file}: {place} of {owner} and {path} of {other} overlap, so that each would undo the other: let "
                "every file and folder belong to one stage."
            )
    return stages


def _load_stage(entry: Any, file: Path) -> _Stage:
    """One entry of ``stages.json``, checked."""
    if not isinstance(entry, dict) or not str(entry.get("name", "")).isidentifier():
        raise ConfigError(
            f"{file}: every stage is an object with a name made of letters, digits and _; found {_brief(entry)}."
        )
    name = entry["name"]
    unknown = set(entry) - {"name", "config", "reads", "writes"}
    if unknown:
        raise ConfigError(f"{file}: stage {name} has the unknown entry {min(unknown)!r}: name, config, reads, writes.")
    lists = {key: entry.get(key, []) for key in ("config", "reads", "writes")}
    for key, value in lists.items():
        if not isinstance(value, list) or not all(isinstance(item, str) and item for item in value):
            raise ConfigError(f"{file}: {key} of stage {name} must be a list of paths, not {_brief(value)}.")
    if not lists["config"]:
        raise ConfigError(f"{file}: stage {name} names no config file.")
    for path in (*lists["reads"], *lists["writes"]):
        parts = PurePosixPath(path).parts
        if PurePosixPath(path).is_absolute() or ".." in parts or not parts:
            raise ConfigError(f"{file}: {path!r} of stage {name} must be a path inside output_dir.")
    for read in lists["reads"]:
        if any(_covers(read, write) or _covers(write, read) for write in lists["writes"]):
            raise ConfigError(f"{file}: stage {name} writes over what it reads, {read}: it would never be done.")
    return _Stage(
        name=name,
        config=tuple(file.parent / item for item in lists["config"]),
        reads=tuple(lists["reads"]),
        writes=tuple(lists["writes"]),
    )


def _read_config(file: Path) -> dict[str, Any]:
    """A JSON or YAML file by MONAI's reader; errors name the file."""
    if not file.is_file():
        raise ConfigError(f"the config file {file} does not exist.")
    try:
        content = ConfigParser.load_config_file(file)
    except ValueError as error:
        raise ConfigError(f"the config file {file} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"the config file {file} must hold an object, not {type(content).__name__}.")
    return content


def _merged(stage: _Stage) -> ConfigParser:
    """The stage's merged config as written, before overrides, macros and relative ids."""
    for file in stage.config:
        _read_config(file)  # for an error that names the one file
    parser = ConfigParser()
    try:
        parser.read_config([str(file) for file in stage.config])
    except (ValueError, KeyError, IndexError) as error:
        raise ConfigError(f"stage {stage.name}: its config files cannot be merged: {error}") from error
    metadata = stage.config[0].parent / "metadata.json"
    if metadata.is_file():
        parser.read_meta(_read_config(metadata))
    for id in (*PATH_IDS, "run"):
        if id not in parser:
            names = ", ".join(file.name for file in stage.config)
            raise ConfigError(f"stage {stage.name}: its config ({names}) lacks the id {id!r}.")
    return parser


def _make_plans(stages: Sequence[_Stage], overrides: Mapping[str, object], paths: Mapping[str, str]) -> list[_Plan]:
    """Route the overrides to the stages that know their ids, and see what each stage reaches."""
    given = {ReferenceResolver.normalize_id(id): value for id, value in overrides.items()}
    for id in PATH_IDS:
        if id in given:
            raise ConfigError(f"{id} is not an override: give it as the argument of that name.")
    merged = {stage.name: _merged(stage) for stage in stages}
    for id in given:
        if not any(id in parser for parser in merged.values()):
            known = {_shown(known) for parser in merged.values() for known in _all_ids(parser.get())}
            raise ConfigError(f"no stage has the config id {_shown(id)!r}. {_closest(_shown(id), known)}")
    plans = []
    for stage in stages:
        parser = merged[stage.name]
        known_here = {id: value for id, value in given.items() if id in parser}
        for id, value in known_here.items():
            _check_kind(id, parser[id], value)
        plans.append(_make_plan(stage, parser, known_here, paths))
    return plans


def _make_plan(stage: _Stage, parser: ConfigParser, overrides: dict[str, object], paths: Mapping[str, str]) -> _Plan:
    """Expand the config of ``stage`` and collect what it reaches."""
    # Names in place of the paths: a folder that was moved changes nothing, even where a macro has copied its path.
    try:
        parser.update({**deepcopy(overrides), **{id: f"<{id}>" for id in PATH_IDS}})  # parsing alters them in place
        parser.parse()
    except (ValueError, KeyError, IndexError, OSError) as error:
        raise ConfigError(f"stage {stage.name}: its config cannot be parsed: {error}") from error
    _check_expressions(parser, stage)
    config = _reached(parser, stage)
    datalist = None
    if "datalist_file" in config or any("<dataset_dir>" in str(value) for value in config.values()):
        datalist = Path(paths["dataset_dir"]) / DATALIST_NAME
        if "datalist_file" in parser:
            datalist = _datalist(stage, {**overrides, **paths})
    return _Plan(stage=stage, overrides={**overrides, **paths}, config=config, datalist=datalist)


def _check_expressions(parser: ConfigParser, stage: _Stage) -> None:
    """Find the mistakes in ``$`` expressions that MONAI would find only when a stage comes to them."""
    for id, item in parser.ref_resolver.items.items():
        text = item.get_config()
        if not isinstance(item, ConfigExpression):
            continue
        try:
            if not item.is_import_statement(text):
                plain = ReferenceResolver.update_refs_pattern(text, ReferenceResolver.match_refs_pattern(text))
                ast.parse(plain[len(item.prefix) :].lstrip(), mode="eval")
        except SyntaxError as error:
            # MONAI reads an expression with the word in it before it puts references in.
            hint = ' It cannot hold both "import" and a reference.' if "import" in text else ""
            raise ConfigError(f"stage {stage.name}: config id {_shown(id)} is no expression: {text}.{hint}") from error


def _datalist(stage: _Stage, overrides: dict[str, object]) -> Path:
    """The value of the config id ``datalist_file``."""
    parser = _merged(stage)
    parser.update(deepcopy(overrides))
    try:
        return Path(parser.get_parsed_content("datalist_file"))
    except Exception as error:  # an expression may raise anything
        raise ConfigError(f"stage {stage.name}: its config id datalist_file is no path: {error}") from error


def _reached(parser: ConfigParser, stage: _Stage) -> dict[str, Any]:
    """Id to raw value of every leaf reached from ``initialize``, ``run`` and ``finalize`` through references."""
    leaves: dict[str, Any] = {}
    pending = [id for id in ENTRY_IDS if id in parser]
    seen: set[str] = set()
    while pending:
        id = pending.pop()
        if id in seen:
            continue
        seen.add(id)
        if id not in parser:
            known = [_shown(known) for known in _all_ids(parser.get())]
            raise ConfigError(f"stage {stage.name}: its config refers to @{_shown(id)}. {_closest(_shown(id), known)}")
        leaves.update(_flatten(parser[id], id))
        pending.extend(ReferenceResolver.find_refs_in_config(parser[id], id))
    # As the record's file will give it back, so that a tuple equals its list.
    return json.loads(json.dumps(leaves, sort_keys=True, default=str))


def _flatten(config: Any, id: str) -> Iterator[tuple[str, Any]]:
    """The leaves below ``id``, with their ids as shown to people; an empty container is a leaf."""
    if isinstance(config, dict | list) and config:
        for _, sub_id, value in ReferenceResolver.iter_subconfigs(id, config):
            yield from _flatten(value, sub_id)
    else:
        yield _shown(id), config


def _all_ids(config: Any, id: str = "") -> Iterator[str]:
    """The ids of all items of a config, leaves and containers."""
    if isinstance(config, dict | list):
        for _, sub_id, value in ReferenceResolver.iter_subconfigs(id, config):
            yield sub_id
            yield from _all_ids(value, sub_id)


def _check_kind(id: str, old: Any, new: Any) -> None:
    """Reject an override that puts text where the config has a number or a switch (``"false"`` would count as true)."""
    if isinstance(new, str) and new.startswith(("$", "@", "%")):
        return
    if isinstance(old, list) and not isinstance(new, list | tuple | None):
        raise ConfigError(f"config id {_shown(id)} is a list ({old}), found {new!r}: give a list of as many values.")
    if isinstance(old, bool):
        if not isinstance(new, bool | None):
            raise ConfigError(f"config id {_shown(id)} is True or False, found {new!r}: write True or False.")
    elif isinstance(old, int | float) and (isinstance(new, bool) or not isinstance(new, int | float | None)):
        raise ConfigError(f"config id {_shown(id)} is a number ({old}), found {new!r}: give a number.")


def _shown(id: str) -> str:
    """An id in the form that people type."""
    return id.replace(ReferenceResolver.sep, "#")


def _closest(name: str, known: Iterator[str] | Sequence[str] | set[str]) -> str:
    """A sentence that names the known names most like ``name``."""
    names = sorted(set(known))
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    if not close:  # "steps" for "optimiser#walk#steps"
        close = [other for other in names if other.split("#")[-1] == name.split("#")[-1]][:3]
    return f"The closest known: {', '.join(close)}." if close else f"Nothing known is like it ({len(names)} names)."


def _covers(folder: str, path: str) -> bool:
    return PurePosixPath(path).is_relative_to(PurePosixPath(folder))


def _feeds(source: _Stage, stage: _Stage) -> bool:
    """Whether ``stage`` reads something that ``source`` writes."""
    return any(_covers(write, read) or _covers(read, write) for write in source.writes for read in stage.reads)


def _check_reads(selected: Sequence[_Stage], stages: Sequence[_Stage], output: Path) -> None:
    """Every read exists or is written by an earlier stage of this run."""
    written: list[str] = []
    for stage in selected:
        for read in stage.reads:
            if (output / read).exists() or any(_covers(write, read) for write in written):
                continue
            makers = [other.name for other in stages if any(_covers(write, read) for write in other.writes)]
            remedy = f"run stage {makers[0]} first, which writes it" if makers else "no stage writes it, put it there"
            raise ArtifactError(f"stage {stage.name} reads {read}, which does not exist in {output}: {remedy}.")
        written.extend(stage.writes)


# ---- what a stage depends on -------------------------------------------------------------------------------------


def _fingerprint(plan: _Plan, data: Mapping[Path, dict[str, Any]], output: Path) -> Fingerprint:
    """All that the result of a stage depends on, in the form in which it is recorded."""
    return {
        "monai_plan": __version__,
        "config": plan.config,
        "reads": {read: _digest(output / read) for read in plan.stage.reads},
        "data": data[plan.datalist] if plan.datalist is not None else None,
    }


def _digest(path: Path) -> str | None:
    """Of a file its SHA-256, of a folder one over the names and sizes of its files; None if there is nothing."""
    if path.is_dir():
        files = sorted((file.relative_to(path).as_posix(), file.stat().st_size) for file in _files_below(path))
        return "folder:" + hashlib.sha256(json.dumps(files).encode()).hexdigest()
    return file_digest(path) if path.exists() else None


def _files_below(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file())


def _data_digests(datalist: Path, dataset: Path, output: Path) -> dict[str, Any]:
    """The SHA-256 of the data list and of each of its images, by their paths in the list; a copy is the same data.

    Without a data list every file below ``dataset`` counts, but for those of a run that writes there.
    """
    if not datalist.is_file():
        files = {
            file.relative_to(dataset).as_posix(): file
            for file in _files_below(dataset)
            if not file.is_relative_to(output)
        }
        return {"datalist": None, "images": {name: _digest(file) for name, file in sorted(files.items())}}
    try:
        sections = json.loads(datalist.read_text(encoding="utf-8")).values()
    except (ValueError, AttributeError) as error:
        raise DataError(f"the data list {datalist} is no JSON object: {error}. Make it anew.") from error
    items = [item for section in sections if isinstance(section, list) for item in section if isinstance(item, dict)]
    images = [item.get("image", []) for item in items]
    names = {name for image in images for name in ([image] if isinstance(image, str) else image)}
    return {
        "datalist": file_digest(datalist),
        "images": {name: _digest(datalist.parent / name) for name in sorted(names)},
    }


def _differences(old: Fingerprint, new: Fingerprint) -> list[str]:
    """What changed between two fingerprints, in words."""
    found = []
    if old["monai_plan"] != new["monai_plan"]:
        found.append(f"monai_plan changed from {old['monai_plan']} to {new['monai_plan']}")
    before, after = old["config"], new["config"]
    for id in sorted(before.keys() | after.keys()):
        if id not in before:
            found.append(f"config {id} is new: {_brief(after[id])}")
        elif id not in after:
            found.append(f"config {id} was removed")
        elif json.dumps(before[id]) != json.dumps(after[id]):  # as text, for NaN equals itself there
            found.append(f"config {id} changed from {_brief(before[id])} to {_brief(after[id])}")
    if old["data"] != new["data"]:
        found.append(_data_difference(old["data"] or {}, new["data"] or {}))
    found += [f"{read} changed" for read, digest in new["reads"].items() if old["reads"].get(read) != digest]
    return found


def _brief(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:59] + "…"


def _data_difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    before, after = old.get("images", {}), new.get("images", {})
    counts = {
        "changed": sum(before[name] != after[name] for name in before.keys() & after.keys()),
        "added": len(after.keys() - before.keys()),
        "removed": len(before.keys() - after.keys()),
    }
    kinds = [f"{count} {kind}" for kind, count in counts.items() if count]
    if not kinds:
        return "data set: the data list changed, its images did not"
    first, *others = kinds
    count, kind = first.split()
    return f"data set: {count} image{'s' if count != '1' else ''} " + ", ".join([kind, *others])


def _written_differences(record: Mapping[str, Any], stage: _Stage, output: Path) -> list[str]:
    """What became of the writes of a finished stage since it was recorded."""
    found = []
    for write in stage.writes:
        digest = _digest(output / write)
        if digest is None:
            found.append(f"{write} is missing")
        elif digest != record["writes"].get(write):
            found.append(f"{write} changed")
    return found


# ---- running a stage ---------------------------------------------------------------------------------------------


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keep a second run away from the same output folder; the lock ends with the process, however it ends."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "w", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(
                f"another run is writing to {folder.parent.parent}: wait for its end or give another output_dir."
            ) from error
        yield


def _run_stage(
    plan: _Plan, now: Fingerprint, paths: Mapping[str, str], redone: str | None, label: str, echo: Echo
) -> StageOutcome:
    """Skip, resume or redo one stage, and keep its records."""
    stage, output = plan.stage, Path(paths["output_dir"])
    record_file = output / "private" / "run" / f"{stage.name}.json"
    started_file = record_file.with_suffix(".started.json")
    record, started = _read_record(record_file), _read_record(started_file)
    resuming = started is not None and not _differences(started["fingerprint"], now)
    reasons = _reasons(record, started, now, stage, output, redone)
    if not reasons and record is not None:
        if resuming:  # killed between the record and the removal of this file
            started_file.unlink()
        reason = f"unchanged since {record['finished']}"
        echo(f"{label}: skipped, {reason}")
        return StageOutcome(stage.name, "skipped", reason, 0.0)
    if resuming:
        reasons = ["resuming, it was stopped before its end"]
    reason = "; ".join(reasons[:3]) + (f"; and {len(reasons) - 3} more" if len(reasons) > 3 else "")
    echo(f"{label}: {reason}")
    if not resuming:
        _make_way(stage, now, record, started, output, echo)
    write_json(started_file, {"fingerprint": now, "started": _clock()})
    start = time.monotonic()
    try:
        _execute(plan)
    except Exception:
        echo(f"{label}: failed. The finished stages are kept; the same command goes on from here.")
        raise
    finally:
        _free_memory()
    seconds = time.monotonic() - start
    writes = {write: _digest(output / write) for write in stage.writes}
    for write, digest in writes.items():
        if digest is None:
            raise ArtifactError(
                f"stage {stage.name} ended without writing {write}, which stages.json promises: correct the config."
            )
    write_json(record_file, {"fingerprint": now, "writes": writes, "seconds": seconds, "finished": _clock()})
    started_file.unlink()
    echo(f"{label}: done in {seconds:.1f} s")
    return StageOutcome(stage.name, "ran", reason, seconds)


def _reasons(
    record: Mapping[str, Any] | None,
    started: Mapping[str, Any] | None,
    now: Fingerprint,
    stage: _Stage,
    output: Path,
    redone: str | None,
) -> list[str]:
    """Why the stage has to run; empty if it has not."""
    if record is None:
        if started is None:
            return ["no record of an earlier run"]
        return ["it was stopped before its end", *_differences(started["fingerprint"], now)]
    changed = _differences(record["fingerprint"], now) + _written_differences(record, stage, output)
    if redone is None:
        return changed
    # That its reads changed goes without saying where an earlier stage was redone.
    of_reads = {f"{read} changed" for read in stage.reads}
    return [f"stage {redone} was redone", *(text for text in changed if text not in of_reads)]


def _read_record(file: Path) -> dict[str, Any] | None:
    if not file.is_file():
        return None
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ArtifactError(f"the record {file} is damaged: delete it, and the stage is redone.") from error


def _clock() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _make_way(
    stage: _Stage,
    now: Fingerprint,
    record: Mapping[str, Any] | None,
    started: Mapping[str, Any] | None,
    output: Path,
    echo: Echo,
) -> None:
    """Clear the place of a stage that begins anew: what the records vouch for goes, all else is moved aside.

    The work folder stays if it was made with the same fingerprint (a finished stage whose output was lost).
    """
    work = PurePosixPath("private", stage.name)
    owner = started or record
    aside = []
    if (output / work).exists():
        if owner is None:
            aside.append(str(work))
        elif _differences(owner["fingerprint"], now):
            _remove(output / work)
    for write in stage.writes:
        if _covers(str(work), write) and str(work) in aside:
            continue
        digest = _digest(output / write)
        if digest is not None and (record is None or digest != record["writes"].get(write)):
            aside.append(write)
        else:
            _remove(output / write)
    if not aside:
        return
    replaced = output / "private" / "replaced"
    number = 1
    while (replaced / f"{stage.name}-{number}").exists():
        number += 1
    for path in aside:
        target = replaced / f"{stage.name}-{number}" / path
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(output / path, target)
        echo(f"    {path} was not left there by a finished stage of this command: moved to {target}")


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _execute(plan: _Plan) -> None:
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
        meant = _plan_error(error)
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


def _plan_error(error: BaseException | None) -> PLANError | None:
    """The PLANError that MONAI has wrapped ("Failed to instantiate …"), if there is one."""
    while error is not None and not isinstance(error, PLANError):
        error = error.__cause__
    return error
