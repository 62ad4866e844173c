"""Reading a data set: images per second on all cores against a plain loop of MONAI's ``LoadImaged``, and memory.

Writes 10,000 smooth PNG of 256 x 256 with noise to a temporary folder, reads them both ways, once only to load and once
with the bundle's resizing and scaling, and checks that both give the same values. Each way runs in its own process.
Memory is the peak of its resident set above that at its start: little more than the images kept, however many are read.

    python benchmarks/reading.py [--images 10000] [--size 256]
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from monai.transforms import Compose, LoadImaged, Resized, ScaleIntensityRanged
from PIL import Image

from monai_plan.data import CheckedDataset, IntensityScaling, LoadShownImaged, ScaleShownd

KEPT = 64  # pixels per axis after resizing
RANGE = (0.0, 255.0)


def write_images(folder: Path, *, images: int, size: int) -> Path:
    """PNG files of one class, and their data list."""
    rows, columns = np.mgrid[:size, :size]
    items = []
    for number in range(images):
        rng = np.random.default_rng(number)
        smooth = 120 + 80 * np.sin(columns / 40 + number) + 40 * np.cos(rows / 30)
        values = (smooth + rng.normal(0, 8, (size, size))).clip(0, 255).astype(np.uint8)
        Image.fromarray(values).save(folder / f"{number:05d}.png")
        items.append({"image": f"{number:05d}.png", "label": 0})
    (folder / "datalist.json").write_text(json.dumps({"labels": {"0": "one"}, "training": items}))
    return folder / "datalist.json"


def plain_loop(datalist: Path, *, resized: bool) -> torch.Tensor:
    """What one writes without us; the images are dropped where they are not resized."""
    scale = ScaleIntensityRanged("image", *RANGE, -1.0, 1.0, clip=True)
    steps = [LoadImaged("image", ensure_channel_first=True)]
    transform = Compose([*steps, Resized("image", (KEPT, KEPT), mode="area"), scale] if resized else steps)
    sums = []
    for item in json.loads(datalist.read_text())["training"]:
        image = transform({"image": str(datalist.parent / item["image"])})["image"]
        sums.append(image.as_tensor().clone() if resized else image.as_tensor().mean())
    return torch.stack(sums)


def ours(datalist: Path, *, resized: bool) -> torch.Tensor:
    """The checked data set; without resizing a transform keeps the mean alone, as above."""
    load = LoadShownImaged("image")
    if not resized:
        return _checked(datalist, Compose([load, _mean]), size=(1, 1)).images[:].flatten() * 255.0
    scale = ScaleShownd("image", IntensityScaling("range", RANGE))
    return _checked(
        datalist, Compose([load, Resized("image", (KEPT, KEPT), mode="area"), scale]), size=(KEPT, KEPT)
    ).images[:]


def _mean(data: dict) -> dict:
    return {"image": torch.as_tensor(data["image"]).float().mean().reshape(1, 1, 1) / 255.0}


def _checked(datalist: Path, transform: Compose, *, size: tuple[int, int]) -> CheckedDataset:
    return CheckedDataset(
        datalist_file=datalist, transform=transform, img_size=size, img_channels=1, num_classes=1, progress=True
    )


def measured(way: str, datalist: Path, resized: bool, answer) -> None:
    """In a process of its own: seconds, MiB above the start, and a digest of what was read."""
    warnings.filterwarnings("ignore")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    images = {"LoadImaged in a loop": plain_loop, "CheckedDataset": ours}[way](datalist, resized=resized)
    seconds = time.perf_counter() - start
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    answer.put((seconds, peak, images.flatten()[:: max(images.numel() // 1000, 1)].tolist()))


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--size", type=int, default=256)
    options = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        datalist = write_images(Path(folder), images=options.images, size=options.size)
        print(f"{options.images} PNG of {options.size} x {options.size}")
        print(f"{'':24}{'':16}{'images per second':>20}{'MiB':>8}{'ratio':>8}")
        for resized in (False, True):
            rates, values = [], []
            for way in ("LoadImaged in a loop", "CheckedDataset"):
                answer = context.Queue()
                process = context.Process(target=measured, args=(way, datalist, resized, answer))
                process.start()
                seconds, peak, sample = answer.get()
                process.join()
                rates.append(options.images / seconds)
                values.append(sample)
                what = f"to {KEPT} x {KEPT}" if resized else "read"
                print(f"{way:24}{what:16}{rates[-1]:20.0f}{peak:8.0f}{rates[-1] / rates[0]:8.2f}", flush=True)
            assert np.allclose(*values, atol=1e-2), "the two ways read different values"


if __name__ == "__main__":
    main()
