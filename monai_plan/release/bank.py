"""A release as others use it: a bank of samples to draw from, and a data set.

Images have the axes that MONAI's ``LoadImaged`` with ``ensure_channel_first`` gives, [C, *spatial].
"""

from __future__ import annotations

import copyreg
import os
from collections.abc import Callable, Sequence
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any, Protocol

import monai.data
import numpy as np
import torch
from torch import Tensor

from monai_plan.release.reader import VALUE_RANGE, read_release
from monai_plan.utils import DataError, atomic_path, first_line

__all__ = ["SyntheticBank", "SyntheticDataset", "SyntheticSource"]


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
        cache: decode all images now, to 8 bits per value, and keep them in memory. DataLoader workers share the memory,
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

    intensity_range = VALUE_RANGE

    def __init__(
        self,
        release_dir: str | os.PathLike[str],
        *,
        cache: bool = False,
        cache_dir: str | os.PathLike[str] | None = None,
    ) -> None:
        release = read_release(release_dir)
        self.release_dir = str(release.folder)
        self.labels, self.label_names, self.groups = release.labels, release.label_names, release.groups
        self.spatial_dims, self.img_size = len(release.img_size), release.img_size
        self.img_channels, self.affine, self.digest = release.img_channels, release.affine, release.digest
        self._release = release

        self._images: Tensor | None = None
        self._cache_file: Path | None = None
        if cache_dir is not None:
            self._cache_file = Path(cache_dir).absolute() / f"synthetic_bank_{self.digest[:32]}.npy"
            if not self._cache_file.exists():
                self._write_cache(self._cache_file)
            self._map_cache(self._cache_file)
        elif cache:
            self._images = release.stored_images()

    def path(self, index: int) -> str:
        """The absolute path of a sample's file."""
        return self._release.paths[index]

    def name(self, index: int) -> str:
        """The same as ``path``: what ``LoadImaged`` writes into the metadata."""
        return self._release.paths[index]

    def image(self, index: int) -> Tensor:
        """A sample as it is stored.

        Returns:
            uint8 [C, *spatial]. A view where the bank is cached: do not change it.

        Raises:
            DataError: if the bank is not cached and the file cannot be read.
        """
        return self._release.stored_image(index) if self._images is None else self._images[index]

    @property
    def _shape(self) -> tuple[int, ...]:
        return (len(self.labels), self.img_channels, *self.img_size)

    def _write_cache(self, file: Path) -> None:
        # Written, not mapped: on a full disk a mapped file ends the process.
        with atomic_path(file) as temporary, open(temporary, "wb") as out:
            form = {"descr": "|u1", "fortran_order": False, "shape": self._shape}
            np.lib.format.write_array_header_1_0(out, form)
            for index in range(len(self.labels)):
                out.write(self._release.stored_image(index).numpy().tobytes())

    def _map_cache(self, file: Path) -> None:
        try:
            images = np.load(file, mmap_mode="c")  # copy on write: torch knows no read-only tensors
        except (OSError, ValueError, EOFError) as error:
            raise DataError(f"{file} cannot be read as cached images ({first_line(error)}): delete it.") from error
        if images.dtype != np.uint8 or images.shape != self._shape:
            raise DataError(f"{file} holds {images.dtype} {images.shape} and not uint8 {self._shape}: delete it.")
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
        super().__init__(read_release(release_dir).items, transform)


def _reduce_for_process(bank: SyntheticBank) -> tuple[Any, ...]:
    """What a spawned process gets: the tensor itself, which torch puts into shared memory."""
    images = bank._images if bank._cache_file is None else None
    return copyreg.__newobj__, (type(bank),), {**bank.__dict__, "_images": images}  # type: ignore[attr-defined]


ForkingPickler.register(SyntheticBank, _reduce_for_process)
