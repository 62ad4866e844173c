"""Transforms that give a synthetic sample of the same class for every item of a real data list."""

from __future__ import annotations

import os
import warnings
from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from functools import cache
from typing import Any, Literal

import numpy as np
import torch
from monai.data import get_track_meta
from monai.data.meta_tensor import MetaTensor
from monai.transforms import MapTransform, Transform
from monai.utils import MetaKeys, PostFix, TransformBackends, ensure_tuple, get_seed
from torch import Tensor

from monai_plan.release import SyntheticBank, SyntheticSource
from monai_plan.release.mix import dealt
from monai_plan.transforms.keys import is_path, plain_key
from monai_plan.transforms.labels import Labels, checked_classes
from monai_plan.transforms.surroundings import Surroundings
from monai_plan.utils import ConfigError, DataError, derive_seed

Output = Literal["like", "image", "path"]
OtherKeys = Literal["drop", "keep", "refuse"]


class SubstituteSynthetic(Transform):
    """Give a synthetic sample of the same class for a real image: its file's path, or the image.

    The sample depends on the seed, the item's key (by default the path of the real image) and its class alone: not on
    the order of the calls, nor on the workers. With ``data``, the list that the pipeline works through, samples are
    dealt out like cards: every item of a class gets another one until the class is used up, then all are shuffled and
    dealt again. Items with the same key get the same sample. Without ``data``, every item draws for itself: as many
    items as samples see about 63 % of them. With ``data``, an item of another list, such as the validation's, is an
    error; without it you are warned when a second data set works with the same object.

    MONAI's caches keep its output in place of the real image, but do not notice that a line was added:
    ``PersistentDataset`` and its kin go on giving real images from a ``cache_dir`` that was filled before. Give them a
    new one; with ``hash_transform=monai.data.utils.pickle_hashing`` they also notice another release.

    Args:
        release_dir: the folder of a release, see ``SyntheticBank``.
        source: in place of ``release_dir``: a ``SyntheticBank`` with options, or an ``OnlineSource``.
        output: "like": a path for a path, which a following ``LoadImage`` loads, and an image for an image. "image":
            always the image, without ``LoadImage``; the release is decoded at construction and kept in memory, the
            fastest way. "path": always the path.
        seed: of the choice. By default what ``monai.utils.set_determinism`` was given before, or else 0.
        data: (key, label) of every item that will come. Keys are paths as the pipeline has them, or other
            identities.
        classes: the labels that will come, to be checked now; ``data`` names them too.
        label_map: the pipeline's label → class of the release, by number or name. Without it, numbers and names of
            the release's classes are labels. In a JSON config write ``"${0: 1, 1: 0}"``, for JSON's keys are text.
        value_range: the range to which an image's values are scaled, such as (−1, 1): stored 0 to 255 and the −1 to 1
            of ``OnlineSource`` alike. By default as they are. Needs output="image".
        track_meta: give a ``MetaTensor`` rather than a plain tensor. ``False`` needs output="image".
        img_size, img_channels: the spatial size and the channels that the pipeline expects, to be checked now.

    Raises:
        ConfigError: if an option cannot work, the release is of another size or has another number of channels than
            expected, or it lacks a class that ``classes`` or ``label_map`` names.
        DataError: if the release is missing, empty or damaged, or lacks a class of ``data``.
    """

    # Not ``Randomizable``, although it draws: MONAI's caches stop before the first random transform and would keep
    # the real item, PersistentDataset on disk; and Compose and the DataLoader would seed it anew in every worker.

    backend = [TransformBackends.TORCH]  # noqa: RUF012  # as everywhere in MONAI

    def __init__(
        self,
        release_dir: str | os.PathLike[str] | None = None,
        *,
        source: SyntheticSource | None = None,
        output: Output = "like",
        seed: int | None = None,
        data: Sequence[tuple[Any, Any]] | None = None,
        classes: Sequence[Hashable] | None = None,
        label_map: Mapping[Hashable, int | str] | None = None,
        value_range: Sequence[float] | None = None,
        dtype: torch.dtype = torch.float32,
        track_meta: bool = True,
        img_size: Sequence[int] | None = None,
        img_channels: int | None = None,
    ) -> None:
        super().__init__()
        if output not in ("like", "image", "path"):
            raise ConfigError(f"output is {output!r}, but must be 'like', 'image' or 'path'.")
        for name, changed in (
            ("value_range", value_range is not None),
            (f"dtype={dtype}", dtype != torch.float32),
            ("track_meta=False", not track_meta),
        ):
            if changed and output != "image":
                raise ConfigError(f"{name} changes images, and with output={output!r} files are given: use 'image'.")
        if source is None and release_dir is not None:
            source = SyntheticBank(release_dir, cache=output == "image")
        elif source is None or release_dir is not None:
            raise ConfigError("Give either release_dir or source: the samples come from one of them.")
        if not isinstance(source, SyntheticBank) and output != "image":
            raise ConfigError(f"{type(source).__name__} has no files and output is {output!r}: use output='image'.")
        self.source, self.output, self.dtype, self.track_meta = source, output, dtype, track_meta
        self.seed = int(seed) if seed is not None else get_seed() or 0
        self.value_range = _checked_range(value_range)
        self._check_dtype()
        self._check_size(img_size, img_channels)

        self._samples: dict[int, list[int]] = defaultdict(list)
        for number, label in enumerate(source.labels):
            self._samples[label].append(number)
        self._samples = dict(sorted(self._samples.items()))
        self._labels = Labels(source, label_map)
        checked_classes(self._labels, classes or ())
        self._ranks = None if data is None else self._ranked(data)
        self._epoch = self._first_epoch()
        given = source.intensity_range if self.value_range is None else self.value_range
        self._surroundings = Surroundings(len(source.img_size), given)

    def __call__(  # type: ignore[override]  # as MONAI's array transforms of more than one argument
        self, img: Any, label: Any, item_key: Any = None
    ) -> str | Tensor:
        """Give the sample of an item.

        Args:
            img: the path of the real image (of several files that make one, all), or the image; only its path is used.
            label: the item's class: a number, a name, a number as text, a tensor or array of one number, or one-hot.
            item_key: the item's key, text or a whole number; by default the path of the image.

        Returns:
            The absolute path of a synthetic image, or an image, ``dtype`` [C, *spatial]. The metadata of a
            ``MetaTensor`` are the sample's alone, with ``"synthetic": True``.

        Raises:
            ConfigError: if the item has no key, or the image is neither path nor image.
            DataError: if the label names no class of the release, or the item is not in ``data``.
        """
        in_memory = isinstance(img, (Tensor, np.ndarray))
        if in_memory:
            _warn_of_loaded_image()
        elif not is_path(img):
            raise ConfigError(f"The image is a {type(img).__name__}, but must be a path, or a tensor or array.")
        self._surroundings.look(self, img)
        number = self._choose(plain_key(img if item_key is None else item_key), label)
        if isinstance(self.source, SyntheticBank) and (
            self.output == "path" or (self.output == "like" and not in_memory)
        ):
            return self.source.path(number)
        return self._image(number)

    def __repr__(self) -> str:
        origin = getattr(self.source, "release_dir", None) or type(self.source).__name__
        return (
            f"{type(self).__name__}({str(origin)!r}, {len(self.source.labels)} samples, {len(self._samples)} classes, "
            f"{list(self.source.img_size)}; output={self.output!r}, seed={self.seed})"
        )

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)

    @property
    def epoch(self) -> int:
        """The epoch that samples are drawn for; only ``RandSubstituteSynthetic`` leaves epoch 0."""
        return int(self._epoch)

    def _first_epoch(self) -> int | Tensor:
        return 0

    def own_label(self, label: Any) -> Any:
        """The label itself, without what else its object may hold, such as a ``MetaTensor``'s file name.

        Raises:
            DataError: if it names no class of the release.
        """
        return self._labels.own(label)

    def _check_size(self, img_size: Sequence[int] | None, img_channels: int | None) -> None:
        size = self.source.img_size
        if img_size is not None and tuple(img_size) != size:
            raise ConfigError(
                f"img_size is {list(img_size)}, but the synthetic images have {list(size)}: resample them after this "
                "transform (Resized, SpatialResampled), or make a release of this size."
            )
        if img_channels is not None and img_channels != self.source.img_channels:
            raise ConfigError(
                f"img_channels is {img_channels}, but the synthetic images have {self.source.img_channels} channels: "
                "use a release made from such images."
            )

    def _check_dtype(self) -> None:
        if self.dtype not in (torch.float32, torch.float16, torch.uint8):
            raise ConfigError(f"dtype is {self.dtype}, but must be torch.float32, torch.float16 or torch.uint8.")
        as_stored = self.value_range is None and isinstance(self.source, SyntheticBank)
        if self.dtype == torch.uint8 and not as_stored:
            raise ConfigError(
                "dtype is torch.uint8, which holds images as a release stores them: leave out value_range and source, "
                "or use torch.float32."
            )

    def _ranked(self, data: Sequence[tuple[Any, Any]]) -> dict[int, dict[int | str, int]]:
        """Class → key → place in the deal. The order of ``data`` has no part in it."""
        keys: dict[int, set[int | str]] = defaultdict(set)
        for position, (key, label) in enumerate(data):
            try:
                keys[self._labels.class_of(label)[1]].add(plain_key(key))
            except (ConfigError, DataError) as error:
                raise type(error)(f"Item {position} of data: {error}") from error
        return {
            target: {key: rank for rank, key in enumerate(sorted(of_class, key=repr))}
            for target, of_class in sorted(keys.items())
        }

    def _choose(self, key: int | str, label: Any) -> int:
        """The number of the sample for an item."""
        _, target = self._labels.class_of(label)
        samples = self._samples[target]
        if self._ranks is None:
            return samples[derive_seed(self.seed, "draw", target, self.epoch, key) % len(samples)]
        rank = self._ranks.get(target, {}).get(key)
        if rank is None:
            raise DataError(
                "An item is not in the data that the transform was given, or has another label there: give it the "
                "list that the data set works through, with the same paths or keys. If the item is one of the "
                "validation, which shares these transforms: it is to stay real, so give it transforms without this one."
            )
        return samples[dealt(rank, len(samples), seed=self.seed, key=("deal", target, self.epoch))]

    def _image(self, number: int) -> Tensor:
        image = self.source.image(number)
        if self.value_range is not None:
            (low, high), (least, greatest) = self.source.intensity_range, self.value_range
            # One new tensor: in a worker every further one costs its page faults, more than the arithmetic.
            image = image.sub(low).div_(high - low).mul_(greatest - least).add_(least).to(self.dtype)
        else:
            image = image.to(self.dtype, copy=True)  # never the source's own memory
        if not (self.track_meta and get_track_meta()):
            return image
        meta = {
            "filename_or_obj": self.source.name(number),
            MetaKeys.SPATIAL_SHAPE: torch.tensor(image.shape[1:]),
            MetaKeys.ORIGINAL_CHANNEL_DIM: 0,  # so that EnsureChannelFirst leaves the image as it is
            "synthetic": True,
        }
        return MetaTensor(image, affine=torch.tensor(self.source.affine), meta=meta)


