"""The command line: ``python -m monai_plan`` and ``monai-plan``. Thin; what it calls is imported when it is called."""

from __future__ import annotations

import argparse
import errno
import os
import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from monai_plan import __version__

__all__ = ["main"]

RUN_OPTIONS = ("--dataset_dir", "--output_dir", "--skip_bad_images", "--only", "--quiet", "--help")


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
        arguments, overrides = _take_overrides(arguments)
    if arguments[:1] == ["run"] and "--help" in arguments and (bundle := _bundle_named(arguments)):
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


def _take_overrides(arguments: Sequence[str]) -> tuple[list[str], dict[str, str]]:
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


def _bundle_named(arguments: Sequence[str]) -> str | None:
    """The bundle of ``run BUNDLE --help`` and ``run --help BUNDLE``; None where there is none."""
    rest = [argument for argument in arguments[1:] if argument != "--help"]
    return rest[0] if rest and not rest[0].startswith("-") else None


def _parser() -> argparse.ArgumentParser:
    """The parser; an option left out is not passed on, so that the default is the called function's: help names it."""
    parser = argparse.ArgumentParser(
        prog="monai_plan",
        description="Turn a private, labelled set of medical images into a synthetic one.",
        epilog="First time here: monai_plan quickstart. Own data: monai_plan datalist, then monai_plan run. "
        "monai_plan COMMAND --help says more.",
        **_SETTINGS,
    )
    parser.add_argument("--version", action="version", version=f"monai_plan {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, (help, command, arguments) in _COMMANDS.items():
        _add(commands, name, help, arguments).set_defaults(command=command, resumes=command in (_quickstart, _run))
    run = commands.choices["run"]
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
    kinds = commands.choices["datalist"].add_subparsers(required=True, metavar="KIND")
    for name, (help, arguments) in _DATALISTS.items():
        kind = _add(kinds, name, help, arguments)
        kind.set_defaults(kind=name)
        if name in ("folders", "csv"):
            alike = kind.add_mutually_exclusive_group()
            for remedy, text in (("merge", "count as one"), ("keep", "keep apart")):
                alike.add_argument(
                    f"--{remedy}_look_alikes",
                    dest="look_alikes",
                    action="store_const",
                    const=remedy,
                    help=f"{text} patients or classes that differ only in case, spaces, .0 or leading zeros",
                )
    return parser


# Absent options stay absent; names in full, for every other --name is a config id.
_SETTINGS: dict[str, Any] = {"argument_default": argparse.SUPPRESS, "allow_abbrev": False}


def _add(commands: Any, name: str, help: str, arguments: Mapping[str, _Argument]) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name, help=help, description=f"{help[0].upper()}{help[1:]}.", **_SETTINGS
    )
    for argument, (text, settings) in arguments.items():
        parser.add_argument(argument, help=text, **settings)
    return parser


def _path(text: str) -> str:
    """A path with ``~`` and variables put in, as the shell does it except behind ``=`` and within quotes."""
    path = os.path.expanduser(os.path.expandvars(text))
    if path.startswith("~") or (re.search(r"\$\{?\w", path) and not os.path.exists(path)):
        raise argparse.ArgumentTypeError(f"{text} names a variable or a user that is not known here")
    return path


def _say(line: str) -> None:
    """A line of progress, in the form of the bundles' logs."""
    print(f"{time.strftime('%H:%M:%S')} INFO {line}", flush=True)


def _quickstart(output_dir: str, quiet: bool = False, **options: Any) -> None:
    from monai_plan.bundle.ending import ending
    from monai_plan.bundle.quickstart import quickstart

    quickstart(output_dir, echo=_ignore if quiet else _say, quiet=quiet, **options)
    print(ending(output_dir))


def _ignore(line: str) -> None:
    pass


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

    values = {id: DefaultParseValue(text) for id, text in (overrides or {}).items()}
    if skip_bad_images:
        values["skip_bad_images"] = True
    run_bundle(bundle_root, overrides=values, echo=_ignore if quiet else _say, quiet=quiet, **options)
    if told := ending(options["output_dir"]):
        print(told)


def _run_help(bundle_root: str) -> None:
    from monai_plan.bundle.options_help import options_help

    text = options_help(bundle_root)
    with suppress(SystemExit):
        _parser().parse_args(["run", "--help"])
    print(f"\n{text}")


