"""Training of StyleGAN2 as a MONAI engine."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, cast

import ignite.distributed as idist
import torch
import torch.nn.functional as F
from ignite.engine import Engine, Events
from monai.engines import IterationEvents, Trainer
from monai.inferers import Inferer, SimpleInferer
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.optim import Optimizer

from monai_plan.gan.aided import AidedDiscriminator
from monai_plan.gan.augment import AdaptiveStrength
from monai_plan.gan.loader import ResidentLoader
from monai_plan.gan.losses import AID_WEIGHT, gan_objective, r1_penalty, variety_loss
from monai_plan.gan.projected import ProjectedDiscriminator
from monai_plan.networks import StyleGAN2Discriminator, StyleGAN2Generator
from monai_plan.networks.running import bf16_is_fast
from monai_plan.utils import ConfigError, TrainingError, derive_seed


class StyleGAN2Trainer(Trainer):
    """Train a StyleGAN2 generator and discriminator on labelled images; one iteration is a step of each.

    The objective is one of ``OBJECTIVES``: "logistic" with lazy R1 is StyleGAN2-ADA without path length regularisation
    (arXiv 1912.04958, appendix B; 2006.06676); "relativistic" with R1 and R2 is R3GAN, "hinge" is Projected GAN's. In
    "aided" R1, R2 and the strength of augmentation follow the first discriminator alone. R1 and R2 are added every so
    many iterations, their weights times the interval.

    Every draw of an iteration comes from (seed, iteration, rank), for which the global random state of torch is set: a
    training that is continued equals one that never stopped, bit for bit on the CPU, if the loader keeps its place too.
    One that is limited by time ends with an epoch: it equals one of as many epochs.

    Under ``torch.distributed`` each rank draws its own batch, and gradients, running means and losses are averaged in
    one message per step: R1 differentiates twice, which DistributedDataParallel does not allow for.

    A loss that is not finite ends the training with a ``TrainingError`` before a checkpoint of it is written.

    Args:
        device: where to train; the networks must be there already.
        max_epochs: number of epochs of ``epoch_length`` iterations; with ``minutes`` these decide.
        train_data_loader: yields {"image": [B, C, *spatial] in [-1, 1], "label": [B]}.
        generator: see ``StyleGAN2Generator``; unconditional if its ``num_classes`` is 0.
        ema: a copy of the generator that takes its exponential moving average; what is used afterwards.
        discriminator: images, labels → logits, [B] or [B, L]; an ``AidedDiscriminator`` for "aided", see
            ``gan_discriminator``.
        g_optimizer, d_optimizer: of the generator and of the discriminator.
        epoch_length: iterations per epoch; by default one pass over the loader.
        inferer: how the generator is called, (z, generator, labels) → images.
        objective: a name in ``OBJECTIVES``.
        aid_weight: weight of the loss on pretrained features, in "aided".
        class_weight: of the class loss in both players' losses: the cross entropy of the logits that each class has
            from the discriminator, of real images in its loss and of generated ones in the generator's. That is the
            auxiliary classifier of AC-GAN (arXiv 1610.09585) without a head of its own. 0 switches it off; without two
            classes it is off.
        variety_weight: of ``variety_loss`` in the generator's loss; 0 switches it off.
        augment: applied to all images that the discriminator sees.
        adaptive: raises and lowers the probability of ``augment`` by the sign of D on real images.
        r1_weight: γ on real images; the objective holds γ/2 · E‖∇D‖². 0 switches it off.
        r1_interval: iterations between two R1 terms.
        r2_weight: γ on generated images, at the same iterations; 0 switches it off.
        ema_half_life: half-life of the moving average, in images; at most ``ema_rampup`` times the images seen.
        minutes: of wall clock, handlers included, after which to end, with the epoch that comes nearest to it and at
            least one; what ended before the last checkpoint with ``minutes`` counts. None: ``max_epochs`` decides.
        amp: bfloat16 autocast; by default where ``bf16_is_fast``. R1 and R2 are computed in float32.
        seed: of all draws.
        train_handlers: MONAI or Ignite handlers.

    Raises:
        ConfigError: if the loader yields no batch, ``minutes`` is not above 0, or the objective is not known or not one
            for the discriminator.
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
        objective: str = "logistic",
        aid_weight: float = AID_WEIGHT,
        class_weight: float = 0.0,
        variety_weight: float = 0.0,
        augment: Callable[[Tensor], Tensor] | None = None,
        adaptive: AdaptiveStrength | None = None,
        r1_weight: float = 1.0,
        r1_interval: int = 16,
        r2_weight: float = 0.0,
        ema_half_life: float = 10_000,
        ema_rampup: float = 0.05,
        minutes: float | None = None,
        amp: bool | None = None,
        seed: int = 0,
        train_handlers: Sequence[Any] = (),
    ):
        if len(train_data_loader) == 0:  # type: ignore[arg-type]
            raise ConfigError(
                "the training data loader yields no batch: the data set has fewer images than batch_size; lower it."
            )
        if minutes is not None and not minutes > 0:
            raise ConfigError(f"minutes is {minutes}, but must be above 0, or None to train max_epochs epochs.")
        device = torch.device(device)
        self.generator, self.discriminator = generator, discriminator
        self.g_optimizer, self.d_optimizer = g_optimizer, d_optimizer
        self.inferer = inferer or SimpleInferer()
        self.objective = gan_objective(objective, aid_weight=aid_weight)
        if self.objective.aided != isinstance(discriminator, AidedDiscriminator):
            raise ConfigError(
                f"the objective {objective} does not go with a {type(discriminator).__name__}: aided needs an "
                "AidedDiscriminator, the others do without; gan_discriminator makes the one that fits."
            )
        self.class_weight = class_weight if generator.num_classes > 1 else 0.0
        if self.class_weight and isinstance(discriminator, ProjectedDiscriminator):
            raise ConfigError(
                f"class_weight is {class_weight}, but the objective {objective} has no discriminator that learns "
                "classes from the images: set it to 0, or take another objective."
            )
        self.variety_weight = variety_weight
        # what learns from the images alone: R1 is for it, and its opinion shows whether it knows them by heart
        self._own = discriminator.own if isinstance(discriminator, AidedDiscriminator) else discriminator
        self.augment, self.adaptive = augment or nn.Identity(), adaptive
        for module in (augment, adaptive):
            if isinstance(module, nn.Module):
                module.to(device)
        self.r1_weight, self.r1_interval, self.r2_weight = r1_weight, r1_interval, r2_weight
        self.ema_half_life, self.ema_rampup = ema_half_life, ema_rampup
        self.ema = ema.eval().requires_grad_(False)
        self.amp_bf16 = bf16_is_fast(device) if amp is None else amp
        self.seed = seed
        super().__init__(
            device=device,
            max_epochs=max_epochs,
            data_loader=train_data_loader,
            epoch_length=epoch_length,
            handlers=[_FiniteLossGuard(), *train_handlers],
        )
        self.state.finite = torch.ones([], dtype=torch.bool, device=device)
        self.state.images_seen = 0
        self.state.seconds, self.state.seconds_of = 0.0, 0  # and of how many iterations, where minutes are given
        self.state_dict_user_keys.extend(["images_seen", "seconds", "seconds_of"])  # go into checkpoints
        self.add_event_handler(Events.STARTED, _start_alike)  # after the handler that loads a checkpoint
        if minutes is not None:
            self.add_event_handler(Events.STARTED, _start_the_clock, 60 * minutes)
            self.add_event_handler(Events.ITERATION_COMPLETED, _count_the_time)
            self.add_event_handler(Events.EPOCH_COMPLETED, _plan_the_end, 60 * minutes)

    def _iteration(self, engine: Engine, batchdata: dict[str, Any]) -> dict[str, Tensor]:
        torch.manual_seed(derive_seed(self.seed, "iteration", self.state.iteration, idist.get_rank()))
        reals = batchdata["image"].to(self.state.device, torch.float32, non_blocking=True)
        labels = batchdata["label"].to(self.state.device, non_blocking=True) if self.generator.num_classes else None
        self.generator.train()
        self.discriminator.train()
        with parametrize.cached():  # spectral norms once a step, not once a forward pass
            g_loss = self._generator_step(reals, labels)
        with parametrize.cached():
            d_loss, real_sign = self._discriminator_step(reals, labels)
        self.state.images_seen += reals.shape[0] * idist.get_world_size()
        self._update_ema(reals.shape[0] * idist.get_world_size())
        output = {"g_loss": g_loss, "d_loss": d_loss, "real_sign": real_sign}
        if self.adaptive is not None:
            self.adaptive.update(real_sign, reals.shape[0] * idist.get_world_size())
            output["p"] = self.adaptive.p.detach().clone()
        self.state.finite &= torch.isfinite(g_loss + d_loss)
        engine.fire_event(IterationEvents.MODEL_COMPLETED)
        return output

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.state.device.type, torch.bfloat16, enabled=self.amp_bf16)

    def _fake(self, labels: Tensor | None, batch_size: int) -> Tensor:
        z = torch.randn(batch_size, self.generator.z_dim, device=self.state.device)
        return self.inferer(z, self.generator, labels)

    def _generator_step(self, reals: Tensor, labels: Tensor | None) -> Tensor:
        self.discriminator.requires_grad_(False)
        with self._autocast():
            fakes = self._fake(labels, len(reals))
            logits, class_loss = self._judged(self.augment(fakes), labels)
            real_logits = self.discriminator(self.augment(reals), labels) if self.objective.in_pairs else None
            g_loss = self.objective.g_loss(logits, real_logits) + class_loss
            if self.variety_weight:
                g_loss = g_loss + self.variety_weight * variety_loss(fakes, reals, labels)
        self.fire_event(IterationEvents.FORWARD_COMPLETED)
        self.g_optimizer.zero_grad(set_to_none=True)
        g_loss.backward()
        g_loss = g_loss.detach()
        _average_over_ranks(self.generator, g_loss)
        self.g_optimizer.step()
        self.discriminator.requires_grad_(True)
        return g_loss

    def _discriminator_step(self, reals: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor]:
        with self._autocast():
            with torch.no_grad():
                fakes = self._fake(labels, len(reals))
            real_logits, class_loss = self._judged(self.augment(reals), labels)
            fake_logits = self.discriminator(self.augment(fakes), labels)
            d_loss = self.objective.d_loss(real_logits, fake_logits) + class_loss
        total = d_loss
        for weight, images in ((self.r1_weight, reals), (self.r2_weight, fakes)):
            if weight != 0 and (self.state.iteration - 1) % self.r1_interval == 0:
                total = total + self._penalty(self.augment(images), labels) * (weight / 2 * self.r1_interval)
        self.fire_event(IterationEvents.LOSS_COMPLETED)
        self.d_optimizer.zero_grad(set_to_none=True)
        total.backward()
        own_logits = real_logits[:, 0] if self.objective.aided else real_logits
        d_loss, real_sign = d_loss.detach(), own_logits.detach().float().sign().mean()
        _average_over_ranks(self.discriminator, d_loss, real_sign, self.generator.mapping.w_avg)
        self.fire_event(IterationEvents.BACKWARD_COMPLETED)
        self.d_optimizer.step()
        return d_loss, real_sign

    def _judged(self, images: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor | float]:
        """D's logits, and the class loss times its weight."""
        if not self.class_weight or labels is None:
            return self.discriminator(images, labels), 0.0
        logits, classes = cast(StyleGAN2Discriminator | AidedDiscriminator, self.discriminator).judge(images, labels)
        return logits, self.class_weight * F.cross_entropy(classes, labels)

    def _penalty(self, images: Tensor, labels: Tensor | None) -> Tensor:
        images = images.detach().requires_grad_(True)
        return r1_penalty(self._own(images, labels), images)

    @torch.no_grad()
    def _update_ema(self, batch_size: int) -> None:
        half_life = min(self.ema_half_life, self.state.images_seen * self.ema_rampup)
        weight = 1 - 0.5 ** (batch_size / max(half_life, 1e-8))
        torch._foreach_lerp_(list(self.ema.parameters()), list(self.generator.parameters()), weight)
        torch._foreach_copy_(list(self.ema.buffers()), list(self.generator.buffers()))


