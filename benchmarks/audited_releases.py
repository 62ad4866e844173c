"""The audit of six releases of one data set: from a finished run, and what others would have made of the same patients.

    python benchmarks/audited_releases.py OUT --to DIR

- **selection**, **PLAN**, **linear**: points of G's own; on walks and on straight lines between averages of patients;
- **k-same**: those averages themselves;
- **copying**: PLAN with five patients in it, each turned by 5 degrees;
- **foreign**: blends of two patients of a class, a folder of images without a data list, as another tool leaves it.

Writes each to DIR/NAME with its page, and prints a table. DIR/private derives from patients, as the run does; started
again it goes on where it was.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import torch
from anchor_kinds import WAYS, points_of
from torch import Tensor

from monai_plan.audit.command import RESULTS_NAME, audit_release
from monai_plan.audit.controls import disguise
from monai_plan.bundle.finished_run import FinishedRun
from monai_plan.bundle.projector import FileProjector
from monai_plan.data import write_image
from monai_plan.networks import load_generator
from monai_plan.release import synthesize_images, write_synthetic
from monai_plan.utils import load_artifact, read_json, seeded_generator

COPIES = 5
WALK = {"walk_kind": "plan"}
MADE = {
    "selection": WAYS["selected"],
    "PLAN": {**WAYS["PLAN, average"], **WALK},
    "linear": {**WAYS["linear, average"], **WALK},
}
COLUMNS = ("copies", "reconstructions", "reidentification", "exclusion", "generator")


def blends(images: Tensor, labels: Tensor) -> Tensor:
    """As many images, each the mean of two of one class."""
    made = []
    for label in labels.unique():
        own = images[labels == label]
        order = torch.randperm(len(own), generator=seeded_generator(0, "blend", int(label)))
        made.append((own[order] + own[order.roll(1)]) / 2)
    return torch.cat(made)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output_dir", type=Path, metavar="OUT", help="of the finished run")
    parser.add_argument("--to", required=True, type=Path, metavar="DIR")
    options = parser.parse_args()
    run, private = FinishedRun.read(options.output_dir), options.to / "private"
    config = run.config("common")
    training, model = config.get_parsed_content("training"), options.output_dir / "private" / "model.pt"
    real = Path(config.get_parsed_content("dataset_dir")) / "datalist.json"
    generator, names = load_generator(model), training.label_names

    def write(name: str, images: Tensor, labels: Tensor, groups: list[int]) -> None:
        write_synthetic(
            options.to / name, images=images, labels=labels, label_names=names, groups=groups, name=name, description=""
        )

    for name, way in MADE.items():
        points = points_of(run, private / name, way)
        images, groups = synthesize_images(generator, points.latents), points.places[:, 0].tolist()
        write(name, images, points.labels, groups)
        if name == "PLAN":
            rows = torch.randperm(len(training), generator=seeded_generator(0, "copied"))[:COPIES]
            copying = torch.cat([images[:-COPIES], disguise(training.images[rows], "turned")])
            write("copying", copying, torch.cat([points.labels[:-COPIES], training.labels[rows]]), groups)
    averages = load_artifact(private / "PLAN" / "anchors.pt", kind="anchors")
    count = list(range(len(averages["latents"])))
    write("k-same", synthesize_images(generator, averages["latents"]), averages["labels"], count)
    shutil.rmtree(options.to / "foreign", ignore_errors=True)
    (options.to / "foreign").mkdir()
    for number, image in enumerate(blends(training.images[:], training.labels)):
        write_image(options.to / "foreign" / f"{number:04d}.png", (image + 1) / 2)

    projector = FileProjector(model)
    print("| release | images | verdict | " + " | ".join(COLUMNS) + " |\n|---|---:|---|" + "---|" * len(COLUMNS))
    for name in (*MADE, "k-same", "copying", "foreign"):
        results = options.to / name / RESULTS_NAME
        if not results.is_file():
            audit_release(options.to / name, real, private=private, projector=projector)
        audit = read_json(results)
        rows = {row["name"]: row for row in audit["rows"]}
        cells = [f"{rows[column]['main']}: {rows[column]['verdict']}" for column in COLUMNS]
        print(f"| {name} | {audit['num_released']} | **{audit['verdict']}** | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