class SubstituteSyntheticd(MapTransform):
    """Give a synthetic sample of the same class for every item of a real data list: ``SubstituteSynthetic`` for dicts.

    Put first, before ``LoadImaged``, it makes an unchanged pipeline train on synthetic images and opens no real file.
    After ``LoadImaged`` real images were loaded, and a cache in front of a random transform before it keeps them. What
    else an item holds (the patient, a segmentation, free text) belongs to the real image and is dropped unless an
    option keeps it; metadata and transform traces of the image (``image_meta_dict``, ``image_transforms``) go in any
    case. The label stays, for the sample is of its class. Which sample an item gets, and what a ``cache_dir`` of
    ``PersistentDataset`` must not hold, see ``SubstituteSynthetic``.

    Example::

        transform = Compose([
            SubstituteSyntheticd("image", label_key="label", release_dir="OUT/release", data=items),
            LoadImaged("image"),
            EnsureChannelFirstd("image"),
            ScaleIntensityd("image"),
        ])
        dataset = CacheDataset(items, transform)

    Args:
        keys: the key of the image; one, since a sample is one image.
        label_key: the key of the class.
        release_dir: the folder of a release.
        data: the items that will come, as the data set has them: the list that ``CacheDataset`` and the like are given.
        item_key: the key of an item's identity, text or a whole number; by default the path of the image.
        keep_keys: further keys that stay in the item as they are.
        other_keys: what becomes of all others: "drop", "keep", or "refuse", an error.
        allow_missing_keys: must be False; every item needs its image and its label.
        options: source, output, seed, classes, label_map, value_range, dtype, track_meta, img_size and img_channels
            of ``SubstituteSynthetic``.

    Raises:
        ConfigError, DataError: as ``SubstituteSynthetic``; ConfigError also if ``keys`` is not one key.
    """

    backend = SubstituteSynthetic.backend
    _array_type: type[SubstituteSynthetic] = SubstituteSynthetic

    def __init__(
        self,
        keys: Hashable | Sequence[Hashable],
        label_key: Hashable = "label",
        release_dir: str | os.PathLike[str] | None = None,
        *,
        data: Sequence[Mapping[Hashable, Any]] | None = None,
        item_key: Hashable | None = None,
        keep_keys: Hashable | Sequence[Hashable] = (),
        other_keys: OtherKeys = "drop",
        allow_missing_keys: bool = False,
        **options: Any,
    ) -> None:
        if allow_missing_keys:
            raise ConfigError(
                "allow_missing_keys is True, but every item needs its image and its label for a sample to take its "
                "place: leave the option out, and items without an image out of the data list."
            )
        if len(ensure_tuple(keys)) != 1:
            raise ConfigError(f"keys is {keys!r}, but a sample is one image: name one key, and others in keep_keys.")
        super().__init__(keys)
        (self.key,) = self.keys
        if other_keys not in ("drop", "keep", "refuse"):
            raise ConfigError(f"other_keys is {other_keys!r}, but must be 'drop', 'keep' or 'refuse'.")
        self.label_key, self.item_key = label_key, item_key
        self.keep_keys, self.other_keys = ensure_tuple(keep_keys), other_keys
        pairs = None if data is None else [(self._identity(item), self._value(item, label_key)) for item in data]
        self.substitute = self._array_type(release_dir, data=pairs, **options)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(keys={self.key!r}, label_key={self.label_key!r}, {self.substitute!r})"

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """For a real item a new one: the sample's path or image, the label, and what is kept.

        Raises:
            ConfigError: if the item has no key to choose by, or the image is neither path nor image.
            DataError: if the item lacks a key, has one that is refused, has a label of no class of the release, or is
                not in ``data``.
        """
        label = self._value(data, self.label_key)
        return {
            **self._kept(data),
            self.key: self.substitute(self._value(data, self.key), label, self._identity(data)),
            self.label_key: self.substitute.own_label(label),
        }

    def _value(self, item: Mapping[Hashable, Any], key: Hashable) -> Any:
        if key not in item:
            raise DataError(f"An item has no key {key!r}: name the right key, or add it to the data list.")
        return item[key]

    def _identity(self, item: Mapping[Hashable, Any]) -> Any:
        return self._value(item, self.key if self.item_key is None else self.item_key)

    def _kept(self, item: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        kept = {}
        used = (self.key, self.label_key, self.item_key, PostFix.meta(str(self.key)), PostFix.transforms(str(self.key)))
        for key, value in item.items():
            if key in self.keep_keys or (self.other_keys == "keep" and key not in used):
                kept[key] = value
            elif self.other_keys == "refuse" and key not in used:
                raise DataError(
                    f"An item holds {key!r}, which belongs to the real image: name it in keep_keys, take it out of the "
                    "data list, or use other_keys='drop'."
                )
        return kept


SubstituteSyntheticD = SubstituteSyntheticDict = SubstituteSyntheticd


@cache  # once in a process, whatever the filters of warnings say
def _warn_of_loaded_image() -> None:
    warnings.warn(
        "A real image was loaded before a synthetic one took its place. CacheDataset, PersistentDataset and their kin "
        "keep what comes before the first random transform: if that is the real image, it stays in memory or on disk. "
        "Put the substitution first, before LoadImage, and the real file is not opened at all.",
        UserWarning,
        stacklevel=3,
    )


def _checked_range(value_range: Sequence[float] | None) -> tuple[float, float] | None:
    if value_range is None:
        return None
    values = tuple(float(value) for value in value_range)
    if len(values) != 2 or not values[0] < values[1] or not np.isfinite(values).all():
        raise ConfigError(f"value_range is {list(value_range)}, but must be two numbers, the lower first.")
    return values[0], values[1]
