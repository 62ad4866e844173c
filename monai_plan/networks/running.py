"""How networks are run that are not trained: frozen, on one device, and in batches that fit into the memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import TypeVar

import torch
from torch import Tensor, nn

from monai_plan.networks.decoder import LatentDecoder
from monai_plan.utils import ConfigError, TrainingError, first_line

Result = TypeVar("Result")
_PIXELS = 2**20  # behind an autoencoder of 16 channels these take some 0.4 GiB


def prepare_networks(
    generator: LatentDecoder, *others: nn.Module, device: torch.device | str | None = None
) -> torch.device:
    """Check the generator contract and move all networks to one device.

    Returns:
        The device; by default where the generator is.

    Raises:
        ConfigError: if the generator is no ``LatentDecoder`` or lacks a member of the contract.
    """
    if not isinstance(generator, LatentDecoder):
        raise ConfigError(
            f"{type(generator).__name__} cannot be used as the generator: it is no monai_plan.networks.LatentDecoder. "
            "Wrap it in a subclass of that."
        )
    generator.check_contract()
    if device is None:
        tensors: Iterator[Tensor] = chain(generator.parameters(), generator.buffers())
        device = next((tensor.device for tensor in tensors), "cpu")
    device = torch.device(device)
    generator.to(device)
    for network in others:
        network.to(device)
    return device


@contextmanager
def frozen(*networks: nn.Module) -> Iterator[None]:
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
    """Run a function over slices of at most ``size`` ≥ 1 items; where memory runs out, halve ``size`` for good."""

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
                        f"smaller networks ({first_line(error)})."
                    ) from error
                self.size = (stop - start) // 2
            else:
                start = stop
                continue
            # Outside the except block: only here has the failed slice let go of its tensors.
            torch.cuda.empty_cache()
        return results


def images_at_once(img_size: Sequence[int]) -> int:
    """How many images of a size are made at a time where nothing is learnt: 64, and of large ones fewer."""
    return min(64, max(1, _PIXELS // math.prod(img_size)))


def bf16_is_fast(device: torch.device) -> bool:
    """Whether ``device`` has arithmetic units for bfloat16: recent GPUs, and CPUs with AVX512-BF16 or AMX."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        supported: Callable[[], bool] | None = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
        return supported is not None and supported()
    return False
