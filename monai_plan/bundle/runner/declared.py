"""The files that a config leads to: those below ``output_dir`` are to be named by ``stages.json``, others are compared.

What nobody names would be neither compared nor cleared. A path is followed through text alone: constants, references to
them, ``+`` and f-strings. Whatever else a config does with a path counts as use of it, as it stands there; so a file is
to be named by an id of its own, or within the expression that uses it (``@private_dir + '/data.json'``), not by a
folder that somebody completes elsewhere.
"""

from __future__ import annotations

import ast
import os
import posixpath
from collections.abc import Iterator, Mapping, Set
from itertools import accumulate, takewhile
from pathlib import Path
from typing import Any

from monai.bundle import ConfigExpression, ConfigParser, ReferenceResolver

from monai_plan.bundle.runner.stages_file import CACHE, Stage, covers
from monai_plan.utils import ConfigError

OUTPUT = "<output_dir>"  # the value of the id output_dir in the parser; the other two paths have such values too


def used_paths(
    stage: Stage, parser: ConfigParser, leaves: Mapping[str, Any], named: Set[str], paths: Mapping[str, str]
) -> tuple[set[str], dict[str, Path]]:
    """Find the paths that a stage uses, and refuse those below ``output_dir`` that its entry does not name.

    Args:
        stage: with its reads and writes.
        parser: its parsed config.
        leaves: id to value of all that it reaches.
        named: the ids of what is reached by its own name, not as a part of something; a path among them is used where
            it is referred to, and may as well be a folder that only other paths begin with.
        paths: ``dataset_dir``, ``output_dir`` and ``bundle_root``.

    Returns:
        The paths below ``output_dir``, and all other texts with what they would be as paths; few are.

    Raises:
        ConfigError: if a path is not among the reads and writes nor in the work folder.
    """
    below: set[str] = set()
    elsewhere: dict[str, Path] = {}
    for id, value in leaves.items():
        above = accumulate(id.split("#")[:-1], "{}#{}".format)
        by_name_alone = id in named and named.isdisjoint(above)
        try:
            texts = [] if by_name_alone and _text(value, parser) is not None else list(_texts_in(value, parser))
        except RecursionError:
            raise ConfigError(f"stage {stage.name}: config id {id} refers to itself.") from None
        for text, whole in texts:
            path = _below_output(text, paths)
            if path is not None:
                place = path if whole or text.endswith("/") else posixpath.dirname(path) or "."
                if not any(covers(known, place) for known in (*stage.reads, *stage.places, CACHE)):
                    raise ConfigError(
                        f"stage {stage.name}: config id {id} leads to {path}{'' if whole else '…'} in output_dir, "
                        "which stages.json names neither among the reads nor among the writes of the stage: name it "
                        f"there, or keep it in the stage's own folder {stage.work}."
                    )
                below.add(path)
            elif whole and id.split("#")[-1] != "cache_dir":  # what lies there says itself what it is of
                elsewhere[text] = _real(text, paths)
    return below, elsewhere


def _real(text: str, paths: Mapping[str, str]) -> Path:
    for id, path in paths.items():
        text = text.replace(f"<{id}>", path)
    return Path(os.path.abspath(text))


def _below_output(text: str, paths: Mapping[str, str]) -> str | None:
    """The path below ``output_dir`` that a text leads to, also by another way than that id; None if to none."""
    if OUTPUT in text:
        return posixpath.normpath(text.split(OUTPUT, 1)[1].lstrip("/") or ".")
    place, output = _real(text, paths), Path(paths["output_dir"])
    within = (Path(paths[id]) for id in ("dataset_dir", "bundle_root"))
    if not place.is_relative_to(output) or any(
        place.is_relative_to(folder) and folder.is_relative_to(output) for folder in within
    ):
        return None
    meant = (
        os.path.isabs(text) or text.startswith("<") or os.path.exists(place)
    )  # not just a text where output_dir is "."
    return place.relative_to(output).as_posix() if "/" in text and meant else None


def _texts_in(value: Any, parser: ConfigParser) -> Iterator[tuple[str, bool]]:
    """The longest pieces of a leaf that are text, each with whether it is whole or something unknown follows."""
    if not isinstance(value, str):
        return
    whole = _text(value, parser)
    if whole is not None:
        yield whole, True
    elif ConfigExpression.is_expression(value) and not ConfigExpression.is_import_statement(value):
        texts = list(_texts_below(parsed(value), parser))
        up = [text for text, _ in texts if OUTPUT not in text and ".." in text.split("/")]
        for text, whole_piece in texts:  # "..", joined to a folder by a function, may lead out of it
            yield "/".join([text, *up]) if OUTPUT in text else text, whole_piece


def _texts_below(node: ast.AST, parser: ConfigParser) -> Iterator[tuple[str, bool]]:
    text = _evaluated(node, parser)
    if text is not None:
        yield text, True
        return
    pieces = _joined(node)
    known = list(takewhile(lambda part: part is not None, (_evaluated(piece, parser) for piece in pieces)))
    if known:
        yield "".join(part or "" for part in known), False
    for child in pieces[len(known) :] or ast.iter_child_nodes(node):
        yield from _texts_below(child, parser)


def _text(value: Any, parser: ConfigParser) -> str | None:
    """The text that a raw value of the config stands for, None if it is anything but text."""
    if not isinstance(value, str) or ConfigExpression.is_import_statement(value):
        return None
    if ConfigExpression.is_expression(value):
        return _evaluated(parsed(value), parser)
    references = ReferenceResolver.match_refs_pattern(value)
    return _text(parser[next(iter(references))], parser) if references else value


def parsed(expression: str) -> ast.expr:
    """The syntax of an expression in which each reference is an item of a dictionary, as MONAI evaluates it."""
    references = ReferenceResolver.match_refs_pattern(expression)
    text = ReferenceResolver.update_refs_pattern(expression, references)
    return ast.parse(text[len(ConfigExpression.prefix) :].lstrip(), mode="eval").body


def _joined(node: ast.AST) -> list[ast.expr]:
    """The pieces that ``+`` or an f-string puts together; none of anything else."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return [node.left, node.right]
    return node.values if isinstance(node, ast.JoinedStr) else []


def _evaluated(node: ast.AST, parser: ConfigParser) -> str | None:
    """The text that an expression makes of texts alone, else None. Nothing is executed."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else None
    if (
        isinstance(node, ast.Subscript)
        and isinstance(node.value, ast.Name)
        and node.value.id == ReferenceResolver._vars
    ):
        return _text(parser[ast.literal_eval(node.slice)], parser)
    if isinstance(node, ast.FormattedValue) and node.conversion == -1 and node.format_spec is None:
        return _evaluated(node.value, parser)
    parts = [_evaluated(part, parser) for part in _joined(node)]
    return None if None in parts or not parts else "".join(part or "" for part in parts)
