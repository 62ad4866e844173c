"""A tiny data set, generator, inverter and walk, in 2D and 3D, and a spy that stops a stage like a kill."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import torch
from monai.transforms import Compose, LoadImaged, ScaleIntensityRanged
from torch import nn

from monai_plan.bundle.anchor_maker import AnchorMaker
from monai_plan.bundle.stages import AnchorsStage, InvertStage, SynthesizeStage, WalkStage
from monai_plan.data import CheckedDataset, write_datalist, write_image
from monai_plan.latent import InversionSettings, LatentInverter, LatentWalk, SelectionSettings, WalkSettings
from monai_plan.networks import StyleGAN2Generator
from monai_plan.utils import save_artifact

SUBJECTS, IMAGES_EACH, K, T = 5, 2, 2, 6  # a class has 5 patients with 2 images each: 2 anchors, so 1 pair
NAMES = {0: "normal", 1: "lesion"}


def make_dataset(folder, spatial_dims, *, subjects=SUBJECTS, seed=0, section="training", names=NAMES):
    """Noise in files and of subjects whose names would be noticed elsewhere; the classes take turns."""
    rng = torch.Generator().manual_seed(seed)
    (folder / section).mkdir(parents=True)
    items = []
    for subject in range(subjects * len(names)):
        for number in range(IMAGES_EACH):
            suffix = ".png" if spatial_dims == 2 else ".nii"
            file = folder / section / f"patientfile_{subject}_{number}{suffix}"
            affine = np.diag([2.0, 3.0, 4.0, 1.0]) if spatial_dims == 3 else None
            write_image(file, torch.rand(1, *(8,) * spatial_dims, generator=rng), affine=affine)
            items.append({"image": str(file), "label": subject % len(names), "subject": f"{section}secret{subject}"})
    sections = {"training": [], section: items}
    write_datalist(folder / "datalist.json", labels=names, sections=sections, name="tiny", description="noise")
    return CheckedDataset(
        datalist_file=folder / "datalist.json", section=section, transform=reading(spatial_dims),
        img_size=(8,) * spatial_dims, img_channels=1, num_classes=len(names),
    )  # fmt: skip


def reading(spatial_dims):
    reader = "PILReader" if spatial_dims == 2 else "NibabelReader"
    return Compose([
        LoadImaged("image", ensure_channel_first=True, reader=reader),
        ScaleIntensityRanged("image", 0, 255, -1, 1),
    ])  # fmt: skip


def make_generator(spatial_dims, seed=0):
    torch.manual_seed(seed)
    return StyleGAN2Generator(spatial_dims, 8, 1, 5, 6, 2, channel_base=64, channel_max=4, mapping_layers=2).eval()


def make_inverter(generator, **options):
    seed = options.pop("seed", 1)
    settings = InversionSettings(**{"steps": 3, "starts": 2, "num_mean_samples": 8, **options})
    return LatentInverter(generator, nn.Flatten(), settings=settings, seed=seed)


def make_walk(generator, *, terms=None, points_per_batch=None, **options):
    torch.manual_seed(2)
    pixels = 8 ** len(generator.img_size)
    nets = [nn.Sequential(nn.Flatten(), nn.Linear(pixels, n)) for n in (10, 2)]
    settings = WalkSettings(**{"num_points": T, "steps": 3, **options})
    return LatentWalk(generator, *nets, settings=settings, terms=terms, points_per_batch=points_per_batch)


class Spy:
    """Counts the calls of an inverter or a walk and, like a kill, stops at one of them."""

    def __init__(self, wrapped, stop_at=None):
        self.wrapped, self.stop_at, self.calls = wrapped, stop_at, []

    def __getattr__(self, name):
        return getattr(self.wrapped, name)

    def __call__(self, *args, **options):
        if len(self.calls) == self.stop_at:
            raise KeyboardInterrupt
        self.calls.append(args)
        return self.wrapped(*args, **options)

    def walk_pairs(self, w_a, w_b, labels, **options):
        if len(self.calls) == self.stop_at:
            raise KeyboardInterrupt
        self.calls += zip(w_a, w_b, labels, strict=True)
        return self.wrapped.walk_pairs(w_a, w_b, labels, **options)


def invert(**options):
    InvertStage(**options).run()


def average(latents_file, output_file, k):
    """Anchors that are averages of k patients."""
    nothing = dict.fromkeys(("generator", "identity_net", "class_net", "training", "test", "embedding"))
    maker = AnchorMaker(latents_file=latents_file, k=k, selection=SelectionSettings(), **nothing)
    AnchorsStage(maker=maker, output_file=output_file, kind="k_same", walk="plan", num_points=T).run()


def draw_anchors(case, output_file, *, walk="plan", num_images=7, selection=None, quantile=None):
    """Anchors of G's own distribution."""
    networks = make_walk(case.generator)
    maker = AnchorMaker(
        latents_file=case.files.latents, k=K, generator=case.generator, identity_net=networks.identity_net,
        class_net=networks.class_net, selection=selection or SelectionSettings(), training=case.dataset,
        test=nobody(case.dataset), embedding=nn.Flatten(), min_distance_quantile=quantile,
    )  # fmt: skip
    AnchorsStage(
        maker=maker, output_file=output_file, kind="prior", walk=walk, num_points=T, num_images=num_images
    ).run()  # fmt: skip


def walk_anchors(**options):
    WalkStage(**{"embedding": nn.Flatten(), "test": nobody(options["dataset"]), **options}).run()


def nobody(dataset):
    """A test section without images."""
    return SimpleNamespace(images=dataset.images.subset([]), identities=dataset.identities[:0])


def synthesize(**options):
    SynthesizeStage(**options).run()


def out_files(folder):
    return {
        "output_file": folder / "latents.pt", "report_file": folder / "inversion.json", "parts_dir": folder / "parts",
        "images_per_part": 8,
    }  # fmt: skip


def released_to(folder):
    return {"datalist_file": folder / "datalist.json", "card_file": folder / "dataset_card.md"}


def many_anchors(tmp_path, count=4):
    """Anchors of their own, so that there are several pairs a class."""
    rng = torch.Generator().manual_seed(0)
    labels = torch.tensor([0] * count + [1] * count)
    data = {"latents": torch.randn(2 * count, 6, generator=rng), "labels": labels, "members": [[0]] * 2 * count, "k": K}
    save_artifact(tmp_path / "anchors.pt", kind="anchors", data=data)
    return tmp_path / "anchors.pt"
