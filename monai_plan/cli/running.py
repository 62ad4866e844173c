"""``quickstart`` and ``run``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from monai_plan.cli.arguments import INT, NEEDED, PATH, QUIET, Command

__all__ = ["COMMANDS", "bundle_named", "list_options", "take_overrides"]

RUN_OPTIONS = ("--dataset_dir", "--output_dir", "--skip_bad_images", "--only", "--quiet", "--help")


def _quickstart(output_dir: str, quiet: bool = False, **options: Any) -> None:
    from monai_plan.bundle.ending import ending
    from monai_plan.bundle.quickstart import quickstart
    from monai_plan.progress import say

    quickstart(output_dir, echo=_ignore if quiet else say, quiet=quiet, **options)
    print(ending(output_dir))


def _run(
    bundle_root: str,
    overrides: dict[str, str] | None = None,
    skip_bad_images: bool = False,
    quiet: bool = False,
    **options: Any,
) -> None:
    from fire.parser import DefaultParseValue  # what MONAI's command line reads values with

    from monai_plan.bundle import run_bundle
    from monai_plan.bundle.ending import ending
    from monai_plan.progress import say

    # DefaultParseValue would take what follows a "#" for a comment
    values = {id: text if _is_text(text) else DefaultParseValue(text) for id, text in (overrides or {}).items()}
    if skip_bad_images:
        values["skip_bad_images"] = True
    run_bundle(bundle_root, overrides=values, echo=_ignore if quiet else say, quiet=quiet, **options)
    if told := ending(options["output_dir"]):
        print(told)


def _is_text(text: str) -> bool:
    return "#" in text and not text.lstrip().startswith(("'", '"', "[", "(", "{"))


def _ignore(line: str) -> None:
    pass


def take_overrides(arguments: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Split ``--id value`` and ``--id=value`` of config ids from the arguments that argparse knows.

    As on MONAI's command line, an id that no value follows is set to True.
    """
    rest: list[str] = []
    overrides: dict[str, str] = {}
    pending = list(arguments)
    while pending:
        argument = pending.pop(0)
        name, equals, value = argument.partition("=")
        if not name.startswith("--") or name in (*RUN_OPTIONS, "--"):
            rest.append(argument)
            continue
        if not equals:
            value = pending.pop(0) if pending and not pending[0].startswith("--") else "True"
        overrides[name[2:]] = value
    return rest, overrides


def bundle_named(arguments: Sequence[str]) -> str | None:
    """The bundle of ``run BUNDLE --help`` and ``run --help BUNDLE``; None where there is none."""
    rest = [argument for argument in arguments[1:] if argument != "--help"]
    return rest[0] if rest and not rest[0].startswith("-") else None


def list_options(bundle_root: str) -> None:
    """Print the ids of a bundle."""
    from monai_plan.bundle.options_help import options_help

    print(f"\n{options_help(bundle_root)}")


def _complete_run(run: argparse.ArgumentParser) -> None:
    run.usage = (
        "monai_plan run BUNDLE --dataset_dir DIR --output_dir DIR [--skip-bad-images] [--only STAGE ...] "
        "[--quiet] [--id value ...]"
    )
    run.epilog = (
        "run --help BUNDLE lists the ids with their defaults. Any further --id value overrides an id of the bundle's "
        "configs in every stage that has it, for instance "
        '--walk_steps 300 --img_size "[128,128]". Values are read by MONAI\'s rules: numbers, lists, dicts, True, '
        "False and None as such, $ begins an expression, @ a reference. A changed value redoes its stage and those "
        "after it."
    )


COMMANDS: dict[str, Command] = {
    "quickstart": Command(
        "make a small phantom data set and run all stages on it: minutes, no GPU, no data",
        _quickstart,
        {
            "--output_dir": ("folder to write to (default: ./quickstart)", PATH | {"default": "quickstart"}),
            "--spatial_dims": ("2: images; 3: volumes (default: 2)", INT | {"choices": (2, 3)}),
            "--seed": ("seed of all that is drawn (default: 0)", INT),
            "--quiet": QUIET,
        },
        resumes=True,
    ),
    "run": Command(
        "run all stages of a bundle on a data set; finished stages are skipped",
        _run,
        {
            "bundle_root": (
                "name of a bundle (monai_plan bundles), or its folder; put it before the options",
                PATH | {"metavar": "BUNDLE"},
            ),
            "--dataset_dir": ("folder of the data set, with datalist.json in it", NEEDED | {"metavar": "DIR"}),
            "--output_dir": (
                "folder to write to: private/ (never share it) and release/; give the same one to go on",
                NEEDED | {"metavar": "DIR"},
            ),
            "--skip_bad_images": (
                "leave out images that cannot be used and list them, instead of ending with an error",
                {"action": "store_true"},
            ),
            "--only": ("run these stages only; what they read must be there", {"nargs": "+", "metavar": "STAGE"}),
            "--quiet": QUIET,
        },
        complete=_complete_run,
        resumes=True,
    ),
}
