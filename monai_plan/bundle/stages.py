"""The stages between and after the trainings, as functions that the bundle's configs call.

Each reads named files, writes named files, and keeps its finished parts in a work folder, from which it goes on when
it was stopped. All of it is private except what ``synthesize`` and ``report`` write below ``release/``.
"""

from __future__ import annotations

import hashlib
import logging
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import ignite.distributed as idist
import torch
from torch import Tensor, nn
from tqdm import tqdm

from monai_plan.data import CheckedDataset, split_by_subject, write_synthetic
from monai_plan.latent import LatentInverter, LatentWalk, WalkSettings, choose_pairs, k_same
from monai_plan.metrics import PerceptualEmbedding, embed, nearest_other_images, nearest_real_images
from monai_plan.networks import LatentDecoder, frozen
from monai_plan.utils import ConfigError, DataError, TrainingError, load_artifact, save_artifact, write_json, write_text

__all__ = [
    "aggregate",
    "check_data",
    "class_counts",
    "class_items",
    "identity_items",
    "invert",
    "reproduction_distances",
    "select_points",
    "synthesize",
    "synthesize_images",
    "walk_anchors",
]

logger = logging.getLogger(__name__)

_INVERT_BAR = "{l_bar}{bar}| {n:.1f}/{total_fmt} images [{elapsed}<{remaining}{postfix}]"  # counted by their steps
_WALK_BAR = "{l_bar}{bar}| {n:.1f}/{total_fmt} paths [{elapsed}<{remaining}{postfix}]"  # a path counts by its steps
_HOPELESS = 16  # pairs
MOST_WHITE = 0.3  # a larger share of pixels at the upper end of the range is suspicious


def check_data(
    *,
    training: CheckedDataset,
    test: CheckedDataset,
    inverter: LatentInverter,
    walk: LatentWalk,
    batch_size: int,
    k: int,
    num_images: int | None,
    balance: str,
    inversion_init: str,
    min_distance_quantile: float | None,
    evaluation_epochs: int,
    evaluation_seeds: int,
    evaluation_batch_size: int,
    report_file: str | os.PathLike[str],
) -> None:
    """Check what no single image shows and what only late stages need, before hours of training.

    Args:
        training: real images of the training section, each one checked already.
        test: real images of the test section.
        inverter, walk: as the later stages will build them, of networks that are not trained yet: what is wrong with
            their options shows when they are built. One image is put through each of their networks.
        batch_size: of the GAN's training.
        k: of k-same.
        num_images, balance: see ``class_counts``.
        inversion_init: where the inversion begins, "encoder" or "mean".
        min_distance_quantile: see ``walk_anchors``.
        evaluation_epochs, evaluation_seeds, evaluation_batch_size: of the classifiers of the evaluation.
        report_file: private JSON with the counts and the images left out.

    Raises:
        DataError: if a class has too few subjects for two anchors, or there are fewer images than ``batch_size``.
        ConfigError: if an option cannot work.
    """
    for name, value, valid, remedy in (
        ("k", k, k >= 2, "a centroid of fewer than 2 patients hides nobody: use 5 or more"),
        ("inversion_init", inversion_init, inversion_init in ("encoder", "mean"), "it must be 'encoder' or 'mean'"),
        ("evaluation_epochs", evaluation_epochs, evaluation_epochs >= 1, "it must be at least 1"),
        ("evaluation_seeds", evaluation_seeds, evaluation_seeds >= 1, "it must be at least 1, and 3 show a spread"),
        ("evaluation_batch_size", evaluation_batch_size, evaluation_batch_size >= 2, "it must be at least 2"),
    ):
        if not valid:
            raise ConfigError(f"{name} is {value!r}, but {remedy}.")
    if len(training) < batch_size:
        raise DataError(
            f"the training section has {len(training)} images, fewer than batch_size = {batch_size}: lower batch_size."
        )
    class_counts(training.labels, num_images=num_images, balance=balance)
    _try_networks(inverter, walk, training)
    for label, name in training.label_names.items():
        subjects = {s for s, y in zip(training.subjects, training.labels.tolist(), strict=True) if y == label}
        if len(subjects) < 2 * k:
            raise DataError(
                f"class {label} ({name}) has {len(subjects)} subjects in the training section, but a walk needs two "
                f"anchors of k = {k} subjects each: add patients"
                + (f", or use k <= {len(subjects) // 2}." if len(subjects) >= 4 else " or leave the class out.")
            )
    if min_distance_quantile is not None:
        _check_quantile(min_distance_quantile, training)
    sections = {"training": training, "test": test}
    write_json(
        report_file,
        {
            name: {
                "images": len(data),
                "subjects": data.num_subjects,
                "has_subjects": data.has_subjects,
                "images_per_class": {label: int((data.labels == label).sum()) for label in data.label_names},
                "left_out": data.skipped,
            }
            for name, data in sections.items()
        },
    )
    white = (training.images >= 1).float().mean().item()
    if white > MOST_WHITE:
        logger.warning(
            "%.0f %% of the pixels of the training images are at the upper end of intensity_range: if they look washed "
            "out, widen it (4095 is common for 12 bits)",
            100 * white,
        )
    for name, data in sections.items():
        logger.info("%s: %d images of %d subjects, %d left out", name, len(data), data.num_subjects, len(data.skipped))


