"""What every room shares: errors for people, files written whole or not at all, seeds that do not depend on order."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from monai_plan.tensor_file import load_tensors, tensors_in

if TYPE_CHECKING:
    from hashlib import _Hash

__all__ = [
    "ArtifactError",
    "ConfigError",
    "DataError",
    "PLANError",
    "TrainingError",
    "atomic_path",
    "derive_seed",
    "digest",
    "file_digest",
    "files_below",
    "finished_part",
    "first_line",
    "is_temporary",
    "load_artifact",
    "load_part",
    "named_errors",
    "read_json",
    "save_artifact",
    "save_part",
    "seeded_generator",
    "sync",
    "temporary_name",
    "write_json",
    "write_tensors",
    "write_text",
]

FORMAT_VERSION = 1
MOST_JSON = 2**28  # bytes: a data list of a million images
_TYPES: dict[str, type | tuple[type, ...]] = {  # of what artefacts hold, whatever their kind
    **dict.fromkeys(("latents", "distances", "best", "labels", "paths", "path", "pairs", "kept"), Tensor),
    **dict.fromkeys(("architecture", "state_dict", "losses", "num_images"), dict),
    **dict.fromkeys(("subjects", "keys", "members"), list),
    "network": str,
    "num_outputs": int,
    "k": (int, type(None)),  # None: no patient is behind an anchor
}
_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{8}\.tmp(\..+)?")

logger = logging.getLogger(__name__)


class PLANError(Exception):
    """An error whose message is meant for the user: the command line prints it without a traceback."""


class ConfigError(PLANError, ValueError):
    """An argument or a config id has a value that cannot work."""


class DataError(PLANError, ValueError):
    """A data list, an image or a label breaks a rule."""


class ArtifactError(PLANError, RuntimeError):
    """A file written by an earlier stage is missing, damaged or of another kind."""


class TrainingError(PLANError, RuntimeError):
    """A training had to stop; the last good checkpoint is kept."""


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; what is written there takes its name only if the block succeeds.

    The suffix of ``path`` is kept, for writers that choose a format by it. Folders are made as needed. File and folder
    are synced, so that after a power cut there is the old file or the new one, whole.

    Raises:
        ConfigError: if the path begins with ``~`` or holds ``::``, which nobody means.
        OSError: as the system has it, with ``path`` as its ``filename``.
    """
    target = Path(path)
    if "::" in str(target) or str(target).startswith("~"):
        raise ConfigError(f"{target} is not written: ~ was not replaced, or # became :: on its way. Give a plain path.")
    temporary = temporary_name(target)
    try:
        with named_errors(target, temporary):
            target.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            sync(temporary)
            os.replace(temporary, target)
        sync(target.parent)
    finally:
        with suppress(OSError):  # the folder may be gone, and then that is the error
            temporary.unlink(missing_ok=True)


@contextmanager
def named_errors(target: Path, temporary: Path) -> Iterator[None]:
    """Let an OSError of a write name the file that was wanted, not the temporary one nor none, as a full disk does."""
    try:
        yield
    except OSError as error:
        if str(error.filename or temporary).startswith(str(temporary)):
            error.filename, error.filename2 = str(target), None
        raise


def temporary_name(path: str | os.PathLike[str]) -> Path:
    """A name beside ``path`` with its suffix, for a file or folder not yet finished; another one with each call."""
    target = Path(path)
    return target.with_name(f".{target.stem}.{secrets.token_hex(4)}.tmp{target.suffix}")


def is_temporary(name: str) -> bool:
    """Whether a file or folder of this name is one of ``temporary_name``: if nobody is writing, left by a kill."""
    return _TEMPORARY.fullmatch(name) is not None


def sync(path: str | os.PathLike[str]) -> None:
    """Wait until a file, or the names in a folder, are on the disk; a folder where the system allows it."""
    if os.path.isdir(path):
        with suppress(OSError):  # Windows opens no folder, and some network file systems sync none
            _fsync(path, os.O_RDONLY)
    else:
        _fsync(path, os.O_RDWR)


