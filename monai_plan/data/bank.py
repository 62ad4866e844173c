"""A release as others use it: a bank of samples to draw from, a data set, and a mixture with real items.

Images have the axes that MONAI's ``LoadImaged`` with ``ensure_channel_first`` gives, [C, *spatial].
"""

from __future__ import annotations

import copyreg
import hashlib
import math
import os
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import cache, lru_cache
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any, Protocol

import monai.data
import nibabel
import numpy as np
import torch
from monai.transforms import LoadImage
from PIL import Image
from torch import Tensor

from monai_plan.data.datalist import DATALIST_NAME, Datalist, read_datalist
from monai_plan.utils import ConfigError, DataError, derive_seed, file_digest, first_line, seeded_generator

__all__ = ["SyntheticBank", "SyntheticDataset", "SyntheticSource", "mix"]


class SyntheticSource(Protocol):
    """What the substituting transforms draw from: labelled synthetic samples, told apart by their number.

    Equal sources must have equal pickles, since caches tell transforms apart by these: no tensor among the attributes,
    whose pickle holds an address.

    Attributes:
        labels: the class of every sample.
        label_names: the name of every class, as far as classes have names.
        img_size: elements of each spatial axis.
        img_channels: channels.
        affine: [4, 4], float64, voxel to RAS+ millimetres, shared by all samples.
        intensity_range: least and greatest value that ``image`` can give.
        digest: 64 hexadecimal digits that change with the samples.
    """

    labels: list[int]
    label_names: dict[int, str]
    img_size: tuple[int, ...]
    img_channels: int
    affine: np.ndarray
    intensity_range: tuple[float, float]
    digest: str

    def name(self, index: int) -> str:
        """The identity of a sample, for its metadata; it holds nothing of a patient."""

    def image(self, index: int) -> Tensor:
        """[C, *spatial], on the CPU, the same at every call; not to be changed in place."""


class SyntheticBank:
    """The samples of a release, for transforms that hand out one after another, in memory or read when asked for.

    Args:
        release_dir: a folder written by ``write_synthetic``; its section ``training`` is used.
        cache: decode all images now, to 8 bits a value, and keep them in memory. DataLoader workers share the memory,
            forked or spawned.
        cache_dir: keep the decoded images in a file here, named by the digest, and map it into memory: processes that
            know nothing of each other (ranks, later runs) share it too, and only its path is pickled. Implies
            ``cache``.

    Attributes:
        labels: the class of every sample.
        label_names: the name of every class.
        groups: of every sample, its group (``subject`` in the data list): samples of one group resemble each other.
        spatial_dims: 2 or 3.
        img_size: elements of each spatial axis.
        img_channels: channels.
        affine: [4, 4], float64, voxel to RAS+ millimetres; the identity in 2D.
        intensity_range: (0, 255).
        digest: SHA-256 of the data list and all image files.

    Raises:
        DataError: if there is no release or no sample in it, or an image is missing, unreadable or of another size,
            channel count or geometry than the first. What only decoding shows is found here with ``cache``, and
            without it when the image is read.
    """

    intensity_range = (0.0, 255.0)

    def __init__(
        self,
        release_dir: str | os.PathLike[str],
        *,
        cache: bool = False,
        cache_dir: str | os.PathLike[str] | None = None,
    ) -> None:
        datalist = _read_release(release_dir)
        items = datalist.sections["training"]
        self.release_dir = str(datalist.path.parent)
        self.labels: list[int] = [item["label"] for item in items]
        self.label_names = datalist.labels
        self.groups: list[str] = [item["subject"] for item in items]
        self._paths: list[str] = [item["image"] for item in items]

        shape, self.affine = _header(self._paths[0])
        for path in self._paths[1:]:
            other_shape, other_affine = _header(path)
            if other_shape != shape or not np.allclose(other_affine, self.affine):
                raise DataError(
                    f"{path} has the shape {list(other_shape)} and {self._paths[0]} {list(shape)}, or their affines "
                    "differ, but all images of a bank share both: write the release again."
                )
        self.img_channels, *size = shape
        self.img_size = tuple(size)
        self.spatial_dims = len(size)

        digest = hashlib.sha256(file_digest(datalist.path).encode())
        for path in self._paths:
            digest.update(file_digest(path).encode())
        self.digest = digest.hexdigest()

        self._images: Tensor | None = None
        self._cache_file: Path | None = None
        if cache_dir is not None:
            self._cache_file = Path(cache_dir).absolute() / f"synthetic_bank_{self.digest[:32]}.npy"
            if not self._cache_file.exists():
                self._write_cache(self._cache_file)
            self._map_cache(self._cache_file)
        elif cache:
            self._images = torch.empty(len(items), *shape, dtype=torch.uint8)
            for index in range(len(items)):
                self._images[index] = self._decode(index)

    def path(self, index: int) -> str:
        """The absolute path of a sample's file."""
        return self._paths[index]

    def name(self, index: int) -> str:
        """The same as ``path``: what ``LoadImaged`` writes into the metadata."""
        return self._paths[index]

    def image(self, index: int) -> Tensor:
        """A sample as it is stored.

        Returns:
            uint8 [C, *spatial]. A view where the bank is cached: do not change it.

        Raises:
            DataError: if the bank is not cached and the file cannot be read.
        """
        return self._decode(index) if self._images is None else self._images[index]

    def _decode(self, index: int) -> Tensor:
        path = self._paths[index]
        try:
            image = _loader()(path)
        except Exception as error:  # readers raise what they like on a damaged file
            raise DataError(f"{path} cannot be read ({first_line(error)}): write the release again.") from error
        values = torch.as_tensor(image).as_subclass(Tensor)
        stored = values.to(torch.uint8)
        if values.shape != (self.img_channels, *self.img_size) or not torch.equal(stored.to(values.dtype), values):
            raise DataError(
                f"{path} is not an image of {self.img_channels} x {list(self.img_size)} values of 8 bits: write the "
                "release again."
            )
        return stored

    def _write_cache(self, file: Path) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        shape = (len(self._paths), self.img_channels, *self.img_size)
        # A folder of its own, not atomic_path: the ranks of one run may all be here at once.
        with tempfile.TemporaryDirectory(dir=file.parent) as folder:
            images = np.lib.format.open_memmap(Path(folder) / file.name, mode="w+", dtype=np.uint8, shape=shape)
            for index in range(len(images)):
                images[index] = self._decode(index)
            images.flush()
            os.replace(Path(folder) / file.name, file)

    def _map_cache(self, file: Path) -> None:
        expected = (len(self._paths), self.img_channels, *self.img_size)
        try:
            images = np.load(file, mmap_mode="c")  # copy on write: torch knows no read-only tensors
        except (OSError, ValueError, EOFError) as error:
            raise DataError(f"{file} cannot be read as cached images ({first_line(error)}): delete it.") from error
        if images.dtype != np.uint8 or images.shape != expected:
            raise DataError(f"{file} holds {images.dtype} {images.shape} and not uint8 {expected}: delete it.")
        self._images = torch.from_numpy(images)

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()
        if self._images is not None:
            # An array, for the pickle of a tensor holds an address: hash_transform would never find a cache again.
            state["_images"] = self._images.numpy() if self._cache_file is None else None
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if self._cache_file is not None:
            self._map_cache(self._cache_file)
        elif isinstance(self._images, np.ndarray):
            self._images = torch.from_numpy(self._images)


