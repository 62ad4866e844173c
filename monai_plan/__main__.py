"""The command line: ``python -m monai_plan`` and ``monai-plan``. Thin; what it calls is imported when it is called."""

from __future__ import annotations

import argparse
import errno
import re
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from monai_plan import __version__
from monai_plan.cli import bundling, data, judging, running, sharing
from monai_plan.cli.arguments import SETTINGS, add_parser

__all__ = ["main"]

_COMMANDS = running.COMMANDS | bundling.COMMANDS | data.COMMANDS | judging.COMMANDS | sharing.COMMANDS


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: the arguments after the program's name; those of the process by default.

    Returns:
        The exit code: 0, 2 after an error of the user's, the data's or the system's (told in one sentence on stderr),
        3 where an audit finds what it was told to fail on, 130 after Ctrl-C. Any other exception passes.
    """
    # As MONAI's command line has it, "-" and "_" are the same in the name of an option.
    arguments = [
        re.sub(r"^--[^=]+", lambda name: "--" + name[0][2:].replace("-", "_"), argument)
        for argument in (sys.argv[1:] if argv is None else argv)
    ]
    overrides: dict[str, str] = {}
    if arguments[:1] == ["run"]:
        arguments, overrides = running.take_overrides(arguments)
    if arguments[:1] == ["run"] and "--help" in arguments and (bundle := running.bundle_named(arguments)):
        options: dict[str, Any] = {"command": _run_help, "bundle_root": bundle}
        overrides = {}
    else:
        options = vars(_parser().parse_args(arguments))
    command, resumes = options.pop("command"), options.pop("resumes", False)
    if overrides:
        options["overrides"] = overrides
    try:
        from monai_plan.utils import PLANError

        try:
            return command(**options) or 0
        except PLANError as error:
            print(f"monai_plan: {error}", file=sys.stderr)
            return 2
        except OSError as error:
            kept = " Finished stages are kept; the same command goes on from here." if resumes else ""
            print(f"monai_plan: {_told(error)}{kept}", file=sys.stderr)
            return 2
    except KeyboardInterrupt:
        remedy = "Finished stages are kept; the same command goes on from here." if resumes else "Nothing is kept."
        print(f"monai_plan: stopped. {remedy}", file=sys.stderr)
        return 130


_REMEDIES = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), "make room on that disk, or use another"),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "use a place where you may read and write"),
    **dict.fromkeys((errno.ENOENT, errno.ESTALE), "it is gone, or its folder is: put it back, or use another"),
    **dict.fromkeys((errno.ENOTDIR, errno.EEXIST), "a file stands where a folder is needed: use another place"),
    errno.EISDIR: "a folder stands where a file is needed: use another name",
}


def _told(error: OSError) -> str:
    """What the system refused, where, and what to do about it."""
    place = error.filename2 or error.filename or "a file"
    remedy = _REMEDIES.get(error.errno or 0, "see that the disk is there and in order")
    return f"{place} cannot be read or written ({error.strerror or error}): {remedy}."


def _run_help(bundle_root: str) -> None:
    with suppress(SystemExit):
        _parser().parse_args(["run", "--help"])
    running.list_options(bundle_root)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="monai_plan",
        description="Turn a private, labelled set of medical images into a synthetic one.",
        epilog="First time here: monai_plan quickstart. Own data: monai_plan datalist, then monai_plan run. "
        "monai_plan COMMAND --help says more.",
        **SETTINGS,
    )
    parser.add_argument("--version", action="version", version=f"monai_plan {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, command in _COMMANDS.items():
        made = add_parser(commands, name, command.help, command.arguments)
        made.set_defaults(command=command.call, resumes=command.resumes)
        if command.complete:
            command.complete(made)
    return parser


if __name__ == "__main__":
    sys.exit(main())
