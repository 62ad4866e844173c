"""From stored values to [−1, 1]: one choice per data set, made once and said in one line."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from monai.config import KeysCollection
from monai.data.meta_tensor import MetaTensor
from monai.transforms import MapTransform
from torch import Tensor

from monai_plan.data.facts import DatalistFacts, Sample, inspect_datalist
from monai_plan.data.header import ImageHeader
from monai_plan.data.reader import LoadShownImaged
from monai_plan.utils import ConfigError

INTENSITIES = ("auto", "range", "window", "percentiles")

CT_WINDOW = (-1000.0, 400.0)  # Hounsfield units: air to dense tissue
WITHOUT_SCALE = ("MR", "PT", "NM")  # modalities whose values mean nothing from one patient to the next
RARE = 0.05  # share of files; so few of their kind do not decide for all
PERCENTILES = (0.5, 99.5)
BIT_DEPTHS = (8, 10, 12, 14, 15, 16)
DIM = 8  # times that a file's own depth goes into the range of the others before it counts as stored in more bits

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class IntensityScaling:
    """How stored values become [−1, 1].

    Attributes:
        mode: "range", where values outside are a mistake; "window", where they are cut off on purpose; "percentiles",
            where each image has ends of its own.
        value_range: the values that become −1 and 1; None with "percentiles".
        percentiles: the percentiles of each image that become −1 and 1; None without "percentiles".
        reason: why, in words.
    """

    mode: str
    value_range: tuple[float, float] | None
    percentiles: tuple[float, float] | None = None
    reason: str = "as given"

    def __str__(self) -> str:
        ends = self.value_range or self.percentiles or ()
        return f"{self.mode} " + " to ".join(f"{end:g}" for end in ends) + f", {self.reason}"


def choose_scaling(
    *,
    datalist_file: str | os.PathLike[str],
    intensity: str = "auto",
    intensity_range: Sequence[float] | None = None,
    intensity_percentiles: Sequence[float] = PERCENTILES,
) -> IntensityScaling:
    """Choose how a data set is scaled, and log it in one line.

    "auto" is the range that was given; else 0 to 255 where all values have 8 bits; a window of Hounsfield units for CT;
    the range of the bits in use where all files have the same; and percentiles of each image where there is no common
    scale, as in MR.

    Args:
        datalist_file: see ``inspect_datalist``; looked at where the range is not given.
        intensity: "auto", "range", "window" or "percentiles".
        intensity_range: the values that become −1 and 1, for "range" and "window".
        intensity_percentiles: the percentiles of each image that become −1 and 1, for "percentiles".

    Raises:
        ConfigError: if the options are wrong or contradict each other, or "range" is asked for and the files have none
            in common.
        DataError: as ``inspect_datalist``.
    """
    ends = _pair(intensity_range, "intensity_range") if intensity_range is not None else None
    percentiles = _pair(intensity_percentiles, "intensity_percentiles")
    if percentiles[0] < 0 or percentiles[1] > 100:
        raise ConfigError(f"intensity_percentiles is {list(percentiles)}, but percentiles lie between 0 and 100.")
    if intensity not in INTENSITIES:
        raise ConfigError(f"intensity is {intensity!r}, but must be one of {', '.join(INTENSITIES)}.")
    if intensity == "percentiles":
        if ends is not None:
            raise ConfigError("intensity is 'percentiles', so each image has its own range: leave intensity_range out.")
        scaling = IntensityScaling("percentiles", None, percentiles)
    elif ends is not None:
        scaling = IntensityScaling("window" if intensity == "window" else "range", ends)
    elif intensity == "window":
        scaling = IntensityScaling("window", CT_WINDOW, reason="the usual one of CT in Hounsfield units")
    else:
        scaling = _automatic(inspect_datalist(datalist_file), percentiles)
        if intensity == "range" and scaling.mode != "range":
            raise ConfigError(f"intensity is 'range', but {scaling.reason}: give intensity_range as well.")
    _say_once(f"intensity: {scaling}")
    return scaling


def scaling_by_file(datalist_file: str | os.PathLike[str]) -> dict[str, IntensityScaling]:
    """How each file is scaled by what its own header says, where files come from anywhere: one depth is not all's.

    Files of one range and modality are scaled alike, as ``choose_scaling`` would a data set of them alone.

    Args:
        datalist_file: see ``inspect_datalist``.

    Returns:
        By the path of every file that has a header.

    Raises:
        DataError: as ``inspect_datalist``.
    """
    facts = inspect_datalist(datalist_file)
    kinds: dict[Any, dict[str, ImageHeader]] = {}
    for path, header in facts.headers.items():
        kinds.setdefault((header.value_range, header.modality), {})[path] = header
    scalings = {}
    for headers in kinds.values():
        scaling = _automatic(replace(facts, headers=headers), PERCENTILES)
        scalings.update(dict.fromkeys(headers, scaling))
        _say_once(f"intensity of {len(headers)} files: {scaling}")
    return scalings


@lru_cache(maxsize=64)
def _say_once(line: str) -> None:
    logger.info(line)


def _pair(values: Any, name: str) -> tuple[float, float]:
    try:
        low, high = map(float, values)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{name} is {values!r}, but must be two numbers such as [0, 255].") from error
    if not low < high or not np.isfinite([low, high]).all():
        raise ConfigError(f"{name} is {list(values)}, but the first must be less than the second.")
    return low, high


def _automatic(facts: DatalistFacts, percentiles: tuple[float, float]) -> IntensityScaling:
    """See ``choose_scaling``; what speaks for a common scale is asked in turn."""
    headers = [header for header in facts.headers.values() if len(header.size) == facts.spatial_dims]
    kinds = Counter((header.value_range, header.modality) for header in headers)
    headers = [
        h for h in headers if kinds[h.value_range, h.modality] >= RARE * len(headers)
    ]  # the check names the rest
    ranges = {header.value_range for header in headers}
    if ranges <= {(0.0, 255.0)}:
        return IntensityScaling("range", (0.0, 255.0), reason="for all values have 8 bits")
    modalities = {header.modality for header in headers}
    if modalities == {"CT"}:
        return IntensityScaling("window", CT_WINDOW, reason="for all files are CT")
    samples = facts.samples
    low, high = (min(s.low for s in samples), max(s.high for s in samples)) if samples else (0.0, 0.0)
    (common,) = ranges if len(ranges) == 1 else (None,)
    without = sorted(modalities & set(WITHOUT_SCALE))
    if common is not None and common[0] == 0 and not without:
        stored = max(header.bits or 0 for header in headers)
        bits = min((depth for depth in BIT_DEPTHS if high < 2**depth), default=stored) if stored > 12 else stored
        return IntensityScaling("range", (0.0, 2.0**bits - 1), reason=f"for {bits} of {stored} bits are used")
    like_ct = [s for s in samples if -4000 <= s.low <= -400 and 200 <= s.high <= 33000]
    if ranges == {None} and like_ct and len(samples) - len(like_ct) <= RARE * len(samples):
        _warn_of([s for s in samples if s not in like_ct], len(samples))
        low, high = min(s.low for s in like_ct), max(s.high for s in like_ct)
        reason = f"for values from {low:g} to {high:g} look like Hounsfield units"
        return IntensityScaling("window", CT_WINDOW, reason=reason)
    if without:
        reason = f"for {' and '.join(without)} has no scale"
    elif len(ranges) > 1:
        bits_of = sorted({"real numbers" if h.bits is None else f"{h.bits} bits" for h in headers})
        reason = f"for files of {' and '.join(bits_of)} have no common scale"
    else:
        least, most = min(samples, key=lambda s: s.high), max(samples, key=lambda s: s.high)
        reason = (
            f"for values without a scale end between {least.high:g} ({Path(least.path).name}) and {most.high:g} "
            f"({Path(most.path).name})"
        )
    return IntensityScaling("percentiles", None, percentiles, reason)


def _warn_of(odd: Sequence[Sample], number: int) -> None:
    """Files that the window is not made for."""
    if odd:
        logger.warning(
            "%d of %d files that were looked at have no values of CT, such as %s (%g to %g): the window of all others "
            "cuts them too, so look at them, or leave them out",
            len(odd), number, odd[0].path, odd[0].low, odd[0].high,
        )  # fmt: skip


class ScaleShownd(MapTransform):
    """Scale images to [−1, 1] as was chosen for their data set, and clip what lies outside.

    Args:
        keys: of images [C, *spatial].
        scaling: see ``choose_scaling``.
        allow_missing_keys: do not raise an error if a key is missing.
    """

    def __init__(self, keys: KeysCollection, scaling: IntensityScaling, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.scaling = scaling

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Scale what the keys name; an image of one value becomes −1 where its own percentiles scale it."""
        scaled = dict(data)
        for key in self.key_iterator(scaled):
            scaled[key] = scale_image(scaled[key], self.scaling)
        return scaled


