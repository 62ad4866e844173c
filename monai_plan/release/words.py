"""Words of others in a release: what is refused, and how the rest is written so that it stays text."""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Mapping

from monai_plan.utils import ConfigError

__all__ = ["as_markdown", "check_words"]

_INVISIBLE = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}  # Unicode: control, format, surrogate, unassigned; new lines
_TWINS = str.maketrans("аеорсухкмтвнгіјѕԁһԛԝαοινρτυκγ01|!", "aeopcyxkmtbhrijsdhqwaoivptukyolll")  # Cyrillic, Greek


def check_words(*, label_names: Mapping[int, str], **texts: str | None) -> None:
    """Check the words that a release will bear.

    Args:
        label_names: the name of every class.
        texts: others by the id that holds them, such as ``release_name``; None is none.

    Raises:
        ConfigError: if one is empty, has line breaks or other characters that are not seen, or two classes look alike.
    """
    labels = {f'"labels" of the data list: the name of class {label}': name for label, name in label_names.items()}
    given = {id: text for id, text in texts.items() if text is not None}
    for place, text in {**given, **labels}.items():
        hidden = next((character for character in text if unicodedata.category(character) in _INVISIBLE), None)
        if hidden is not None or not text.strip():
            found = "is empty" if hidden is None else f"has the character U+{ord(hidden):04X}"
            raise ConfigError(
                f"{place} is {text!a} and {found}, but goes into the release: give it one line of visible text."
            )
    seen: dict[str, int] = {}
    for label, name in label_names.items():
        other = seen.setdefault(_skeleton(name), label)
        if other != label:
            raise ConfigError(
                f'"labels" of the data list: the names of the classes {other} and {label}, {label_names[other]!a} '
                f"and {name!a}, look alike: give one of them another name."
            )


def _skeleton(text: str) -> str:
    """The same for texts that look alike: of case, width, accents, spaces, alphabets, 0 and O, 1 and l and I."""
    plain = unicodedata.normalize("NFKD", text).casefold()
    letters = "".join(character for character in plain if not unicodedata.combining(character))
    return " ".join(letters.translate(_TWINS).replace("i", "l").split())


def as_markdown(text: str) -> str:
    """Text that Markdown, and HTML within it, shows as it is, also in a heading or a table."""
    return re.sub(r"([\\`*_{}\[\]#|$~!])", r"\\\1", html.escape(text, quote=False))
