"""What a data list and the headers of its files say of a data set, so that nobody has to: classes, channels, size."""

from __future__ import annotations

import itertools
import logging
import math
import os
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any, TypeVar

from torch import Tensor

from monai_plan.data.datalist import Datalist, read_datalist
from monai_plan.data.header import ImageHeader, ImageRefusedError
from monai_plan.data.reader import image_header, read_image
from monai_plan.utils import DataError

STRETCHED = 1.25  # proportions that are changed by more are told
LARGEST = {2: 64, 3: 48}  # elements per axis that are proposed; more is the user's wish and costs time
STARTS = range(4, 8)  # sizes of the network's first block that learn well
SAMPLED = 24  # images whose pixels are read
EQUAL_CHANNELS = 2.0  # of 255: by so much the channels of a grey JPEG stored as RGB can differ

T = TypeVar("T")
R = TypeVar("R")
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Sample:
    """What the pixels of one image show: its path, least and greatest value, and whether they have colour."""

    path: str
    low: float
    high: float
    colour: bool


@dataclass(frozen=True)
class DatalistFacts:
    """What a bundle can know of a data set without being told.

    Attributes:
        num_classes: classes that the data list names.
        spatial_dims: 2 or 3.
        img_channels: 1, or 3 if there is colour.
        img_size: a size that the network learns well, no larger than the images and with nearly their proportions.
        headers: of every image of ``training`` and ``test`` that can be read, by its path.
    """

    num_classes: int = 2
    spatial_dims: int = 2
    img_channels: int = 1
    img_size: tuple[int, ...] = (64, 64)
    headers: dict[str, ImageHeader] = field(default_factory=dict, repr=False)

    @cached_property
    def samples(self) -> list[Sample]:
        """Of the pixels of some images, spread evenly over the data list."""
        return sample_pixels(list(self.headers))


def inspect_datalist(datalist_file: str | os.PathLike[str]) -> DatalistFacts:
    """Look at a data list and at the headers of its files; say in one line of the log what was found.

    What was found of a data list is kept in the process while the file stays the same.

    Args:
        datalist_file: see ``read_datalist``. If there is none, the facts are those of two classes of grey images of
            64 x 64, so that a bundle's network can be built without data.

    Raises:
        DataError: if the list breaks a rule, or no image exists or can be used.
    """
    path = os.path.abspath(datalist_file)
    if not os.path.exists(path):
        return DatalistFacts()
    stat = os.stat(path)
    return _inspected(path, stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=8)
def _inspected(path: str, changed: int, size: int) -> DatalistFacts:
    datalist = read_datalist(path)
    check_classes(datalist)
    items = [item for name in ("training", "test") for item in datalist.sections.get(name, ())]
    check_files(items, datalist)
    paths = [item["image"] for item in items]
    if not paths:
        raise DataError(f'{datalist.path} lists no image in "training" nor in "test": add those of your data set.')
    found = list(zip(paths, in_threads(_header_or_reason, paths), strict=True))
    headers = {path: header for path, header in found if isinstance(header, ImageHeader)}
    if not headers:
        raise DataError(
            f"{datalist.path} lists {len(paths)} images, of which none can be used: {paths[0]} {found[0][1]}."
        )
    dims = _most_common(len(header.size) for header in headers.values())
    sizes = [header.size for header in headers.values() if len(header.size) == dims]
    channels = _most_common(header.channels for header in headers.values())
    colour = [path for path, header in headers.items() if header.channels == 3]
    if colour and not any(sample.colour for sample in sample_pixels(colour)):
        channels = 1
    facts = DatalistFacts(len(datalist.labels), dims, channels, fitting_size(sizes), headers)
    _say(facts, sizes)
    return facts


def _say_stretched(facts: DatalistFacts, sizes: Sequence[tuple[int, ...]]) -> None:
    typical = [statistics.median(axis) for axis in zip(*sizes, strict=True)]
    scales = [size / true for size, true in zip(facts.img_size, typical, strict=True)]
    if max(scales) <= STRETCHED * min(scales):
        return
    volumes = (
        "; the size of the voxels makes up for it. Multiples of 8 from 32 on, such as --img_size '[48,48,32]', have an "
        "autoencoder by default, which is faster"
    )
    logger.info(
        "%s changes the proportions of images of %s, for its axes lie at most 7 : 4 apart%s",
        list(facts.img_size), " x ".join(f"{size:g}" for size in typical), volumes if facts.spatial_dims == 3 else "",
    )  # fmt: skip