def _bundles() -> None:
    from monai_plan.bundle.zoo import bundles
    from monai_plan.utils import read_json

    for name, folder in bundles().items():
        metadata = read_json(folder / "configs" / "metadata.json")
        weights = "with weights" if (folder / "models" / "model.pt").is_file() else "no weights"
        print(f"{name} {metadata['version']}, {weights}: {metadata['task']}\n  {folder}")


def _new_bundle(name: str, dataset_dir: str, **options: Any) -> int:
    from monai_plan.bundle.zoo import new_bundle

    folder = new_bundle(name, dataset_dir, **options)
    print(f"wrote {folder}\n  to run: monai-plan run {folder} --dataset_dir {dataset_dir} --output_dir OUT")
    return _verify_bundle(str(folder))


def _verify_bundle(bundle: str, dataset_dir: str | None = None, files_only: bool = False) -> int:
    from monai_plan.bundle.zoo import bundle_folder, verify_bundle

    folder = bundle_folder(bundle)

    def echo(line: str) -> None:
        print(f"{folder.name}: {line}", flush=True)

    found = verify_bundle(folder, dataset_dir=dataset_dir, files_only=files_only, echo=echo)
    for finding in found:
        print(f"  {finding}")
    errors = sum(finding.level == "error" for finding in found)
    verdict = f"{errors} errors" if errors else "nothing that the model zoo or the gate would refuse"
    print(f"{folder.name}: {verdict}, {len(found) - errors} warnings.")
    return 2 if errors else 0


def _phantoms(output_dir: str, img_size: list[int] | None = None, **options: Any) -> None:
    from monai_plan.data import make_phantoms

    if img_size is not None:
        options["img_size"] = img_size[0] if len(img_size) == 1 else img_size
    print(f"wrote {make_phantoms(output_dir, **options)}")


def _datalist(kind: str, **options: Any) -> None:
    from monai_plan import data

    builders: dict[str, Any] = {
        "folders": data.datalist_from_folders,
        "csv": data.datalist_from_csv,
        "shenzhen": data.datalist_from_shenzhen,
        "aptos": data.datalist_from_aptos,
        "medmnist": data.datalist_from_medmnist,
    }
    source = options.pop({"csv": "csv_file", "medmnist": "npz_file"}.get(kind, "root"))
    print(f"wrote {builders[kind](source, **options)}")


def _audit(release: str, real: str, fail_on: Sequence[str] = (), generator: str | None = None, **options: Any) -> int:
    from monai_plan.audit.command import audit_release, check_conditions, failures

    check_conditions(fail_on, generator=generator is not None)
    if generator is not None:
        from monai_plan.bundle.projector import FileProjector

        options["projector"] = FileProjector(generator, seed=options.get("seed", 0))
    result = audit_release(release, real, **options)
    print(f"{result.verdict}. {result.summary}")
    for row in result.rows:
        print(f"  {row.title}: {row.sentence}")
    held = failures(result, fail_on)
    for text in held:
        print(f"monai_plan: --fail-on: {text}", file=sys.stderr)
    return 3 if held else 0


def _evaluate(output_dir: str, protocol: str = "plan", **options: Any) -> None:
    import logging

    from monai_plan.bundle.protocol import evaluate_protocol
    from monai_plan.progress import hushed

    # to stderr: the tables alone are for a file
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr)
    logging.getLogger("monai_plan").setLevel(logging.INFO)
    with hushed():
        tables = evaluate_protocol(output_dir, **options).to_markdown()
    print(tables, end="")
    print(f"\nWritten to {Path(output_dir) / 'private' / 'protocol'}, which derives from patients: never share it.")


def _release(output_dir: str, kind: str, to: str, **options: Any) -> None:
    from monai_plan.bundle.gate import release_bundle

    digest = release_bundle(output_dir, kind=kind, to=to, **options)
    print(f"wrote {to}\n  digest of its manifest, to be published where you are believed: {digest}")


def _import_stylegan2(file: str, output: str) -> None:
    from monai_plan.networks import save_generator
    from monai_plan.networks.import_stylegan2 import load_stylegan2_pickle
    from monai_plan.utils import file_digest

    generator = load_stylegan2_pickle(file)
    save_generator(generator, output, made_by={"imported": os.path.basename(file), "sha256": file_digest(file)})
    print(f"wrote {output}")


_Argument = tuple[str, dict[str, Any]]  # what help says, and what ``add_argument`` takes
_INT: dict[str, Any] = {"type": int}
_PATH: dict[str, Any] = {"type": _path}
_NEEDED: dict[str, Any] = {"type": _path, "required": True}
_QUIET: _Argument = ("say nothing but warnings, errors and the end", {"action": "store_true"})
_FOLDER: _Argument = ("folder to write images/ and datalist.json to", _NEEDED)