@torch.no_grad()
def _try_networks(inverter: LatentInverter, walk: LatentWalk, dataset: CheckedDataset) -> None:
    """One image through each network that a later stage will use."""
    generator, label = walk.generator, dataset.labels[:1].to(walk.device)
    with frozen(*inverter.networks, *walk.networks):
        z = torch.zeros(1, generator.z_dim, device=walk.device)
        w = generator.mapping(z, label if generator.num_classes else None)
        image = generator.synthesis(w)
        if image.shape[1:] != dataset.images.shape[1:]:
            raise ConfigError(
                f"the generator makes images {list(image.shape[1:])}, but the real ones are "
                f"{list(dataset.images.shape[1:])}: let network_def have the bundle's img_size and img_channels."
            )
        for network in (inverter.embedding, *([] if inverter.encoder is None else [inverter.encoder])):
            network(image)
        for term in walk.terms.values():
            term(w, image, label)
        outputs = {
            "identity_network": (walk.identity_net(image).shape[1], dataset.num_subjects, "num_identities"),
            "class_network": (walk.class_net(image).shape[1], max(dataset.label_names) + 1, "num_classes"),
        }
    for name, (found, needed, id) in outputs.items():
        if found < needed:
            raise ConfigError(f"{name} returns {found} logits, but {needed} are needed: give it {id} outputs.")


