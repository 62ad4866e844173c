"""Judge a finished quickstart by what is known of its phantoms.

    python benchmarks/phantom_truth.py QUICKSTART_DIR

prints figures beside what they must be: φ_class on unseen subjects, φ_id on unseen images of known subjects, the walk's
L_id against that of the straight line, if there was a walk, and how many released images keep their class. The last
one is judged by a second φ_class, trained here with another seed, since the walk has seen the first; its own accuracy
is another figure. In 2D the lesions of the images are counted, see ``lesions.py`` beside this file. Exit code 1 if a
figure falls short.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lesions import lesion_table
from monai.bundle import ConfigParser, ConfigWorkflow
from torch import Tensor, nn

from monai_plan.bundle.zoo import bundle_folder
from monai_plan.data import CheckedDataset, make_phantoms, read_datalist
from monai_plan.engines import predict_probabilities
from monai_plan.networks import load_classifier
from monai_plan.release import read_release
from monai_plan.utils import DataError, PLANError, load_artifact

__all__ = ["Figure", "phantom_truth"]

KNOWN_IMAGES = 2  # unseen images of every known subject


@dataclass(frozen=True)
class Figure:
    """One line of the table: ``value`` must be at least (or, if ``at_most``, at most) ``bound``."""

    name: str
    value: float
    bound: float
    at_most: bool = False

    @property
    def holds(self) -> bool:
        """Whether the value is within the bound."""
        return self.value <= self.bound if self.at_most else self.value >= self.bound


def phantom_truth(
    output_dir: str | os.PathLike[str],
    *,
    data_dir: str | os.PathLike[str] | None = None,
    bundle: str = "phantom_plan",
    overrides: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> list[Figure]:
    """The figures of a finished run of the bundle on phantoms.

    Args:
        output_dir: with ``private/`` and ``release/``.
        data_dir: the phantoms; by default ``output_dir/data``, where the quickstart puts them.
        bundle: that was run, by name or as a folder; by default that of the quickstart.
        overrides: config ids that the run overrode.
        seed: of the phantoms.

    Raises:
        DataError: if ``data_dir`` does not hold the phantoms of this seed.
        ArtifactError: if a file of the run is missing.
    """
    output = Path(output_dir).absolute()
    data = Path(data_dir).absolute() if data_dir is not None else output / "data"
    configs = bundle_folder(bundle) / "configs"
    settings = {**(overrides or {}), "device": "cpu", "dataset_dir": str(data), "output_dir": str(output)}
    run = _Run(configs, settings)
    with tempfile.TemporaryDirectory() as folder:
        known = run.dataset(_same_phantoms(data, Path(folder) / "phantoms", run.size, seed), "test_known")
        second = run.train_class(Path(folder) / "second", seed=seed + 1)
    test = run.dataset(data / "datalist.json", "test")
    released = run.dataset(output / "release" / "datalist.json", "training")
    return [
        Figure("φ_class, accuracy on unseen subjects", _accuracy(run.class_net(), test.images, test.labels), 0.95),
        Figure(
            "φ_id, accuracy on unseen images of known subjects",
            _accuracy(run.identity_net(), known.images, known.identities),
            0.95,
        ),
        *_of_the_walk(load_artifact(output / "private" / "paths.pt", kind="paths")),
        Figure(
            "released images of the class that a second φ_class sees",
            _accuracy(second, released.images, released.labels),
            0.9,
        ),
        Figure("that second φ_class, accuracy on unseen subjects", _accuracy(second, test.images, test.labels), 0.95),
    ]


def _of_the_walk(paths: Mapping[str, Any]) -> list[Figure]:
    """Nothing where the anchors themselves left."""
    if not paths["losses"]:
        return []
    losses = paths["losses"]["identity"]
    straight, walked = losses[:, 0].mean().item(), losses[:, -1].mean().item()
    print(
        f"L_id, sum over the inner points, mean over {len(losses)} paths: {straight:.3f} straight, {walked:.3f} walked"
    )
    return [Figure("L_id of the walk over that of the straight line", walked / straight, 0.5, at_most=True)]


class _Run:
    """What the configs of the bundle make of a run's settings."""

    def __init__(self, configs: Path, settings: Mapping[str, Any]) -> None:
        self.configs, self.settings = configs, dict(settings)
        self.parser = ConfigParser()
        self.parser.read_config([str(configs / name) for name in ("common.json", "walk.json")])
        self.parser.update({id: value for id, value in settings.items() if id in self.parser})
        self.size: list[int] = list(self.parser.get_parsed_content("img_size"))

    def dataset(self, datalist: Path, section: str) -> CheckedDataset:
        """Images through the preprocessing of the config."""
        return CheckedDataset(
            datalist_file=datalist,
            section=section,
            transform=self.parser.get_parsed_content("preprocessing"),
            img_size=self.size,
            img_channels=self.parser.get_parsed_content("img_channels"),
            num_classes=self.parser.get_parsed_content("num_classes"),
        )

    def class_net(self) -> nn.Module:
        """φ_class as the walk loads it."""
        return self.parser.get_parsed_content("class_net")

    def identity_net(self) -> nn.Module:
        """φ_id as the walk loads it."""
        return self.parser.get_parsed_content("identity_net")

    def train_class(self, folder: Path, *, seed: int) -> nn.Module:
        """Another φ_class, by the stage's own config."""
        names = ("common.json", "train_class.json")
        workflow = ConfigWorkflow(config_file=[str(self.configs / name) for name in names], logging_file=False)
        known = {id: value for id, value in self.settings.items() if id in workflow.parser}
        workflow.parser.update({**known, "output_dir": str(folder), "seed": seed})
        workflow.initialize()
        workflow.run()
        network = self.parser.get_parsed_content("class_network")()
        return load_classifier(network, folder / "private" / "class_net.pt", kind="class_net")


