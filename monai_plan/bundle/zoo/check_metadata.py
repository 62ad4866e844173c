"""``configs/metadata.json`` against the rules of MONAI's specification and of the zoo's schema, written out here.

The schema itself lies on the web (the key ``schema``), and these checks use none: they are a stand-in, by the text of
the specification, of what that file asks for.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import monai_plan
from monai_plan.bundle.zoo.findings import Finding, error, warning

__all__ = ["check_metadata"]

_TEXTS = ("task", "description", "authors", "copyright")
_VERSIONS = ("version", "monai_version", "pytorch_version", "numpy_version")
_EXACT = re.compile(r"\d+(\.\d+)*([a-z]+\d*)?(\.[a-z]+\d+)?")  # what pip takes behind "==", without a local part
_TENSOR: dict[str, tuple[type, ...]] = {
    "type": (str,),
    "format": (str,),
    "num_channels": (int,),
    "spatial_shape": (list,),
    "dtype": (str,),
    "value_range": (list,),
    "is_patch_data": (bool,),
    "channel_def": (dict,),
}
_TYPES = ("image", "series", "tuples", "probabilities")
OWN_PACKAGE = "monai_plan"


def check_metadata(metadata: Mapping[str, Any]) -> list[Finding]:
    """Everything that is missing or of another form.

    Args:
        metadata: content of ``configs/metadata.json``.
    """
    found = [*_check_texts(metadata), *_check_versions(metadata), *_check_packages(metadata)]
    data_format = metadata.get("network_data_format")
    for side, name in (("inputs", "image"), ("outputs", "pred")):
        tensors = data_format.get(side) if isinstance(data_format, Mapping) else None
        if not isinstance(tensors, Mapping) or name not in tensors:
            text = f"metadata: network_data_format has no {side}#{name}."
            found.append(error("metadata.tensor", text, "MONAI's verify_net_in_out looks there alone: describe it."))
            continue
        for key, tensor in tensors.items():
            found += _check_tensor(f"network_data_format#{side}#{key}", tensor)
    return found


def _check_texts(metadata: Mapping[str, Any]) -> list[Finding]:
    found = []
    for key in ("schema", *_TEXTS):
        if not isinstance(metadata.get(key), str) or not metadata[key].strip():
            found.append(error("metadata.key", f"metadata: {key} is missing or no text.", "Write it."))
    if not str(metadata.get("schema", "https://")).startswith("https://"):
        found.append(error("metadata.key", "metadata: schema is no address.", "Name the zoo's schema."))
    return found


def _check_versions(metadata: Mapping[str, Any]) -> list[Finding]:
    found = []
    for key in _VERSIONS:
        if not isinstance(metadata.get(key), str) or not _EXACT.fullmatch(metadata[key]):
            text = f"metadata: {key} is {metadata.get(key)!r}."
            found.append(error("metadata.version", text, "Give one version, as text, such as 1.2.0."))
    changelog = metadata.get("changelog")
    if not isinstance(changelog, Mapping) or metadata.get("version") not in changelog:
        text = f"metadata: changelog says nothing of version {metadata.get('version')}."
        found.append(error("metadata.changelog", text, "Add an entry: the zoo wants one for every version."))
    own = metadata.get("monai_plan_version")
    if own is not None and own != monai_plan.__version__:
        text = f"the bundle was made for monai_plan {own}, and this is {monai_plan.__version__}."
        found.append(warning("metadata.monai_plan", text, "Try it, and write the version that it works with."))
    return found


def _check_packages(metadata: Mapping[str, Any]) -> list[Finding]:
    packages = metadata.get("required_packages_version")
    if not isinstance(packages, Mapping):
        return [error("metadata.packages", "metadata: required_packages_version is missing.", "Write it, if empty.")]
    found = []
    for name, version in packages.items():
        if not isinstance(version, str) or not _EXACT.fullmatch(version):
            text = f"metadata: {name} is required as {version!r}."
            found.append(error("metadata.packages", text, "The zoo installs name==version: give one version."))
    if OWN_PACKAGE in packages:
        text = f"metadata: {OWN_PACKAGE} is required, which is on no index."
        found.append(
            error("metadata.packages", text, "The zoo could not install it: write monai_plan_version in its place.")
        )
    return found


def _check_tensor(name: str, tensor: Any) -> list[Finding]:
    if not isinstance(tensor, Mapping):
        return [error("metadata.tensor", f"metadata: {name} is no object.", "Describe the tensor.")]
    found = []
    for key, kinds in _TENSOR.items():
        if not isinstance(tensor.get(key), kinds) or (kinds == (int,) and isinstance(tensor[key], bool)):
            text = f"metadata: {name}#{key} is missing or no {kinds[0].__name__}."
            found.append(error("metadata.tensor", text, "Write it as MONAI's bundle specification has it."))
    if isinstance(tensor.get("type"), str) and tensor["type"] not in _TYPES:
        text = f"metadata: {name}#type is {tensor['type']!r}."
        found.append(error("metadata.tensor", text, f"It is one of {', '.join(_TYPES)}."))
    if isinstance(tensor.get("value_range"), list) and len(tensor["value_range"]) not in (0, 2):
        found.append(error("metadata.tensor", f"metadata: {name}#value_range has not two values.", "[] or [min, max]."))
    return found
