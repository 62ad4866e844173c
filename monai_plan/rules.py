"""Rules that values must keep, each a test and its words, and settings that check themselves by them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

from monai_plan.utils import ConfigError

__all__ = [
    "Rule",
    "Ruled",
    "check_rule",
    "checked",
    "list_of",
    "number",
    "one_of",
    "or_none",
    "switch",
    "text",
    "whole",
]

Rule = tuple[Callable[[Any], bool], str]


def whole(least: int) -> Rule:
    """Whole numbers from ``least``."""
    return lambda value: isinstance(value, int) and not isinstance(value, bool) and value >= least, (
        f"a whole number of at least {least}"
    )


def number(valid: Callable[[float], bool], words: str) -> Rule:
    """Finite numbers for which ``valid`` holds, in words."""
    return (
        lambda value: (
            isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value) and valid(value)
        ),
        words,
    )


def one_of(*values: Any) -> Rule:
    """One of these."""
    return lambda value: isinstance(value, type(values[0])) and value in values, " or ".join(map(repr, values))


def or_none(rule: Rule) -> Rule:
    """What keeps the rule, or None."""
    return lambda value: value is None or rule[0](value), f"{rule[1]}, or None"


def list_of(rule: Rule, *lengths: int) -> Rule:
    """Lists of as many values, each of which keeps the rule."""
    return lambda value: isinstance(value, (list, tuple)) and len(value) in lengths and all(map(rule[0], value)), (
        f"a list of {' or '.join(map(str, lengths))} values, each {rule[1]}"
    )


text: Rule = lambda value: isinstance(value, str) and bool(value.strip()), "a text"
switch: Rule = lambda value: isinstance(value, bool), "True or False"


def check_rule(name: str, value: Any, rule: Rule, *, of: str = "") -> None:
    """Refuse a value that does not keep a rule.

    Raises:
        ConfigError: naming the value, ``of`` what it is, and the rule.
    """
    valid, words = rule
    try:
        fine = valid(value)
    except (TypeError, ValueError, OverflowError):
        fine = False
    if not fine:
        raise ConfigError(f"{name}{of} is {value!r}, but must be {words}.")


def checked(default: Any, rule: Rule) -> Any:
    """A field of a ``Ruled`` dataclass, with its default, or MISSING for none, and its rule."""
    return field(default=default, metadata={"rule": rule})


@dataclass(frozen=True)
class Ruled:
    """A dataclass of settings each of which keeps its rule; ``OF`` says of what the settings are."""

    OF: ClassVar[str]

    def __post_init__(self) -> None:
        for setting in fields(self):
            check_rule(setting.name, getattr(self, setting.name), setting.metadata["rule"], of=f" of {self.OF}")

    @classmethod
    def rules(cls) -> dict[str, Rule]:
        """The rule of each setting."""
        return {setting.name: setting.metadata["rule"] for setting in fields(cls)}