def _start_alike(engine: StyleGAN2Trainer) -> None:
    """Begin where the checkpoint, if any, left off, with the same networks on every rank."""
    if isinstance(engine.data_loader, ResidentLoader):
        engine.data_loader.position = engine.state.iteration
    if idist.get_world_size() > 1:
        for network in (engine.generator, engine.ema, engine.discriminator):
            for tensor in network.state_dict().values():
                tensor.copy_(idist.broadcast(tensor, src=0))


def _start_the_clock(engine: StyleGAN2Trainer, seconds: float) -> None:
    engine.state.counted_at = time.perf_counter()
    _plan_the_end(engine, seconds)


def _count_the_time(engine: StyleGAN2Trainer) -> None:
    """Add what passed since the iteration before, the handlers of that included."""
    now = time.perf_counter()
    engine.state.seconds += now - engine.state.counted_at
    engine.state.seconds_of += 1
    engine.state.counted_at = now


def _plan_the_end(engine: StyleGAN2Trainer, seconds: float) -> None:
    """Let as many epochs follow as bring the end nearest to ``seconds``, on all ranks as many; one to take the time."""
    state, epochs = engine.state, 1
    if state.seconds_of:
        spent = float(idist.all_reduce(state.seconds, "MAX"))
        epochs = round((seconds - spent) / (spent / state.seconds_of * state.epoch_length))
    state.max_epochs = state.epoch + max(epochs, 0)


@torch.no_grad()
def _average_over_ranks(network: nn.Module, *numbers: Tensor) -> None:
    """Replace the gradients of a network, and further tensors, by their means over the ranks, in one message."""
    if idist.get_world_size() == 1:
        return
    tensors = [p.grad for p in network.parameters() if p.grad is not None] + list(numbers)
    message = torch.cat([tensor.flatten().float() for tensor in tensors])
    means = torch.as_tensor(idist.all_reduce(message, "SUM")) / idist.get_world_size()
    for tensor, mean in zip(tensors, means.split([tensor.numel() for tensor in tensors]), strict=True):
        tensor.copy_(mean.view_as(tensor))


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
