"""The labels of a pipeline and the classes of a release: which is which, and what to say where there is none."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from monai_plan.release import SyntheticSource
from monai_plan.transforms.keys import one_number
from monai_plan.utils import ConfigError, DataError

MOST_SHOWN = 16  # numbers of a label in an error
LARGEST_SHOWN = 1000  # what is larger is no class, and may be somebody's number


class Labels:
    """The classes that labels name: by their numbers, their names, or a map.

    Numbers may come as text ("1"), in a tensor or an array, or one-hot.

    Args:
        source: of the samples.
        label_map: label → class of the source, by number or name; None: numbers and names of the classes are labels.

    Raises:
        ConfigError: if ``label_map`` leads to a class without samples.
    """

    def __init__(self, source: SyntheticSource, label_map: Mapping[Hashable, int | str] | None) -> None:
        names, there = source.label_names, sorted(set(source.labels))
        counts = Counter(names.values())
        own: dict[Hashable, int] = {label: label for label in there}
        own |= {names[label]: label for label in there if counts[names.get(label, "")] == 1}
        if label_map is None:
            label_map = dict(own)
        lacking = [target for target in label_map.values() if target not in own]
        if lacking:
            raise ConfigError(
                f"label_map leads to class {lacking[0]!r}, but there are samples of the classes {list(own)} alone: map "
                "to these, or use a release that has it."
            )
        self.classes = {label: (label, own[target]) for label, target in label_map.items()}
        numbers = [label for label in self.classes if type(label) is int and label >= 0]
        self.places = max(numbers) + 1 if numbers else 0  # of a one-hot label

    def __contains__(self, label: Hashable) -> bool:
        return label in self.classes

    def class_of(self, label: Any) -> tuple[Any, int]:
        """(The label as it was named at construction, class of the source).

        Raises:
            DataError: if it names no class.
        """
        value = one_number(label)
        for read in (lambda: value, lambda: _number_of(value), lambda: self._hot_of(value)):
            try:
                return self.classes[read()]
            except (KeyError, TypeError, ValueError):  # TypeError: it cannot be a key
                continue
        # Not while the KeyError is handled, whose text is the label: a message holds no text of an item.
        raise DataError(f"An item's label, {_described(value)}, names no class{self._guess(value)}: {self.remedy()}")

    def own(self, label: Any) -> Any:
        """The label itself, without what else its object may hold, such as a ``MetaTensor``'s file name.

        Raises:
            DataError: if it names no class of the release.
        """
        canonical, _ = self.class_of(label)
        if isinstance(label, Tensor):
            return label.detach().as_subclass(Tensor).clone()
        if isinstance(label, np.ndarray):
            return np.array(label)
        if isinstance(label, (list, tuple)) and type(canonical) is not type(label):  # one-hot, and no name of the map
            return type(label)(one_number(number) for number in label)
        return label if type(label) in (bool, int, float, str) or isinstance(label, np.generic) else canonical

    def remedy(self) -> str:
        """What to do about a class that there is not."""
        return (
            f"labels can be {list(self.classes)}; map others to classes with label_map, or use a release that has "
            "this class."
        )

    def _hot_of(self, label: Any) -> int:
        """The place of the 1 in a one-hot label.

        Raises:
            ValueError: if it is none.
        """
        values = _numbers(label)
        if values is None or values.ndim != 1 or len(values) != self.places or sorted(values)[-2:] != [0, 1]:
            raise ValueError
        if values.sum() != 1:
            raise ValueError
        return int(values.argmax())

    def _guess(self, label: Any) -> str:
        """What it may be instead, as a half sentence."""
        values = _numbers(label)
        if values is None:
            return ""
        if values.ndim > 1:
            return " (a mask: this is for classification; name the key of the class in label_key)"
        return f" (one-hot? That would be {self.places} numbers, one of them 1 and the others 0)"


def _number_of(label: Any) -> int:
    if not isinstance(label, str):
        raise ValueError
    number = float(label)
    if not number.is_integer():
        raise ValueError
    return int(number)


def _numbers(label: Any) -> np.ndarray | None:
    """Several numbers as an array without axes of length 1; None if a label is anything else."""
    if not isinstance(label, (Tensor, np.ndarray, list, tuple)):
        return None
    try:
        values = np.asarray(label.detach().cpu() if isinstance(label, Tensor) else label, dtype=float).squeeze()
    except (TypeError, ValueError):
        return None
    return values if values.size > 1 else None


def _described(label: Any) -> str:
    """A label in an error: small numbers as they are, of anything else the type and the shape."""
    values = _numbers(label)
    if values is None:
        shown = isinstance(label, (int, float)) and abs(label) < LARGEST_SHOWN
        return f"a {type(label).__name__}, {label!r}" if shown else f"a {type(label).__name__}"
    shape = list(getattr(label, "shape", values.shape))
    if values.size > MOST_SHOWN or not (np.abs(values) < LARGEST_SHOWN).all():
        return f"a {type(label).__name__} of the shape {shape}"
    return f"a {type(label).__name__} of the shape {shape}, {values.tolist()}"


def checked_classes(labels: Labels, classes: Sequence[Hashable]) -> None:
    """Whether every class that is named is there.

    Raises:
        ConfigError: if one is not.
    """
    lacking = [label for label in classes if label not in labels]
    if lacking:
        raise ConfigError(f"There is no class {lacking[0]!r}, which classes names: {labels.remedy()}")
