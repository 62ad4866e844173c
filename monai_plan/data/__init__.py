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
from monai_plan.data.downloads import download_datalist
from monai_plan.data.facts import DatalistFacts, inspect_datalist
from monai_plan.data.header import ImageHeader, ImageRefusedError
from monai_plan.data.held import HeldImages
from monai_plan.data.intensity import IntensityScaling, ScaleShownd, choose_scaling
from monai_plan.data.phantoms import PHANTOM_LABELS, make_phantoms, phantom_image
from monai_plan.data.reader import LoadShownImaged, image_header, read_image
from monai_plan.data.report import describe_data
from monai_plan.data.writers import contact_sheet, middle_planes, write_image

__all__ = [
    "PHANTOM_LABELS",
    "CheckedDataset",
    "Datalist",
    "DatalistFacts",
    "HeldImages",
    "ImageHeader",
    "ImageRefusedError",
    "IntensityScaling",
    "LoadShownImaged",
    "ScaleShownd",
    "check_split",
    "choose_scaling",
    "contact_sheet",
    "datalist_from_aptos",
    "datalist_from_csv",
    "datalist_from_folders",
    "datalist_from_medmnist",
    "datalist_from_shenzhen",
    "describe_data",
    "download_datalist",
    "image_header",
    "inspect_datalist",
    "make_phantoms",
    "middle_planes",
    "phantom_image",
    "read_datalist",
    "read_image",
    "split_by_subject",
    "write_datalist",
    "write_image",
]
