"""Tables as hospitals export them: whatever separates the cells, and texts that mean the same or nothing."""

from __future__ import annotations

import csv
import io
import logging
import os
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from decimal import Context, Decimal
from pathlib import Path

from monai_plan.utils import ConfigError, DataError

MISSING = {"", "nan", "nat", "na", "n/a", "none", "null", "nil", "<na>"}
MISSING |= {"-", "--", "?", ".", "n.a.", "-nan"}
MISSING |= {"#n/a", "#na", "#name?", "#ref!", "#value!", "#num!", "#null!", "#div/0!"}  # of spreadsheets
SHORTENED = re.compile(r"[+-]?\d([.,]\d+)?[Ee]\+\d+")  # what they make of long numbers
LOOK_LATIN = str.maketrans("аеорсухіјѕкмтοναρτυχικ", "aeopcyxijskmtovaptuxik")  # Cyrillic and Greek letters that do
SEPARATORS = ",;\t|"
SHOWN = 3  # groups of look-alikes that an error names

logger = logging.getLogger(__name__)


def is_missing(text: object) -> bool:
    """Whether a cell says that nothing is known, as pandas, R and people write it."""
    return text is None or _visible(str(text)).strip().casefold() in MISSING


def _visible(text: str) -> str:
    """Without the characters that have no shape, such as a space of no width."""
    return "".join(letter for letter in text if unicodedata.category(letter) != "Cf")


def read_table(path: str | os.PathLike[str], columns: Sequence[str]) -> list[dict[str, str]]:
    """The named columns of every row, stripped.

    Comma, semicolon, tab or bar between the cells; UTF-8, UTF-16 or cp1252.

    Raises:
        DataError: if the file or a column is missing, a row has too many cells, or a cell is missing.
    """
    text = _decoded(path, columns)
    header, separator = text.lstrip("\r\n").splitlines()[0] if text.strip() else "", ""
    if re.fullmatch(f"sep=[{SEPARATORS}]", header.strip('"')):  # a line of Excel's own
        separator, text = header.strip('"')[-1], "".join(text.lstrip("\r\n").splitlines(keepends=True)[1:])
    separator = separator or _separator(header, columns)
    rows: list[dict[str, str]] = []
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True)
    try:
        names = {name.strip(): name for name in reader.fieldnames or [] if name is not None}
        twice = [name for name, count in Counter(map(str.strip, reader.fieldnames or [])).items() if count > 1]
        if set(twice) & set(columns):
            raise DataError(f"{path} has {min(set(twice) & set(columns))!r} twice in its header: rename one of them.")
        absent = [column for column in columns if column not in names]
        if absent:
            raise DataError(f"{path} has no column {absent[0]!r}, only {list(names)}: name the right column.")
        for row in reader:
            where = f"{path}, line {reader.line_num},"
            if None in row:
                raise DataError(
                    f"{where} has more cells than the header ({separator!r} separates them): quote the cell that holds "
                    "the separator."
                )
            cells = {column: (row[names[column]] or "").strip() for column in columns}
            empty = [column for column, cell in cells.items() if is_missing(cell)]
            if empty:
                said = f" (it says {cells[empty[0]]!r})" if cells[empty[0]] else ""
                raise DataError(f"{where} has no {empty[0]!r}{said}: fill it or drop the line.")
            rows.append(cells)
    except csv.Error as error:
        raise DataError(f"{path} cannot be read as a CSV: {error}.") from error
    if not rows:
        raise DataError(f"{path} has no rows: add a line per image.")
    return rows


def _separator(header: str, columns: Sequence[str]) -> str:
    """What parts the header into the wanted columns; else the commonest, for names may hold the others."""
    for separator in SEPARATORS:
        names = {name.strip() for name in next(csv.reader([header], delimiter=separator, skipinitialspace=True), [])}
        if names.issuperset(columns):
            return separator
    return max(SEPARATORS, key=header.count)


