"""Bundles as the model zoo has them: their names, new ones for one's own data, and what the zoo would say of one."""

from __future__ import annotations

from monai_plan.bundle.names import bundle_folder, bundle_path, bundles, check_name
from monai_plan.bundle.zoo.making import BundleRecipe, write_bundle
from monai_plan.bundle.zoo.new_bundle import new_bundle
from monai_plan.bundle.zoo.verify import Finding, verify_bundle

__all__ = [
    "BundleRecipe",
    "Finding",
    "bundle_folder",
    "bundle_path",
    "bundles",
    "check_name",
    "new_bundle",
    "verify_bundle",
    "write_bundle",
]