def _same_phantoms(data: Path, folder: Path, size: list[int], seed: int) -> Path:
    """The population of ``data`` once more, with further images of every known subject."""
    sections = read_datalist(data / "datalist.json").sections
    subjects = {name: len({item["subject"] for item in items}) for name, items in sections.items()}
    datalist = make_phantoms(
        folder,
        spatial_dims=len(size),
        img_size=size,
        num_subjects=subjects["training"],
        num_test_subjects=subjects["test"],
        num_known_images=KNOWN_IMAGES,
        seed=seed,
    )
    again = read_datalist(datalist).sections
    for section in ("training", "test"):
        for item, other in zip(sections[section], again[section], strict=True):
            if Path(item["image"]).read_bytes() != Path(other["image"]).read_bytes():
                raise DataError(f"{item['image']} is no phantom of seed {seed}: give the seed of the quickstart.")
    return datalist


def _accuracy(network: nn.Module, images: Tensor, labels: Tensor) -> float:
    guesses = predict_probabilities(network, images).argmax(1)
    return (guesses == labels).double().mean().item()


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("quickstart_dir", metavar="QUICKSTART_DIR")
    parser.add_argument("--data_dir", help="the phantoms; by default QUICKSTART_DIR/data")
    parser.add_argument("--bundle", default="phantom_plan", help="that was run; by default the quickstart's")
    parser.add_argument("--overrides", help="JSON file of config ids that the run overrode")
    parser.add_argument("--seed", type=int, default=0, help="of the phantoms")
    options = parser.parse_args()
    overrides = json.loads(Path(options.overrides).read_text()) if options.overrides else None
    output = Path(options.quickstart_dir)
    try:
        figures = phantom_truth(
            options.quickstart_dir, data_dir=options.data_dir, bundle=options.bundle, overrides=overrides,
            seed=options.seed,
        )  # fmt: skip
    except PLANError as error:
        print(f"phantom_truth: {error}", file=sys.stderr)
        return 2
    print("\n| figure | found | wanted | |\n|---|---:|---:|---|")
    for figure in figures:
        sign = "≤" if figure.at_most else "≥"
        holds = "holds" if figure.holds else "falls short"
        print(f"| {figure.name} | {figure.value:.3f} | {sign} {figure.bound:g} | {holds} |")
    data, release = Path(options.data_dir or output / "data"), output / "release"
    if len(read_release(release).img_size) == 2:
        print("\n" + lesion_table(data, release))
    return 0 if all(figure.holds for figure in figures) else 1


if __name__ == "__main__":
    sys.exit(main())
