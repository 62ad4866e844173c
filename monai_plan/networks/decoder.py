"""The decoder contract, which is all that the rooms above ask of a generator, and the classes that files may name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from torch import Tensor, nn

from monai_plan.utils import ConfigError

_REGISTERED: dict[str, type[LatentDecoder]] = {}
AnyDecoder = TypeVar("AnyDecoder", bound="type[LatentDecoder]")


class LatentDecoder(nn.Module):
    """A generator G = synthesis ∘ mapping; whatever fulfils this can be inverted, walked with and released.

    A subclass sets the attributes in its constructor and gives ``mapping`` and ``synthesis``, as methods or as
    submodules that are called the same way. With ``register_decoder`` it can be saved and loaded as well; its
    constructor then also runs under ``torch.device("meta")``, by which a file is compared with its architecture.

    Attributes:
        mapping: z [B, z_dim], drawn from N(0, I), and, if conditional, labels [B] int → w [B, w_dim].
        synthesis: w [B, w_dim] or, with ``num_ws``, also [B, num_ws, w_dim] → images [B, img_channels, *img_size],
            about [−1, 1], not clamped. Differentiable; in eval mode the same w gives the same image.
        z_dim: length of z.
        w_dim: length of w, the space in which PLAN walks.
        num_classes: number of classes of a conditional generator; 0 for an unconditional one.
        img_size: elements of each spatial axis of an image.
        img_channels: channels of an image.
        num_ws: number of layers that can have a w of their own, at least 2; None: there is no W+.
        architecture: the arguments of the constructor by name, as plain values: numbers, texts, None, lists and dicts.
        made_of: of one that was loaded, the data set that it was trained on, as its file says; None if it does not.
    """

    mapping: Callable[..., Tensor]
    synthesis: Callable[..., Tensor]
    z_dim: int
    w_dim: int
    num_classes: int
    img_size: tuple[int, ...]
    img_channels: int
    num_ws: int | None = None
    architecture: dict[str, Any]
    made_of: str | None = None

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        """z [B, z_dim], labels [B] int → images [B, img_channels, *img_size]."""
        return self.synthesis(self.mapping(z, labels))

    def check_contract(self) -> None:
        """Refuse a decoder that lacks a part of the contract, before hours are spent on it.

        Raises:
            ConfigError: if one of the members above is missing.
        """
        needed = ("mapping", "synthesis", "z_dim", "w_dim", "num_classes", "img_size", "img_channels")
        missing = [name for name in needed if not hasattr(self, name)]
        if missing:
            raise ConfigError(
                f"{type(self).__name__} lacks {', '.join(missing)}: set what is missing in its constructor, see "
                "monai_plan.networks.LatentDecoder."
            )


def register_decoder(cls: AnyDecoder) -> AnyDecoder:
    """Class decorator: files may hold decoders of this class, and name it; they load once its module is imported.

    Raises:
        ConfigError: if it is no subclass of ``LatentDecoder``, or another class has registered the name.
    """
    if not (isinstance(cls, type) and issubclass(cls, LatentDecoder)):
        raise ConfigError(f"{cls!r} is no subclass of monai_plan.networks.LatentDecoder: only these can be registered.")
    known = _REGISTERED.setdefault(cls.__name__, cls)
    if (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
        raise ConfigError(
            f"{cls.__module__} registers a decoder {cls.__name__}, a name that {known.__module__} has registered: "
            "rename one of the two classes."
        )
    _REGISTERED[cls.__name__] = cls  # of a module that was loaded again, the new one
    return cls


def decoder_class(name: str) -> type[LatentDecoder]:
    """The registered class of a name.

    Raises:
        ConfigError: if there is none.
    """
    if name not in _REGISTERED:
        raise ConfigError(
            f"{name} is no registered decoder (known: {', '.join(sorted(_REGISTERED))}): import the module that "
            "registers it, see monai_plan.networks.register_decoder."
        )
    return _REGISTERED[name]