def _decoded(path: str | os.PathLike[str], columns: Sequence[str]) -> str:
    try:
        content = Path(path).read_bytes()
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist: give the path of a CSV with the columns {list(columns)}.") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}. Give a CSV file.") from error
    if content.startswith((b"PK\x03\x04", b"\xd0\xcf\x11\xe0")):
        raise DataError(f"{path} is a spreadsheet and no CSV: save it as CSV.")
    if content.startswith((b"\xff\xfe\0\0", b"\0\0\xfe\xff")):
        encodings = ["utf-32"]
    elif content.startswith((b"\xff\xfe", b"\xfe\xff")):
        encodings = ["utf-16"]
    elif b"\0" in content[:200]:
        encodings = ["utf-16-le" if content[1:2] == b"\0" else "utf-16-be"]
    else:
        encodings = ["utf-8-sig", "cp1252"]
    for encoding in encodings:
        try:
            text = content.decode(encoding)
        except UnicodeDecodeError:
            continue
        if encoding == "cp1252":
            logger.warning("%s is not UTF-8 and was read as cp1252 (Windows, Western Europe)", path)
        return text
    raise DataError(f"{path} is neither UTF-8, UTF-16 nor cp1252: save it as UTF-8.")


def plain_number(text: str) -> str:
    """``0.0`` and ``+0`` as ``0``; what is no whole number stays."""
    whole = re.fullmatch(r"([+-]?\d+)(\.0*)?", text)
    return str(int(whole[1])) if whole else text


def number_classes(texts: Iterable[str]) -> dict[str, int]:
    """The class of each text, from 0: numbers in their order, else by the alphabet."""

    def value(text: str) -> float | None:
        return float(text) if re.fullmatch(r"[+-]?\d+(\.\d*)?", text) else None

    distinct = set(texts)
    numbers = all(value(text) is not None for text in distinct)
    ordered = sorted(distinct, key=lambda text: (value(text) or 0.0, text)) if numbers else sorted(distinct)
    return {text: number for number, text in enumerate(ordered)}


def look_alike_key(text: str) -> str:
    """What is left of a name once case, spaces, ``.0``, leading zeros and what the eye does not tell apart are gone."""
    plain = "".join(unicodedata.normalize("NFKC", text).casefold().split()).translate(LOOK_LATIN)
    plain = "".join("-" if unicodedata.category(letter) == "Pd" else letter for letter in _visible(plain))
    plain = re.sub(r"""^'|^="(.*)"$""", r"\1", plain)  # how spreadsheets are told that a number is a text
    if re.fullmatch(r"[+-]?\d+([.,]\d*)?(e[+-]?\d{1,3})?", plain):
        return str(Decimal(plain.replace(",", ".")).normalize(Context(prec=len(plain) + 9)))
    plain = re.sub(r"(?<=\d)[.,]0+$", "", plain)
    plain = re.sub(r"(?<=[^\W\d_])[-_](?=[^\W\d_])", "", plain)  # "non-covid" and "non covid"
    return re.sub(r"(?<!\d)0+(?=\d)", "", plain)


def look_alikes(texts: Iterable[str]) -> list[list[str]]:
    """Groups of different texts that are the same but for case, spaces, ``.0`` or leading zeros."""
    groups: dict[str, set[str]] = defaultdict(set)
    for text in texts:
        groups[look_alike_key(text)].add(text)
    return [sorted(group) for _, group in sorted(groups.items()) if len(group) > 1]


def unify(texts: Sequence[str], *, what: str, remedy: str) -> list[str]:
    """The texts with look-alikes refused, merged into their commonest spelling, or kept.

    Args:
        texts: one per image.
        what: they name, in the plural, for the error.
        remedy: "refuse", "merge" or "keep".

    Raises:
        ConfigError: if ``remedy`` is none of them.
        DataError: if there are look-alikes and they are refused.
    """
    if remedy not in ("refuse", "merge", "keep"):
        raise ConfigError(f"look_alikes is {remedy!r}, but must be 'refuse', 'merge' or 'keep'.")
    groups = look_alikes(texts)
    if not groups or remedy == "keep":
        return list(texts)
    if remedy == "refuse":
        shown = ", ".join(" = ".join(map(repr, group)) for group in groups[:SHOWN])
        more = f" and {len(groups) - SHOWN} groups more" if len(groups) > SHOWN else ""
        raise DataError(
            f"there are {what} that differ only in case, spaces, .0, leading zeros or letters that look the same: "
            f"{shown}{more}. If they are the same, say --merge-look-alikes, if not, --keep-look-alikes."
        )
    counts = Counter(texts)
    best = {text: max(group, key=lambda text: (counts[text], text)) for group in groups for text in group}
    logger.warning("merged %d groups of %s that look alike, such as %s", len(groups), what, " = ".join(groups[0]))
    return [best.get(text, text) for text in texts]
