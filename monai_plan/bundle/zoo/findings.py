"""What a check of a bundle finds."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Finding", "error", "warning"]


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong with a bundle.

    Attributes:
        level: "error", which the model zoo's checks or the door refuse, or "warning", which somebody has to decide.
        id: of the rule, such as "files.needed".
        text: what is wrong, with the file, in a sentence.
        remedy: what to do about it.
    """

    level: str
    id: str
    text: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.level} {self.id}: {self.text} {self.remedy}"


def error(id: str, text: str, remedy: str) -> Finding:
    """What is refused."""
    return Finding("error", id, text, remedy)


def warning(id: str, text: str, remedy: str) -> Finding:
    """What somebody has to decide."""
    return Finding("warning", id, text, remedy)
