"""What a transform can see around itself when it is called: the data set, what follows in the pipeline, the image.

A line that was added to a pipeline cannot know the rest of it. What goes wrong by it goes wrong silently: a validation
that became synthetic, a cache that was filled before, a window that leaves nothing of the values. So each call looks up
the stack, once for every data set and every ``Compose``, and warns.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from monai.data import PersistentDataset
from monai.transforms import Compose, ScaleIntensityRange, Transform
from monai.transforms.traits import RandomizableTrait
from torch import Tensor
from torch.utils.data import Dataset

from monai_plan.utils import derive_seed

FRAMES = 40  # how far up the stack is looked
SIZES = ("spatial_size", "roi_size", "pixdim")  # of transforms: a number per axis
VOLUMES, PICTURES = (".nii", ".nii.gz", ".mha", ".nrrd"), (".png", ".jpg", ".jpeg")


class Surroundings:
    """Looks around at every call of one transform, and says each thing once.

    Args:
        spatial_dims: axes of the samples.
        value_range: of the samples as they are given.
    """

    def __init__(self, spatial_dims: int, value_range: tuple[float, float]) -> None:
        self.spatial_dims, self.value_range = spatial_dims, value_range
        self._seen: WeakKeyDictionary[Any, None] = WeakKeyDictionary()
        self._told: set[str] = set()
        self._first = torch.zeros(1, dtype=torch.int64).share_memory_()  # forked workers see it too

    def look(self, transform: Transform, image: Any) -> None:
        """Look at the call that is being made."""
        self._check_axes(image)
        for owner in _owners():
            if owner in self._seen:
                continue
            if isinstance(owner, (Dataset, Compose)):
                self._seen[owner] = None
            if isinstance(owner, Dataset):
                self._look_at_data(owner, transform)
            elif isinstance(owner, Compose):
                self._look_at_pipeline(owner, transform)

    def _check_axes(self, image: Any) -> None:
        if isinstance(image, (Tensor, np.ndarray)):
            other = (image.ndim, self.spatial_dims) in ((4, 2), (2, 3))
            given = f"an image of {image.ndim} axes"
        else:
            name = str(image[0] if isinstance(image, (list, tuple)) else image).lower()
            other = name.endswith(VOLUMES if self.spatial_dims == 2 else PICTURES)
            given = f"a file *{Path(name).suffix}"
        if other:
            self._say(
                f"The item holds {given}, and the release images of {self.spatial_dims} axes: was it made from such "
                "data? What follows must be made for its images."
            )

    def _look_at_data(self, data: Dataset[Any], transform: Transform) -> None:
        items = getattr(data, "data", None)
        if not isinstance(items, Sequence) or not items:
            return
        number = derive_seed(len(items), repr(items[0])) or 1
        first = int(self._first)
        if first == 0:
            self._first.fill_(number)
        elif first != number:
            self._say(
                "Two data sets work with one line that substitutes synthetic samples. If one of them is for validation "
                "or test, it is synthetic as well: put the line into the training's transforms alone, or give it the "
                "training items as data, and then any other item is an error."
            )
        if isinstance(data, PersistentDataset) and not data.transform_hash and not _draws(transform):
            self._look_at_cache(data)

    def _look_at_cache(self, data: PersistentDataset) -> None:
        """Called at all, the item was not in the cache; others may be."""
        if data.cache_dir is None or not os.path.isdir(data.cache_dir):
            return
        kept = [entry for entry in os.scandir(data.cache_dir) if entry.name.endswith(".pt")]
        if kept:
            self._say(
                f"{data.cache_dir} holds {len(kept)} items that were cached before this line came to them: if without "
                "it, they are real. Use a new cache_dir, or hash_transform=monai.data.utils.pickle_hashing."
            )

    def _look_at_pipeline(self, pipeline: Compose, transform: Transform) -> None:
        transforms = list(pipeline.flatten().transforms)
        places = [place for place, one in enumerate(transforms) if _holds(one, transform)]
        if not places:
            return
        low, high = self.value_range
        for one in transforms[places[0] + 1 :]:
            for inner in (one, *(value for value in vars(one).values() if isinstance(value, Transform))):
                if isinstance(inner, ScaleIntensityRange) and (inner.a_min < low or inner.a_max > high):
                    self._say(
                        f"{type(one).__name__} scales from {inner.a_min:g} to {inner.a_max:g}, and the samples have "
                        f"values from {low:g} to {high:g}, as the release stores them: scale from these, or say "
                        'output="image" and value_range, and leave that transform out.'
                    )
                for name in SIZES:
                    size = getattr(inner, name, None)
                    if isinstance(size, (list, tuple, np.ndarray)) and {len(size), self.spatial_dims} == {2, 3}:
                        self._say(
                            f"{type(one).__name__} has a {name} of {len(size)} numbers, and the samples have "
                            f"{self.spatial_dims} axes: use a release that was made from such images."
                        )

    def _say(self, text: str) -> None:
        if text in self._told:
            return
        self._told.add(text)
        warnings.warn(text, UserWarning, stacklevel=2)

    def __getstate__(self) -> dict[str, Any]:
        return {"spatial_dims": self.spatial_dims, "value_range": self.value_range}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]


def _owners() -> Iterator[Any]:
    """The data sets and pipelines that led to this call, from the innermost on."""
    frame = sys._getframe(2)
    for _ in range(FRAMES):
        owner = frame.f_locals.get("self")
        if isinstance(owner, (Dataset, Compose)):
            yield owner
        if frame.f_back is None:
            return
        frame = frame.f_back


def _draws(transform: Transform) -> bool:
    """Whether caches end before this transform, so that nothing of it is in them."""
    return isinstance(transform, RandomizableTrait)


def _holds(one: Any, transform: Transform) -> bool:
    return one is transform or getattr(one, "substitute", None) is transform
