"""The gate: what leaves the house, as data, as a classifier or as a generator, and only behind a fresh audit."""

from monai_plan.bundle.gate.leave import release_bundle
from monai_plan.bundle.gate.manifest import MANIFEST_NAME, check_manifest

__all__ = ["MANIFEST_NAME", "check_manifest", "release_bundle"]