def invert(
    *,
    inverter: LatentInverter,
    dataset: CheckedDataset,
    output_file: str | os.PathLike[str],
    report_file: str | os.PathLike[str],
    parts_dir: str | os.PathLike[str],
    images_per_part: int = 32,
) -> None:
    """Project every real image to W or W+ and save all starts with their distances, by parts that survive a stop.

    Writes a file of kind "latents": ``latents`` [N, S, w_dim] or [N, S, num_ws, w_dim], ``distances`` [N, S],
    ``best`` [N], ``reproduced`` [N] bool (see ``reproduction_distances``), ``labels`` [N], ``subjects`` and ``keys``.
    The report has the quantiles of the best distance and the images that were not reproduced.

    Under ``torch.distributed`` every rank calls with the same arguments and ``parts_dir`` is shared; the ranks take
    turns with the parts, and the first one gathers them. The result is the same on any number of ranks.

    Args:
        inverter: the projection.
        dataset: N real images.
        output_file: where to save.
        report_file: private JSON.
        parts_dir: folder of the finished parts.
        images_per_part: images between two savings.
    """
    networks = _digest(*inverter.networks)
    how = {"settings": inverter.settings.as_dict(), "seed": inverter.seed}
    slices = [slice(first, first + images_per_part) for first in range(0, len(dataset), images_per_part)]
    files = [Path(parts_dir) / f"part_{part.start:06d}.pt" for part in slices]
    made_by: list[dict[str, Any]] = [
        {"networks": networks, "images": _digest(dataset.images[part]), "keys": dataset.keys[part], **how}
        for part in slices
    ]
    rank, ranks = idist.get_rank(), idist.get_world_size()
    mine = range(rank, len(slices), ranks)
    sizes = {number: len(made_by[number]["keys"]) for number in mine}
    missing = [n for n in mine if _finished_part(files[n], "part of latents", made_by[n]) is None]
    total = sum(sizes.values())
    done = total - sum(sizes[number] for number in missing)
    desc = "invert" if ranks == 1 else f"invert, share of 1 of {ranks} ranks"
    with tqdm(total=total, initial=done, desc=desc, bar_format=_INVERT_BAR, disable=rank > 0) as bar:
        for number in missing:
            part = slices[number]

            def show(steps: int, all_steps: int, before: int = done, images: int = sizes[number]) -> None:
                bar.update(before + images * steps / all_steps - bar.n)

            result = inverter(dataset.images[part], dataset.labels[part], dataset.keys[part], progress=show)
            data = {"latents": result.latents, "distances": result.distances}
            save_artifact(files[number], kind="part of latents", data=data, made_by=made_by[number])
            done += sizes[number]
            bar.set_postfix(distance=float(result.distances.min(1).values.mean()))
    idist.barrier()
    if rank > 0:
        return
    parts = [load_artifact(file, kind="part of latents") for file in files]
    latents, distances = (torch.cat([part[name] for part in parts]) for name in ("latents", "distances"))
    best = distances.argmin(1)
    to_image, to_other = reproduction_distances(
        inverter.generator, latents[torch.arange(len(best)), best], dataset,
        cast(PerceptualEmbedding, inverter.embedding), device=inverter.device,
    )  # fmt: skip
    reproduced = to_image < to_other
    save_artifact(
        output_file,
        kind="latents",
        data={
            "latents": latents,
            "distances": distances,
            "best": best,
            "reproduced": reproduced,
            "labels": dataset.labels,
            "subjects": dataset.subjects,
            "keys": dataset.keys,
        },
        made_by=how,
    )
    _report_inversion(distances.min(1).values, to_image, to_other, dataset.keys, report_file)


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
        latents: ŵ [N, w_dim] or [N, num_ws, w_dim], one an image of the data set.
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


def _report_inversion(
    best: Tensor, to_image: Tensor, to_other: Tensor, keys: Sequence[str], file: str | os.PathLike[str]
) -> None:
    """Log and write the distribution of the best distances, and the images that G cannot reproduce."""
    levels = (0, 5, 25, 50, 75, 95, 100)
    quantiles = dict(zip(levels, best.quantile(torch.tensor(levels) / 100).tolist(), strict=True))
    missed = [
        {"image": keys[i], "distance": to_image[i].item(), "nearest_other_subject": to_other[i].item()}
        for i in (to_image >= to_other).nonzero().flatten().tolist()
    ]
    write_json(file, {"images": len(best), "distance_quantiles": quantiles, "not_reproduced": missed})
    logger.info(
        "distance of %d images to their reconstructions, %s: %s",
        len(best), " / ".join(f"{level} %" for level in levels), " / ".join(f"{q:.3g}" for q in quantiles.values()),
    )  # fmt: skip
    if missed:
        logger.warning(
            "%d of %d images are not reproduced: their reconstruction is no nearer than another patient's image. They "
            "are listed in %s. A longer training of the generator, more inversion_steps or inversion_space w_plus may "
            "help",
            len(missed), len(best), file,
        )  # fmt: skip


