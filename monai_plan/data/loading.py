"""Reading a section of a data list: on all cores, each image checked, and kept in a file for the next process."""

from __future__ import annotations

import hashlib
import math
import os
import pickle
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from monai.data import get_track_meta, set_track_meta
from monai.data.meta_tensor import MetaTensor
from monai.transforms import Compose
from torch import Tensor

from monai_plan import __version__
from monai_plan.data.datalist import read_datalist
from monai_plan.data.facts import has_colour, num_cores
from monai_plan.data.header import ImageRefusedError
from monai_plan.data.held import GrowingImages, HeldImages
from monai_plan.data.intensity import ScaleShownd
from monai_plan.data.reader import LoadShownImaged, image_kind
from monai_plan.progress import Progress
from monai_plan.utils import PLANError, write_tensors

RANGE_TOLERANCE = 1e-3
PAIR = (".hdr", ".img", ".mat", ".HDR", ".IMG", ".MAT")  # files that make one volume together
# Of other versions, or once they are installed, an image may be another, or one at last.
DECODERS = ("monai", "numpy", "pillow", "nibabel", "pydicom", "pylibjpeg", "pylibjpeg-libjpeg", "pylibjpeg-openjpeg",
            "pylibjpeg-rle", "pyjpegls", "python-gdcm")  # fmt: skip
BAR_DELAY = 2.0  # seconds before a progress bar is worth its line


@dataclass
class LoadedImages:
    """What became of the images of a section.

    Attributes:
        images: N of [C, *spatial], those that are good.
        kept: N positions in the section.
        digests: N digests of the pixels as read.
        affines: [N, 2, 4, 4], float64, as read and after the transform; the identity where the transform keeps none.
        bad: of every other image its position, what is wrong, as the predicate of a sentence, and the config id to mend
            if the image itself may be right; else empty.
    """

    images: HeldImages
    kept: list[int]
    digests: list[str]
    affines: Tensor
    bad: list[tuple[int, str, str]]


class BadImageError(Exception):
    """Says what is wrong with one image, as the predicate of a sentence, and which config id may be wrong instead."""

    def __init__(self, reason: str, mend: str = "") -> None:
        super().__init__(reason)
        self.mend = mend


@contextmanager
def _metadata_tracked(wanted: bool) -> Iterator[None]:
    """Whether MONAI's transforms keep spacing and orientation, whatever ``monai.data.set_track_meta`` was told.

    Pictures have neither, and to carry none along would take half of the time of resizing and scaling.
    """
    before = get_track_meta()
    set_track_meta(wanted)
    try:
        yield
    finally:
        set_track_meta(before)


def load_images(
    items: Sequence[dict[str, Any]],
    transform: Callable[[dict[str, Any]], Any],
    *,
    shape: tuple[int, ...],
    num_classes: int,
    cache_file: Path | None,
    keep_bad: bool,
    desc: str | None,
) -> LoadedImages:
    """Read, transform and check images on all cores.

    Args:
        items: with ``image`` and ``label``.
        transform: deterministic, on the key ``image``.
        shape: [C, *spatial] that each image must have afterwards.
        num_classes: labels are below it.
        cache_file: where the result is kept, if it is; what is there is used if nothing has changed.
        keep_bad: whether the result is kept where images are bad. Who is going to mend something besides the images (a
            right, a package, the memory) must not be told the same again.
        desc: what the progress bar says; none is shown without it.
    """
    key = _cache_key(transform, shape, num_classes) if cache_file is not None else None
    belongs = image_marks(items) if cache_file is not None else {}
    if cache_file is not None:
        cached = _read_cache(cache_file, key, belongs)
        if cached is not None:
            return cached
    images = GrowingImages((len(items), *shape), span=_span(transform))
    affines = torch.empty(len(items), 2, 4, 4, dtype=torch.float64)

    def load(index: int) -> str | BadImageError:
        try:
            image, digest, affines[index] = _load(items[index], transform, shape=shape, num_classes=num_classes)
        except BadImageError as error:
            return error
        images.put(index, image)
        return digest

    threads = torch.get_num_threads()
    try:  # one core per image: where PyTorch shares the work on one image as well, the threads wait for each other
        with (
            _metadata_tracked(not _are_pictures(items, transform)),
            ThreadPoolExecutor(num_cores(), initializer=torch.set_num_threads, initargs=(1,)) as pool,
        ):
            loads = pool.map(load, range(len(items)))
            bar = Progress(loads, desc=desc, total=len(items), disable=desc is None, delay=BAR_DELAY, leave=False)
            results = list(bar)
    finally:
        torch.set_num_threads(threads)
    kept = [index for index, result in enumerate(results) if isinstance(result, str)]
    held = images.held
    if len(kept) < len(items):
        held, affines = held.subset(kept), affines[kept]
    bad = [(index, str(r), r.mend) for index, r in enumerate(results) if isinstance(r, BadImageError)]
    loaded = LoadedImages(held, kept, [r for r in results if isinstance(r, str)], affines, bad)
    if cache_file is not None and key is not None and (keep_bad or not bad):
        _write_cache(cache_file, key, belongs, loaded)
    return loaded


