"""What shows how a training of the GAN goes: rate and losses, pictures, the distance to the real images."""

from __future__ import annotations

import importlib.util
import logging
import os
import time
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import ignite.distributed as idist
import numpy as np
import torch
from ignite.engine import Events
from ignite.handlers import ProgressBar
from PIL import Image
from torch import Tensor

from monai_plan.data import CheckedDataset, contact_sheet
from monai_plan.gan.outlook import outlook
from monai_plan.gan.trainer import StyleGAN2Trainer
from monai_plan.metrics import FeatureStatistics, PerceptualEmbedding, frechet_distance
from monai_plan.networks import StyleGAN2Generator, images_at_once, load_generator, save_generator
from monai_plan.progress import Progress
from monai_plan.utils import ArtifactError, ConfigError, seeded_generator

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

logger = logging.getLogger(__name__)


def summary_writer(*, log_dir: str | os.PathLike[str], enabled: bool | None = None) -> SummaryWriter | None:
    """TensorBoard's writer, on the first rank; None on the others and where it is not wanted.

    Args:
        log_dir: folder of the event files.
        enabled: by default whether the package ``tensorboard`` is installed.

    Raises:
        ConfigError: if it is enabled but not installed.
    """
    installed = importlib.util.find_spec("tensorboard") is not None
    if enabled and not installed:
        raise ConfigError("tensorboard is True, but the package is not installed: pip install tensorboard.")
    if enabled is False or not installed or idist.get_rank() > 0:
        return None
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(log_dir=str(log_dir))


class GANProgressBar(ProgressBar):
    """Ignite's progress bar with the trainer's losses, the images seen and the images per second beside it.

    Reading the losses makes the host wait for the device, so the bar moves every ``every`` iterations.

    Args:
        every: iterations between two looks.
        desc: text before the bar.
    """

    def __init__(self, *, every: int = 10, desc: str = "train"):
        super().__init__(desc=desc)
        self.pbar_cls = Progress
        self.every = every

    def attach(self, engine: StyleGAN2Trainer) -> None:  # type: ignore[override]  # MONAI attaches without options
        """Register with the trainer, on the first rank only."""
        if idist.get_rank() > 0:
            return
        engine.add_event_handler(Events.EPOCH_STARTED, self._start_clock)
        super().attach(
            engine,
            output_transform=lambda output: self._line(engine, output),
            event_name=Events.ITERATION_COMPLETED(every=self.every),
        )

    def _start_clock(self, engine: StyleGAN2Trainer) -> None:
        self.began, self.seen_before = time.perf_counter(), engine.state.images_seen

    def _line(self, engine: StyleGAN2Trainer, output: Mapping[str, Tensor]) -> dict[str, float]:
        losses = {name: float(value) for name, value in output.items()}
        seen = engine.state.images_seen
        rate = (seen - self.seen_before) / max(time.perf_counter() - self.began, 1e-9)
        return {**losses, "images": seen, "images/s": round(rate, 1)}


class SampleSheetHandler:
    """Writes a picture of samples at the end of every epoch: a row per class, the same latents each time.

    Args:
        path: PNG file, for instance ``private/train/samples.png``; it is replaced each time.
        columns: samples per class.
        seed: of the latents.
        writer: if given, the picture goes to TensorBoard too, as "samples".
    """

    def __init__(
        self, *, path: str | os.PathLike[str], columns: int = 8, seed: int = 0, writer: SummaryWriter | None = None
    ):
        self.path, self.columns, self.seed, self.writer = path, columns, seed, writer

    def attach(self, engine: StyleGAN2Trainer) -> None:
        """Register with the trainer, on the first rank only."""
        if idist.get_rank() == 0:
            engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def __call__(self, engine: StyleGAN2Trainer) -> None:
        """Draw the sheet with the trainer's moving average."""
        rows = max(engine.ema.num_classes, 1)
        labels = torch.arange(rows).repeat_interleave(self.columns)
        images = _samples(engine, labels, seed=self.seed)
        contact_sheet(images, columns=self.columns, path=self.path)
        if self.writer is not None:
            with Image.open(self.path) as picture:
                sheet = np.asarray(picture.convert("RGB"))
            self.writer.add_image("samples", sheet, engine.state.images_seen, dataformats="HWC")


