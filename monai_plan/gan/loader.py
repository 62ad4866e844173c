"""Batches for the training of the GAN: from memory, in an order that depends on the seed and the position alone."""

from __future__ import annotations

from collections.abc import Iterator

import ignite.distributed as idist
import torch
from torch import Tensor

from monai_plan.data import CheckedDataset
from monai_plan.utils import ConfigError, seeded_generator

FREE_SHARE = 0.25  # of a GPU's free memory that the images may take; the networks need the rest


class ResidentLoader:
    """Endless shuffled batches of a data set that is held in memory, on the GPU where it fits.

    Images are held as the data set holds them, in 8 bits where these say all, and become float32 batch by batch.

    Pass p over the data set follows a permutation drawn from (seed, p), so that a training that is continued sees the
    batches that it would have seen. Under ``torch.distributed`` every rank takes its part of one global batch.

    Args:
        dataset: the images, see ``CheckedDataset``.
        batch_size: images of this rank in a batch.
        seed: of the order.
        device: where images are kept and batches come from; a GPU without the memory gets batches from the CPU.

    Attributes:
        position: number of the first batch that the next iterator gives.

    Raises:
        ConfigError: if the data set has fewer images than a batch of all ranks.
    """

    def __init__(
        self, dataset: CheckedDataset, *, batch_size: int, seed: int = 0, device: torch.device | str = "cpu"
    ) -> None:
        self.dataset, self.batch_size, self.seed = dataset, batch_size, seed
        self.rank, self.world_size = idist.get_rank(), idist.get_world_size()
        if not 1 <= batch_size * self.world_size <= len(dataset):
            raise ConfigError(
                f"the training section has {len(dataset)} images, but a batch takes {batch_size} on each of "
                f"{self.world_size} ranks: lower batch_size."
            )
        self.images, self.labels = dataset.images, dataset.labels
        device = torch.device(device)
        self.for_gpu = device.type == "cuda"
        if not self.for_gpu or self.images.nbytes < FREE_SHARE * torch.cuda.mem_get_info(device)[0]:
            self.images, self.labels = self.images.to(device), self.labels.to(device)
        self.position = 0

    def __len__(self) -> int:
        """Batches in one pass; the images that do not fill a batch wait for another pass."""
        return len(self.dataset) // (self.batch_size * self.world_size)

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        position = self.position
        while True:
            order = self._order(position // len(self))
            for step in range(position % len(self), len(self)):
                first = (step * self.world_size + self.rank) * self.batch_size
                index = order[first : first + self.batch_size]
                yield {"image": self._ready(self.images[index]), "label": self._ready(self.labels[index])}
                position += 1

    def _order(self, number: int) -> Tensor:
        """The permutation of one pass, where the images are."""
        generator = seeded_generator(self.seed, "order", number)
        order = torch.randperm(len(self.dataset), generator=generator)
        return self._ready(order).to(self.images.device, non_blocking=True)

    def _ready(self, tensor: Tensor) -> Tensor:
        """For a GPU, in memory from where it is copied without making the host wait."""
        return tensor.pin_memory() if self.for_gpu and tensor.device.type == "cpu" else tensor
