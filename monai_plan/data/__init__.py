"""Data lists, the checked data set, phantoms with known truth, and writers of images."""

from monai_plan.data.builders import (
    datalist_from_aptos,
    datalist_from_csv,
    datalist_from_folders,
    datalist_from_medmnist,
    datalist_from_shenzhen,
)
from monai_plan.data.datalist import Datalist, check_split, read_datalist, split_by_subject, write_datalist
from monai_plan.data.dataset import CheckedDataset
from monai_plan.data.phantoms import PHANTOM_LABELS, make_phantoms, phantom_image
from monai_plan.data.writers import contact_sheet, write_image

__all__ = [
    "PHANTOM_LABELS",
    "CheckedDataset",
    "Datalist",
    "check_split",
    "contact_sheet",
    "datalist_from_aptos",
    "datalist_from_csv",
    "datalist_from_folders",
    "datalist_from_medmnist",
    "datalist_from_shenzhen",
    "make_phantoms",
    "phantom_image",
    "read_datalist",
    "split_by_subject",
    "write_datalist",
    "write_image",
]
