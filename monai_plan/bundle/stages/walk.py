"""The stage that walks between the anchors, and checks every point of the paths."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import torch
from torch import Tensor

from monai_plan.bundle.anchor_maker import distance_check
from monai_plan.bundle.same_data import check_same_data, made_of
from monai_plan.data import CheckedDataset
from monai_plan.latent import LatentWalk, choose_pairs
from monai_plan.metrics import PerceptualEmbedding
from monai_plan.progress import Progress
from monai_plan.release import DistanceCheck, points_to_leave, release_secret, synthesize_images
from monai_plan.release.secret import draw
from monai_plan.utils import ConfigError, TrainingError, digest, load_artifact, load_part, save_artifact, save_part

__all__ = ["WalkStage", "class_counts"]

logger = logging.getLogger(__name__)

_BAR = "{l_bar}{bar}| {n:.1f}/{total_fmt} paths [{elapsed}<{remaining}{postfix}]"  # a path counts by its steps
MOST_PAIRS_WITHOUT_A_POINT = 16  # of a class; after so many it is given up


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


@dataclass(kw_only=True, eq=False)
class WalkStage:
    """Walk between anchors of one class, for as many pairs as the images asked for need; every anchor is used.

    Points near to an average of patients do not leave (``points_to_leave``). With ``min_distance_quantile`` every other
    one goes through the final check (``DistanceCheck``) as it would be released, with chances drawn by the secret. For
    what is dropped further pairs are walked, while there are any. Without a walk every anchor is a path of one point.

    Writes a file of kind "paths": ``paths`` [P, T, w_dim] or [P, T, num_ws, w_dim], ``labels`` [P], ``pairs`` [P, 2],
    ``losses`` (name → [P, steps + 1]), ``kept`` [P, T] bool, which points may be released, ``num_images`` (class →
    number), ``min_end_distance``, ``secret`` (see ``release_secret``). The secret lies in ``parts_dir``: a stage that
    was stopped, or whose output was lost, ends with the same bytes. Without both there will be another secret, and
    another release.

    Under ``torch.distributed`` every rank runs with the same arguments and ``parts_dir`` is shared; the ranks take
    turns with the pairs, and the first one saves. The result is the same on any number of ranks.

    Args:
        walk: the walk of one pair.
        anchors_file: of the stage ``anchors``.
        dataset: the real training images, for their number and balance of classes, and for the check.
        test: those of the test section: the check keeps away from them alike, lest it tell who was trained on.
        output_file: where to save.
        parts_dir: folder of the finished walks and of the secret.
        num_images, balance: see ``class_counts``. What the distinct pairs of a class cannot give is left out, with
            a warning.
        embedding: of the perceptual distance, for the check.
        min_distance_quantile: of the check, in [0, 1]; None checks nothing.
        kind: "plan", or "none": the anchors themselves leave, which must be of G's own distribution.
        seed: of the pairs.
    """

    walk: LatentWalk
    anchors_file: str | os.PathLike[str]
    dataset: CheckedDataset
    test: CheckedDataset
    output_file: str | os.PathLike[str]
    parts_dir: str | os.PathLike[str]
    embedding: PerceptualEmbedding
    num_images: int | None = None
    balance: str = "real"
    min_distance_quantile: float | None = None
    kind: str = "plan"
    seed: int = 0

    def run(self) -> None:
        """Walk what is not walked yet, check, and save.

        Raises:
            ConfigError: if the quantile lies outside its range, or without a walk the anchors are averages of patients.
            DataError: if all images are of one subject, so that no distance between patients can be measured.
            TrainingError: if no point of a class is kept.
        """
        anchors = load_artifact(self.anchors_file, kind="anchors")
        walk = self.walk
        check_same_data(
            self.dataset,
            anchors=anchors,
            generator=walk.generator,
            identity_net=walk.identity_net,
            class_net=walk.class_net,
        )
        if self.kind == "none" and anchors["k"] is not None:
            raise ConfigError(
                "walk_kind is 'none', by which the anchors themselves leave, but they are averages of patients: who "
                "knows all others behind an average reads the last one from it. Set anchor_kind to 'prior'."
            )
        wanted, most_pairs = self._wanted(anchors)
        secret = self._secret()
        check = distance_check(
            self.dataset, self.test, self.embedding, quantile=self.min_distance_quantile, device=self.walk.device
        )
        num_pairs = {label: -(-number // self._most_of_a_path(anchors)) for label, number in wanted.items()}
        kept: dict[tuple[int, int], Tensor] = {}
        while True:
            pairs, parts = self._paths(anchors, num_pairs)
            self._check_paths(check, secret, anchors, pairs, parts, kept)
            labels = anchors["labels"][pairs[:, 0]]
            all_kept = torch.stack([kept[a, b] for a, b in pairs.tolist()])
            found = {label: int(all_kept[labels == label].sum()) for label in wanted}
            more = _more_pairs(wanted, found, labels, most_pairs)
            logger.info("%d points of %d paths may leave", all_kept.sum(), len(pairs))
            if not more:
                break
            logger.info("%d more pairs are walked for what is dropped", sum(more.values()))
            num_pairs = {label: int((labels == label).sum()) + more.get(label, 0) for label in wanted}
        if idist.get_rank() == 0:
            num_images = self._found_of_wanted(wanted, found)
            losses = {name: torch.stack([part["losses"][name] for part in parts]) for name in parts[0]["losses"]}
            _log_losses(losses)
            settings = None if self.kind == "none" else self.walk.settings.as_dict()
            data = {
                "paths": torch.stack([part["path"] for part in parts]),
                "labels": labels,
                "pairs": pairs,
                "losses": losses,
                "kept": all_kept,
                "num_images": num_images,
                "anchor_kind": _kind_of(anchors),
                "min_end_distance": 0.0 if self.kind == "none" else self.walk.settings.min_end_distance,
                "secret": secret,
            }
            made_by = {
                "settings": settings,
                "min_distance_quantile": self.min_distance_quantile,
                "seed": self.seed,
                "data": made_of(self.dataset),
            }
            save_artifact(self.output_file, kind="paths", data=data, made_by=made_by)

    def _secret(self) -> str:
        """The secret of the release, the same on all ranks."""
        file = Path(self.parts_dir) / "secret.json"
        if idist.get_rank() == 0:
            release_secret(file)
        idist.barrier()
        return release_secret(file)

    def _may_leave(self, paths: Tensor, anchors: Mapping[str, Any]) -> Tensor:
        """See ``points_to_leave``; an anchor that leaves itself is no end of anything."""
        distance = 0.0 if self.kind == "none" else self.walk.settings.min_end_distance
        return points_to_leave(paths, distance, anchor_kind=_kind_of(anchors))

    def _most_of_a_path(self, anchors: Mapping[str, Any]) -> int:
        """How many images a straight path would give."""
        if self.kind == "none":
            return 1
        line = torch.linspace(0, 1, self.walk.settings.num_points)[None, :, None]
        return int(self._may_leave(line, anchors).sum())

    def _wanted(self, anchors: Mapping[str, Any]) -> tuple[dict[int, int], dict[int, int]]:
        """How many images of each class to make, and how many paths each class can have."""
        inner = self._most_of_a_path(anchors)
        wanted = class_counts(self.dataset.labels, num_images=self.num_images, balance=self.balance)
        sizes = {label: int((anchors["labels"] == label).sum()) for label in wanted}
        most_pairs = {
            label: size if self.kind == "none" else size * (size - 1) // 2 for label, size in sizes.items()
        }  # fmt: skip
        for label, number in wanted.items():
            if number > inner * most_pairs[label]:
                logger.warning(
                    "class %d: %d images were asked for, but %d anchors give %d paths and so %d images%s",
                    label, number, sizes[label], most_pairs[label], inner * most_pairs[label],
                    "" if anchors["k"] is None else "; a smaller k or more points per path give more",
                )  # fmt: skip
                wanted[label] = inner * most_pairs[label]
        return wanted, most_pairs

    def _paths(self, anchors: Mapping[str, Any], num_pairs: Mapping[int, int]) -> tuple[Tensor, list[dict[str, Any]]]:
        """Pairs of anchors [P, 2], and the part {"path", "losses"} of each."""
        if self.kind == "none":
            pairs = torch.arange(len(anchors["labels"]))[:, None].repeat(1, 2)
            return pairs, [{"path": latent[None], "losses": {}} for latent in anchors["latents"]]
        pairs = choose_pairs(anchors["labels"], num_pairs=num_pairs, seed=self.seed)
        return pairs, self._walk_pairs(anchors, pairs)

    def _walk_pairs(self, anchors: Mapping[str, Any], pairs: Tensor) -> list[dict[str, Any]]:
        """The parts {"path", "losses"} of all pairs [P, 2]; what is not there is walked now, shared over the ranks."""
        walk, rank, ranks = self.walk, idist.get_rank(), idist.get_world_size()
        networks, latents = digest(*walk.networks), anchors["latents"]
        files = [Path(self.parts_dir) / f"path_{a:05d}_{b:05d}.pt" for a, b in pairs.tolist()]
        made_by = [
            {"networks": networks, "ends": latents[pair], "labels": anchors["labels"][pair], "settings": walk.settings}
            for pair in pairs
        ]
        mine = range(rank, len(files), ranks)
        missing = [number for number in mine if load_part(files[number], kind="path", made_by=made_by[number]) is None]
        desc = "walk" if ranks == 1 else f"walk, share of 1 of {ranks} ranks"
        done = len(mine) - len(missing)
        with Progress(total=len(mine), initial=done, desc=desc, bar_format=_BAR, disable=rank > 0) as bar:
            for start in range(0, len(missing), walk.pairs_per_batch):
                group = missing[start : start + walk.pairs_per_batch]
                w_a, w_b = latents[pairs[group]].unbind(1)
                labels = anchors["labels"][pairs[group, 0]].tolist()

                def show(steps: int, all_steps: int, before: int = done, paths: int = len(group)) -> None:
                    bar.update(before + paths * steps / all_steps - bar.n)

                results = walk.walk_pairs(w_a, w_b, labels, progress=show)
                for number, result in zip(group, results, strict=True):
                    data = {"path": result.path, "losses": result.losses}
                    save_part(files[number], kind="path", made_by=made_by[number], data=data)
                done += len(group)
                bar.n = done
                bar.set_postfix({name: float(values[-1]) for name, values in results[-1].losses.items()})
        idist.barrier()
        return [load_artifact(file, kind="path") for file in files]

    def _check_paths(
        self,
        check: DistanceCheck | None,
        secret: str,
        anchors: Mapping[str, Any],
        pairs: Tensor,
        parts: Sequence[Mapping[str, Any]],
        kept: dict[tuple[int, int], Tensor],
    ) -> None:
        """Add to ``kept``, for the pairs that are not in it, which points of their paths may leave."""
        new = [number for number, (a, b) in enumerate(pairs.tolist()) if (a, b) not in kept]
        if not new:
            return
        paths = torch.stack([parts[number]["path"] for number in new])
        allowed = self._may_leave(paths, anchors) & _once(pairs, paths.shape[1])[new]
        if check is not None and allowed.any():
            places = [(*pairs[new[path]].tolist(), point) for path, point in allowed.nonzero().tolist()]
            chances = torch.tensor([draw(secret, "check", *place) for place in places])
            if anchors["k"] is None:  # the ends have passed it, each by its own draw
                chances[[point in (0, paths.shape[1] - 1) for *_, point in places]] = 0
            allowed[allowed.clone()] = check(synthesize_images(self.walk.generator, paths[allowed]), chances)
        for number, row in zip(new, allowed, strict=True):
            kept[int(pairs[number, 0]), int(pairs[number, 1])] = row

    def _found_of_wanted(self, wanted: Mapping[int, int], found: Mapping[int, int]) -> dict[int, int]:
        """How many images of each class there will be."""
        for label, number in wanted.items():
            if not found[label]:
                raise TrainingError(
                    f"No point of class {label} is as far from every real image as min_distance_quantile = "
                    f"{self.min_distance_quantile} asks for: lower it, or raise lambda_id; None checks nothing."
                )
            if found[label] < number:
                logger.warning(
                    "class %d: %d images were asked for, but %d points are far enough from every real image",
                    label, number, found[label],
                )  # fmt: skip
        return {label: min(number, found[label]) for label, number in wanted.items()}


def _kind_of(anchors: Mapping[str, Any]) -> str:
    return "prior" if anchors["k"] is None else "k_same"


def _once(pairs: Tensor, num_points: int) -> Tensor:
    """[P, T] bool: all points but those ends that are the end of an earlier pair, whose image would leave twice."""
    once, seen = torch.ones(len(pairs), num_points, dtype=torch.bool), set()
    for number, ends in enumerate(pairs.tolist()):
        for point, anchor in zip((0, num_points - 1), ends, strict=True):
            once[number, point] &= anchor not in seen or num_points == 1
        seen.update(ends)
    return once


def _more_pairs(
    wanted: Mapping[int, int], found: Mapping[int, int], labels: Tensor, most_pairs: Mapping[int, int]
) -> dict[int, int]:
    """How many further pairs each class needs, if those give as many points as the pairs so far, and has.

    At most as many again, for the first few say little; none for a class without a kept point in its first pairs.
    """
    more = {}
    for label, number in wanted.items():
        pairs = int((labels == label).sum())
        if number <= found[label] or (not found[label] and pairs >= MOST_PAIRS_WITHOUT_A_POINT):
            continue
        needed = math.ceil((number - found[label]) * pairs / max(found[label], 1))
        more[label] = min(needed, pairs, most_pairs[label] - pairs)
    return {label: count for label, count in more.items() if count > 0}


def _log_losses(losses: Mapping[str, Tensor]) -> None:
    for name, values in losses.items():
        first, last = values[:, 0].mean(), values[:, -1].mean()
        logger.info("L_%s, mean over paths: %.3f on the straight line, %.3f after the walk", name, first, last)