def _steps(transform: Callable[..., Any]) -> Sequence[Any]:
    return transform.flatten().transforms if isinstance(transform, Compose) else [transform]


def _are_pictures(items: Sequence[dict[str, Any]], transform: Callable[..., Any]) -> bool:
    """Whether our reader reads nothing but files of a format that knows no place in the body."""
    reads = isinstance(_steps(transform)[0], LoadShownImaged)
    return reads and all(image_kind(item["image"]) == "raster" for item in items)


def _span(transform: Callable[..., Any]) -> float:
    """Stored values from black to white, as a guess: a wrong one costs memory alone."""
    for step in _steps(transform):
        if isinstance(step, ScaleShownd):
            ends = step.scaling.value_range
            return 0.0 if ends is None else ends[1] - ends[0]
    return 255.0


# ---- what is kept for the next process -------------------------------------------------------------------------------


def _cache_key(transform: Callable[..., Any], shape: tuple[int, ...], num_classes: int) -> str | None:
    """All that the result depends on besides the images."""
    try:
        digest = hashlib.sha256(b"".join(pickle.dumps(step) for step in _steps(transform)))
    except Exception:  # a lambda, or whatever a user's transform holds
        return None
    versions = [__version__, torch.__version__, *map(_version, DECODERS)]
    digest.update(repr((versions, shape, num_classes)).encode())
    return digest.hexdigest()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def image_marks(items: Sequence[dict[str, Any]]) -> dict[str, str]:
    """Of every image, by its key, what changes when the file or its label does.

    The time of change is asked as well as that of writing, which copies and archives restore: a file that was replaced
    by one of the same size and date is another.
    """
    marks = {}
    for item in items:
        path = Path(item["image"])
        if path.is_dir():
            files = sorted(path.iterdir())
        else:
            parts = [path.with_suffix(part) for part in PAIR] if path.suffix in PAIR else [path]
            files = [file for file in dict.fromkeys([path, *parts]) if os.path.exists(file)]
        stats = [(file.name, file.stat()) for file in files]
        marks[item["key"]] = repr(
            (item["label"], [(name, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns) for name, stat in stats])
        )
    return marks


def clear_cache(cache_dir: str | os.PathLike[str], datalist_files: Iterable[str | os.PathLike[str]]) -> None:
    """Delete what is kept of images that the data lists do not name any more, or whose files changed.

    A patient who was removed is then gone from there as well, whatever is read next. What cannot be judged is deleted.
    """
    files = sorted(Path(cache_dir).glob("*.pt")) if Path(cache_dir).is_dir() else []
    if not files or not _is_first_rank():
        return
    belongs: set[tuple[str, str]] = set()
    for datalist in datalist_files:
        try:
            sections = read_datalist(datalist).sections
        except PLANError:  # whoever reads it next says what is wrong
            continue
        belongs.update(pair for items in sections.values() for pair in image_marks(items).items())
    for file in files:
        content = _content(file)
        if content is None or not belongs.issuperset(content["belongs"].items()):
            file.unlink(missing_ok=True)


def _write_cache(file: Path, key: str, belongs: dict[str, str], loaded: LoadedImages) -> None:
    if _is_first_rank():  # one is enough, and they share the folder
        write_tensors(file, {"key": key, "belongs": belongs, **vars(loaded), "images": vars(loaded.images)})


def _is_first_rank() -> bool:
    return not (dist.is_available() and dist.is_initialized() and dist.get_rank() > 0)


def _read_cache(file: Path, key: str | None, belongs: dict[str, str]) -> LoadedImages | None:
    content = _content(file)
    if content is None or content.pop("key") != key or list(content.pop("belongs").items()) != list(belongs.items()):
        if _is_first_rank():
            file.unlink(missing_ok=True)  # before the images are read, for it may hold somebody who was removed
        return None
    return LoadedImages(**content | {"images": HeldImages(**content["images"])})


def _content(file: Path) -> dict[str, Any] | None:
    """None if the file is missing or damaged."""
    try:
        content = torch.load(file, weights_only=True, mmap=True)
        return content if {"key", "belongs", "images"} <= content.keys() else None
    except Exception:  # torch raises what it likes
        return None


# ---- one image -------------------------------------------------------------------------------------------------------


