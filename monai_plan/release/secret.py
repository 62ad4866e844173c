"""What decides by chance in a release, and by nothing that anybody could guess: a secret that stays private.

A seed will not do: it is 0 unless one says otherwise, and PyTorch's generators keep 32 bits of any.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import secrets
from pathlib import Path

from monai_plan.utils import write_json

__all__ = ["draw", "in_secret_order", "release_secret"]

logger = logging.getLogger(__name__)


def release_secret(file: str | os.PathLike[str]) -> str:
    """The secret in a private file, 64 hexadecimal digits; where there is none, a new one, kept there at once.

    A damaged file is replaced, and a line says so: what is made anew then comes in another order.
    """
    path = Path(file)
    if path.exists():
        if secret := _read(path):
            return secret
        logger.warning("%s is damaged: another secret is drawn, and what is released comes in another order", path)
    secret = secrets.token_hex(32)
    write_json(path, {"secret": secret})
    return secret


def _read(path: Path) -> str | None:
    """The secret in a file; None if it holds anything else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        return None
    secret = content.get("secret") if isinstance(content, dict) else None
    return secret if isinstance(secret, str) and re.fullmatch("[0-9a-f]{64}", secret) else None


def draw(secret: str, *key: int | str) -> float:
    """A number in [0, 1) for each key, which only who knows the secret can tell from chance."""
    text = "\x1f".join([secret, *map(repr, key)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big") / 2**48


def in_secret_order(count: int, secret: str, *key: int | str) -> list[int]:
    """The numbers 0 … count − 1, shuffled."""
    return sorted(range(count), key=lambda number: (draw(secret, *key, number), number))
