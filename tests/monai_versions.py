"""Where MONAI's versions differ."""

from __future__ import annotations

import inspect

import monai.bundle

# For ``load`` to give the network: before 1.5 it gave the weights unless told not to, and later has no such option.
AS_NETWORK = (
    {"return_state_dict": False} if "return_state_dict" in inspect.signature(monai.bundle.load).parameters else {}
)
