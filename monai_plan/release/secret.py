"""What decides by chance in a release, and by nothing that anybody could guess: a secret that stays private.

A seed will not do: it is 0 unless one says otherwise, and PyTorch's generators keep 32 bits of any.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from pathlib import Path

from monai_plan.utils import ArtifactError, write_json

__all__ = ["draw", "in_secret_order", "release_secret"]


def release_secret(file: str | os.PathLike[str]) -> str:
    """The secret in a private file, 64 hexadecimal digits; where there is none, a new one, kept there at once.

    Raises:
        ArtifactError: if the file holds anything else.
    """
    if not Path(file).exists():
        write_json(file, {"secret": secrets.token_hex(32)})
    try:
        secret = json.loads(Path(file).read_text(encoding="utf-8"))["secret"]
        if len(bytes.fromhex(secret)) == 32:
            return str(secret)
    except (ValueError, KeyError, TypeError):
        pass
    raise ArtifactError(f"{file} holds no secret of 64 hexadecimal digits: delete it, and another one is drawn.")


def draw(secret: str, *key: int | str) -> float:
    """A number in [0, 1) for each key, which only who knows the secret can tell from chance."""
    text = "\x1f".join([secret, *map(repr, key)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big") / 2**48


def in_secret_order(count: int, secret: str, *key: int | str) -> list[int]:
    """The numbers 0 … count − 1, shuffled."""
    return sorted(range(count), key=lambda number: (draw(secret, *key, number), number))
