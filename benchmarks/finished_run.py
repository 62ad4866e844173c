"""The configs of a finished run, for the benchmarks that go on from one."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser

__all__ = ["add_arguments", "configs_of", "parse", "settings_of"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What tells where a run is and how it was made."""
    parser.add_argument("output_dir", help="of the finished run")
    parser.add_argument("--bundle_root", default="bundles/chest_xray_plan")
    parser.add_argument("--dataset_dir", help="default: that of the overrides, or OUTPUT_DIR/data, as of a quickstart")
    parser.add_argument("--overrides", help="JSON file of the ids that the run overrode")


def settings_of(options: argparse.Namespace) -> dict[str, Any]:
    """The run's folders and the ids that it overrode."""
    settings = json.loads(Path(options.overrides).read_text()) if options.overrides else {}
    settings.setdefault("dataset_dir", str(Path(options.output_dir) / "data"))
    if options.dataset_dir:
        settings["dataset_dir"] = options.dataset_dir
    return {**settings, "bundle_root": options.bundle_root, "output_dir": options.output_dir}


def configs_of(settings: Mapping[str, Any], *names: str) -> list[str]:
    """The paths of some of the bundle's config files, named without their ending."""
    return [str(Path(settings["bundle_root"]) / "configs" / f"{name}.json") for name in names]


def parse(settings: Mapping[str, Any], *names: str) -> ConfigParser:
    """These configs with all settings that they know."""
    parser = ConfigParser()
    parser.read_config(configs_of(settings, *names))
    parser.update({name: value for name, value in settings.items() if name in parser})
    return parser
