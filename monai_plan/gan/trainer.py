"""Training of StyleGAN2 as a MONAI engine."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.engines import IterationEvents, Trainer
from monai.inferers import Inferer, SimpleInferer
from torch import Tensor, nn
from torch.optim import Optimizer

from monai_plan.data import contact_sheet
from monai_plan.gan.losses import logistic_d_loss, logistic_g_loss, path_lengths, r1_penalty
from monai_plan.networks import StyleGAN2Generator
from monai_plan.utils import ConfigError, TrainingError, seeded_generator

__all__ = ["SampleSheetHandler", "StyleGAN2Trainer", "bf16_is_fast"]


def bf16_is_fast(device: torch.device) -> bool:
    """Whether ``device`` has arithmetic units for bfloat16: recent GPUs, and CPUs with AVX512-BF16 or AMX."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        supported: Callable[[], bool] | None = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
        return supported is not None and supported()
    return False


class StyleGAN2Trainer(Trainer):
    """Train a StyleGAN2 generator and discriminator on labelled images; one iteration is a step of each.

    Non-saturating logistic loss with R1 every ``r1_interval`` iterations and, if its weight is not 0, path length
    regularisation every ``path_length_interval`` (weights times the interval, arXiv 1912.04958, appendix B).
    A loss that is not finite ends the training with a ``TrainingError`` before a checkpoint of it is written.

    Args:
        device: where to train; the networks must be there already.
        max_epochs: number of epochs of ``epoch_length`` iterations.
        train_data_loader: yields {"image": [B, C, *spatial] in [-1, 1], "label": [B]}; it is restarted as often as
            an epoch needs.
        generator: see ``StyleGAN2Generator``; unconditional if its ``num_classes`` is 0.
        ema: a copy of the generator that takes its exponential moving average; what is used afterwards.
        discriminator: images, labels → logits [B].
        g_optimizer: of the generator.
        d_optimizer: of the discriminator.
        epoch_length: iterations an epoch; by default one pass over the loader.
        inferer: how the generator is called, (z, generator, labels) → images.
        augment: applied to all images that the discriminator sees.
        r1_weight: γ; the objective holds γ/2 · E‖∇D‖².
        r1_interval: iterations between two R1 terms.
        path_length_weight: weight of the path length penalty; 0 switches it off.
        path_length_interval: iterations between two path length terms.
        ema_half_life: half-life of the moving average, in images.
        ema_rampup: early on, the half-life is at most this share of the images seen.
        amp: bfloat16 autocast; by default where ``bf16_is_fast``. R1 and path length are computed in float32.
        train_handlers: MONAI or Ignite handlers.

    Raises:
        ConfigError: if the loader yields no batch.
    """

    def __init__(
        self,
        *,
        device: torch.device | str,
        max_epochs: int,
        train_data_loader: Iterable[Any],
        generator: StyleGAN2Generator,
        ema: StyleGAN2Generator,
        discriminator: nn.Module,
        g_optimizer: Optimizer,
        d_optimizer: Optimizer,
        epoch_length: int | None = None,
        inferer: Inferer | None = None,
        augment: Callable[[Tensor], Tensor] | None = None,
        r1_weight: float = 1.0,
        r1_interval: int = 16,
        path_length_weight: float = 0.0,
        path_length_interval: int = 8,
        ema_half_life: float = 10_000,
        ema_rampup: float = 0.05,
        amp: bool | None = None,
        train_handlers: Sequence[Any] = (),
    ):
        if len(train_data_loader) == 0:  # type: ignore[arg-type]
            raise ConfigError(
                "the training data loader yields no batch: the data set has fewer images than batch_size; lower it."
            )
        device = torch.device(device)
        self.generator, self.discriminator = generator, discriminator
        self.g_optimizer, self.d_optimizer = g_optimizer, d_optimizer
        self.inferer = inferer or SimpleInferer()
        self.augment = augment or nn.Identity()
        self.r1_weight, self.r1_interval = r1_weight, r1_interval
        self.path_length_weight, self.path_length_interval = path_length_weight, path_length_interval
        self.ema_half_life, self.ema_rampup = ema_half_life, ema_rampup
        self.ema = ema.eval().requires_grad_(False)
        self.amp_bf16 = bf16_is_fast(device) if amp is None else amp
        super().__init__(
            device=device,
            max_epochs=max_epochs,
            data_loader=train_data_loader,
            epoch_length=epoch_length,
            handlers=[_FiniteLossGuard(), *train_handlers],
        )
        self.state.path_length_mean = torch.zeros([], device=device)
        self.state.finite = torch.ones([], dtype=torch.bool, device=device)
        self.state_dict_user_keys.append("path_length_mean")  # goes into checkpoints with the engine

    def _iteration(self, engine: Engine, batchdata: dict[str, Any]) -> dict[str, Tensor]:
        reals = batchdata["image"].to(self.state.device, torch.float32)
        labels = batchdata["label"].to(self.state.device) if self.generator.num_classes else None
        self.generator.train()
        self.discriminator.train()
        g_loss = self._generator_step(labels, reals.shape[0])
        d_loss, real_sign = self._discriminator_step(reals, labels)
        self._update_ema(reals.shape[0])
        self.state.finite &= torch.isfinite(g_loss + d_loss)
        engine.fire_event(IterationEvents.MODEL_COMPLETED)
        return {"g_loss": g_loss, "d_loss": d_loss, "real_sign": real_sign}

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.state.device.type, torch.bfloat16, enabled=self.amp_bf16)

    def _fake(self, labels: Tensor | None, batch_size: int) -> Tensor:
        z = torch.randn(batch_size, self.generator.z_dim, device=self.state.device)
        return self.inferer(z, self.generator, labels)

    def _due(self, weight: float, interval: int) -> bool:
        return weight != 0 and (self.state.iteration - 1) % interval == 0

    def _generator_step(self, labels: Tensor | None, batch_size: int) -> Tensor:
        self.discriminator.requires_grad_(False)
        with self._autocast():
            logits = self.discriminator(self.augment(self._fake(labels, batch_size)), labels)
            g_loss = logistic_g_loss(logits)
        total = g_loss
        if self._due(self.path_length_weight, self.path_length_interval):
            total = total + self._path_length_penalty(labels, batch_size)
        self.fire_event(IterationEvents.FORWARD_COMPLETED)
        self.g_optimizer.zero_grad(set_to_none=True)
        total.backward()
        self.g_optimizer.step()
        self.discriminator.requires_grad_(True)
        return g_loss.detach()

    def _path_length_penalty(self, labels: Tensor | None, batch_size: int) -> Tensor:
        half = max(batch_size // 2, 1)  # as in the published trainer: a smaller batch, for its memory
        z = torch.randn(half, self.generator.z_dim, device=self.state.device)
        w = self.generator.mapping(z, None if labels is None else labels[:half])
        lengths = path_lengths(self.generator.synthesis, w)
        mean = self.state.path_length_mean.to(w.device).lerp(lengths.detach().mean(), 0.01)
        self.state.path_length_mean = mean
        return (lengths - mean).square().mean() * (self.path_length_weight * self.path_length_interval)

    def _discriminator_step(self, reals: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor]:
        with self._autocast():
            with torch.no_grad():
                fakes = self._fake(labels, reals.shape[0])
            real_logits = self.discriminator(self.augment(reals), labels)
            fake_logits = self.discriminator(self.augment(fakes), labels)
            d_loss = logistic_d_loss(real_logits, fake_logits)
        total = d_loss
        if self._due(self.r1_weight, self.r1_interval):
            images = self.augment(reals).detach().requires_grad_(True)
            penalty = r1_penalty(self.discriminator(images, labels), images)
            total = total + penalty * (self.r1_weight / 2 * self.r1_interval)
        self.fire_event(IterationEvents.LOSS_COMPLETED)
        self.d_optimizer.zero_grad(set_to_none=True)
        total.backward()
        self.fire_event(IterationEvents.BACKWARD_COMPLETED)
        self.d_optimizer.step()
        return d_loss.detach(), real_logits.detach().sign().mean()

    @torch.no_grad()
    def _update_ema(self, batch_size: int) -> None:
        half_life = min(self.ema_half_life, self.state.iteration * batch_size * self.ema_rampup)
        weight = 1 - 0.5 ** (batch_size / max(half_life, 1e-8))
        torch._foreach_lerp_(list(self.ema.parameters()), list(self.generator.parameters()), weight)
        for average, buffer in zip(self.ema.buffers(), self.generator.buffers(), strict=True):
            average.copy_(buffer)


class _FiniteLossGuard:
    """Ends training when a loss was or the weights are not finite.

    First in the list, so that no checkpoint of such weights is written. The flag gathers on the device and is read
    every 50 iterations, so that a GPU is not made to wait at each.
    """

    def attach(self, engine: StyleGAN2Trainer) -> None:
        engine.add_event_handler(Events.ITERATION_COMPLETED(every=50) | Events.EPOCH_COMPLETED, self)

    def __call__(self, engine: StyleGAN2Trainer) -> None:
        # the last steps of an epoch have not been seen by any loss, so the weights count too
        weights: list[Tensor] = [*engine.generator.parameters(), *engine.discriminator.parameters()]
        if not (engine.state.finite & torch.stack(torch._foreach_norm(weights)).isfinite().all()):
            raise TrainingError(
                f"the GAN's loss or weights were not finite before iteration {engine.state.iteration}: training stops "
                "at the last checkpoint, which is good. Lower the learning rates or raise r1_weight, then start again."
            )


class SampleSheetHandler:
    """Writes a picture of samples at the end of every epoch: a row a class, the same latents each time.

    Args:
        path: PNG file, for instance ``private/train/samples.png``; it is replaced each time.
        columns: samples a class.
        seed: of the latents.
    """

    def __init__(self, *, path: str | os.PathLike[str], columns: int = 8, seed: int = 0):
        self.path, self.columns, self.seed = path, columns, seed

    def attach(self, engine: StyleGAN2Trainer) -> None:
        """Register with the trainer."""
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    @torch.no_grad()
    def __call__(self, engine: StyleGAN2Trainer) -> None:
        """Draw the sheet with the trainer's moving average."""
        generator, device = engine.ema, engine.state.device
        rows = max(generator.num_classes, 1)
        z = torch.randn(rows * self.columns, generator.z_dim, generator=seeded_generator(self.seed, "sheet"))
        labels = torch.arange(rows).repeat_interleave(self.columns).to(device) if generator.num_classes else None
        images = generator(z.to(device), labels).clamp(-1, 1).cpu()
        contact_sheet(images, columns=self.columns, path=self.path)