def _load(
    item: dict[str, Any], transform: Callable[[dict[str, Any]], Any], *, shape: tuple[int, ...], num_classes: int
) -> tuple[Tensor, str, Tensor]:
    """The image after the transform, the digest of its pixels as read, and its affines as read and afterwards."""
    if not 0 <= item["label"] < num_classes:
        raise BadImageError(f"has the label {item['label']}, but labels run from 0 to {num_classes - 1}", "num_classes")
    if not os.path.exists(item["image"]):
        raise BadImageError(f"does not exist ({item['image']})")
    loaded: Any = None
    try:
        # The pixels are checked as loaded too: scaling with clipping would turn an infinite one into a 1.
        if isinstance(transform, Compose) and len(transform.transforms) > 1:
            result = transform({"image": item["image"]}, end=1)
            loaded = result["image"]
            digest, affine = _digest(loaded), _affine(loaded)
            if isinstance(loaded, Tensor) and loaded.ndim < len(shape):  # Resized would repeat it along a new axis
                _check_axes(loaded, len(shape) - 1)
            if isinstance(loaded, MetaTensor) and not get_track_meta():
                result = result | {"image": loaded.as_tensor()}
            image = transform(result, start=1)["image"]
        else:
            image = loaded = transform({"image": item["image"]})["image"]
            digest, affine = _digest(image), _affine(image)
    except BadImageError:
        raise
    except Exception as error:  # readers raise what they like on a damaged file, MONAI wraps it
        _check_axes(loaded, len(shape) - 1)
        raise BadImageError(_reason(error), getattr(_below_monai(error), "mend", "")) from error
    if not isinstance(image, Tensor):
        raise BadImageError(f"is a {type(image).__name__} after the transform, but a tensor is needed", "preprocessing")
    plain = image.as_tensor() if isinstance(image, MetaTensor) else image
    return _of_shape(plain, loaded, shape), digest, torch.stack([affine, _affine(image)])


def _affine(image: Any) -> Tensor:
    return image.affine.double() if isinstance(image, MetaTensor) else torch.eye(4, dtype=torch.float64)


def _of_shape(image: Tensor, loaded: Any, shape: tuple[int, ...]) -> Tensor:
    """The image with the channels that are wanted, if its size and values are right."""
    if image.ndim != len(shape):
        _check_axes(loaded, len(shape) - 1)
    elif image.shape[0] != shape[0]:
        if (len(image), shape[0]) == (1, 3):
            image = image.repeat(3, *[1] * (image.ndim - 1))
        elif (len(image), shape[0]) == (3, 1) and not has_colour(image, 2.0):
            image = image[[int(image.flatten(1).sum(1).argsort()[1])]]
        else:
            colour = " (it has colours)" if len(image) == 3 else ""
            raise BadImageError(
                f"has {image.shape[0]} channels after the transform{colour}, but img_channels is {shape[0]}",
                "img_channels",
            )
    if tuple(image.shape) != shape:
        raise BadImageError(
            f"has the shape {tuple(image.shape)} after the transform, but img_channels and img_size make {shape}",
            "the transform, img_size or img_channels",
        )
    low, high = _ends(image)
    if low < -1.0 - RANGE_TOLERANCE or high > 1.0 + RANGE_TOLERANCE:
        raise BadImageError(
            f"has values from {low:.4g} to {high:.4g} after the transform, but they must lie in [-1, 1] "
            "(add ScaleShownd or ScaleIntensityRanged)",
            "preprocessing",
        )
    return image.float()


def _check_axes(loaded: Any, dims: int) -> None:
    """Tell a volume, an image and colour apart, before sizes are blamed."""
    if not isinstance(loaded, Tensor) or loaded.ndim - 1 == dims:
        return
    size = " x ".join(map(str, loaded.shape[1:]))
    what = {2: "a single image or slice", 3: "a volume or a stack of frames"}.get(loaded.ndim - 1, "an array")
    raise BadImageError(
        f"is {what} of {size}, but spatial_dims is {dims} (img_size has {dims} numbers)", "spatial_dims and img_size"
    )


def _ends(image: Tensor) -> tuple[float, float]:
    """The least and the greatest value, if all are finite."""
    low, high = image.min().item(), image.max().item()
    if not (math.isfinite(low) and math.isfinite(high)):
        bad = image.numel() - int(image.isfinite().sum())
        raise BadImageError(f"has {bad} of {image.numel()} pixels that are NaN or infinite")
    return low, high


def _digest(image: Any) -> str:
    """Of the pixels as read, which must be finite; equal for a grey picture and the same stored as RGB."""
    tensor = (image.as_tensor() if isinstance(image, MetaTensor) else torch.as_tensor(image)).float()
    if len(tensor) == 3 and not has_colour(tensor, 0.0):
        tensor = tensor[:1]
    values = np.ascontiguousarray(tensor.numpy())  # NumPy takes less time for small arrays
    low, high = _ends(tensor)
    if low >= 0 and high <= 255:
        eight = values.astype(np.uint8)
        values = eight if (eight == values).all() else values  # a quarter to hash
    digest = hashlib.sha256(repr(values.shape).encode())
    digest.update(values.data)
    return digest.hexdigest()


def _below_monai(error: BaseException) -> BaseException:
    """The error that MONAI's transforms wrapped."""
    while error.__cause__ is not None and str(error).startswith("applying transform"):
        error = error.__cause__
    return error


def _reason(error: BaseException) -> str:
    """What went wrong, as the predicate of a sentence in one line."""
    error = _below_monai(error)
    if isinstance(error, ImageRefusedError):
        return str(error)
    lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    # With a named reader LoadImage prints the tracebacks of all readers into its message: the first is the named one's.
    starts = [number for number, line in enumerate(lines) if line.startswith("Traceback")]
    if starts:
        lines = [line for line in lines[starts[0] + 1 :] if not line.startswith(" ")] or lines
    return f"cannot be read and transformed: {lines[0].strip().rstrip('.')}"
