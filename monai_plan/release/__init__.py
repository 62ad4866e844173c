"""What may leave: which points become images, the check of their distance, the release on disk, and its readers.

Nothing passes from the private side to ``release/`` but by this room.
"""

from monai_plan.release.bank import SyntheticBank, SyntheticDataset, SyntheticSource
from monai_plan.release.card import dataset_card
from monai_plan.release.distance import DistanceCheck, check_quantile
from monai_plan.release.images import synthesize_images
from monai_plan.release.mix import mix
from monai_plan.release.reader import Release, read_release
from monai_plan.release.select import ReleasePoints, load_paths, may_leave, select
from monai_plan.release.writer import shared_affine, write_synthetic

__all__ = [
    "DistanceCheck",
    "Release",
    "ReleasePoints",
    "SyntheticBank",
    "SyntheticDataset",
    "SyntheticSource",
    "check_quantile",
    "dataset_card",
    "load_paths",
    "may_leave",
    "mix",
    "read_release",
    "select",
    "shared_affine",
    "synthesize_images",
    "write_synthetic",
]