def _finished_part(file: Path, kind: str, made_by: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The part in ``file`` if the same networks, data and settings made it."""
    part = load_artifact(file, kind=kind) if file.exists() else None
    return part if part is not None and part["header"]["made_by"] == made_by else None


def _digest(*parts: nn.Module | Tensor) -> str:
    """SHA-256 over tensors and the weights of networks."""
    digest = hashlib.sha256()
    for part in parts:
        values = [part] if isinstance(part, Tensor) else [*part.parameters(), *part.buffers()]
        for value in values:
            digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


@torch.no_grad()
def synthesize_images(generator: LatentDecoder, latents: Tensor, *, batch_size: int = 64) -> Tensor:
    """x̄ = clamp(G(w), −1, 1) with 8 bits a value, as a release holds it.

    Args:
        generator: G, in eval mode.
        latents: w [N, w_dim] or [N, num_ws, w_dim].
        batch_size: images at once.

    Returns:
        [N, C, *spatial], on the CPU, in [−1, 1].
    """
    device = next(generator.parameters()).device
    images = torch.cat([generator.synthesis(w.to(device)).clamp(-1, 1).cpu() for w in latents.split(batch_size)])
    return ((images + 1) * 127.5).round() / 127.5 - 1


def identity_items(
    *,
    dataset: CheckedDataset,
    generator: LatentDecoder,
    latents_file: str | os.PathLike[str],
    identity_of: str = "subject",
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Training and validation items for φ_id: real images and their reconstructions G(ŵ), labelled by identity.

    The last start of every projection is kept out of the training for the validation, so that what is validated is
    that φ_id recognises a patient in a generated image which it has not seen. With a single start the real images
    validate.

    Args:
        dataset: N real images.
        generator: G.
        latents_file: of the stage ``invert``.
        identity_of: "subject", a class a patient, or "image", a class an image as in the paper.

    Returns:
        Items {"image": [C, *spatial], "label": identity}, for training and for validation.

    Raises:
        ConfigError: if ``identity_of`` is neither.
        DataError: if the latents are of other images.
    """
    if identity_of not in ("subject", "image"):
        raise ConfigError(f"identity_of is {identity_of!r}, but must be 'subject' or 'image' (as in the paper).")
    data = load_artifact(latents_file, kind="latents")
    if data["keys"] != dataset.keys:
        raise DataError(f"{latents_file} is of other images than the data list: run the stage invert again.")
    identities = dataset.identities if identity_of == "subject" else torch.arange(len(dataset))
    real = [{"image": x, "label": int(y)} for x, y in zip(dataset.images, identities, strict=True)]
    by_start = [
        [{"image": x, "label": int(y)} for x, y in zip(synthesize_images(generator, latents), identities, strict=True)]
        for latents in data["latents"].unbind(1)
    ]
    held_out = by_start.pop() if len(by_start) > 1 else real
    return real + [item for items in by_start for item in items], held_out


def class_items(
    *, dataset: CheckedDataset, validation_fraction: float = 0.2, seed: int = 0
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Training and validation items for φ_class: real images, split by subject.

    Args:
        dataset: N real images.
        validation_fraction: share of the subjects of each class that validates.
        seed: of the split.

    Returns:
        Items of the data set, for training and for validation.
    """
    return split_by_subject([dataset[i] for i in range(len(dataset))], test_fraction=validation_fraction, seed=seed)


def aggregate(
    *, latents_file: str | os.PathLike[str], output_file: str | os.PathLike[str], k: int, seed: int = 0
) -> None:
    """k-same: save the centroids of groups of at least k patients of one class, the anchors of the walks.

    Writes a file of kind "anchors": ``latents`` [A, w_dim] or [A, num_ws, w_dim], ``labels`` [A], ``members``
    (indices of images), ``k``.

    Args:
        latents_file: of the stage ``invert``; the best start of every image is used.
        output_file: where to save.
        k: patients in a group, at least.
        seed: breaks ties.
    """
    data = load_artifact(latents_file, kind="latents")
    best = data["latents"][torch.arange(len(data["best"])), data["best"]]
    anchors = k_same(best, data["labels"], data["subjects"], k, seed=seed)
    logger.info("%d anchors of %d or more patients each", len(anchors.labels), k)
    save_artifact(
        output_file,
        kind="anchors",
        data={"latents": anchors.latents, "labels": anchors.labels, "members": anchors.members, "k": k},
        made_by={"k": k, "seed": seed},
    )


def class_counts(labels: Tensor, *, num_images: int | None = None, balance: str = "real") -> dict[int, int]:
    """How many images of each class to make.

    Args:
        labels: [N], of the real images.
        num_images: in total; by default N.
        balance: "real", as among the real images, or "balanced".

    Returns:
        Class → number, at least 1; the numbers add up to ``num_images``.

    Raises:
        ConfigError: if ``balance`` is neither, or there are fewer images than classes.
    """
    if balance not in ("real", "balanced"):
        raise ConfigError(f"balance is {balance!r}, but must be 'real' or 'balanced'.")
    classes, counts = labels.unique(return_counts=True)
    total = len(labels) if num_images is None else num_images
    if total < len(classes):
        raise ConfigError(f"num_images is {total}, but there are {len(classes)} classes and each needs an image.")
    weights = counts if balance == "real" else torch.ones_like(counts)
    ends = (2 * weights.cumsum(0) * total + weights.sum()) // (2 * weights.sum())  # rounded, in whole numbers
    numbers = ends.diff(prepend=ends.new_zeros(1)).clamp(min=1)
    while numbers.sum() > total:  # a class too rare for one image was given one
        numbers[numbers.argmax()] -= 1
    return dict(zip(classes.tolist(), numbers.tolist(), strict=True))


def walk_anchors(
    *,
    walk: LatentWalk,
    anchors_file: str | os.PathLike[str],
    dataset: CheckedDataset,
    output_file: str | os.PathLike[str],
    parts_dir: str | os.PathLike[str],
    num_images: int | None = None,
    balance: str = "real",
    embedding: PerceptualEmbedding | None = None,
    min_distance_quantile: float | None = None,
    seed: int = 0,
) -> None:
    """Walk between anchors of one class, for as many pairs as the images asked for need; every anchor is used.

    With ``min_distance_quantile`` q every inner point is checked in the end: it is kept if its image, as it would be
    released, is at least d_q from every real training image, d_q being the q-quantile over the real images of the
    distance to the nearest image of another subject. For what is dropped further pairs are walked, while there are any.

    Writes a file of kind "paths": ``paths`` [P, T, w_dim] or [P, T, num_ws, w_dim], ``labels`` [P], ``pairs`` [P, 2],
    ``losses`` (name → [P, steps + 1]), ``kept`` [P, T] bool, which points may be released, ``num_images`` (class →
    number).

    Under ``torch.distributed`` every rank calls with the same arguments and ``parts_dir`` is shared; the ranks take
    turns with the pairs, and the first one saves. The result is the same on any number of ranks.

    Args:
        walk: the walk of one pair.
        anchors_file: of the stage ``aggregate``.
        dataset: the real images, for their number and balance of classes, and for the check.
        output_file: where to save.
        parts_dir: folder of the finished walks.
        num_images, balance: see ``class_counts``. What the distinct pairs of a class cannot give is left out, with
            a warning.
        embedding: of the perceptual distance, for the check.
        min_distance_quantile: q in [0, 1]; None checks nothing.
        seed: of the pairs.

    Raises:
        ConfigError: if the quantile lies outside its range or there is no embedding for it.
        DataError: if all images are of one subject, so that no d_q can be measured.
        TrainingError: if no point of a class is kept.
    """
    anchors = load_artifact(anchors_file, kind="anchors")
    inner = walk.settings.num_points - 2
    wanted = class_counts(dataset.labels, num_images=num_images, balance=balance)
    sizes = {label: int((anchors["labels"] == label).sum()) for label in wanted}
    most_pairs = {label: size * (size - 1) // 2 for label, size in sizes.items()}
    for label, number in wanted.items():
        if number > inner * most_pairs[label]:
            logger.warning(
                "class %d: %d images were asked for, but %d anchors give %d pairs and so %d images; a smaller k or "
                "more points a path gives more",
                label, number, sizes[label], most_pairs[label], inner * most_pairs[label],
            )  # fmt: skip
            wanted[label] = inner * most_pairs[label]
    check = _check_of_distances(dataset, embedding, min_distance_quantile, walk)
    num_pairs = {label: -(-number // inner) for label, number in wanted.items()}
    kept: dict[tuple[int, int], Tensor] = {}
    while True:
        pairs = choose_pairs(anchors["labels"], num_pairs=num_pairs, seed=seed)
        names = [(a, b) for a, b in pairs.tolist()]
        parts = _walk_pairs(walk, anchors, pairs, parts_dir)
        new = [number for number, name in enumerate(names) if name not in kept]
        for number, rows in zip(new, check([parts[number]["path"] for number in new]), strict=True):
            kept[names[number]] = rows
        labels = anchors["labels"][pairs[:, 0]]
        all_kept = torch.stack([kept[name] for name in names])
        found = {label: int(all_kept[labels == label].sum()) for label in wanted}
        more = _more_pairs(wanted, found, labels, most_pairs)
        if min_distance_quantile is not None:
            logger.info("%d of %d points are far enough from every real image", all_kept.sum(), len(names) * inner)
        if not more:
            break
        logger.info("%d more pairs are walked for what is dropped", sum(more.values()))
        num_pairs = {label: int((labels == label).sum()) + more.get(label, 0) for label in wanted}
    if idist.get_rank() > 0:
        return
    for label, number in wanted.items():
        if not found[label]:
            raise TrainingError(
                f"No point of class {label} is as far from every real image as min_distance_quantile = "
                f"{min_distance_quantile} asks for: lower it, or raise lambda_id; None checks nothing."
            )
        if found[label] < number:
            logger.warning(
                "class %d: %d images were asked for, but %d points are far enough from every real image",
                label, number, found[label],
            )  # fmt: skip
            wanted[label] = found[label]
    losses = {name: torch.stack([part["losses"][name] for part in parts]) for name in parts[0]["losses"]}
    _log_losses(losses)
    save_artifact(
        output_file,
        kind="paths",
        data={
            "paths": torch.stack([part["path"] for part in parts]),
            "labels": labels,
            "pairs": pairs,
            "losses": losses,
            "kept": all_kept,
            "num_images": wanted,
        },
        made_by={"settings": walk.settings.as_dict(), "min_distance_quantile": min_distance_quantile, "seed": seed},
    )


def _walk_pairs(
    walk: LatentWalk, anchors: Mapping[str, Any], pairs: Tensor, parts_dir: str | os.PathLike[str]
) -> list[Mapping[str, Any]]:
    """The parts {"path", "losses"} of all pairs [P, 2]; what is not there is walked now, shared over the ranks."""
    networks = _digest(*walk.networks)
    files = [Path(parts_dir) / f"path_{a:05d}_{b:05d}.pt" for a, b in pairs.tolist()]
    settings = walk.settings.as_dict()
    made_by = [
        {"networks": networks, "ends": _digest(anchors["latents"][pair]), "settings": settings} for pair in pairs
    ]
    rank, ranks = idist.get_rank(), idist.get_world_size()
    mine = range(rank, len(files), ranks)
    missing = [number for number in mine if _finished_part(files[number], "path", made_by[number]) is None]
    desc = "walk" if ranks == 1 else f"walk, share of 1 of {ranks} ranks"
    done = len(mine) - len(missing)
    with tqdm(total=len(mine), initial=done, desc=desc, bar_format=_WALK_BAR, disable=rank > 0) as bar:
        for start in range(0, len(missing), walk.pairs_per_batch):
            group = missing[start : start + walk.pairs_per_batch]
            w_a, w_b = anchors["latents"][pairs[group]].unbind(1)
            labels = anchors["labels"][pairs[group, 0]].tolist()

            def show(steps: int, all_steps: int, before: int = done, paths: int = len(group)) -> None:
                bar.update(before + paths * steps / all_steps - bar.n)

            results = walk.walk_pairs(w_a, w_b, labels, progress=show)
            for number, result in zip(group, results, strict=True):
                data = {"path": result.path, "losses": result.losses}
                save_artifact(files[number], kind="path", data=data, made_by=made_by[number])
            done += len(group)
            bar.n = done
            bar.set_postfix({name: float(values[-1]) for name, values in results[-1].losses.items()})
    idist.barrier()
    return [load_artifact(file, kind="path") for file in files]


def _check_quantile(quantile: float, dataset: CheckedDataset) -> None:
    if not 0 <= quantile <= 1:
        raise ConfigError(f"min_distance_quantile is {quantile}, but must lie in [0, 1]; None checks nothing.")
    if len(dataset.identities.unique()) < 2:
        raise DataError(
            "min_distance_quantile measures how far patients are from each other, but all images are of one subject: "
            "name the subjects in the data list, or set it to None."
        )


def _check_of_distances(
    dataset: CheckedDataset, embedding: PerceptualEmbedding | None, quantile: float | None, walk: LatentWalk
) -> Callable[[Sequence[Tensor]], list[Tensor]]:
    """A function that says of paths [T, *latent] each which points [T] may be released: inner ones, far enough."""
    inner = torch.ones(walk.settings.num_points, dtype=torch.bool)
    inner[[0, -1]] = False
    if quantile is None:
        return lambda paths: [inner] * len(paths)
    _check_quantile(quantile, dataset)
    if embedding is None:
        raise ConfigError(f"min_distance_quantile is {quantile}, but there is no embedding to measure a distance by.")
    between = nearest_other_images(dataset.images, dataset.identities, embedding, device=walk.device)
    least = between.quantile(quantile)

    def check(paths: Sequence[Tensor]) -> list[Tensor]:
        if not paths:
            return []
        images = synthesize_images(walk.generator, torch.cat([path[inner] for path in paths]))
        found = nearest_real_images(
            images, dataset.images, embedding, device=walk.device, distributed=idist.get_world_size() > 1
        )
        far = (found.distances >= least).view(len(paths), -1)
        kept = inner.repeat(len(paths), 1)
        kept[:, inner] = far
        return list(kept)

    return check


def _more_pairs(
    wanted: Mapping[int, int], found: Mapping[int, int], labels: Tensor, most_pairs: Mapping[int, int]
) -> dict[int, int]:
    """How many further pairs each class needs, if those give as many points as the pairs so far, and has.

    At most as many again, for the first few say little; none for a class of whose first ``_HOPELESS`` no point is kept.
    """
    more = {}
    for label, number in wanted.items():
        pairs = int((labels == label).sum())
        if number <= found[label] or (not found[label] and pairs >= _HOPELESS):
            continue
        needed = math.ceil((number - found[label]) * pairs / max(found[label], 1))
        more[label] = min(needed, pairs, most_pairs[label] - pairs)
    return {label: count for label, count in more.items() if count > 0}


def _log_losses(losses: Mapping[str, Tensor]) -> None:
    for name, values in losses.items():
        first, last = values[:, 0].mean(), values[:, -1].mean()
        logger.info("L_%s, mean over paths: %.3f on the straight line, %.3f after the walk", name, first, last)


def select_points(labels: Tensor, *, kept: Tensor, num_images: Mapping[int, int]) -> Tensor:
    """Which points of which paths become images: kept ones only, spread evenly over all paths of a class.

    Args:
        labels: [P], of the paths.
        kept: [P, T] bool, the points that may be released.
        num_images: class → number of images, at most as many as there are kept points.

    Returns:
        [N, 2], int64: path and point.
    """
    chosen = []
    for label, number in num_images.items():
        paths = torch.where(labels == label)[0].tolist()
        there = {path: kept[path].nonzero().flatten() for path in paths}
        left = number
        shares = {}
        # Those with the fewest points first: what they cannot give is spread over the others, which then still can.
        for position, path in enumerate(sorted(paths, key=lambda path: (len(there[path]), -path))):
            shares[path] = min(left // (len(paths) - position), len(there[path]))
            left -= shares[path]
        for path in paths:
            # the middles of as many equal pieces of what is kept
            middles = (torch.arange(shares[path]) + 0.5) * len(there[path]) / max(shares[path], 1)
            points = there[path][middles.long()]
            chosen.append(torch.stack([torch.full_like(points, path), points], dim=1))
    return torch.cat(chosen)


def synthesize(
    *,
    generator: LatentDecoder,
    paths_file: str | os.PathLike[str],
    anchors_file: str | os.PathLike[str],
    dataset: CheckedDataset,
    release_dir: str | os.PathLike[str],
    name: str,
) -> None:
    """Write the synthetic data set: images of points on the paths, ``datalist.json`` and a data set card.

    Args:
        generator: G.
        paths_file: of the stage ``walk``.
        anchors_file: of the stage ``aggregate``.
        dataset: the real images, for the names of the classes and the geometry of volumes.
        release_dir: the folder that may leave.
        name: of the data set.
    """
    data = load_artifact(paths_file, kind="paths")
    anchors = load_artifact(anchors_file, kind="anchors")
    points = select_points(data["labels"], kept=data["kept"], num_images=data["num_images"])
    labels = data["labels"][points[:, 0]]
    made_by = data["header"]["made_by"]
    persons = "patients" if dataset.has_subjects else "images (no patients were named: one patient may have several)"
    write_synthetic(
        release_dir,
        images=synthesize_images(generator, data["paths"][points[:, 0], points[:, 1]]),
        labels=labels,
        label_names=dataset.label_names,
        groups=points[:, 0].tolist(),
        affine=_shared_affine(dataset.affine),
        name=name,
        description=(
            "Synthetic images made by PLAN (arXiv 2307.02984) with monai_plan: points on walks between averages of at "
            f"least {anchors['k']} {persons}. subject is the walk."
        ),
    )
    card = _CARD.format(
        name=name,
        num_images=len(points),
        classes="".join(
            f"| {c} | {dataset.label_names[c]} | {int((labels == c).sum())} |\n" for c in sorted(data["num_images"])
        ),
        shape=" × ".join(map(str, dataset.images.shape[2:])),
        channels=dataset.images.shape[1],
        num_real=len(dataset),
        patients=f"{dataset.num_subjects} patients" if dataset.has_subjects else "an unknown number of patients",
        persons=persons,
        num_paths=len(data["labels"]),
        num_anchors=len(anchors["labels"]),
        k=anchors["k"],
        walk=WalkSettings.from_dict(made_by["settings"]),
        check="none" if made_by["min_distance_quantile"] is None else f"quantile {made_by['min_distance_quantile']}",
        seed=made_by["seed"],
    )
    write_text(Path(release_dir) / "dataset_card.md", card)


def _shared_affine(affine: Sequence[Sequence[float]] | None) -> list[list[float]] | None:
    """The geometry that all volumes share: axis directions and spacing to 0.1 mm, without a patient's origin or tilt.

    Args:
        affine: 4 x 4 of one real volume; None for formats without geometry.
    """
    if affine is None:
        return None
    axes = torch.tensor(affine, dtype=torch.float64)[:3, :3]
    spacing = axes.square().sum(0).sqrt()
    shared = torch.eye(4, dtype=torch.float64)
    shared[:3, :3] = 0
    free = list(range(3))
    for axis in range(3):  # the direction that the axis is nearest to, each taken once
        nearest = max(free, key=lambda row: abs(axes[row, axis].item()))
        free.remove(nearest)
        sign = -1.0 if axes[nearest, axis] < 0 else 1.0
        shared[nearest, axis] = sign * max(round(spacing[axis].item(), 1), 0.1)
    return shared.tolist()


_CARD = """# {name}

{num_images} synthetic images, {shape}, {channels} channel(s), 8 bits a value, made with monai_plan by the method PLAN
(Pennisi et al., MICCAI 2023, arXiv 2307.02984).

| label | class | images |
|---|---|---|
{classes}
- Read it with `monai.data.load_decathlon_datalist("datalist.json", is_segmentation=False)`.
- `subject` is the walk that an image comes from. Images of one walk resemble each other: keep them on one side of a
  split.
- Made from {num_real} real images of {patients}, by a generative network trained on them. The images are points on
  {num_paths} walks between {num_anchors} anchors; an anchor is the average of at least {k} {persons} in the
  latent space.
- Walk: {walk}; seed {seed}. Final check of the distance: {check}.

What is not promised: that nothing about a patient can be inferred. The attacks in the report beside this card found
what they found; empirical attacks are no proof. The images are not fit for diagnosis.
"""
