"""Inversion: for each real image x the latent w with G(w) ≈ x.

Part 2 of the method of PLAN (Pennisi et al., MICCAI 2023, arXiv 2307.02984). The projection is that of StyleGAN2
(Karras et al., CVPR 2020, arXiv 1912.04958, appendix D) without the optimised noise maps. By option it begins at an
encoder's guess (Zhu et al., ECCV 2016, arXiv 1609.03552, section 3.1), has one w for every layer of G (W+; Abdal et
al., ICCV 2019, arXiv 1904.03189), and takes no more steps for an image than help it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from monai_plan.latent.path import per_row
from monai_plan.latent.settings import InversionSettings
from monai_plan.latent.w_statistics import w_statistics
from monai_plan.networks import BatchSplitter, LatentDecoder, frozen, prepare_networks
from monai_plan.utils import ConfigError, DataError, TrainingError, seeded_generator

BETAS, EPS = (0.9, 0.999), 1e-8  # of Adam


@dataclass(frozen=True, eq=False)
class Inversion:
    """The latents of N images from S starts each. All tensors are on the CPU.

    Attributes:
        latents: [N, S, w_dim] float32, or [N, S, num_ws, w_dim] in W+.
        distances: [N, S] float32, at least 0: the distance of G(w) to the image, without noise on w.
    """

    latents: Tensor
    distances: Tensor

    @property
    def best(self) -> Tensor:
        """[N] int64, the start with the least distance."""
        return self.distances.argmin(1)

    @property
    def best_latents(self) -> Tensor:
        """[N, w_dim] or [N, num_ws, w_dim], the latent of the best start."""
        return self.latents[torch.arange(len(self.latents)), self.best]


class LatentInverter:
    """Project images into W or W+ by minimising, with Adam and for every image and start on its own,

        d(w, x) = ‖e(G(w)) − e(x)‖² + pixel_weight · mean (G(w) − x)²

    where e is the embedding of a perceptual distance. Of n steps the one at i, with r = i/n, takes d at w + σ(r) · ε,
    ε ~ N(0, I), and

        σ(r) = initial_noise · σ_w · max(0, 1 − r/noise_ramp)²,    σ_w² = E ‖w − E w‖²,  w = mapping(z, y)
        lr(r) = lr · min(1, r/lr_rampup) · ½(1 − cos(π · min(1, (1 − r)/lr_rampdown)))

    Start s of an image begins at

        w = w₀ + [s > 0] · start_noise · σ_w · ε,    w₀ = the one of E w (of the class) and encoder(x) with the lesser d

    and the starts differ in ε, which depends on (seed, key, start) alone: neither the other images nor the batch size
    change a result. Kept is the w of least distance among those visited without noise, the last one included.

    With ``patience``, i is a clock of each start by itself. Between the rise and the fall of the learning rate, a start
    whose least distance has not sunk by the fraction ``tolerance`` within ``patience`` steps skips ahead to r = 1 −
    lr_rampdown: its learning rate falls at once, for Adam at a constant rate only circles round the minimum. At
    r = 1 it leaves the batch, and the others go on in a smaller and faster one.

    During a call the networks are frozen and in eval mode, and after it as they were before.

    Args:
        generator: G; for W+ one with ``num_ws``.
        embedding: e, images [B, C, *spatial] in [−1, 1] → [B, E]. G is not clamped: a clamp stops the gradient.
        settings: n, lr, S and the rest; by default ``InversionSettings.fast(encoder=…)``, as there is one or not.
        encoder: images → first guesses of w [B, w_dim], see ``LatentEncoder``; None begins at the mean.
        seed: of the draws of z and ε.
        batch_size: images × starts at once; halved whenever the memory of the GPU does not suffice.
        device: where to compute; the networks are moved there. Default: where the generator is.

    Raises:
        ConfigError: if ``batch_size`` lies outside its range, or the generator does not fulfil the contract, or has no
            W+ where the settings ask for it.
    """

    def __init__(
        self,
        generator: LatentDecoder,
        embedding: nn.Module,
        *,
        settings: InversionSettings | None = None,
        encoder: nn.Module | None = None,
        seed: int = 0,
        batch_size: int = 64,
        device: torch.device | str | None = None,
    ) -> None:
        if batch_size < 1:
            raise ConfigError(f"batch_size of the inversion is {batch_size}, but must be at least 1.")
        self.settings = InversionSettings.fast(encoder=encoder is not None) if settings is None else settings
        networks = [embedding] if encoder is None else [embedding, encoder]
        self.device = prepare_networks(generator, *networks, device=device)
        if self.settings.space == "w_plus" and generator.num_ws is None:
            raise ConfigError(
                f"space of the inversion is 'w_plus', but {type(generator).__name__} has no num_ws, so its layers "
                "share one latent: use 'w'."
            )
        self.generator, self.embedding, self.encoder, self.seed = generator, embedding, encoder, seed
        self._in_batches = BatchSplitter(batch_size)

    @property
    def networks(self) -> list[nn.Module]:
        """G, e and, if there is one, the encoder: all whose weights a result depends on."""
        return [self.generator, self.embedding, *([] if self.encoder is None else [self.encoder])]

    def __call__(
        self,
        images: Tensor,
        labels: Tensor | None,
        keys: Sequence[str],
        *,
        progress: Callable[[int, int], None] | None = None,
    ) -> Inversion:
        """Invert images: their latents and distances.

        Args:
            images: [N, C, *spatial], values in [−1, 1], N ≥ 1.
            labels: [N] int, the classes, for the class-conditional mean; not used if the generator is unconditional.
                None starts from the mean over all classes.
            keys: N names, one per image and unlike each other, that seed its noise.
            progress: called with (steps done, steps in all) after every step, both counted over images and starts;
                what an image skips counts as done.

        Raises:
            ConfigError: if lengths, shapes or types do not fit together.
            DataError: if an image is not finite or not in [−1, 1], or a label lies outside the generator's classes.
            TrainingError: if a result is not finite, or not even one image fits into the memory.
        """
        # A MetaTensor would carry its metadata through every step and into the result.
        images = images.detach().as_subclass(Tensor)
        labels = None if labels is None else labels.as_subclass(Tensor)
        self._check_inputs(images, labels, keys)
        starts, steps = self.settings.starts, self.settings.steps
        total = len(images) * starts
        with torch.enable_grad(), frozen(*self.networks):
            means, sigmas = w_statistics(
                self.generator, labels, num_samples=self.settings.num_mean_samples, seed=self.seed
            )
            means, sigmas = means.expand(len(images), -1), sigmas.expand(len(images))  # without labels all the same

            def one_batch(part: slice) -> tuple[Tensor, Tensor]:
                def report(done: int) -> None:
                    if progress is not None:
                        progress(part.start * steps + done, total * steps)

                return self._invert(images, keys, means, sigmas, part, report)

            latents, distances = zip(*self._in_batches(one_batch, total), strict=True)
        shape = (len(images), starts)
        return Inversion(torch.cat(latents).unflatten(0, shape), torch.cat(distances).reshape(shape))

    def _invert(
        self,
        images: Tensor,
        keys: Sequence[str],
        means: Tensor,
        sigmas: Tensor,
        part: slice,
        report: Callable[[int], None],
    ) -> tuple[Tensor, Tensor]:
        """The latents [B, (num_ws,) w_dim] and distances [B] of a slice of all (image, start), start running fastest.

        ``report`` is called with the steps that are done or skipped, of all in the slice together.
        """
        items = [divmod(item, self.settings.starts) for item in range(part.start, part.stop)]
        rows = torch.tensor([image for image, _ in items])
        rngs = [seeded_generator(self.seed, "noise", keys[image], start) for image, start in items]
        sigma_w = sigmas[rows].to(self.device)
        w, targets, embedded = self._begin(images, means, rows)
        scatter = torch.tensor([self.settings.start_noise * (start > 0) for _, start in items]).to(self.device)
        if self.settings.start_noise > 0:
            w = w + per_row(scatter * sigma_w, w) * _draw(rngs, w)

        # One row per start that is not done; "row" says which it is.
        state = {
            "row": torch.arange(len(items), device=self.device),
            "clock": torch.zeros(len(items), dtype=torch.int64, device=self.device),
            "w": w,
            "m": torch.zeros_like(w),
            "v": torch.zeros_like(w),
            "best_w": w.clone(),
            "best": w.new_full((len(items),), math.inf),
            "mark": w.new_full((len(items),), math.inf),  # the distance that must sink by the fraction tolerance
            "since": torch.zeros(len(items), dtype=torch.int64, device=self.device),
            "sigma_w": sigma_w,
            "targets": targets,
            "embedded": embedded,
        }
        latents, least = torch.empty_like(w), w.new_empty(len(items))
        for step in range(1, self.settings.steps + 2):  # the last one measures only
            rate, noise = self._schedule(state["clock"])
            w = state["w"].requires_grad_()
            visited = w
            if noise.any():
                visited = w + per_row(noise * state["sigma_w"], w) * _draw([rngs[i] for i in state["row"].tolist()], w)
            distances = self._distances(visited, state["targets"], state["embedded"])
            seen = distances.detach()
            better = (seen < state["best"]) & (noise == 0)
            state["best"] = torch.where(better, seen, state["best"])
            state["best_w"] = torch.where(per_row(better, w), w.detach(), state["best_w"])
            done = state["clock"] == self.settings.steps
            if done.any():
                self._check_finite(seen[done], w.detach()[done], [items[i] for i in state["row"][done].tolist()], keys)
                latents[state["row"][done]], least[state["row"][done]] = state["best_w"][done], state["best"][done]
                if done.all():
                    break
            # A sum: each w has its own gradient and its own Adam moments, as if it were alone.
            (gradient,) = torch.autograd.grad(distances.sum(), w)
            state["m"] = state["m"].lerp(gradient, 1 - BETAS[0])
            state["v"] = state["v"].lerp(gradient.square(), 1 - BETAS[1])
            change = (state["m"] / (1 - BETAS[0] ** step)) / ((state["v"] / (1 - BETAS[1] ** step)).sqrt() + EPS)
            state["w"] = w.detach() - per_row(rate, w) * change
            self._advance(state, seen)
            if done.any():
                state = {name: value[~done] for name, value in state.items()}
            report(int(state["clock"].sum()) + self.settings.steps * (len(items) - len(state["clock"])))
        return latents.cpu(), least.cpu()

    @torch.no_grad()
    def _begin(self, images: Tensor, means: Tensor, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """w₀ [B, (num_ws,) w_dim], targets [B, C, *spatial] and their embeddings [B, E] for rows of the images."""
        # Each image is embedded once, however many of its starts are in the batch.
        distinct, inverse = rows.unique(return_inverse=True)
        targets = images[distinct].to(self.device, torch.float32)
        embedded = self._embed(targets)
        w = means[distinct].to(self.device)
        if self.encoder is not None:
            guess = self.encoder(targets)
            if guess.shape != w.shape:
                raise ConfigError(
                    f"encoder must return [B, w_dim] = {list(w.shape)}: got {list(guess.shape)}. Train it for this "
                    "generator."
                )
            nearer = self._distances(guess, targets, embedded) < self._distances(w, targets, embedded)
            w = torch.where(nearer[:, None], guess, w)
        if self.settings.space == "w_plus":
            w = w[:, None].repeat(1, cast(int, self.generator.num_ws), 1)  # __init__ has checked it
        inverse = inverse.to(self.device)
        return w[inverse], targets[inverse], embedded[inverse]

    def _advance(self, state: dict[str, Tensor], seen: Tensor) -> None:
        """Move the clocks on by a step, and to the fall of the learning rate where there is no progress."""
        state["clock"] = state["clock"] + 1
        if self.settings.patience == 0:
            return
        settings, clock = self.settings, state["clock"]
        progress = (seen < (1 - settings.tolerance) * state["mark"]) | (clock / settings.steps <= settings.lr_rampup)
        state["mark"] = torch.where(progress, seen, state["mark"])
        state["since"] = torch.where(progress, 0, state["since"] + 1)
        fall = math.ceil((1 - settings.lr_rampdown) * settings.steps)
        state["clock"] = torch.where(state["since"] >= settings.patience, clock.clamp(min=fall), clock)

    def _schedule(self, clock: Tensor) -> tuple[Tensor, Tensor]:
        """lr(r) and σ(r)/σ_w, float32 [B], at the clocks [B]."""
        settings = self.settings
        r = clock.double() / settings.steps
        up = (r / settings.lr_rampup).clamp(max=1) if settings.lr_rampup > 0 else torch.ones_like(r)
        down = ((1 - r) / settings.lr_rampdown).clamp(max=1) if settings.lr_rampdown > 0 else torch.ones_like(r)
        noise = settings.initial_noise * (1 - r / settings.noise_ramp).clamp(min=0).square()
        return (settings.lr * up * (0.5 - 0.5 * (math.pi * down).cos())).float(), noise.float()

    def _distances(self, w: Tensor, targets: Tensor, target_embeddings: Tensor) -> Tensor:
        """d(w, x), [B]."""
        images = self.generator.synthesis(w)
        if images.shape != targets.shape:
            raise ConfigError(
                f"The generator makes images {list(images.shape[1:])}, but those to invert are "
                f"{list(targets.shape[1:])}: resize them, or load the generator that was trained on them."
            )
        distances = (self._embed(images) - target_embeddings).square().sum(1)
        if self.settings.pixel_weight > 0:
            distances = distances + self.settings.pixel_weight * (images - targets).square().flatten(1).mean(1)
        return distances

    def _embed(self, images: Tensor) -> Tensor:
        embeddings = self.embedding(images)
        if embeddings.ndim != 2 or len(embeddings) != len(images):
            found = f"{list(embeddings.shape)} for {len(images)} images"
            raise ConfigError(f"{type(self.embedding).__name__} must return [B, E]: got {found}.")
        return embeddings

    def _check_inputs(self, images: Tensor, labels: Tensor | None, keys: Sequence[str]) -> None:
        if images.ndim < 3 or len(images) == 0 or images.shape[1] != self.generator.img_channels:
            raise ConfigError(
                f"images must be [N, C, *spatial] with N ≥ 1 and C = {self.generator.img_channels}: got "
                f"{list(images.shape)}."
            )
        if isinstance(keys, str) or len(keys) != len(images) or len(set(keys)) != len(keys):
            raise ConfigError(
                f"keys must be {len(images)} different names, one per image: got {len(keys)}, of which "
                f"{len(set(keys))} are different."
            )
        for key, image in zip(keys, images, strict=True):
            if not image.isfinite().all():
                raise DataError(f"Image {key} has values that are not finite: repair it or leave it out.")
            if image.abs().max() > 1.01:  # resampling and float16 overshoot a little
                low, high = image.min().item(), image.max().item()
                raise DataError(f"Image {key} has values from {low:g} to {high:g}: scale all images to [-1, 1].")
        if labels is None or self.generator.num_classes == 0:
            return
        if labels.shape != images.shape[:1] or labels.is_floating_point():
            raise ConfigError(f"labels must be [N] integers, N = {len(images)}: got {list(labels.shape)}.")
        for key, label in zip(keys, labels.tolist(), strict=True):
            if not 0 <= label < self.generator.num_classes:
                last = self.generator.num_classes - 1
                raise DataError(f"Image {key} has label {label}, but the generator knows the classes 0 … {last}.")

    def _check_finite(
        self, distances: Tensor, w: Tensor, items: Sequence[tuple[int, int]], keys: Sequence[str]
    ) -> None:
        bad = (~(distances.isfinite() & w.flatten(1).isfinite().all(1))).nonzero().flatten().tolist()
        if bad:
            image, start = items[bad[0]]
            raise TrainingError(
                f"The inversion of {keys[image]} (start {start}) ended with distance {distances[bad[0]]:g}: lower lr, "
                "or check that the generator was trained to the end."
            )


def _draw(rngs: Sequence[torch.Generator], w: Tensor) -> Tensor:
    """ε in the shape of w, each row from its own generator."""
    return torch.stack([torch.randn(w.shape[1:], generator=rng) for rng in rngs]).to(w.device)
