"""Files of tensors that anybody may have made, read within bounds: a file of one page must not fill the memory."""

from __future__ import annotations

import os
import pickletools
import zipfile
from collections.abc import Iterator, Mapping
from typing import IO, Any

import torch
from torch import Tensor

__all__ = ["load_tensors", "tensors_in"]

MOST_LEVELS = 100  # of containers; the hash of a tuple within two million others ends the process
_FILL = {"APPEND", "APPENDS", "SETITEM", "SETITEMS", "BUILD"}  # opcodes that put values into what is there


def load_tensors(file: IO[bytes]) -> Any:
    """``torch.load`` of a file that anybody may have made: onto the CPU, executing nothing, within bounds.

    Raises:
        ValueError: if containers are nested too deeply, a part is compressed, or tensors are larger than the file.
        Exception: whatever torch raises on a damaged file.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    zipped = file.read(4) == b"PK\x03\x04"  # as torch tells its two formats apart
    file.seek(0)
    if zipped:
        with zipfile.ZipFile(file) as archive:
            parts = archive.infolist()
            if any(part.compress_type for part in parts) or sum(part.file_size for part in parts) > size:
                raise ValueError("its parts are compressed or overlap")
            for part in parts:
                if part.filename.lower().endswith(".pkl"):
                    _check_nesting(archive.open(part))
    else:
        for _ in range(5):  # a magic number, a version, the system, the content, the keys of its tensors
            _check_nesting(file)
    file.seek(0)
    content = torch.load(file, map_location="cpu", weights_only=True)
    storages = {}
    for tensor in tensors_in(content):
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
        if tensor.numel() * tensor.element_size() > storage.nbytes():
            raise ValueError(f"a tensor of the shape {list(tensor.shape)} has fewer values in the file")
    if sum(storages.values()) > size:
        raise ValueError("its tensors are larger than the file")
    return content


def _check_nesting(pickled: IO[bytes]) -> None:
    """Read the opcodes of one pickle, making nothing of them, and refuse more than ``MOST_LEVELS`` of containers."""
    stack: list[int] = []  # for each value that there would be, the levels in it; -1 for a mark
    memo: dict[Any, int] = {}
    for opcode, argument, _ in pickletools.genops(pickled):
        before, after = opcode.stack_before, opcode.stack_after
        if opcode.name in ("BINGET", "LONG_BINGET", "GET"):
            stack.append(memo[argument])
        elif opcode.name in ("BINPUT", "LONG_BINPUT", "PUT", "MEMOIZE"):
            memo[len(memo) if argument is None else argument] = stack[-1]
        elif opcode.name == "MARK":
            stack.append(-1)
        else:
            taken: list[int] = []
            if pickletools.markobject in before:
                while (level := stack.pop()) >= 0:
                    taken.append(level)
                before = before[: before.index(pickletools.markobject)]
            taken += [stack.pop() for _ in before]
            filled = taken.pop() if opcode.name in _FILL else 0
            levels = max([filled, *(level + 1 for level in taken)])
            if levels > MOST_LEVELS:
                raise ValueError(f"it nests containers more than {MOST_LEVELS} levels deep")
            stack += [levels] * len(after)


def tensors_in(content: Any) -> Iterator[Tensor]:
    """Every tensor in containers, each once."""
    seen: set[int] = set()
    pending = [content]
    while pending:
        value = pending.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, Mapping):
            pending += [*value.keys(), *value.values()]
        elif isinstance(value, (list, tuple, set)):
            pending += value