_COMMANDS: dict[str, tuple[str, Callable[..., int | None], dict[str, _Argument]]] = {
    "quickstart": (
        "make a small phantom data set and run all stages on it: minutes, no GPU, no data",
        _quickstart,
        {
            "--output_dir": ("folder to write to (default: ./quickstart)", _PATH | {"default": "quickstart"}),
            "--seed": ("seed of all that is drawn (default: 0)", _INT),
            "--quiet": _QUIET,
        },
    ),
    "run": (
        "run all stages of a bundle on a data set; finished stages are skipped",
        _run,
        {
            "bundle_root": (
                "name of a bundle (monai_plan bundles), or its folder; put it before the options",
                _PATH | {"metavar": "BUNDLE"},
            ),
            "--dataset_dir": ("folder of the data set, with datalist.json in it", _NEEDED | {"metavar": "DIR"}),
            "--output_dir": (
                "folder to write to: private/ (never share it) and release/; give the same one to go on",
                _NEEDED | {"metavar": "DIR"},
            ),
            "--skip_bad_images": (
                "leave out images that cannot be used and list them, instead of ending with an error",
                {"action": "store_true"},
            ),
            "--only": ("run these stages only; what they read must be there", {"nargs": "+", "metavar": "STAGE"}),
            "--quiet": _QUIET,
        },
    ),
    "bundles": ("list the bundles that come with monai_plan, and where they lie", _bundles, {}),
    "new-bundle": (
        "write a complete bundle for your data, in the model zoo's form: classes and sizes are read from it",
        _new_bundle,
        {
            "name": ("of the bundle, such as knee_mri_plan", {"metavar": "NAME"}),
            "--dataset_dir": ("folder of the data set, with datalist.json in it", _NEEDED | {"metavar": "DIR"}),
            "--output_dir": ("folder to write NAME to (default: here)", _PATH | {"metavar": "DIR"}),
            "--img_size": ("elements of each axis (default: from the data, at most 64)", _INT | {"nargs": "+"}),
            "--authors": ("who makes it, for its metadata (default: not named)", {}),
        },
    ),
    "verify-bundle": (
        "say what the model zoo's checks would of a bundle, off line, and whether a file of it derives from patients; "
        "this runs its configs, but for --files-only",
        _verify_bundle,
        {
            "bundle": ("its folder, or a name", _PATH | {"metavar": "BUNDLE"}),
            "--dataset_dir": (
                "data for its train.json (default: a stand-in, for bundles of this form)",
                _PATH | {"metavar": "DIR"},
            ),
            "--files_only": ("look at the files alone, and run nothing of it", {"action": "store_true"}),
        },
    ),
    "phantoms": (
        "make a data set of artificial chest images, to try things on",
        _phantoms,
        {
            "--output_dir": _FOLDER,
            "--spatial_dims": ("2 for images, 3 for volumes (default: 2)", _INT | {"choices": (2, 3)}),
            "--img_size": ("pixels: one number for all axes, or one per axis (default: 64)", _INT | {"nargs": "+"}),
            "--num_subjects": ("subjects of the training section (default: 120)", _INT),
            "--num_test_subjects": ("further subjects, of the test section (default: 40)", _INT),
            "--seed": ("seed of the population (default: 0)", _INT),
        },
    ),
    "datalist": (
        "write the data list (datalist.json) of your images: their classes, patients and split",
        _datalist,
        {},
    ),
    "audit": (
        "attack a synthetic data set that any tool made, and say what it gives away: audit.html and audit.json",
        _audit,
        {
            "--release": ("folder of images, with a data list or without", _NEEDED | {"metavar": "DIR"}),
            "--real": (
                'data list of the real images, or its folder: "training" took part, "test" did not',
                _NEEDED | {"metavar": "DATALIST"},
            ),
            "--private": (
                "private folder for the gallery of exposed patients and for finished parts (never share it)",
                _PATH | {"metavar": "DIR"},
            ),
            "--output": ("folder of the page (default: that of the release)", _PATH | {"metavar": "DIR"}),
            "--generator": (
                "the generator that made the release, model.pt: adds the attacker who has it, which is slower",
                _PATH | {"metavar": "FILE"},
            ),
            "--skip_bad_images": ("leave out images that cannot be read, and say which", {"action": "store_true"}),
            "--weights": ("EfficientNet-lite0's file (default: installed)", _PATH | {"metavar": "FILE"}),
            "--seed": ("seed of all that is drawn (default: 0)", _INT),
            "--fail_on": (
                "exit with 3 if it holds: verdict (unless nothing was found), or a figure of audit.json such as "
                '"exclusion.p<0.05" (also where its row has no answer); may be given several times',
                {"action": "append", "metavar": "CONDITION"},
            ),
        },
    ),
    "evaluate": (
        "make the two tables of the paper from a finished run, beside the selection that walks have to beat",
        _evaluate,
        {
            "output_dir": ("of a finished run", _PATH | {"metavar": "OUT"}),
            "--protocol": ("plan: the paper's (default)", {"choices": ("plan",)}),
            "--seeds": ("classifiers per row (default: 5)", _INT),
            "--ks": ("k of the second table (default: 5 10 15)", _INT | {"nargs": "+", "metavar": "K"}),
            "--rows": (
                "make these rows only, such as linear or 'PLAN, k = 5'",
                {"nargs": "+", "metavar": "ROW"},
            ),
        },
    ),
    "release": (
        "let a finished run's data, a classifier or its generator out of the house, if its audit found nothing",
        _release,
        {
            "output_dir": ("folder of a finished run", _PATH | {"metavar": "OUT"}),
            "--kind": (
                "data: images, data list, card, reports; classifier: a bundle with a network trained on the synthetic "
                "images alone; generator: a bundle with the generator",
                {"required": True, "choices": ("data", "classifier", "generator")},
            ),
            "--to": ("new folder; its name is the bundle's", _NEEDED | {"metavar": "DIR"}),
            "--accept_generator_risk": (
                "needed for the generator: whoever has it can make what nobody has checked",
                {"action": "store_true"},
            ),
            "--authors": ("who releases it, for card and metadata (default: not named)", {}),
        },
    ),
    "import-stylegan2": (
        "make a generator's model.pt of an NVlabs StyleGAN2(-ADA) pickle, executing nothing in it",
        _import_stylegan2,
        {
            "file": ("the network, *.pkl, of StyleGAN2-ADA (PyTorch)", _PATH | {"metavar": "FILE"}),
            "--output": ("the generator to write, such as DIR/model.pt", _NEEDED),
        },
    ),
}