def _fsync(path: str | os.PathLike[str], flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write ``text`` as UTF-8, whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write ``value`` as indented JSON, whole or not at all."""
    write_text(path, json.dumps(value, indent=1) + "\n")


def write_tensors(path: str | os.PathLike[str], value: Any) -> None:
    """Save what ``torch.load(weights_only=True)`` reads, whole or not at all; equal values give equal files."""
    # into an open file: given a name, torch would write it into the archive, and it is another one each time
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        try:
            torch.save(value, file)
        except RuntimeError as error:  # of torch's writer at its end, which hides why it could not write
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise


def read_json(path: str | os.PathLike[str], *, what: str = "JSON") -> Any:
    """Read a JSON file that anybody may have written.

    Args:
        path: the file.
        what: it should be, for errors.

    Raises:
        DataError: if it is missing, no file, no UTF-8 or JSON, larger than 256 MiB or nested too deeply, or an object
            in it has a key twice.
    """
    if not os.path.exists(path):
        raise DataError(f"{path} does not exist: give the path of {what}.")
    try:
        if not os.path.isfile(path) or os.path.getsize(path) > MOST_JSON:
            raise ValueError(f"it is no file of at most {MOST_JSON >> 20} MiB")
        return json.loads(Path(path).read_text(encoding="utf-8"), object_pairs_hook=_no_key_twice)
    except (OSError, ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error).rstrip(".")
        raise DataError(f"{path} cannot be read as {what}: {reason}. Mend the JSON file.") from error


def _no_key_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    read = dict(pairs)
    if len(read) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(key for key in keys if keys.count(key) > 1)!r} occurs twice")
    return read


def file_digest(path: str | os.PathLike[str]) -> str:
    """The SHA-256 of a file, as 64 hexadecimal digits."""
    hashed = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            hashed.update(block)
    return hashed.hexdigest()


def files_below(folder: str | os.PathLike[str]) -> Iterator[Path]:
    """All files below a folder in a fixed order; links are followed, but for those that lead to a folder above them."""
    yield from _files_below(Path(folder), ())


def _files_below(folder: Path, above: tuple[str, ...]) -> Iterator[Path]:
    real = os.path.realpath(folder)
    if real in above:
        return
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if entry.is_dir():
            yield from _files_below(folder / entry.name, (*above, real))
        elif entry.is_file():
            yield folder / entry.name


def digest(*parts: Any) -> str:
    """SHA-256 over values, as 64 hexadecimal digits: equal for equal values, whatever process and device.

    Args:
        parts: tensors (type, shape and values), networks (parameters and buffers), ``Path`` (the content of a file, or
            names and contents of all files of a folder), dataclasses (with their class), None, booleans, numbers,
            texts, bytes, devices and types of tensors, and mappings, lists and tuples of all these. A mapping's order
            does not count, and a tuple equals the list of the same values, as it does in a config.

    Raises:
        OSError: if a ``Path`` cannot be read.
        TypeError: if there is no faithful way to write a value down.
    """
    return _hash(parts).hexdigest()


def _hash(value: Any) -> _Hash:
    """The hash of one value. Parts enter by their own hashes, which have one length, so that nothing runs together."""
    if isinstance(value, Tensor):
        plain = value.detach().as_subclass(Tensor).cpu().contiguous()
        hashed = hashlib.sha256(f"tensor {plain.dtype} {tuple(plain.shape)}\n".encode())
        hashed.update(plain.reshape(-1).view(torch.uint8).numpy().data)
    elif isinstance(value, Path) and value.is_dir():
        hashed = _hash_all("folder", [{file.relative_to(value).as_posix(): file for file in files_below(value)}])
    elif isinstance(value, Path):
        hashed = hashlib.sha256(f"file {file_digest(value)}".encode())
    elif isinstance(value, nn.Module):
        tensors = {**dict(value.named_buffers()), **dict(value.named_parameters())}
        hashed = _hash_all("network", [tensors])
    elif is_dataclass(value) and not isinstance(value, type):
        name = f"{type(value).__module__}.{type(value).__qualname__}"
        hashed = _hash_all("dataclass", [name, {field.name: getattr(value, field.name) for field in fields(value)}])
    elif isinstance(value, Mapping):
        pairs = sorted((_hash(key).digest(), _hash(item).digest()) for key, item in value.items())
        hashed = hashlib.sha256(b"mapping\n" + b"".join(key + item for key, item in pairs))
    elif isinstance(value, (list, tuple)):
        hashed = _hash_all("sequence", value)
    elif isinstance(value, bytes):
        hashed = hashlib.sha256(b"bytes\n" + value)
    else:
        hashed = hashlib.sha256(_written(value).encode("utf-8", "surrogatepass"))
    return hashed


def _hash_all(kind: str, values: Iterable[Any]) -> _Hash:
    hashed = hashlib.sha256(f"{kind}\n".encode())
    for value in values:
        hashed.update(_hash(value).digest())
    return hashed


def _written(value: Any) -> str:
    """A plain value as text, with its type."""
    for kind in (bool, int, float, str):  # a bool is an int; numbers of NumPy and enumerations are of these too
        if isinstance(value, kind):
            return f"{kind.__name__}\n{kind(value)!r}" if kind is not str else f"str\n{str.__str__(value)}"
    if value is None or isinstance(value, (torch.device, torch.dtype)):
        return f"{type(value).__name__}\n{value}"
    raise TypeError(
        f"a value of the type {type(value).__name__} has no digest: give tensors, networks, paths, dataclasses, plain "
        "values, or containers of these."
    )


def save_artifact(
    path: str | os.PathLike[str],
    *,
    kind: str,
    data: Mapping[str, Any],
    made_by: Mapping[str, Any] | None = None,
    beside: Mapping[str, Any] | None = None,
) -> None:
    """Save what a stage made, with a header that says what it is and what made it.

    Args:
        path: the file, by convention ``*.pt``.
        kind: what the file holds, for instance ``"latents"``; ``load_artifact`` checks it.
        data: tensors, numbers, strings and plain containers of these (what ``weights_only=True`` can load).
        made_by: the settings and the digests of the inputs.
        beside: what other readers look for at the top of the file; tensors that are in ``data`` too cost no space.
    """
    from monai_plan import __version__

    header = {
        "format": "monai_plan",
        "format_version": FORMAT_VERSION,
        "kind": kind,
        "version": __version__,
        "made_by": dict(made_by or {}),
    }
    write_tensors(path, {**(beside or {}), "header": header, "data": dict(data)})


def load_artifact(path: str | os.PathLike[str], *, kind: str) -> dict[str, Any]:
    """Load what ``save_artifact`` wrote, onto the CPU and without executing anything in it.

    Returns:
        ``data`` as it was given to ``save_artifact``, with the header under the key ``"header"``; another key is an
        ArtifactError that names the file.

    Raises:
        ArtifactError: if the file is missing, unreadable, of another kind or format version, or has values that are not
            finite or of another type than their name.
    """
    if not os.path.isfile(path):
        raise ArtifactError(f"{path} does not exist: run the stage that writes the {kind} first.")
    try:
        with open(path, "rb") as file:
            content = load_tensors(file)
    except Exception as error:  # torch.load raises what it likes on a damaged file
        raise ArtifactError(
            f"{path} cannot be read as {kind}: it is damaged or holds more than tensors and plain values. "
            f"Delete it and run the stage that writes it again. ({type(error).__name__}: {first_line(error)})"
        ) from error
    header = content.get("header") if isinstance(content, dict) else None
    types = {"format": str, "format_version": int, "kind": str, "version": str, "made_by": dict}
    if (
        not isinstance(header, dict)
        or not all(isinstance(header.get(name), of) for name, of in types.items())
        or header["format"] != "monai_plan"
        or not isinstance(content.get("data"), dict)
    ):
        raise ArtifactError(f"{path} was not written by monai_plan: expected a file of {kind}.")
    if header["kind"] != kind:
        raise ArtifactError(f"{path} holds {header['kind']}, but {kind} was expected: check the path.")
    if header["format_version"] > FORMAT_VERSION:
        raise ArtifactError(
            f"{path} has file format {header['format_version']} (monai_plan {header['version']}), this version reads "
            f"up to {FORMAT_VERSION}: update monai_plan."
        )
    data = _Artifact(content["data"], header=header)
    data.path, data.kind = path, kind
    for name, value in data.items():
        if not isinstance(value, _TYPES.get(name, object)):
            raise ArtifactError(f"{path} has a {type(value).__name__} as {name}: run the stage that writes it again.")
        if not all(tensor.isfinite().all() for tensor in tensors_in(value)):
            raise ArtifactError(f"{path} has values in {name} that are not finite: run the stage that writes it again.")
    return data


class _Artifact(dict[str, Any]):
    """What is in a file; what is not is an error that names it."""

    path: str | os.PathLike[str]
    kind: str

    def __missing__(self, name: str) -> Any:
        raise ArtifactError(f"{self.path} has no {name}: run the stage that writes the {self.kind} again.")


def finished_part(
    path: str | os.PathLike[str], *, kind: str, made_by: Any, make: Callable[[], Mapping[str, Any]]
) -> dict[str, Any]:
    """What ``make`` returned when the same inputs made the file at ``path``; else it is called, and saved at once.

    Args:
        path, kind: see ``save_artifact``.
        made_by: all that the part depends on, anything that ``digest`` takes; the version of monai_plan counts too.
        make: makes the part: tensors and plain values by name, which are returned on the CPU.
    """
    inputs = digest(made_by)
    part = load_part(path, kind=kind, made_by=inputs)
    if part is None:
        save_part(path, kind=kind, made_by=inputs, data=make())
        part = load_artifact(path, kind=kind)
        del part["header"]
    return part


def save_part(path: str | os.PathLike[str], *, kind: str, made_by: Any, data: Mapping[str, Any]) -> None:
    """Save a part for ``load_part``, where several are made at once; see ``finished_part``."""
    save_artifact(path, kind=kind, data=data, made_by={"inputs": digest(made_by)})


def load_part(path: str | os.PathLike[str], *, kind: str, made_by: Any) -> dict[str, Any] | None:
    """The part that ``save_part`` wrote if the same inputs made it, else None; a damaged one is None with a warning."""
    from monai_plan import __version__

    if not os.path.exists(path):
        return None
    try:
        part = load_artifact(path, kind=kind)
    except ArtifactError:
        logger.warning("%s is damaged or no %s and is made again", path, kind)
        return None
    header = part.pop("header")
    return part if (header["version"], header["made_by"]) == (__version__, {"inputs": digest(made_by)}) else None


def first_line(error: BaseException) -> str:
    """The first line of an error's message, which may be empty."""
    return "".join(str(error).splitlines()[:1])


def derive_seed(seed: int, *key: int | str) -> int:
    """A seed in [0, 2**63) that depends on ``seed`` and ``key`` alone, not on the order of any earlier draw."""
    text = "\x1f".join([str(seed), *map(repr, key)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def seeded_generator(seed: int, *key: int | str) -> torch.Generator:
    """A CPU generator seeded with ``derive_seed``; draw on the CPU and move, so that devices agree."""
    return torch.Generator().manual_seed(derive_seed(seed, *key))
