"""The stage that projects every real image into the latent space."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import ignite.distributed as idist
import torch
from torch import Tensor

from monai_plan.bundle.same_data import check_same_data, made_of
from monai_plan.data import CheckedDataset
from monai_plan.latent import LatentInverter
from monai_plan.metrics import PerceptualEmbedding, embed, nearest_other_images
from monai_plan.networks import LatentDecoder
from monai_plan.progress import Progress
from monai_plan.release import synthesize_images
from monai_plan.utils import digest, finished_part, save_artifact, write_json

__all__ = ["InvertStage", "reproduction_distances"]

logger = logging.getLogger(__name__)

_BAR = "{l_bar}{bar}| {n:.1f}/{total_fmt} images [{elapsed}<{remaining}{postfix}]"  # counted by their steps
_LEVELS = (0, 5, 25, 50, 75, 95, 100)  # per cent


@dataclass(kw_only=True, eq=False)
class InvertStage:
    """Project every real image to W or W+ and save all starts with their distances, by parts that survive a stop.

    Writes a file of kind "latents": ``latents`` [N, S, w_dim] or [N, S, num_ws, w_dim], ``distances`` [N, S],
    ``best`` [N], ``reproduced`` [N] bool (see ``reproduction_distances``), ``labels`` [N], ``subjects`` and ``keys``.
    The report has the quantiles of the best distance and the images that were not reproduced.

    Under ``torch.distributed`` every rank runs with the same arguments and ``parts_dir`` is shared; the ranks take
    turns with the parts, and the first one gathers them. The result is the same on any number of ranks.

    Args:
        inverter: the projection.
        dataset: N real images.
        output_file: where to save.
        report_file: private JSON.
        parts_dir: folder of the finished parts.
        images_per_part: images between two savings.
    """

    inverter: LatentInverter
    dataset: CheckedDataset
    output_file: str | os.PathLike[str]
    report_file: str | os.PathLike[str]
    parts_dir: str | os.PathLike[str]
    images_per_part: int = 32

    def run(self) -> None:
        """Invert what is not inverted yet, and save.

        Raises:
            DataError: see ``check_same_data``.
        """
        check_same_data(self.dataset, generator=self.inverter.generator)
        rank, ranks = idist.get_rank(), idist.get_world_size()
        networks = digest(*self.inverter.networks)
        slices = [
            slice(first, min(first + self.images_per_part, len(self.dataset)))
            for first in range(0, len(self.dataset), self.images_per_part)
        ]
        mine, done = slices[rank::ranks], 0
        desc = "invert" if ranks == 1 else f"invert, share of 1 of {ranks} ranks"
        total = sum(images.stop - images.start for images in mine)
        with Progress(total=total, desc=desc, bar_format=_BAR, disable=rank > 0) as bar:
            for images in mine:
                count = images.stop - images.start

                def show(steps: int, all_steps: int, before: int = done, count: int = count) -> None:
                    bar.update(before + count * steps / all_steps - bar.n)

                part = self._part(images, networks, show)
                done += count
                bar.update(done - bar.n)
                bar.set_postfix(distance=float(part["distances"].min(1).values.mean()))
        idist.barrier()
        if rank == 0:
            self._gather([self._part(images, networks) for images in slices])

    @property
    def _how(self) -> dict[str, Any]:
        return {"settings": self.inverter.settings.as_dict(), "seed": self.inverter.seed}

    def _part(self, images: slice, networks: str, show: Callable[[int, int], None] | None = None) -> dict[str, Any]:
        """``latents`` and ``distances`` of some images, from the file or made now."""
        dataset = self.dataset
        pixels, labels, keys = dataset.images[images], dataset.labels[images], dataset.keys[images]

        def make() -> dict[str, Any]:
            result = self.inverter(pixels, labels, keys, progress=show)
            return {"latents": result.latents, "distances": result.distances}

        made_by = {"networks": networks, "images": pixels, "labels": labels, "keys": keys, **self._how}
        file = Path(self.parts_dir) / f"part_{images.start:06d}.pt"
        return finished_part(file, kind="part of latents", made_by=made_by, make=make)

    def _gather(self, parts: Sequence[Mapping[str, Any]]) -> None:
        inverter, dataset = self.inverter, self.dataset
        latents, distances = (torch.cat([part[name] for part in parts]) for name in ("latents", "distances"))
        best = distances.argmin(1)
        to_image, to_other = reproduction_distances(
            inverter.generator, latents[torch.arange(len(best)), best], dataset,
            cast(PerceptualEmbedding, inverter.embedding), device=inverter.device,
        )  # fmt: skip
        save_artifact(
            self.output_file,
            kind="latents",
            data={
                "latents": latents,
                "distances": distances,
                "best": best,
                "reproduced": to_image < to_other,
                "labels": dataset.labels,
                "subjects": dataset.subjects,
                "keys": dataset.keys,
            },
            made_by={**self._how, "data": made_of(dataset)},
        )
        self._report(distances.min(1).values, to_image, to_other)

    def _report(self, best: Tensor, to_image: Tensor, to_other: Tensor) -> None:
        """Log and write the distribution of the best distances, and the images that G cannot reproduce."""
        quantiles = dict(zip(_LEVELS, best.quantile(torch.tensor(_LEVELS) / 100).tolist(), strict=True))
        missed = [
            {"image": self.dataset.keys[i], "distance": to_image[i].item(), "nearest_other_subject": to_other[i].item()}
            for i in (to_image >= to_other).nonzero().flatten().tolist()
        ]
        content = {"images": len(best), "distance_quantiles": quantiles, "not_reproduced": missed}
        write_json(self.report_file, content)
        logger.info(
            "distance of %d images to their reconstructions, %s: %s",
            len(best), " / ".join(f"{level} %" for level in quantiles),
            " / ".join(f"{value:.3g}" for value in quantiles.values()),
        )  # fmt: skip
        if missed:
            logger.warning(
                "%d of %d images are not reproduced: their reconstruction is no nearer than another patient's image. "
                "They are listed in %s. A longer training of the generator, more inversion_steps or inversion_space "
                "w_plus may help",
                len(missed), len(best), self.report_file,
            )  # fmt: skip


def reproduction_distances(
    generator: LatentDecoder,
    latents: Tensor,
    dataset: CheckedDataset,
    embedding: PerceptualEmbedding,
    *,
    device: torch.device | str = "cpu",
) -> tuple[Tensor, Tensor]:
    """How far G(ŵ) is from its image x, and how far x is from the nearest real image of another subject.

    G cannot reproduce x if the first is not below the second: its best likeness of the patient is then no nearer to the
    patient than somebody else is.

    Args:
        generator: G, in eval mode.
        latents: ŵ [N, w_dim] or [N, num_ws, w_dim], one per image of the data set.
        dataset: N real images.
        embedding: of the perceptual distance; for both.
        device: where to compute.

    Returns:
        Both [N], on the CPU; the second is infinite if there is only one subject.
    """
    made = synthesize_images(generator, latents)
    to_image = torch.cat([
        (embed(embedding, a, device=device) - embed(embedding, b, device=device)).square().sum(1)
        for a, b in zip(made.split(64), dataset.images.split(64), strict=True)
    ])  # fmt: skip
    return to_image, nearest_other_images(dataset.images, dataset.identities, embedding, device=device)