_ROOT: dict[str, Any] = {"type": _path, "metavar": "ROOT"}
_SPLIT: dict[str, _Argument] = {
    "--output": ("the data list to write, such as DIR/datalist.json", _NEEDED),
    "--test_fraction": ("share of each class that goes to test, by whole patients (default: 0.2)", {"type": float}),
    "--seed": ("seed of the split (default: 0)", _INT),
}
_DATALISTS: dict[str, tuple[str, dict[str, _Argument]]] = {
    "folders": (
        "from folders of images, one folder per class",
        {
            "root": ("holds one folder per class; the folder's name is the class's, numbers go by the alphabet", _ROOT),
            "--subject_pattern": (
                "regular expression that finds the patient in a file's name: its first group, or the whole match "
                "('^[^_]+' is all before the first underscore); without it every image counts as a patient, but for "
                "DICOM, which names its patients",
                {},
            ),
            **_SPLIT,
        },
    ),
    "csv": (
        "from a CSV, one row per image",
        {
            "csv_file": (
                "with a header line; commas, semicolons, tabs or bars between cells; UTF-8, UTF-16 or cp1252",
                _PATH | {"metavar": "CSV"},
            ),
            "--image_root": ("the folder that the paths in the CSV are relative to", _NEEDED),
            "--image_column": ("column of image paths (default: image)", {}),
            "--label_column": ("column of classes, numbers or text (default: label)", {}),
            "--subject_column": ("column of patients; without it every image counts as a patient", {}),
            **_SPLIT,
        },
    ),
    "shenzhen": (
        "from the Shenzhen Hospital chest radiographs",
        {"root": ("holds, at any depth, CHNCXR_####_0.png (normal) and _1.png (tuberculosis)", _ROOT), **_SPLIT},
    ),
    "aptos": (
        "from APTOS 2019, fundus photographs of five grades",
        {
            "root": ("holds train.csv and train_images/", _ROOT),
            "--max_per_class": (
                "at most so many images of a grade, drawn by --seed (190 makes the paper's 950; default: all)",
                _INT,
            ),
            **_SPLIT,
        },
    ),
    "medmnist": (
        "from a MedMNIST file, whose split is kept",
        {"npz_file": ("the .npz file", _PATH | {"metavar": "NPZ"}), "--output_dir": _FOLDER},
    ),
}


if __name__ == "__main__":
    sys.exit(main())
