"""The configs of the stages: merged, with the overrides that each knows, and what a stage reaches in its own."""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monai.bundle import ConfigExpression, ConfigParser, ReferenceResolver

from monai_plan.bundle.runner.declared import parsed, used_paths
from monai_plan.bundle.runner.stages_file import Stage, read_config
from monai_plan.data.datalist import DATALIST_NAME
from monai_plan.utils import ConfigError

PATH_IDS = ("dataset_dir", "output_dir", "bundle_root")
ENTRY_IDS = ("initialize", "run", "finalize")


@dataclass(frozen=True)
class Plan:
    """A stage with the overrides that it knows and what its config reaches."""

    stage: Stage
    overrides: dict[str, object]
    config: dict[str, Any]  # id of each leaf that the stage reaches -> raw value, paths replaced by their names
    datalist: Path | None  # None: the stage does not look at the data set
    below: set[str]  # the paths below output_dir that its config leads to
    elsewhere: dict[str, Path]  # what any other text in it would be as a path


def _merged(stage: Stage) -> ConfigParser:
    """The stage's merged config as written, before overrides, macros and relative ids."""
    for file in stage.config:
        read_config(file)  # for an error that names the one file
    parser = ConfigParser()
    try:
        parser.read_config([str(file) for file in stage.config])
    except (ValueError, KeyError, IndexError) as error:
        raise ConfigError(f"stage {stage.name}: its config files cannot be merged: {error}") from error
    metadata = stage.config[0].parent / "metadata.json"
    if metadata.is_file():
        parser.read_meta(read_config(metadata))
    for id in (*PATH_IDS, "run"):
        if id not in parser:
            names = ", ".join(file.name for file in stage.config)
            raise ConfigError(f"stage {stage.name}: its config ({names}) lacks the id {id!r}.")
    return parser


def make_plans(stages: Sequence[Stage], overrides: Mapping[str, object], paths: Mapping[str, str]) -> list[Plan]:
    """Route the overrides to the stages that know their ids, and see what each stage reaches."""
    given = {ReferenceResolver.normalize_id(id): value for id, value in overrides.items()}
    for id in PATH_IDS:
        if id in given:
            raise ConfigError(f"{id} is not an override: give it as the argument of that name.")
    merged = {stage.name: _merged(stage) for stage in stages}
    for id in given:
        if not any(id in parser for parser in merged.values()):
            known = {shown(known) for parser in merged.values() for known in _all_ids(parser.get())}
            raise ConfigError(f"no stage has the config id {shown(id)!r}. {closest(shown(id), known)}")
    plans = []
    for stage in stages:
        parser = merged[stage.name]
        known_here = {id: value for id, value in given.items() if id in parser}
        for id, value in known_here.items():
            _check_kind(id, parser[id], value)
        plans.append(_make_plan(stage, parser, known_here, paths))
    return plans


def _make_plan(stage: Stage, parser: ConfigParser, overrides: dict[str, object], paths: Mapping[str, str]) -> Plan:
    """Expand the config of ``stage`` and collect what it reaches."""
    # Names in place of the paths: a folder that was moved changes nothing, even where a macro has copied its path.
    try:
        parser.update({**deepcopy(overrides), **{id: f"<{id}>" for id in PATH_IDS}})  # parsing alters them in place
        parser.parse()
    except (ValueError, KeyError, IndexError, OSError) as error:
        raise ConfigError(f"stage {stage.name}: its config cannot be parsed: {error}") from error
    _check_expressions(parser, stage)
    config, named = _reached(parser, stage)
    below, elsewhere = used_paths(stage, parser, config, named, paths)
    datalist = None
    if "datalist_file" in config or any("<dataset_dir>" in str(value) for value in config.values()):
        datalist = Path(paths["dataset_dir"]) / DATALIST_NAME
        if "datalist_file" in parser:
            datalist = _datalist(stage, {**overrides, **paths})
    return Plan(stage, {**overrides, **paths}, config, datalist, below, elsewhere)


def _check_expressions(parser: ConfigParser, stage: Stage) -> None:
    """Find the mistakes in ``$`` expressions that MONAI would find only when a stage comes to them."""
    for id, item in parser.ref_resolver.items.items():
        text = item.get_config()
        if not isinstance(item, ConfigExpression):
            continue
        try:
            if not item.is_import_statement(text):
                parsed(text)
        except SyntaxError as error:
            # MONAI reads an expression with the word in it before it puts references in.
            hint = ' It cannot hold both "import" and a reference.' if "import" in text else ""
            if "f'" in text:
                hint = " MONAI puts a reference in with single quotes: give the f-string double ones."
            raise ConfigError(f"stage {stage.name}: config id {shown(id)} is no expression: {text}.{hint}") from error


def _datalist(stage: Stage, overrides: dict[str, object]) -> Path:
    """The value of the config id ``datalist_file``."""
    parser = _merged(stage)
    parser.update(deepcopy(overrides))
    try:
        return Path(os.path.abspath(parser.get_parsed_content("datalist_file")))
    except Exception as error:  # an expression may raise anything
        raise ConfigError(f"stage {stage.name}: its config id datalist_file is no path: {error}") from error


def _reached(parser: ConfigParser, stage: Stage) -> tuple[dict[str, Any], set[str]]:
    """Id to raw value of every leaf reached from ``initialize``, ``run`` and ``finalize``, and the ids referred to."""
    leaves: dict[str, Any] = {}
    pending = [id for id in ENTRY_IDS if id in parser]
    seen: set[str] = set()
    while pending:
        id = pending.pop()
        if id in seen:
            continue
        seen.add(id)
        if id not in parser:
            known = [shown(known) for known in _all_ids(parser.get())]
            raise ConfigError(f"stage {stage.name}: its config refers to @{shown(id)}. {closest(shown(id), known)}")
        leaves.update(_flatten(parser[id], id))
        pending.extend(ReferenceResolver.find_refs_in_config(parser[id], id))
    # As the record's file will give it back, so that a tuple equals its list.
    return json.loads(json.dumps(leaves, sort_keys=True, default=str)), set(map(shown, seen))


def _flatten(config: Any, id: str) -> Iterator[tuple[str, Any]]:
    """The leaves below ``id``, with their ids as shown to people; an empty container is a leaf."""
    if isinstance(config, dict | list) and config:
        for _, sub_id, value in ReferenceResolver.iter_subconfigs(id, config):
            yield from _flatten(value, sub_id)
    else:
        yield shown(id), config


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
        raise ConfigError(f"config id {shown(id)} is a list ({old}), found {new!r}: give a list of as many values.")
    if isinstance(old, bool):
        if not isinstance(new, bool | None):
            raise ConfigError(f"config id {shown(id)} is True or False, found {new!r}: write True or False.")
    elif isinstance(old, int | float) and (isinstance(new, bool) or not isinstance(new, int | float | None)):
        raise ConfigError(f"config id {shown(id)} is a number ({old}), found {new!r}: give a number.")


def shown(id: str) -> str:
    """An id in the form that people type."""
    return id.replace(ReferenceResolver.sep, "#")


def closest(name: str, known: Iterator[str] | Sequence[str] | set[str]) -> str:
    """A sentence that names the known names most like ``name``."""
    names = sorted(set(known))
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    if not close:  # "steps" for "optimiser#walk#steps"
        close = [other for other in names if other.split("#")[-1] == name.split("#")[-1]][:3]
    return f"The closest known: {', '.join(close)}." if close else f"Nothing known is like it ({len(names)} names)."
