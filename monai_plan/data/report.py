"""What no single image shows: pictures that occur twice, values that fill no range, volumes that lie askew."""

from __future__ import annotations

import logging
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, adaptive_avg_pool3d

from monai_plan.data.dataset import CheckedDataset
from monai_plan.data.held import HeldImages
from monai_plan.data.tables import look_alikes
from monai_plan.utils import DataError

NEAR = 0.03  # share of a perceptual hash's bits
MOST_WHITE = 0.3  # of the pixels of a set
SATURATED = 0.5  # of the pixels of an image
LEAST_USED = 0.25  # of a common range
MOST_CONSTANT = 0.1  # of the images: more, and it is the scaling that made them so
FAR = 8.0  # robust standard deviations
SPACING, TURN = 0.05, 0.1  # relative, and in components of unit vectors
NAMED = 3
BATCH = 64  # images looked at together

logger = logging.getLogger(__name__)


def describe_data(sections: Mapping[str, CheckedDataset]) -> dict[str, Any]:
    """Describe a data set, and warn of what is suspicious in it.

    Args:
        sections: by name, ``training`` among them.

    Returns:
        Plain values for a private JSON. By section: the numbers of images, subjects, images of each class, what was
        left out; ``black``, ``white`` and ``range_used``, shares; ``constant``, ``saturated`` and ``outlying``, names;
        ``lie_otherwise``, volumes whose spacing or direction differs from the others'; ``oblique_angled``, volumes
        whose axes are not at right angles. Of all sections: ``intensity``;
        ``look_alikes``, subjects that differ in case, spaces, ``.0`` or leading zeros; ``duplicates``, equal pixels of
        different subjects, sections or classes; ``near_duplicates``, pairs with nearly the same perceptual hash.

    Raises:
        DataError: if many images of the training section are of a single value.
    """
    scaling = sections["training"].intensity
    found: dict[str, Any] = {name: _describe_section(name, data) for name, data in sections.items()}
    constant, total = len(found["training"]["constant"]), len(sections["training"])
    if constant > max(MOST_CONSTANT * total, 1):
        raise DataError(
            f"{constant} of {total} training images are of one value after scaling (intensity: {scaling}), such as "
            f"{found['training']['constant'][0]}: look at them, or give another --intensity or --intensity_range."
        )
    found["intensity"] = None if scaling is None else str(scaling)
    subjects = {subject for data in sections.values() for subject in data.subjects}
    found["look_alikes"] = look_alikes(subjects) if sections["training"].has_subjects else []
    if found["look_alikes"]:
        _warn("%d groups of subjects differ only in case, spaces, .0 or leading zeros (%s): are they the same?",
              [" = ".join(group) for group in found["look_alikes"]])  # fmt: skip
    found["duplicates"] = _duplicates(sections)
    if found["duplicates"]:
        _warn("%d pictures occur more than once, under several patients, classes or in both sections (%s): count such "
              "patients as one with --merge_duplicates, or mend the data list",
              [" = ".join(group["images"]) for group in found["duplicates"]])  # fmt: skip
    found["near_duplicates"] = _near_duplicates(sections)
    if found["near_duplicates"]:
        _warn("%d pairs of images of different patients are nearly the same (%s): look at them",
              [" and ".join(pair) for pair in found["near_duplicates"]])  # fmt: skip
    return found


def _warn(text: str, names: Sequence[str], *values: Any) -> None:
    more = f", and {len(names) - NAMED} more in data.json" if len(names) > NAMED else ""
    logger.warning(text, *values, len(names), ", ".join(names[:NAMED]) + more)


def _describe_section(name: str, data: CheckedDataset) -> dict[str, Any]:
    black, white, low, high, mean, std = _pixel_figures(data.images).unbind(1)
    ends = _sampled_pixels(data.images).quantile(torch.tensor([0.005, 0.995]))
    found: dict[str, Any] = {
        "images": len(data),
        "subjects": data.num_subjects,
        "has_subjects": data.has_subjects,
        "images_per_class": {label: int((data.labels == label).sum()) for label in data.label_names},
        "left_out": data.skipped,
        "black": float(black.mean()),
        "white": float(white.mean()),
        "range_used": float(ends[1] - ends[0]) / 2,
        "constant": _named(data, high <= low),
        "saturated": _named(data, (white > SATURATED) & (high > low)),
        "outlying": _named(data, _far(mean) | _far(std)),
        "lie_otherwise": _named(data, _lie_otherwise(data)),
        "oblique_angled": _named(data, _oblique_angled(data)),
    }
    _warn_of_values(name, data, found)
    if found["lie_otherwise"]:
        _warn(f"{name}: %d volumes differ from the others in spacing or direction (%s): resample with --spacing, or "
              "look at them", found["lie_otherwise"])  # fmt: skip
    if found["oblique_angled"]:
        _warn(f"{name}: %d volumes have axes that are not at right angles to each other, as by a tilted gantry (%s): "
              "released ones will say that they are, so resample these before", found["oblique_angled"])  # fmt: skip
    return found


def _pixel_figures(images: HeldImages) -> Tensor:
    """[N, 6]: of each image the shares of black and of white, the least and the greatest value, mean and deviation."""
    figures = []
    for batch in images.split(BATCH):
        x = batch.flatten(1)
        shares = [(x <= -1).float().mean(1), (x >= 1).float().mean(1)]
        figures.append(torch.stack([*shares, x.amin(1), x.amax(1), x.mean(1), x.std(1)], dim=1))
    return torch.cat(figures)


