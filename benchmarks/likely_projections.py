"""Projections that stay where w is likely: what a penalty on unlikely w, or whitened coordinates, make of them.

    python benchmarks/likely_projections.py OUT --every 2 --ways w:0:0.2 w:0.003:0.2 white:0:0.5 white:0.03:0.3

takes G, encoder and data of a finished run, projects one of ``--every`` training images each way, and prints how near
the reconstructions come, how likely w is, and what becomes of reconstructions and of averages. A way is
COORDINATES:WEIGHT:RATE. With Σ the covariance of mapping(z, y) within the class and

    m² = (w − w̄_y)ᵀ Σ⁻¹ (w − w̄_y)/w_dim,

1 on average for what the mapping makes, it minimises d(w, x) + WEIGHT · m² by Adam at RATE, in the coordinates "w", or
"white": v with w = w̄_y + Σ^½ v, in which all directions are alike; or "w+", a w for each layer, whose m² are averaged.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace

import torch
from torch import Tensor, nn

from monai_plan.bundle.finished_run import FinishedRun
from monai_plan.bundle.stages import reproduction_distances
from monai_plan.latent import LatentInverter, k_same
from monai_plan.metrics import embed_statistics, frechet_distance
from monai_plan.networks import LatentDecoder
from monai_plan.release import synthesize_images
from monai_plan.utils import seeded_generator

RIDGE = 0.01  # of the mean variance, lest a direction that the mapping hardly uses weigh without bound


class Whitened(LatentDecoder):
    """G of v, with w = mean + root · v."""

    def __init__(self, generator: LatentDecoder, mean: Tensor, root: Tensor) -> None:
        super().__init__()
        self.generator, self.mean, self.root = generator, mean, root
        for name in ("z_dim", "w_dim", "num_classes", "img_size", "img_channels", "num_ws"):
            setattr(self, name, getattr(generator, name))

    def white(self, w: Tensor) -> Tensor:
        """v of w."""
        return torch.linalg.solve_triangular(self.root, (w - self.mean).T, upper=False).T

    def mapping(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        """v of z."""
        return self.white(self.generator.mapping(z, labels))

    def synthesis(self, v: Tensor) -> Tensor:
        """Images of v."""
        return self.generator.synthesis(self.mean + v @ self.root.T)


class WhiteEncoder(nn.Module):
    """An encoder's guess of w as v."""

    def __init__(self, encoder: nn.Module, whitened: Whitened) -> None:
        super().__init__()
        self.encoder, self.whitened = encoder, whitened

    def forward(self, images: Tensor) -> Tensor:
        """[B, w_dim]."""
        return self.whitened.white(self.encoder(images))


class LikelyInverter(LatentInverter):
    """d + weight · m²; ``white`` makes v of its coordinates."""

    def __init__(self, *args, weight: float, white, **options) -> None:
        super().__init__(*args, **options)
        self.weight, self.white = weight, white

    def _distances(self, w: Tensor, targets: Tensor, target_embeddings: Tensor) -> Tensor:
        return super()._distances(w, targets, target_embeddings) + self.weight * unlikely(w, self.white)


def unlikely(w: Tensor, white: Callable[[Tensor], Tensor]) -> Tensor:
    """m² of w [B, w_dim], or its mean over the layers of [B, num_ws, w_dim]."""
    return white(w.reshape(-1, w.shape[-1])).square().mean(1).view(len(w), -1).mean(1)


def likely(generator: LatentDecoder, label: int) -> Whitened:
    """The mean and the root of the covariance of the mapping within a class."""
    z = torch.randn(10_000, generator.z_dim, generator=seeded_generator(0, "likely"))
    with torch.no_grad():
        w = generator.mapping(z, torch.full((len(z),), label) if generator.num_classes else None)
    covariance = torch.cov(w.T)
    covariance += RIDGE * covariance.diagonal().mean() * torch.eye(len(covariance))
    return Whitened(generator, w.mean(0), torch.linalg.cholesky(covariance)).eval()


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output_dir", help="of the finished run")
    parser.add_argument("--every", type=int, default=2)
    parser.add_argument("--ways", nargs="+", required=True, metavar="COORDINATES:WEIGHT:RATE")
    options = parser.parse_args()
    config = FinishedRun.read(options.output_dir).config("common", "invert", device="cpu")
    training, generator, embedding, given = (
        config.get_parsed_content(name) for name in ("training", "trained_generator", "embedding", "inverter")
    )
    chosen = torch.arange(0, len(training), options.every)
    images, labels = training.images[chosen], training.labels[chosen]
    keys, subjects = ([names[i] for i in chosen.tolist()] for names in (training.keys, training.subjects))
    some = SimpleNamespace(images=images, identities=training.identities[chosen])
    real = embed_statistics(embedding, images)
    print("| way | mean d | m² | not reproduced | Fréchet, reconstructions | averages | number of averages |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for way in options.ways:
        coordinates, weight, rate = way.split(":")
        layers = (generator.num_ws,) if coordinates == "w+" else ()
        found, size = torch.empty(len(images), *layers, generator.w_dim), torch.empty(len(images))
        for label in labels.unique().tolist():
            rows, whitened = torch.where(labels == label)[0], likely(generator, label)
            white = coordinates == "white"
            encoder = given.encoder
            result = LikelyInverter(
                whitened if white else generator, embedding, seed=given.seed,
                settings=replace(given.settings, starts=1, lr=float(rate), space="w_plus" if layers else "w"),
                encoder=WhiteEncoder(encoder, whitened) if white and encoder is not None else encoder,
                weight=float(weight), white=(lambda v: v) if white else whitened.white,
            )(images[rows], labels[rows], [keys[i] for i in rows.tolist()]).best_latents  # fmt: skip
            found[rows] = whitened.mean + result @ whitened.root.T if white else result
            size[rows] = unlikely(found[rows], whitened.white)
        to_image, to_other = reproduction_distances(generator, found, some, embedding)
        averages = k_same(found, labels, subjects, config["k"])
        distances = [
            frechet_distance(embed_statistics(embedding, synthesize_images(generator, latents)), real)
            for latents in (found, averages.latents)
        ]
        print(
            f"| {way} | {to_image.mean():.4g} | {size.mean():.3g} | {int((to_image >= to_other).sum())} "
            f"| {distances[0]:.4g} | {distances[1]:.4g} | {len(averages.latents)} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
