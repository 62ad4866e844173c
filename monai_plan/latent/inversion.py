"""Inversion: for each real image x the latent w with G(w) ≈ x.

Part 2 of the method of PLAN (Pennisi et al., MICCAI 2023, arXiv 2307.02984). The projection is that of StyleGAN2
(Karras et al., CVPR 2020, arXiv 1912.04958, appendix D) without the optimised noise maps: Adam on w from the mean of
the mapping, with noise on w that fades and a learning rate that rises at the start and falls at the end.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from monai_plan.latent.generator import BatchSplitter, LatentGenerator, frozen, prepare_networks
from monai_plan.utils import ConfigError, DataError, TrainingError, seeded_generator

__all__ = ["Inversion", "LatentInverter"]


@dataclass(frozen=True, eq=False)
class Inversion:
    """The latents of N images from S starts each. All tensors are on the CPU.

    Attributes:
        latents: [N, S, w_dim] float32.
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
        """[N, w_dim], the latent of the best start."""
        return self.latents[torch.arange(len(self.latents)), self.best]


class LatentInverter:
    """Project images into W by minimising, with Adam and for every image and start on its own,

        d(w, x) = ‖e(G(w)) − e(x)‖² + pixel_weight · mean (G(w) − x)²

    where e is the embedding of a perceptual distance. At step i of n, with r = i/n, d is taken at w + σ(r) · ε,
    ε ~ N(0, I), and

        σ(r) = initial_noise · σ_w · max(0, 1 − r/noise_ramp)²,    σ_w² = E ‖w − E w‖²,  w = mapping(z, y)
        lr(r) = lr · min(1, r/lr_rampup) · ½(1 − cos(π · min(1, (1 − r)/lr_rampdown)))

    All starts of an image begin at the mean w (of its class) and differ in ε, which depends on (seed, key, start)
    alone: neither the other images nor the batch size change a result. Kept is the w of least distance among those
    visited without noise, the last one included. Images and starts are optimised together, ``batch_size`` at a time.
    During a call the networks are frozen and in eval mode, and after it as they were before.

    Args:
        generator: G, see ``LatentGenerator``.
        embedding: e, images [B, C, *spatial] in [−1, 1] → [B, E]. G is not clamped: a clamp stops the gradient.
        steps: n, Adam steps, at least 1.
        lr: the highest learning rate, above 0.
        starts: S, at least 1.
        lr_rampup: fraction of the steps in which the learning rate rises, in [0, 1].
        lr_rampdown: fraction of the steps in which it falls, in [0, 1].
        initial_noise: the noise on w at the start, in units of σ_w, at least 0; above 0 if there are several starts.
        noise_ramp: fraction of the steps in which the noise fades, in (0, 1].
        pixel_weight: weight of the mean squared pixel difference, at least 0.
        num_mean_samples: draws of z for the mean and σ_w of each class, at least 2.
        seed: of the draws of z and ε.
        batch_size: images × starts at once; halved whenever the memory of the GPU does not suffice.
        device: where to compute; the networks are moved there. Default: where the generator is.

    Raises:
        ConfigError: if an argument lies outside its range or the generator does not fulfil the contract.
    """

    def __init__(
        self,
        generator: LatentGenerator,
        embedding: nn.Module,
        *,
        steps: int = 200,
        lr: float = 0.1,
        starts: int = 5,
        lr_rampup: float = 0.05,
        lr_rampdown: float = 0.25,
        initial_noise: float = 0.05,
        noise_ramp: float = 0.75,
        pixel_weight: float = 0.0,
        num_mean_samples: int = 10_000,
        seed: int = 0,
        batch_size: int = 64,
        device: torch.device | str | None = None,
    ) -> None:
        for name, value, valid in (
            ("steps", steps, steps >= 1),
            ("lr", lr, 0 < lr < math.inf),
            ("starts", starts, starts >= 1),
            ("lr_rampup", lr_rampup, 0 <= lr_rampup <= 1),
            ("lr_rampdown", lr_rampdown, 0 <= lr_rampdown <= 1),
            ("initial_noise", initial_noise, 0 <= initial_noise < math.inf and (initial_noise > 0 or starts == 1)),
            ("noise_ramp", noise_ramp, 0 < noise_ramp <= 1),
            ("pixel_weight", pixel_weight, 0 <= pixel_weight < math.inf),
            ("num_mean_samples", num_mean_samples, num_mean_samples >= 2),
            ("batch_size", batch_size, batch_size >= 1),
        ):
            if not valid:
                raise ConfigError(f"{name} of the inversion is {value}, outside its range: see LatentInverter.")
        self.device = prepare_networks(generator, embedding, device=device)
        self.generator = generator
        self.embedding = embedding
        self.steps = steps
        self.lr = lr
        self.starts = starts
        self.lr_rampup = lr_rampup
        self.lr_rampdown = lr_rampdown
        self.initial_noise = initial_noise
        self.noise_ramp = noise_ramp
        self.pixel_weight = pixel_weight
        self.num_mean_samples = num_mean_samples
        self.seed = seed
        self._in_batches = BatchSplitter(batch_size)

    def __call__(
        self,
        images: Tensor,
        labels: Tensor | None,
        keys: Sequence[str],
        *,
        progress: Callable[[int, int], None] | None = None,
    ) -> Inversion:
        """Invert images.

        Args:
            images: [N, C, *spatial], values in [−1, 1], N ≥ 1.
            labels: [N] int, the classes, for the class-conditional mean; not used if the generator is unconditional.
                None starts from the mean over all classes.
            keys: N names, one an image and unlike each other, that seed its noise.
            progress: called with (steps done, steps in all) after every step, both counted over images and starts.

        Returns:
            The latents and their distances.

        Raises:
            ConfigError: if lengths, shapes or types do not fit together.
            DataError: if an image is not finite or not in [−1, 1], or a label lies outside the generator's classes.
            TrainingError: if a result is not finite, or not even one image fits into the memory.
        """
        # A MetaTensor would carry its metadata through every step and into the result.
        images = images.detach().as_subclass(Tensor)
        labels = None if labels is None else labels.as_subclass(Tensor)
        self._check_inputs(images, labels, keys)
        total = len(images) * self.starts
        with torch.enable_grad(), frozen(self.generator, self.embedding):
            means, sigmas = self._mean_and_sigma(labels, len(images))

            def one_batch(part: slice) -> tuple[Tensor, Tensor]:
                def report(step: int) -> None:
                    if progress is not None:
                        done = part.start * self.steps + (part.stop - part.start) * step
                        progress(done, total * self.steps)

                return self._invert(images, keys, means, sigmas, part, report)

            latents, distances = zip(*self._in_batches(one_batch, total), strict=True)
        return Inversion(
            torch.cat(latents).reshape(len(images), self.starts, -1),
            torch.cat(distances).reshape(len(images), self.starts),
        )

    def _invert(
        self,
        images: Tensor,
        keys: Sequence[str],
        means: Tensor,
        sigmas: Tensor,
        part: slice,
        report: Callable[[int], None],
    ) -> tuple[Tensor, Tensor]:
        """The latents [B, w_dim] and distances [B] of a slice of all (image, start), start running fastest."""
        items = [divmod(item, self.starts) for item in range(part.start, part.stop)]
        rows = torch.tensor([image for image, _ in items])
        rngs = [seeded_generator(self.seed, "noise", keys[image], start) for image, start in items]
        # Each image is embedded once, however many of its starts are in the batch.
        distinct, inverse = rows.unique(return_inverse=True)
        targets = images[distinct].to(self.device, torch.float32)
        with torch.no_grad():
            target_embeddings = self._embed(targets)
        inverse = inverse.to(self.device)
        targets, target_embeddings = targets[inverse], target_embeddings[inverse]

        w = means[rows].to(self.device).requires_grad_()
        sigma_w = sigmas[rows].to(self.device)[:, None]
        adam = torch.optim.Adam([w], betas=(0.9, 0.999), lr=self.lr)
        best_w = w.detach().clone()
        best = torch.full((len(items),), math.inf, device=self.device)

        def keep(distances: Tensor) -> None:
            better = distances < best
            best[better] = distances[better]
            best_w[better] = w.detach()[better]

        for step in range(self.steps):
            rate, noise = self._schedule(step)
            adam.param_groups[0]["lr"] = rate
            visited = w
            if noise > 0:
                epsilon = torch.stack([torch.randn(w.shape[1], generator=rng) for rng in rngs])
                visited = w + noise * sigma_w * epsilon.to(self.device)
            distances = self._distances(visited, targets, target_embeddings)
            if noise == 0:
                keep(distances.detach())
            # A sum: each w has its own gradient and its own Adam moments, as if it were alone.
            (w.grad,) = torch.autograd.grad(distances.sum(), w)
            adam.step()
            report(step + 1)
        with torch.no_grad():
            distances = self._distances(w, targets, target_embeddings)
        self._check_finite(distances, w, items, keys)
        keep(distances)
        return best_w.cpu(), best.cpu()

    def _schedule(self, step: int) -> tuple[float, float]:
        """lr(r) and σ(r)/σ_w at a step."""
        r = step / self.steps
        up = min(1.0, r / self.lr_rampup) if self.lr_rampup > 0 else 1.0
        down = min(1.0, (1 - r) / self.lr_rampdown) if self.lr_rampdown > 0 else 1.0
        noise = self.initial_noise * max(0.0, 1 - r / self.noise_ramp) ** 2
        return self.lr * up * (0.5 - 0.5 * math.cos(math.pi * down)), noise

    def _distances(self, w: Tensor, targets: Tensor, target_embeddings: Tensor) -> Tensor:
        """d(w, x), [B]."""
        images = self.generator.synthesis(w)
        if images.shape != targets.shape:
            raise ConfigError(
                f"The generator makes images {list(images.shape[1:])}, but those to invert are "
                f"{list(targets.shape[1:])}: resize them, or load the generator that was trained on them."
            )
        distances = (self._embed(images) - target_embeddings).square().sum(1)
        if self.pixel_weight > 0:
            distances = distances + self.pixel_weight * (images - targets).square().flatten(1).mean(1)
        return distances

    def _embed(self, images: Tensor) -> Tensor:
        embeddings = self.embedding(images)
        if embeddings.ndim != 2 or len(embeddings) != len(images):
            raise ConfigError(
                f"{type(self.embedding).__name__} must return [B, E]: got {list(embeddings.shape)} for {len(images)} "
                "images."
            )
        return embeddings

    @torch.no_grad()
    def _mean_and_sigma(self, labels: Tensor | None, num_images: int) -> tuple[Tensor, Tensor]:
        """For each image the mean w [N, w_dim] of its class and σ_w [N], on the CPU."""
        rng = seeded_generator(self.seed, "mean")
        z = torch.randn(self.num_mean_samples, self.generator.z_dim, generator=rng).to(self.device)
        classes: list[Tensor | None]
        if self.generator.num_classes == 0:
            classes, rows = [None], torch.zeros(num_images, dtype=torch.int64)
        elif labels is None:
            classes, rows = [torch.arange(len(z)) % self.generator.num_classes], torch.zeros(num_images).long()
        else:
            present, rows = labels.cpu().unique(return_inverse=True)
            classes = [torch.full((len(z),), int(label)) for label in present]
        ws = [self.generator.mapping(z, None if c is None else c.to(self.device)).cpu().float() for c in classes]
        means = torch.stack([w.mean(0) for w in ws])
        sigmas = torch.stack([(w - w.mean(0)).square().sum(1).mean().sqrt() for w in ws])
        if not sigmas.isfinite().all():
            raise TrainingError("The generator's mapping gives values that are not finite: train the generator again.")
        return means[rows], sigmas[rows]

    def _check_inputs(self, images: Tensor, labels: Tensor | None, keys: Sequence[str]) -> None:
        if images.ndim < 3 or len(images) == 0 or images.shape[1] != self.generator.img_channels:
            raise ConfigError(
                f"images must be [N, C, *spatial] with N ≥ 1 and C = {self.generator.img_channels}: got "
                f"{list(images.shape)}."
            )
        if isinstance(keys, str) or len(keys) != len(images) or len(set(keys)) != len(keys):
            raise ConfigError(
                f"keys must be {len(images)} different names, one an image: got {len(keys)}, of which {len(set(keys))} "
                "are different."
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
        bad = (~(distances.isfinite() & w.isfinite().all(1))).nonzero().flatten().tolist()
        if bad:
            image, start = items[bad[0]]
            raise TrainingError(
                f"The inversion of {keys[image]} (start {start}) ended with distance {distances[bad[0]]:g}: lower lr, "
                "or check that the generator was trained to the end."
            )
