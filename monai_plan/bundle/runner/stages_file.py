"""``stages.json``: which configs make a stage, and which files pass between stages."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path, PurePosixPath
from typing import Any

from monai.bundle import ConfigParser

from monai_plan.utils import ArtifactError, ConfigError

REPLACED = "private/replaced"
CACHE = "private/cache"  # of images as read, for any stage; each file says itself what it is of
OWN_FOLDERS = ("private/run", REPLACED, CACHE)  # of no stage, below output_dir


@dataclass(frozen=True)
class Stage:
    """A stage as ``stages.json`` has it; ``config`` as absolute paths."""

    name: str
    config: tuple[Path, ...]
    reads: tuple[str, ...]
    writes: tuple[str, ...]

    @property
    def work(self) -> str:
        """The folder below ``output_dir`` from which the stage resumes."""
        return f"private/{self.name}"

    @property
    def places(self) -> tuple[str, ...]:
        """All that belongs to the stage."""
        return (*self.writes, self.work)


def load_stages(bundle: Path) -> list[Stage]:
    """The stages of ``BUNDLE/configs/stages.json``, checked."""
    file = bundle / "configs" / "stages.json"
    if not file.is_file():
        raise ConfigError(f"{bundle} is no bundle with stages: {file} does not exist.")
    content = read_config(file)
    entries = content.get("stages")
    if not isinstance(entries, list) or not entries:
        raise ConfigError(f'{file} has no stages: expected {{"stages": [{{"name": …, "config": [...]}}, …]}}.')
    stages = [_load_stage(entry, file) for entry in entries]
    names = [stage.name for stage in stages]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"{file}: two stages are called {name!r}; each needs its own name.")
    places = [("the runner", folder) for folder in OWN_FOLDERS]
    places += [(stage.name, stage.work) for stage in stages]
    places += [(stage.name, write) for stage in stages for write in stage.writes]
    for (owner, place), (other, path) in combinations(places, 2):
        in_own_work_folder = owner == other and place == f"private/{owner}"
        if not in_own_work_folder and (covers(place, path) or covers(path, place)):
            raise ConfigError(
                f"{file}: {place} of {owner} and {path} of {other} overlap, so that each would undo the other: let "
                "every file and folder belong to one stage."
            )
    return stages


def _load_stage(entry: Any, file: Path) -> Stage:
    """One entry of ``stages.json``, checked."""
    if not isinstance(entry, dict) or not str(entry.get("name", "")).isidentifier():
        raise ConfigError(
            f"{file}: every stage is an object with a name made of letters, digits and _; found {brief(entry)}."
        )
    name = entry["name"]
    unknown = set(entry) - {"name", "config", "reads", "writes"}
    if unknown:
        raise ConfigError(f"{file}: stage {name} has the unknown entry {min(unknown)!r}: name, config, reads, writes.")
    lists = {key: entry.get(key, []) for key in ("config", "reads", "writes")}
    for key, value in lists.items():
        if not isinstance(value, list) or not all(isinstance(item, str) and item for item in value):
            raise ConfigError(f"{file}: {key} of stage {name} must be a list of paths, not {brief(value)}.")
    if not lists["config"]:
        raise ConfigError(f"{file}: stage {name} names no config file.")
    for path in (*lists["reads"], *lists["writes"]):
        parts = PurePosixPath(path).parts
        if PurePosixPath(path).is_absolute() or ".." in parts or not parts:
            raise ConfigError(f"{file}: {path!r} of stage {name} must be a path inside output_dir.")
    for read in lists["reads"]:
        if any(covers(read, write) or covers(write, read) for write in lists["writes"]):
            raise ConfigError(f"{file}: stage {name} writes over what it reads, {read}: it would never be done.")
    return Stage(
        name=name,
        config=tuple(file.parent / item for item in lists["config"]),
        reads=tuple(lists["reads"]),
        writes=tuple(lists["writes"]),
    )


def read_config(file: Path) -> dict[str, Any]:
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


def covers(folder: str, path: str) -> bool:
    """Whether ``path`` is ``folder`` or lies below it."""
    return PurePosixPath(path).is_relative_to(PurePosixPath(folder))


def feeds(source: Stage, stage: Stage) -> bool:
    """Whether ``stage`` reads something that ``source`` writes or keeps in its work folder."""
    return any(covers(place, read) or covers(read, place) for place in source.places for read in stage.reads)


def dependents(source: Stage, stages: Sequence[Stage]) -> list[Stage]:
    """The later stages that read what ``source`` writes, or what those write, and so on."""
    found = [source]
    for stage in stages[stages.index(source) + 1 :]:
        if any(feeds(other, stage) for other in found):
            found.append(stage)
    return found[1:]


def check_reads(selected: Sequence[Stage], stages: Sequence[Stage], output: Path) -> None:
    """Every read exists or is written by an earlier stage of this run."""
    written: list[str] = []
    for stage in selected:
        for read in stage.reads:
            if (output / read).exists() or any(covers(write, read) for write in written):
                continue
            makers = [other.name for other in stages if any(covers(place, read) for place in other.places)]
            remedy = f"run stage {makers[0]} first, which writes it" if makers else "no stage writes it, put it there"
            raise ArtifactError(f"stage {stage.name} reads {read}, which does not exist in {output}: {remedy}.")
        written += stage.places


def brief(value: Any) -> str:
    """A value as JSON, cut to 60 characters."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:59] + "…"
