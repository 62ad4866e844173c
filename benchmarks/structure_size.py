"""The size of a structure in real and released volumes, measured by a segmenter that learnt the real masks.

    python benchmarks/structure_size.py DATASET_DIR RELEASE_DIR --output_dir OUT [--steps 400]

DATASET_DIR holds a data list whose items name an image and its mask, RELEASE_DIR a release that was made from them. A
UNet learns the masks of the training section. The table gives its Dice on the test section, and the volume of the
structure in mm³ by class: real (by the mask, and by the segmenter) and released. The picture of both distributions goes
to OUT/structure_size.png.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from monai.data import CacheDataset, DataLoader, load_decathlon_datalist
from monai.losses import DiceCELoss
from monai.networks.nets import UNet
from monai.transforms import (
    Compose,
    LoadImaged,
    Orientationd,
    RandGaussianNoised,
    RandGaussianSmoothd,
    ResizeWithPadOrCropd,
    ScaleIntensityRangePercentilesd,
)
from monai.utils import set_determinism
from sklearn.metrics import roc_auc_score
from torch import Tensor

from monai_plan.release import read_release


def reading(size: list[int]) -> Compose:
    """As the bundle reads the volumes: in RAS, scaled by percentiles, padded or cropped."""
    keys = ["image", "mask"]
    return Compose([
        LoadImaged(keys, ensure_channel_first=True, image_only=True),
        Orientationd(keys, axcodes="RAS", labels=None),
        ScaleIntensityRangePercentilesd("image", lower=0.5, upper=99.5, b_min=-1, b_max=1, clip=True),
        ResizeWithPadOrCropd("image", spatial_size=size, value=-1.0),
        ResizeWithPadOrCropd("mask", spatial_size=size),
    ])  # fmt: skip


def train(items: list[dict], size: list[int], steps: int) -> torch.nn.Module:
    """A UNet that tells the structure from the rest."""
    network = UNet(3, 1, 2, channels=(16, 32, 64), strides=(2, 2), num_res_units=1)
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    loss = DiceCELoss(to_onehot_y=True, softmax=True)
    varied = Compose([  # generated volumes are smoother than real ones
        reading(size), RandGaussianSmoothd("image", prob=0.5), RandGaussianNoised("image", prob=0.3, std=0.1)
    ])  # fmt: skip
    loader = DataLoader(CacheDataset(items, varied, progress=False), batch_size=4, shuffle=True, drop_last=True)
    step = 0
    while step < steps:
        for batch in loader:
            optimizer.zero_grad()
            loss(network(batch["image"]), (batch["mask"] > 0).float()).backward()
            optimizer.step()
            schedule.step()
            step += 1
            if step == steps:
                break
    return network.eval()


@torch.no_grad()
def segmented(network: torch.nn.Module, images: Tensor) -> Tensor:
    """[N, 1, *spatial] → where the structure is, [N, *spatial]."""
    return torch.cat([network(batch).argmax(1) for batch in images.split(8)])


def dice(found: Tensor, true: Tensor) -> Tensor:
    """Dice of each volume."""
    axes = (1, 2, 3)
    return 2 * (found * true).sum(axes) / (found.sum(axes) + true.sum(axes))


def table(rows: dict[str, tuple[np.ndarray, np.ndarray]]) -> str:
    """Mean ± sd of each class, and how well the size alone tells the classes apart."""
    lines = ["| mm³, mean ± sd | class 0 | class 1 | AUC of the size |", "|---|---:|---:|---:|"]
    for name, (sizes, labels) in rows.items():
        cells = [f"{sizes[labels == y].mean():.0f} ± {sizes[labels == y].std():.0f}" for y in (0, 1)]
        lines.append(f"| {name} | {' | '.join(cells)} | {roc_auc_score(labels, sizes):.3f} |")
    return "\n".join(lines)


def draw(rows: dict[str, tuple[np.ndarray, np.ndarray]], path: Path) -> None:
    """A histogram per row and class."""
    figure = Figure(figsize=(8, 2 * len(rows)), layout="constrained")
    FigureCanvasAgg(figure)
    edges = np.linspace(min(s.min() for s, _ in rows.values()), max(s.max() for s, _ in rows.values()), 30)
    for axes, (name, (sizes, labels)) in zip(figure.subplots(len(rows), 1, sharex=True), rows.items(), strict=True):
        for label in (0, 1):
            axes.hist(sizes[labels == label], bins=edges, alpha=0.6, density=True, label=f"class {label}")
        axes.set_title(name, fontsize=10, loc="left")
        axes.set_yticks([])
    axes.set_xlabel("mm³")
    axes.legend(frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)


def main() -> None:
    """Print the table, draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset_dir", type=Path)
    parser.add_argument("release_dir", type=Path)
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=400)
    options = parser.parse_args()
    set_determinism(0)
    released = read_release(options.release_dir)
    size = list(released.img_size)
    file = str(options.dataset_dir / "datalist.json")
    sections = {
        name: load_decathlon_datalist(file, is_segmentation=False, data_list_key=name) for name in ("training", "test")
    }
    for items in sections.values():
        for item in items:
            item["mask"] = str(options.dataset_dir / item["mask"])
    network = train(sections["training"], size, options.steps)
    read = [reading(size)(item) for item in sections["test"]]
    images, masks = (torch.stack([item[key].as_tensor() for item in read]).float() for key in ("image", "mask"))
    true, found = (masks[:, 0] > 0).long(), segmented(network, images)
    labels = np.array([item["label"] for item in sections["test"]])
    print(f"Dice on {len(read)} test volumes: {dice(found, true).mean():.3f} ± {dice(found, true).std():.3f}\n")
    voxel = float(abs(np.linalg.det(released.affine[:3, :3])))
    real_voxel = float(abs(np.linalg.det(read[0]["image"].affine[:3, :3])))
    synthetic = segmented(network, released.images)
    rows = {
        "real test volumes, by mask": (true.sum((1, 2, 3)).numpy() * real_voxel, labels),
        "real test volumes, by segmenter": (found.sum((1, 2, 3)).numpy() * real_voxel, labels),
        "released volumes, by segmenter": (synthetic.sum((1, 2, 3)).numpy() * voxel, np.array(released.labels)),
    }
    print(table(rows))
    draw(rows, options.output_dir / "structure_size.png")


if __name__ == "__main__":
    main()
