"""Samples a second through a DataLoader: real files by LoadImaged against synthetic ones by SubstituteSyntheticd.

    python benchmarks/transform.py

Two formats: PNG (2D) and NIfTI (3D). The real files hold the same values as the synthetic ones and are compressed as
usual tools do it (Pillow's default, .nii.gz); the release is as the stage synthesize writes it. "path" is the added
line in an unchanged pipeline, LoadImaged after it reads the synthetic file; "image" takes the sample from the bank in
memory, without LoadImaged, as the same MetaTensor of float32 in [-1, 1]; "plain" is that without metadata; "8 bits" is
as stored, with metadata, to be scaled later. Every row is the best of several passes; a pass makes a new DataLoader,
workers included, as an epoch does.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import warnings
from functools import partial
from pathlib import Path

import nibabel
import torch
from monai.data import DataLoader, Dataset
from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged, ScaleIntensityRanged
from PIL import Image

from monai_plan.release import write_synthetic
from monai_plan.transforms import SubstituteSyntheticd


def release(folder: Path, shape: tuple[int, ...], count: int) -> list[dict]:
    """A release of smooth noise; its items."""
    torch.manual_seed(0)
    mode = "bilinear" if len(shape) == 2 else "trilinear"
    noise = torch.nn.functional.interpolate(torch.rand(count, 1, *(s // 8 for s in shape)), shape, mode=mode)
    labels = [i % 2 for i in range(count)]
    write_synthetic(
        folder, images=noise * 2 - 1, labels=labels, label_names={0: "a", 1: "b"}, groups=list(range(count)),
        name="noise", description="noise",
    )  # fmt: skip
    files = sorted((folder / "images").iterdir())
    return [{"image": str(file), "label": label} for file, label in zip(files, labels, strict=True)]


def usual_files(items: list[dict], folder: Path) -> list[dict]:
    """The same images as compressed files."""
    folder.mkdir()
    files = [folder / Path(item["image"]).name.replace(".nii", ".nii.gz") for item in items]
    for item, file in zip(items, files, strict=True):
        if file.suffix == ".png":
            with Image.open(item["image"]) as image:
                image.save(file)
        else:
            nibabel.save(nibabel.load(item["image"]), file)
    return [{**item, "image": str(file)} for item, file in zip(items, files, strict=True)]


def samples_a_second(items: list[dict], steps: list, *, workers: int, passes: int) -> float:
    """The best of several passes."""
    best = 0.0
    for _ in range(passes):
        began = time.perf_counter()
        loader = DataLoader(Dataset(items, Compose(steps)), batch_size=16, num_workers=workers)
        seen = sum(len(batch["label"]) for batch in loader)
        best = max(best, seen / (time.perf_counter() - began))
    return best


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=512, help="images (default: 512); volumes are a quarter of it")
    parser.add_argument("--img_size", type=int, default=256, help="pixels a side of the PNG (default: 256)")
    parser.add_argument("--volume_size", type=int, default=64, help="voxels a side of the NIfTI (default: 64)")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 2, 4])
    parser.add_argument("--passes", type=int, default=3)
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # of MONAI, about decoders that are not installed

    ways = ("path", "image", "plain", "8 bits")
    print("| format | workers | LoadImaged, samples/s | " + " | ".join(f"{way} | ratio" for way in ways) + " |")
    print("|---|" + "---:|" * (2 + 2 * len(ways)))
    with tempfile.TemporaryDirectory() as root:
        for name, shape, count in (
            (f"PNG, {options.img_size}²", (options.img_size,) * 2, options.count),
            (f"NIfTI, {options.volume_size}³", (options.volume_size,) * 3, options.count // 4),
        ):
            synthetic = Path(root) / f"synthetic{len(shape)}"
            real = usual_files(release(synthetic, shape, count), Path(root) / f"real{len(shape)}")
            substitute = partial(SubstituteSyntheticd, "image", "label", synthetic, data=real)
            scale = ScaleIntensityRanged(keys="image", a_min=0, a_max=255, b_min=-1, b_max=1)
            load = [LoadImaged(keys="image"), EnsureChannelFirstd(keys="image"), scale]
            pipelines = {
                "real": load,
                "path": [substitute(), *load],
                "image": [substitute(output="image", value_range=(-1, 1))],
                "plain": [substitute(output="image", value_range=(-1, 1), track_meta=False)],
                "8 bits": [substitute(output="image", dtype=torch.uint8)],
            }
            for workers in options.workers:
                found = {
                    key: samples_a_second(real, steps, workers=workers, passes=options.passes)
                    for key, steps in pipelines.items()
                }
                shown = (f"{found[way]:.0f} | {found[way] / found['real']:.1f}" for way in ways)
                print(f"| {name} | {workers} | {found['real']:.0f} | {' | '.join(shown)} |", flush=True)


if __name__ == "__main__":
    main()