def scale_image(image: Tensor, scaling: IntensityScaling) -> Tensor:
    """An image [C, *spatial] in [-1, 1], clipped there."""
    values = image.as_tensor() if isinstance(image, MetaTensor) else image
    if scaling.percentiles is None:
        assert scaling.value_range is not None
        low, high = scaling.value_range
    else:
        low, high = np.percentile(values.numpy(), scaling.percentiles).tolist()
        if not low < high:  # nearly all of one value: what differs is the picture
            low, high = float(values.min()), float(values.max())
    result = ((values - low) / ((high - low) or 1.0) * 2.0 - 1.0).clamp(-1.0, 1.0)
    return MetaTensor(result, affine=image.affine) if isinstance(image, MetaTensor) else result


class LoadNamedImaged(LoadShownImaged):
    """Load images as ``LoadShownImaged`` does, and keep the path of each, for ``ScaleByFiled``, under ``KEY_path``."""

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Load what the keys name."""
        paths = {f"{key}_path": data[key] for key in self.key_iterator(dict(data))}
        return super().__call__(data) | paths


class ScaleByFiled(MapTransform):
    """Scale each image to [-1, 1] as its own file asks for, see ``scaling_by_file``; it follows ``LoadNamedImaged``.

    Files were sampled to know how many of their bits are in use. One that uses more has its own depth; so has one whose
    values end below an eighth of the range, such as 12 bits stored in 16 beside files that use all 16.

    Args:
        keys: of images [C, *spatial].
        scalings: by path.
    """

    def __init__(self, keys: KeysCollection, scalings: Mapping[str, IntensityScaling]) -> None:
        super().__init__(keys)
        self.scalings = dict(scalings)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Scale what the keys name."""
        scaled = dict(data)
        for key in self.key_iterator(scaled):
            scaling, high = self.scalings[scaled[f"{key}_path"]], float(scaled[key].max())
            if scaling.mode == "range" and scaling.value_range is not None:
                own = 2.0 ** next((depth for depth in BIT_DEPTHS if high < 2**depth), BIT_DEPTHS[-1]) - 1
                if high > scaling.value_range[1] or DIM * own <= scaling.value_range[1]:
                    scaling = replace(scaling, value_range=(0.0, own))
            scaled[key] = scale_image(scaled[key], scaling)
        return scaled