class BestGenerator:
    """Measures the Fréchet distance of samples to the training images now and then, and keeps the best generator.

    The distance is that of the pooled features of ``embedding``, the mean over the classes, so that it tells whether
    samples look like their own class; it is low for sharp samples and for learnt-by-heart ones alike, so it says
    nothing about privacy. It is found in ``engine.state.metrics["frechet"]``. The end of a training is always measured.
    As part of a ``ResumeHandler`` this survives a restart.

    Args:
        dataset: the training images.
        embedding: see ``monai_plan.metrics.perceptual_embedding``.
        path: file of the best generator so far, see ``save_generator``; ``save`` takes it up again.
        every_images: images seen between two measurements, looked at after each epoch.
        num_images: samples per measurement, with the classes of the training images; at most as many as these.
        seed: of the latents.
        writer: if given, the distance goes to TensorBoard too, as "frechet".

    Attributes:
        history: (images seen, distance) of every measurement.

    Raises:
        ConfigError: if ``every_images`` is less than 1 or ``num_images`` less than 2.
    """

    def __init__(
        self,
        *,
        dataset: CheckedDataset,
        embedding: PerceptualEmbedding,
        path: str | os.PathLike[str],
        every_images: int = 20_000,
        num_images: int = 1000,
        seed: int = 0,
        writer: SummaryWriter | None = None,
    ):
        if every_images < 1 or num_images < 2:
            raise ConfigError(
                f"every_images is {every_images} and num_images {num_images}: at least 1 and 2 are needed."
            )
        self.dataset, self.embedding, self.path = dataset, embedding, path
        self.every_images, self.num_images, self.seed, self.writer = every_images, num_images, seed, writer
        self.history: list[tuple[int, float]] = []
        self._rows: list[Tensor] = []  # the images of each class, and their features
        self._real: list[FeatureStatistics] = []

    def attach(self, engine: StyleGAN2Trainer) -> None:
        """Register with the trainer, on the first rank only. Its place is before ``ResumeHandler``."""
        if idist.get_rank() == 0:
            engine.add_event_handler(Events.EPOCH_COMPLETED, self)
            engine.add_event_handler(Events.COMPLETED, self.finish)

    def __call__(self, engine: StyleGAN2Trainer) -> None:
        """Measure, if it is time, and save the generator if no earlier one was as near."""
        measured = self.history[-1][0] if self.history else 0
        if engine.state.images_seen // self.every_images != measured // self.every_images:
            self._measure(engine)

    def finish(self, engine: StyleGAN2Trainer) -> None:
        """Measure the last generator, and say what more training would bring."""
        seen = engine.state.images_seen
        if not self.history or self.history[-1][0] != seen:
            self._measure(engine)
        best_seen, least = min(self.history, key=lambda entry: entry[1])
        logger.info(
            "trained with %d images; the nearest of %d measured generators is that after %d, at a distance of %.3g",
            seen, len(self.history), best_seen, least,
        )  # fmt: skip
        more = outlook(self.history)
        if more is not None:
            logger.info("%s", more)

    def _measure(self, engine: StyleGAN2Trainer) -> None:
        seen = engine.state.images_seen
        distance = self._distance(engine)
        engine.state.metrics["frechet"] = distance
        if self.writer is not None:
            self.writer.add_scalar("frechet", distance, seen)
        if distance < min((value for _, value in self.history), default=float("inf")):
            save_generator(engine.ema, self.path, made_by={"images_seen": seen, "frechet": distance})
        self.history.append((seen, distance))

    @idist.one_rank_only()
    def save(self, ema: StyleGAN2Generator, path: str | os.PathLike[str], *, use_best: bool) -> None:
        """Save what a finished training returns: the best generator that was measured, or the last, ``ema``."""
        chosen = load_generator(self.path) if use_best else ema
        save_generator(chosen, path, made_by={"data": getattr(self.dataset, "made_of", None)})

    def _distance(self, engine: StyleGAN2Trainer) -> float:
        """The mean over the classes of two images or more."""
        labels, device = self.dataset.labels, engine.state.device
        if not self._real:
            numbers = labels if engine.ema.num_classes else torch.zeros_like(labels)
            every = [(numbers == number).nonzero()[:, 0] for number in numbers.unique()]
            self._rows = [rows for rows in every if len(rows) > 1] or [torch.arange(len(labels))]
            for rows in self._rows:
                batches = (self.dataset.images[some] for some in rows.split(64))
                self._real.append(self._statistics(batches, device))
        share = max(self.num_images // len(self._rows), 2)
        taken = [rows[:share] for rows in self._rows]
        samples = _samples(engine, labels[torch.cat(taken)], seed=self.seed).split([len(rows) for rows in taken])
        found = [self._statistics(some.split(64), device) for some in samples]
        return sum(map(frechet_distance, found, self._real)) / len(found)

    @torch.no_grad()
    def _statistics(self, batches: Iterable[Tensor], device: torch.device) -> FeatureStatistics:
        statistics, embedding = FeatureStatistics(), self.embedding.to(device)
        for images in batches:
            statistics.add(embedding.pooled(images.to(device)).cpu())
        return statistics

    def state_dict(self) -> dict[str, Any]:
        """The measurements so far."""
        return {"history": [list(entry) for entry in self.history]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what ``state_dict`` gave, unless the best generator of those measurements is gone or damaged."""
        self.history = [(int(seen), float(distance)) for seen, distance in state["history"]]
        try:
            if self.history:
                load_generator(self.path)
        except ArtifactError as error:
            logger.warning("the best generator is looked for anew: %s", error)
            self.history = []


@torch.no_grad()
def _samples(engine: StyleGAN2Trainer, labels: Tensor, *, seed: int) -> Tensor:
    """One sample per label, from the trainer's moving average, [N, C, *spatial] in [-1, 1] on the CPU.

    The latents come from a generator of their own, so that looking does not change the training.
    """
    generator, device = engine.ema, engine.state.device
    batch_size = images_at_once(generator.img_size)
    z = torch.randn(len(labels), generator.z_dim, generator=seeded_generator(seed, "samples"))
    batches = zip(z.split(batch_size), labels.split(batch_size), strict=True)
    images = (generator(z.to(device), y.to(device) if generator.num_classes else None) for z, y in batches)
    return torch.cat([x.clamp(-1, 1).cpu() for x in images])