class SyntheticDataset(monai.data.Dataset):
    """A whole release as a data set of MONAI, for a pipeline without any real image.

    An item before the transform is ``{"image": absolute path, "label": int, "subject": str}``; images of one
    ``subject`` resemble each other and belong on one side of a split.

    Args:
        release_dir: a folder written by ``write_synthetic``.
        transform: as of ``monai.data.Dataset``, from ``LoadImaged`` on.

    Raises:
        DataError: if there is no release, no sample in it, or an image is missing.
    """

    def __init__(
        self,
        release_dir: str | os.PathLike[str],
        transform: Sequence[Callable[..., Any]] | Callable[..., Any] | None = None,
    ) -> None:
        items = _read_release(release_dir).sections["training"]
        super().__init__([{key: item[key] for key in ("image", "label", "subject")} for item in items], transform)


def mix(
    real: Sequence[Mapping[str, Any]],
    synthetic: Sequence[Mapping[str, Any]],
    ratio: float,
    *,
    seed: int = 0,
    subject_key: str = "subject",
    label_key: str = "label",
) -> list[dict[str, Any]]:
    """Replace a share of the real items by synthetic ones, for those who may keep a part of the real data.

    Every class keeps its number of items. Real items go by whole patients as far as the numbers allow, so that fewer
    patients are used, and not only fewer images of each; what whole patients cannot make up goes image by image,
    patient by patient. A synthetic item comes twice only after all of its class have come.

    Args:
        real: items with ``label_key`` and, where the patient is known, ``subject_key``; without it in any item, each
            is a patient of its own.
        synthetic: items with ``label_key``, for instance ``SyntheticDataset(release_dir).data``. A share of a small
            set repeats items; a share of a large one leaves some out.
        ratio: the share of each class that is synthetic, in [0, 1], rounded to whole items.
        seed: of the choice and of the order.
        subject_key: the key of the patient.
        label_key: the key of the class.

    Returns:
        As many items as ``real`` has, in random order.

    Raises:
        ConfigError: if ``ratio`` lies outside [0, 1].
        DataError: if an item has no label, only some real items name a patient, or a class to be replaced has no
            synthetic item.
    """
    if not 0.0 <= ratio <= 1.0:
        raise ConfigError(f"ratio is {ratio}, but must lie in [0, 1]: the share of each class that is synthetic.")
    for kind, items in (("real", real), ("synthetic", synthetic)):
        unlabelled = [number for number, item in enumerate(items) if label_key not in item]
        if unlabelled:
            raise DataError(f"The {kind} item {unlabelled[0]} has no {label_key!r}: name the right label_key.")
    with_subject = sum(subject_key in item for item in real)
    if 0 < with_subject < len(real):
        raise DataError(
            f"{with_subject} of {len(real)} real items have {subject_key!r}: name the patient of all, or of none if "
            "every image is of another patient."
        )

    wanted = {
        label: math.floor(ratio * number + 0.5) for label, number in Counter(item[label_key] for item in real).items()
    }
    pools: dict[Hashable, list[Mapping[str, Any]]] = defaultdict(list)
    for item in synthetic:
        pools[item[label_key]].append(item)
    lacking = [label for label, number in wanted.items() if number and label not in pools]
    if lacking:
        raise DataError(
            f"There is no synthetic item of class {lacking[0]!r}, only of {sorted(pools, key=repr)}: name classes "
            "alike on both sides, or make samples of it."
        )
    subjects = [item[subject_key] if with_subject else number for number, item in enumerate(real)]
    dropped = _dropped(subjects, [item[label_key] for item in real], wanted, seed)
    mixed = [dict(item) for number, item in enumerate(real) if number not in dropped]
    for label, number in wanted.items():
        pool = pools[label]
        key = ("mix", repr(label))
        mixed += [dict(pool[dealt(place, len(pool), seed=seed, key=key)]) for place in range(number)]
    order = torch.randperm(len(mixed), generator=seeded_generator(seed, "mix order"))
    return [mixed[index] for index in order.tolist()]