def _sampled_pixels(images: HeldImages) -> Tensor:
    """At most about a million pixels, spread evenly over all images."""
    size = math.prod(images.shape[1:])
    step = max(len(images) * size // 1_000_000, 1)
    starts = (-number * BATCH * size % step for number in range(len(images)))
    return torch.cat([x.flatten()[start::step] for start, x in zip(starts, images.split(BATCH), strict=False)])


def _warn_of_values(name: str, data: CheckedDataset, found: Mapping[str, Any]) -> None:
    remedy = "another --intensity or --intensity_range may be right"
    if found["white"] > MOST_WHITE:
        logger.warning("%s: %.0f %% of all pixels are white, at the upper end or beyond: %s (0 to 4095 for 12 bits)",
                       name, 100 * found["white"], remedy)  # fmt: skip
    if data.intensity is not None and data.intensity.mode != "percentiles" and found["range_used"] < LEAST_USED:
        logger.warning("%s: only %.0f %% of the range is used, so images are nearly flat: %s",
                       name, 100 * found["range_used"], remedy)  # fmt: skip
    for kind, text in (
        ("constant", "images of one value: %d (%s)"),
        ("saturated", "images white in more than half of their pixels: %d (%s)"),
        ("outlying", "images much brighter, darker, flatter or harsher than the others: %d (%s)"),
    ):
        if found[kind]:
            _warn(f"{name}: {text}", found[kind])


def _named(data: CheckedDataset, which: Tensor) -> list[str]:
    return [data.keys[index] for index in which.nonzero().flatten().tolist()]


def _far(values: Tensor) -> Tensor:
    """Where values lie far from the others, by their median."""
    distance = (values - values.median()).abs()
    return distance > FAR * (1.4826 * distance.median()).clamp(min=0.02)


def _lie_otherwise(data: CheckedDataset) -> Tensor:
    """Volumes whose elements, as read, have another size or direction than those of most."""
    if data.images.ndim < 5:
        return torch.zeros(len(data), dtype=torch.bool)
    sizes, directions = _axes(data)
    usual = sizes.median(0).values
    turned = (directions - directions.median(0).values).abs().amax((1, 2)) > TURN
    return turned | ((sizes / usual - 1).abs().amax(1) > SPACING)


def _oblique_angled(data: CheckedDataset) -> Tensor:
    """Volumes with two axes that are not at a right angle, as read."""
    if data.images.ndim < 5:
        return torch.zeros(len(data), dtype=torch.bool)
    _, directions = _axes(data)
    cosines = directions.mT @ directions - torch.eye(3, dtype=directions.dtype)
    return cosines.abs().amax((1, 2)) > TURN


def _axes(data: CheckedDataset) -> tuple[Tensor, Tensor]:
    """Of each volume the sizes of an element, [N, 3] in mm, and its axes as the columns of [N, 3, 3], of length 1."""
    axes = data.affines[:, :3, :3]
    sizes = axes.norm(dim=1)
    return sizes, axes / sizes[:, None].clamp(min=1e-9)


def _duplicates(sections: Mapping[str, CheckedDataset]) -> list[dict[str, Any]]:
    """Groups of images with the same pixels that are not all of one subject, class and section."""
    groups: dict[str, list[tuple[str, str, str, int]]] = defaultdict(list)
    for name, data in sections.items():
        _, _, low, high, _, _ = _pixel_figures(data.images).unbind(1)
        flat = (high <= low).tolist()  # blank images are equal
        for digest, key, subject, label, blank in zip(
            data.digests, data.keys, data.subjects, data.labels.tolist(), flat, strict=True
        ):
            if not blank:
                groups[digest].append((name, key, subject, label))
    found = []
    for group in groups.values():
        names, keys, subjects, labels = (list(part) for part in zip(*group, strict=True))
        if len(set(names)) > 1 or len(set(subjects)) > 1 or len(set(labels)) > 1:
            found.append({"images": keys, "sections": names, "subjects": subjects, "labels": labels})
    return found


def _near_duplicates(sections: Mapping[str, CheckedDataset]) -> list[tuple[str, str]]:
    """Pairs of different subjects whose perceptual hashes nearly agree, though their pixels differ."""
    keys = [key for data in sections.values() for key in data.keys]
    subjects = [subject for data in sections.values() for subject in data.subjects]
    digests = [digest for data in sections.values() for digest in data.digests]
    hashes = torch.cat([_perceptual_hashes(x) for data in sections.values() for x in data.images.split(BATCH)])
    pairs: list[tuple[str, str]] = []
    for first in range(0, len(hashes), 1024):
        agree = hashes[first : first + 1024] @ hashes.T / hashes.shape[1]  # 1 - 2 · share of different bits
        for row, column in (agree >= 1 - 2 * NEAR).nonzero().tolist():
            one, other = first + row, column
            if one < other and subjects[one] != subjects[other] and digests[one] != digests[other]:
                pairs.append((keys[one], keys[other]))
    return pairs


def _perceptual_hashes(images: Tensor) -> Tensor:
    """Of each image [C, *spatial] 256 or 512 values ±1: whether a coarse version gets brighter along its first axis."""
    grey = images.mean(1, keepdim=True)
    coarse = adaptive_avg_pool2d(grey, (17, 16)) if images.ndim == 4 else adaptive_avg_pool3d(grey, (9, 8, 8))
    return torch.where(coarse.diff(dim=2) > 0, 1.0, -1.0).flatten(1)
