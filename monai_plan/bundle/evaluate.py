"""The last stage: the table of the paper, made from what is released, and the report."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from monai_plan.audit import AuditInputs, ImageSet, evaluate, write_report
from monai_plan.bundle.path_figure import choose_path, path_sections
from monai_plan.bundle.stages.synthesize import describe_walk
from monai_plan.data import CheckedDataset
from monai_plan.engines import ClassifierSettings, predict_probabilities
from monai_plan.latent import linear_path
from monai_plan.metrics import PerceptualEmbedding
from monai_plan.networks import LatentDecoder
from monai_plan.release import Release, load_paths, select, synthesize_images
from monai_plan.utils import load_artifact

__all__ = ["evaluate_release"]

SAMPLES_SHOWN = 16
_CHECKED = (
    "no image nearer to a training image than the {quantile} quantile of the distances between patients; so the least "
    "distance of PLAN is no independent finding"
)


def evaluate_release(
    *,
    training: CheckedDataset,
    test: CheckedDataset,
    released: Release,
    generator: LatentDecoder,
    paths_file: str | os.PathLike[str],
    anchors_file: str | os.PathLike[str],
    embedding: PerceptualEmbedding,
    identity_net: nn.Module,
    class_net: nn.Module,
    class_network: Callable[[], nn.Module],
    augmentation: Callable[[Mapping[str, Any]], Mapping[str, Any]],
    epochs: int,
    seeds: int,
    batch_size: int,
    lr: float,
    seed: int,
    device: torch.device | str,
    release_dir: str | os.PathLike[str],
    private_dir: str | os.PathLike[str],
) -> None:
    """Compare real images, straight paths, k-same centroids and the release, and write the report.

    The row "PLAN" is what lies in ``release/``, read back by its own value range; "linear" takes the same points of the
    straight paths between the same anchors.

    Args:
        training: real training images.
        test: real images of other patients.
        released: the synthetic data set as it was written.
        generator: G.
        paths_file: of the stage ``walk``.
        anchors_file: of the stage ``aggregate``.
        embedding: of the perceptual and the Fréchet distance.
        identity_net: φ_id.
        class_net: φ_class.
        class_network: makes an untrained classifier for the utility and the membership attack.
        augmentation: MONAI transforms for its training.
        epochs, seeds, batch_size, lr, seed: see ``monai_plan.audit.evaluate``.
        device: where to compute.
        release_dir: gets ``report.html``, ``evaluation.json``, ``evaluation.md`` and ``figures/``.
        private_dir: gets ``figures/`` with real images and ``evaluate/`` with finished parts.
    """
    paths = load_paths(paths_file)
    anchors = load_artifact(anchors_file, kind="anchors")
    num_points = paths["paths"].shape[1]
    path, point = select(paths, num_images=paths["num_images"]).places.unbind(1)
    straight = torch.stack([linear_path(path[0], path[-1], num_points) for path in paths["paths"]])
    images, released_labels = released.images, torch.tensor(released.labels)
    averages = synthesize_images(generator, anchors["latents"])
    note = f"k-same has only as many images as there are anchors: {len(averages)}."
    inputs = AuditInputs(
        train=training,
        test=test,
        embedding=embedding,
        classifier_factory=class_network,
        settings=ClassifierSettings(epochs, batch_size, lr),
        cache_dir=os.path.join(private_dir, "evaluate"),
        identity_net=identity_net,
        seeds=seeds,
        seed=seed,
        augment=augmentation,
        device=device,
    )
    image_sets = [
        ImageSet("linear", synthesize_images(generator, straight[path, point]), paths["labels"][path]),
        ImageSet("k-same", averages, anchors["labels"], note),
        ImageSet("PLAN", images, released_labels),
    ]
    evaluation = evaluate(image_sets, inputs)
    probabilities = predict_probabilities(class_net, images, batch_size=batch_size, device=device)
    kept = (probabilities.argmax(1) == released_labels).double().mean().item()
    names = training.label_names
    made_by = paths["header"]["made_by"]
    quantile = made_by["min_distance_quantile"]
    held_out = evaluation.row("real").results["distance"]["mean"]
    figure = choose_path(training, generator, straight, paths, embedding, held_out, device)
    write_report(
        evaluation,
        judged="PLAN",
        release_dir=release_dir,
        private_dir=private_dir,
        samples=_samples(images, released_labels, names),
        real_samples=_samples(training.images, training.labels, names),
        parameters={
            "k": anchors["k"],
            "anchors": len(anchors["labels"]),
            "paths": len(paths["labels"]),
            "walk": describe_walk(made_by),
            "λ_id": made_by["lambda_id"],
            "λ_class": made_by["lambda_class"],
            "final check": "none" if quantile is None else _CHECKED.format(quantile=quantile),
            "L_id per path, straight line": round(paths["losses"]["identity"][:, 0].mean().item(), 2),
            "L_id per path, after the walk": round(paths["losses"]["identity"][:, -1].mean().item(), 2),
            "released images that φ_class assigns to their class": f"{100 * kept:.1f} %",
            "seeds of the evaluation": seeds,
            "seed": seed,
        },
        sections=path_sections(figure, evaluation.embedding_title),
        made="Images made by PLAN (Pennisi et al., MICCAI 2023, arXiv 2307.02984)",
    )


def _samples(images: Tensor, labels: Tensor, names: Mapping[int, str]) -> dict[str, Tensor]:
    """By the name of the class, some images spread evenly over all of it."""
    samples = {}
    for label, name in names.items():
        of_class = torch.where(labels == label)[0]
        spread = torch.linspace(0, len(of_class) - 1, min(SAMPLES_SHOWN, len(of_class))).long()
        samples[name] = images[of_class[spread]]
    return samples