def _say(facts: DatalistFacts, sizes: Sequence[tuple[int, ...]]) -> None:
    least, most = (" x ".join(str(pick(axis)) for axis in zip(*sizes, strict=True)) for pick in (min, max))
    stored = sorted({f"{header.bits} bits" if header.bits else "no fixed range" for header in facts.headers.values()})
    logger.info(
        "found in the data: num_classes %d, spatial_dims %d, img_channels %d, %s, sizes %s, "
        "by default img_size %s",
        facts.num_classes, facts.spatial_dims, facts.img_channels, " and ".join(stored),
        least if least == most else f"{least} to {most}", list(facts.img_size),
    )  # fmt: skip
    _say_stretched(facts, sizes)
    without = [path for path, header in facts.headers.items() if not header.sided]
    if without:
        logger.warning(
            "%d of %d volumes do not say where left and right are (neither sform nor qform), such as %s: their first "
            "axis is taken to run to the left; viewers differ, and other volumes may lie mirrored against them",
            len(without), len(facts.headers), without[0],
        )  # fmt: skip


def check_classes(datalist: Datalist, num_classes: int | None = None) -> None:
    """Check what the data list alone shows of the classes, before a file is opened.

    Args:
        datalist: the list.
        num_classes: classes of the run, if they were given; by default those that the list names.

    Raises:
        DataError: if labels do not begin at 0, have gaps or no image in ``training``.
    """
    used = {item["label"] for item in datalist.sections["training"]}
    names = sorted(datalist.labels)
    if used and min(used) >= 1 and 0 not in names:
        raise DataError(
            f"{datalist.path} has labels from {min(used)} to {max(used)}, but labels begin at 0: subtract {min(used)} "
            'from each, in its "labels" too.'
        )
    wanted = range(len(names) if num_classes is None else num_classes)
    if num_classes is None and names != list(wanted):
        raise DataError(f'{datalist.path} names the classes {names} in "labels", but they must run from 0 on.')
    empty = [label for label in wanted if label not in used]
    if used and empty:
        named = ", ".join(f"{label} ({datalist.labels.get(label, 'not named in the data list')})" for label in empty)
        given = "" if num_classes is None else f", or lower num_classes, which is {num_classes}"
        raise DataError(
            f'{datalist.path} has no image of class {named} in the section "training": add images of it, or take its '
            f'name out of "labels"{given}.'
        )


def check_files(items: Sequence[dict[str, Any]], datalist: Datalist) -> None:
    """Check that not all files are missing, which is a mistake in the folder and not in the files.

    Raises:
        DataError: if none exists.
    """
    if items and not any(os.path.exists(item["image"]) for item in items):
        raise DataError(
            f"none of the {len(items)} images of {datalist.path} exists, the first is {items[0]['image']}: paths are "
            "relative to the data list, so put it where it was made for, or make it again."
        )


def _header_or_reason(path: str) -> ImageHeader | str:
    try:
        return image_header(path)
    except ImageRefusedError as error:
        return str(error)
    except Exception as error:  # readers raise what they like on a damaged file
        return f"cannot be read: {error}"


def sample_pixels(paths: Sequence[str]) -> list[Sample]:
    """What the pixels of at most ``SAMPLED`` of the files show; files that cannot be read are passed over."""
    step = max(len(paths) / SAMPLED, 1.0)
    chosen = [paths[int(step * number)] for number in range(min(SAMPLED, len(paths)))]
    return [sample for sample in in_threads(_sample, chosen) if sample is not None]


def _sample(path: str) -> Sample | None:
    try:
        image = read_image(path).as_tensor()
    except Exception:  # the check names it later
        return None
    finite = image[image.isfinite()]
    if not len(finite):
        return None
    return Sample(path, float(finite.min()), float(finite.max()), has_colour(image, 255.0))


def has_colour(image: Tensor, span: float) -> bool:
    """Whether the channels of [C, *spatial] differ by more than a JPEG's rounding; ``span`` is from black to white."""
    return len(image) > 1 and float((image.amax(0) - image.amin(0)).max()) > EQUAL_CHANNELS / 255.0 * span


def fitting_size(sizes: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    """A size for the network: on every axis a start of 4 to 7 times the same power of two, see ``DatalistFacts``."""
    typical = [statistics.median(axis) for axis in zip(*sizes, strict=True)]
    limits = [max(min(size, LARGEST[len(typical)]), 8) for size in typical]
    options = [
        tuple(start * 2**power for start in starts)
        for power in range(1, 5)
        for starts in itertools.product(STARTS, repeat=len(typical))
        if all(start * 2**power <= limit for start, limit in zip(starts, limits, strict=True))
    ]

    def distortion(option: tuple[int, ...]) -> float:
        scales = [math.log2(size / true) for size, true in zip(option, typical, strict=True)]
        return round((max(scales) - min(scales)) / 0.3)  # a tenth of stretching is no reason for a smaller size

    return min(options, key=lambda option: (distortion(option), -math.prod(option)))


def in_threads(function: Callable[[T], R], values: Sequence[T]) -> Iterable[R]:
    """``map`` on all cores, in order."""
    with ThreadPoolExecutor(num_cores()) as pool:
        yield from pool.map(function, values)


def num_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _most_common(values: Iterable[int]) -> int:
    return Counter(values).most_common(1)[0][0]
