"""That ``stages.json`` names every file that a config leads to: what it does not name is neither compared nor cleared.

A path is followed through text alone: constants, references to them, ``+`` and f-strings. Whatever else a config does
with a path counts as use of it, as it stands there; so a file is to be named by an id of its own, or within the
expression that uses it (``@private_dir + '/data.json'``), not by a folder that somebody completes elsewhere.
"""

from __future__ import annotations

import ast
import posixpath
from collections.abc import Iterator, Mapping, Set
from itertools import accumulate
from typing import Any

from monai.bundle import ConfigExpression, ConfigParser, ReferenceResolver

from monai_plan.bundle.runner.stages_file import CACHE, Stage, covers
from monai_plan.utils import ConfigError

OUTPUT = "<output_dir>"  # the value of the id output_dir in the parser


def check_declared(stage: Stage, parser: ConfigParser, leaves: Mapping[str, Any], named: Set[str]) -> None:
    """Find the paths below ``output_dir`` that a stage uses, and refuse those that its entry does not name.

    Args:
        stage: with its reads and writes.
        parser: its parsed config.
        leaves: id to value of all that it reaches.
        named: the ids of what is reached by its own name, not as a part of something; a path among them is used where
            it is referred to, and may as well be a folder that only other paths begin with.

    Raises:
        ConfigError: if a path is not among the reads and writes nor in the work folder.
    """
    for id, value in leaves.items():
        above = accumulate(id.split("#")[:-1], "{}#{}".format)
        by_name_alone = id in named and named.isdisjoint(above)
        try:
            texts = [] if by_name_alone and _text(value, parser) is not None else list(_paths_in(value, parser))
        except RecursionError:
            raise ConfigError(f"stage {stage.name}: config id {id} refers to itself.") from None
        for text in texts:
            path = posixpath.normpath(text.split(OUTPUT, 1)[1].lstrip("/") or ".")
            if not any(covers(place, path) for place in (*stage.reads, *stage.places, CACHE)):
                raise ConfigError(
                    f"stage {stage.name}: config id {id} leads to {path} in output_dir, which stages.json names "
                    "neither among the reads nor among the writes of the stage: name it there, or keep it in the "
                    f"stage's own folder {stage.work}."
                )


def _paths_in(value: Any, parser: ConfigParser) -> Iterator[str]:
    """The longest pieces of a leaf that are paths below ``output_dir``."""
    if not isinstance(value, str):
        return
    whole = _text(value, parser)
    if whole is not None:
        if OUTPUT in whole:
            yield whole
    elif ConfigExpression.is_expression(value) and not ConfigExpression.is_import_statement(value):
        yield from _paths_below(parsed(value), parser)


def _paths_below(node: ast.AST, parser: ConfigParser) -> Iterator[str]:
    text = _evaluated(node, parser)
    if text is not None:
        if OUTPUT in text:
            yield text
        return
    for child in ast.iter_child_nodes(node):
        yield from _paths_below(child, parser)


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
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        parts = [_evaluated(side, parser) for side in (node.left, node.right)]
    elif isinstance(node, ast.JoinedStr):
        parts = [_evaluated(value, parser) for value in node.values]
    elif isinstance(node, ast.FormattedValue) and node.conversion == -1 and node.format_spec is None:
        parts = [_evaluated(node.value, parser)]
    else:
        return None
    return None if None in parts else "".join(part for part in parts if part is not None)
