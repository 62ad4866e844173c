"""What may leave: which points become images, the check of their distance, the release on disk, and its readers.

Nothing passes from the private side to ``release/`` but by this room.
"""

from monai_plan.release.bank import SyntheticBank, SyntheticDataset, SyntheticSource
from monai_plan.release.card import dataset_card
from monai_plan.release.distance import DistanceCheck, check_quantile
from monai_plan.release.images import synthesize_images
from monai_plan.release.mix import mix
from monai_plan.release.reader import Release, read_release
from monai_plan.release.secret import release_secret
from monai_plan.release.select import ReleasePoints, load_paths, may_leave, points_to_leave, select
from monai_plan.release.words import as_markdown, check_words
from monai_plan.release.writer import shared_affine, shared_spacing, stamp, write_synthetic

__all__ = [
    "DistanceCheck",
    "Release",
    "ReleasePoints",
    "SyntheticBank",
    "SyntheticDataset",
    "SyntheticSource",
    "as_markdown",
    "check_quantile",
    "check_words",
    "dataset_card",
    "load_paths",
    "may_leave",
    "mix",
    "points_to_leave",
    "read_release",
    "release_secret",
    "select",
    "shared_affine",
    "shared_spacing",
    "stamp",
    "synthesize_images",
    "write_synthetic",
]