def _dropped(
    subjects: Sequence[Hashable], labels: Sequence[Hashable], wanted: Mapping[Hashable, int], seed: int
) -> set[int]:
    """Positions to drop: ``wanted`` of each label, by whole subjects as far as that goes."""
    positions: dict[Hashable, list[int]] = defaultdict(list)
    for position, subject in enumerate(subjects):
        positions[subject].append(position)
    names = sorted(positions, key=repr)
    drawn = torch.randperm(len(names), generator=seeded_generator(seed, "mix subjects")).tolist()
    left = Counter(wanted)
    dropped: set[int] = set()
    kept: list[Hashable] = []
    for subject in (names[index] for index in drawn):
        sizes = Counter(labels[position] for position in positions[subject])
        if sizes <= left:
            left -= sizes
            dropped.update(positions[subject])
        else:
            kept.append(subject)
    for position in (position for subject in kept for position in positions[subject]):
        if left[labels[position]] > 0:
            left[labels[position]] -= 1
            dropped.add(position)
    return dropped


def dealt(place: int, size: int, *, seed: int, key: tuple[int | str, ...]) -> int:
    """What lies at ``place`` when seeded permutations of 0 … size − 1 are dealt out one after another.

    No number comes twice before all have come.

    Args:
        place: from 0.
        size: at least 1.
        seed, key: of the permutations.
    """
    turn, position = divmod(place, size)
    return int(_permutation(size, derive_seed(seed, *key, turn))[position])


@lru_cache(maxsize=256)
def _permutation(size: int, seed: int) -> Tensor:
    return torch.randperm(size, generator=torch.Generator().manual_seed(seed))


@cache
def _loader() -> LoadImage:
    return LoadImage(ensure_channel_first=True)


def _reduce_for_process(bank: SyntheticBank) -> tuple[Any, ...]:
    """What a spawned process gets: the tensor itself, which torch puts into shared memory."""
    images = bank._images if bank._cache_file is None else None
    return copyreg.__newobj__, (type(bank),), {**bank.__dict__, "_images": images}  # type: ignore[attr-defined]


ForkingPickler.register(SyntheticBank, _reduce_for_process)


def _read_release(release_dir: str | os.PathLike[str]) -> Datalist:
    """The data list of a release, with at least one sample, all files there."""
    folder = Path(release_dir).absolute()
    if not (folder / DATALIST_NAME).is_file():
        raise DataError(
            f"{folder} holds no {DATALIST_NAME}: give the folder of a release, made by the stage synthesize."
        )
    datalist = read_datalist(folder / DATALIST_NAME)
    items = datalist.sections["training"]
    if not items:
        raise DataError(f'{datalist.path} has no samples in "training": make the release again.')
    missing = [item["image"] for item in items if not os.path.isfile(item["image"])]
    if missing:
        raise DataError(
            f"{missing[0]}, listed in {datalist.path}, does not exist ({len(missing)} of {len(items)} are missing): "
            "copy the release whole."
        )
    return datalist


def _header(path: str) -> tuple[tuple[int, ...], np.ndarray]:
    """The shape [C, *spatial] and the affine [4, 4] of an image file, without decoding it."""
    try:
        if path.endswith(".png"):
            with Image.open(path) as image:
                return (len(image.getbands()), *image.size), np.eye(4)
        volume = nibabel.Nifti1Image.from_filename(path)
        return (1, *volume.shape), np.asarray(volume.affine, dtype=float)
    except Exception as error:  # readers raise what they like on a damaged file
        raise DataError(f"{path} cannot be read ({first_line(error)}): write the release again.") from error
