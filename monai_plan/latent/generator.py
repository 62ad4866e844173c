"""The generator contract, and how the networks are run here: frozen, and in batches that fit into the memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

from monai_plan.utils import ConfigError, TrainingError

__all__ = ["BatchSplitter", "LatentGenerator", "frozen", "prepare_networks"]

Result = TypeVar("Result")


class LatentGenerator(Protocol):
    """What the latent room asks of a generator G = synthesis ∘ mapping, beside being an ``nn.Module``.

    The members below the line are those of ``nn.Module`` that are used.
    """

    @property
    def z_dim(self) -> int:
        """Length of z, which is drawn from N(0, I)."""

    @property
    def w_dim(self) -> int:
        """Length of w."""

    @property
    def num_classes(self) -> int:
        """Number of classes of a conditional generator; 0 for an unconditional one."""

    @property
    def img_size(self) -> int | Sequence[int]:
        """Spatial size of an image."""

    @property
    def img_channels(self) -> int:
        """Number of channels of an image."""

    def mapping(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        """z [B, z_dim] and, if conditional, labels [B] int → w [B, w_dim]."""

    def synthesis(self, w: Tensor) -> Tensor:
        """w [B, w_dim] or [B, num_ws, w_dim] → images [B, C, *spatial], about [−1, 1], not clamped."""

    # -------------------------------------------------------------------------------------------------------------

    def modules(self) -> Iterator[nn.Module]:
        """See ``torch.nn.Module``."""

    def parameters(self) -> Iterator[nn.Parameter]:
        """See ``torch.nn.Module``."""

    def buffers(self) -> Iterator[Tensor]:
        """See ``torch.nn.Module``."""

    def to(self, device: torch.device) -> Any:
        """See ``torch.nn.Module``."""


def prepare_networks(
    generator: LatentGenerator, *others: nn.Module, device: torch.device | str | None = None
) -> torch.device:
    """Check the generator contract and move all networks to one device.

    Args:
        generator: the generator to check.
        others: further networks.
        device: where to move them; default: where the generator is.

    Returns:
        The device.

    Raises:
        ConfigError: if the generator lacks a member of the contract.
    """
    needed = ("mapping", "synthesis", "z_dim", "w_dim", "num_classes", "img_size", "img_channels")
    missing = [name for name in needed if not hasattr(generator, name)]
    if missing:
        raise ConfigError(
            f"{type(generator).__name__} cannot be used as the generator: it lacks {', '.join(missing)}. "
            "Use StyleGAN2Generator or wrap the network to fulfil LatentGenerator."
        )
    if device is None:
        tensors: Iterator[Tensor] = chain(generator.parameters(), generator.buffers())
        device = next((tensor.device for tensor in tensors), "cpu")
    device = torch.device(device)
    generator.to(device)
    for network in others:
        network.to(device)
    return device


@contextmanager
def frozen(*networks: nn.Module | LatentGenerator) -> Iterator[None]:
    """Put networks into eval mode and stop gradients to their weights; restore both afterwards, also on an error."""
    modes = [(module, module.training) for network in networks for module in network.modules()]
    flags = [(weight, weight.requires_grad) for network in networks for weight in network.parameters()]
    try:
        for module, _ in modes:
            module.training = False
        for weight, _ in flags:
            weight.requires_grad_(False)
        yield
    finally:
        for module, training in modes:
            module.training = training
        for weight, requires_grad in flags:
            weight.requires_grad_(requires_grad)


class BatchSplitter:
    """Run a function over slices of at most ``size`` items; where memory runs out, halve ``size`` and go on.

    The size that was found is kept for the next call.

    Args:
        size: the most items in one slice, at least 1.
    """

    def __init__(self, size: int) -> None:
        self.size = size

    def __call__(self, function: Callable[[slice], Result], total: int) -> list[Result]:
        """The results of ``function(slice)`` for slices that cover 0 … total, in order.

        Raises:
            TrainingError: if not even one item fits.
        """
        results: list[Result] = []
        start = 0
        while start < total:
            stop = min(start + self.size, total)
            try:
                results.append(function(slice(start, stop)))
            except torch.cuda.OutOfMemoryError as error:
                if stop - start == 1:
                    raise TrainingError(
                        "The device's memory does not hold even one sample: use a device with more memory or "
                        f"smaller networks ({str(error).splitlines()[0]})."
                    ) from error
                self.size = (stop - start) // 2
            else:
                start = stop
                continue
            # Outside the except block: only here has the failed slice let go of its tensors.
            torch.cuda.empty_cache()
        return results
