"""What may leave: which points become images, the check of their distance, the release on disk, and its readers.

Nothing passes from the private side to ``release/`` but by this room.
"""

from monai_plan.release.bank import SyntheticBank, SyntheticDataset, SyntheticSource
from monai_plan.release.mix import mix
from monai_plan.release.reader import Release, read_release
from monai_plan.release.writer import write_synthetic

__all__ = [
    "Release",
    "SyntheticBank",
    "SyntheticDataset",
    "SyntheticSource",
    "mix",
    "read_release",
    "write_synthetic",
]
