"""What the groups of commands share: how a command and its arguments are described."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

__all__ = ["FOLDER", "INT", "NEEDED", "PATH", "QUIET", "Argument", "Command", "add_parser", "known_path"]

Argument = tuple[str, dict[str, Any]]  # what help says, and what ``add_argument`` takes

# Absent options stay absent, so that the default is the called function's: help names it. Names in full, for every
# other --name is a config id.
SETTINGS: dict[str, Any] = {"argument_default": argparse.SUPPRESS, "allow_abbrev": False}


class Command(NamedTuple):
    """A command.

    Attributes:
        help: what it does, in a phrase.
        call: takes the arguments by name, and returns the exit code, or None for 0.
        arguments: by name, options with "--" before it.
        complete: does to its parser what no table says.
        resumes: the same command goes on where it was stopped.
    """

    help: str
    call: Callable[..., int | None]
    arguments: Mapping[str, Argument]
    complete: Callable[[argparse.ArgumentParser], None] | None = None
    resumes: bool = False


def add_parser(commands: Any, name: str, help: str, arguments: Mapping[str, Argument]) -> argparse.ArgumentParser:
    """Add the parser of a command, or of a kind of it, to argparse's group of them."""
    parser: argparse.ArgumentParser = commands.add_parser(
        name, help=help, description=f"{help[0].upper()}{help[1:]}.", **SETTINGS
    )
    for argument, (text, settings) in arguments.items():
        parser.add_argument(argument, help=text, **settings)
    return parser


def known_path(text: str) -> str:
    """A path with ``~`` and variables put in, as the shell does it except behind ``=`` and within quotes.

    Raises:
        argparse.ArgumentTypeError: if it names a variable or a user that is not known here.
    """
    path = os.path.expanduser(os.path.expandvars(text))
    if path.startswith("~") or (re.search(r"\$\{?\w", path) and not os.path.exists(path)):
        raise argparse.ArgumentTypeError(f"{text} names a variable or a user that is not known here")
    return path


INT: dict[str, Any] = {"type": int}
PATH: dict[str, Any] = {"type": known_path}
NEEDED: dict[str, Any] = {"type": known_path, "required": True}
QUIET: Argument = ("say nothing but warnings, errors and the end", {"action": "store_true"})
FOLDER: Argument = ("folder to write images/ and datalist.json to", NEEDED)
