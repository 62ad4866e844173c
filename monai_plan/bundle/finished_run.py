"""The configs of a finished run, for what goes on from one."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser, ReferenceResolver

from monai_plan.bundle.runner import SETTINGS, data_digests
from monai_plan.utils import ArtifactError, digest, read_json

__all__ = ["FinishedRun"]


@dataclass(frozen=True)
class FinishedRun:
    """Where a run is and how it was made.

    Attributes:
        output_dir: of the run.
        bundle_root: the bundle's folder.
        dataset_dir: the data set's folder.
        overrides: config id → value, what the run set.
    """

    output_dir: Path
    bundle_root: Path
    dataset_dir: Path
    overrides: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, output_dir: str | os.PathLike[str]) -> FinishedRun:
        """What ``run_bundle`` wrote down about itself.

        Raises:
            ArtifactError: if there is no such run, its bundle or its data set are gone, or the data set has changed.
        """
        output = Path(os.path.abspath(output_dir))
        if not (output / SETTINGS).is_file():
            raise ArtifactError(f"{output} has no {SETTINGS}, so it is no run of monai_plan run: give its output_dir.")
        content = read_json(output / SETTINGS)
        known = {"bundle_root", "dataset_dir", "overrides", "data", "datalist"}
        if not isinstance(content, dict) or not known <= content.keys():
            raise ArtifactError(f"{output / SETTINGS} is damaged: the same monai_plan run as before writes it anew.")
        run = cls(output, Path(content["bundle_root"]), Path(content["dataset_dir"]), content["overrides"])
        for name, folder in (("bundle_root", run.bundle_root), ("dataset_dir", run.dataset_dir)):
            if not folder.is_dir():
                raise ArtifactError(
                    f"{name} {folder} of the run in {output} is gone: put it back, or run again from where it is now."
                )
        datalist = Path(content["datalist"])
        if not datalist.is_file() or digest(data_digests(datalist, run.dataset_dir, output)) != content["data"]:
            raise ArtifactError(
                f"{datalist} or its images are not those of the run in {output} any more: put them back, or run again."
            )
        return run

    def config_files(self, *names: str) -> list[str]:
        """The paths of some of the bundle's config files, named without their ending."""
        return [str(self.bundle_root / "configs" / f"{name}.json") for name in names]

    def config(self, *names: str, **changes: Any) -> ConfigParser:
        """These configs, merged in this order, with all that the run set, the changes last; each where its id is known.

        Args:
            names: of config files, without their ending.
            changes: further values by config id.
        """
        parser = ConfigParser()
        parser.read_config(self.config_files(*names))
        paths = {name: str(getattr(self, name)) for name in ("output_dir", "bundle_root", "dataset_dir")}
        values = {
            ReferenceResolver.normalize_id(id): value for id, value in {**self.overrides, **paths, **changes}.items()
        }
        parser.update({id: value for id, value in values.items() if id in parser})
        return parser
