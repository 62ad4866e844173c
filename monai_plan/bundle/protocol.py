"""The experiments of PLAN (Pennisi et al., MICCAI 2023, arXiv 2307.02984), of one finished run.

Its first table walks between random points of W: ``real``, ``linear``, ``PLAN``. Its second one walks between k-same
averages, for k = 5, 10, 15: ``k-same`` and ``PLAN`` over them. Beside them stands ``selection``, which walks nowhere
and has to be beaten. All rows have passed the same final check, and as many images are asked for as there are real
ones.
"""

from __future__ import annotations

import functools
import logging
import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from scipy.stats import t

from monai_plan.audit import AuditInputs, Evaluation, EvaluationRow, ImageSet, Spread, evaluate
from monai_plan.bundle.anchor_maker import distance_check
from monai_plan.bundle.finished_run import FinishedRun
from monai_plan.bundle.runner import PROTOCOL, meant_error
from monai_plan.data import contact_sheet
from monai_plan.data.lesions import LesionCounter, lesion_shares
from monai_plan.networks import load_classifier
from monai_plan.release import as_markdown, load_paths, select, synthesize_images
from monai_plan.utils import ArtifactError, ConfigError, read_json, seeded_generator, write_json, write_text

__all__ = ["Protocol", "evaluate_protocol"]

logger = logging.getLogger(__name__)

RANDOM_POINTS = {
    "anchor_kind": "prior", "prior_candidates": 1, "prior_class_probability": 0.0, "prior_latent_share": 0.0,
    "prior_identity_share": 0.0,
}  # fmt: skip
STRAIGHT = {"walk_kind": "plan", "walk_steps": 0, "walk_coarse_points": 0}
SHOWN = 8  # images per class on a sheet


@dataclass(frozen=True)
class Protocol:
    """Both tables.

    Attributes:
        evaluation: all rows with all measures, see ``monai_plan.audit.evaluate``; identity by a second φ_id.
        ks: k of the second table.
        lesions: of phantoms in 2D by the name of the row, the shares in % of the images of the last class that show no,
            one, two or more lesions; empty for anything else.
        left_out: sentences about rows that could not be made.
    """

    evaluation: Evaluation
    ks: tuple[int, ...]
    lesions: dict[str, list[float]]
    left_out: tuple[str, ...] = ()

    def to_markdown(self) -> str:
        """Both tables, and what their columns mean."""
        names = [row.name for row in self.evaluation.rows]
        second = [name for name in names if "k = " in name]
        first = [name for name in names if name not in second]
        parts = ["Walks between points of G's own distribution", self._table(first)]
        if second:
            parts += ["Walks between averages of patients (k-same)", self._table(["real", *second])]
        return "\n\n".join([*parts, "\n".join(f"- {as_markdown(note)}" for note in self._notes())]) + "\n"

    def _table(self, names: Sequence[str]) -> str:
        heads = ["", "images", "accuracy", "AUC", "MIA", "Fréchet", "/ floor", "precision", "recall", "mean-min"]
        heads += ["least", "top identity", *(["lesions"] if self.lesions else [])]
        rows = [heads, ["---", *["---:"] * (len(heads) - 1)], *(self._cells(self.evaluation.row(n)) for n in names)]
        return "\n".join("| " + " | ".join(cells) + " |" for cells in rows)

    def _cells(self, row: EvaluationRow) -> list[str]:
        fidelity, distance = row.results["fidelity"], row.results["distance"]
        floor = self.evaluation.row("real").results["fidelity"]["frechet"]
        cells = [row.name, str(row.num_images)]
        cells += [_interval(row.spread("utility", name)) for name in ("accuracy", "auc")]
        cells += [_interval(row.spread("membership", "accuracy"))]
        cells += [f"{fidelity['frechet']:.4g}", f"{fidelity['frechet'] / floor:.2f}"]
        cells += [f"{100 * fidelity[name]:.0f}" for name in ("precision", "recall")]
        cells += [f"{distance[name]:.3f}" for name in ("mean", "least")]
        cells += [f"{100 * row.results['identity']['top']:.1f}"]
        if self.lesions:
            cells += [", ".join(f"{share:.1f}" for share in self.lesions[row.name])]
        return cells

    def _notes(self) -> list[str]:
        evaluation = self.evaluation
        seeds = len(evaluation.row("real").results["utility"]["accuracy"])
        notes = [
            f"{evaluation.num_train_images} real training images of {evaluation.num_train_patients} patients, "
            f"{evaluation.num_test_images} test images of {evaluation.num_test_patients} others; "
            f"{evaluation.embedding_title}.",
            f"Accuracy, AUC, MIA in %: mean over {seeds} classifiers, ± half of the 95 % interval of that mean by "
            "Student's t; it knows the seeds of the classifiers, not those of G.",
            "The row real: classifiers trained on the real images; Fréchet, precision, recall, distances and identity "
            'of the real test images: what new patients show. "/ floor" is the Fréchet distance over theirs.',
            "Mean-min: mean over the images of the distance to the nearest real training image; least: that of the "
            "nearest of all.",
            "Top identity in %: of a second φ_id of another seed, which has chosen nothing and which no walk has seen.",
            "All rows passed the same final check (min_distance_quantile).",
        ]
        if self.lesions:
            notes.append("Lesions: % of the images of the last class that show none, one, two or more.")
        notes += [row.note for row in evaluation.rows if row.note]
        return [*notes, *self.left_out]


def _interval(spread: Spread) -> str:
    """Mean ± half of its 95 % interval, in per cent."""
    if spread.sd is None:
        return f"{100 * spread.mean:.1f}"
    count = len(spread.values)
    return f"{100 * spread.mean:.1f} ± {100 * spread.sd * t.ppf(0.975, count - 1) / math.sqrt(count):.1f}"


def evaluate_protocol(
    output_dir: str | os.PathLike[str], *, seeds: int = 5, ks: Sequence[int] = (5, 10, 15), rows: Sequence[str] = ()
) -> Protocol:
    """Make both tables from the networks and latents of a finished run, by the run's own stages and settings.

    Writes ``private/protocol/plan.md``, ``plan.json`` and a sheet of images per row. Started again it goes on where it
    was: finished walks, classifiers and measures are kept.

    Args:
        output_dir: of a run that has finished the stages up to ``train_class``.
        seeds: classifiers per row, at least 1.
        ks: of the second table, each at least 2.
        rows: names of rows; by default all. The row ``real`` is always there.

    Raises:
        ConfigError: if a row is unknown, or ``seeds`` or ``ks`` lie outside their range.
        ArtifactError: if ``output_dir`` is no run, lacks a file, or its data set has changed.
    """
    if seeds < 1:
        raise ConfigError(f"seeds must be at least 1, got {seeds}.")
    if not ks or min(ks) < 2 or len(set(ks)) < len(ks):
        raise ConfigError(f"ks must be different numbers of at least 2, got {', '.join(map(str, ks)) or 'none'}.")
    try:
        return _evaluate_protocol(FinishedRun.read(output_dir), seeds, ks, rows)
    except Exception as error:
        meant = meant_error(error)  # MONAI's configs wrap it
        if meant is None or meant is error:
            raise
    raise meant


def _evaluate_protocol(run: FinishedRun, seeds: int, ks: Sequence[int], rows: Sequence[str]) -> Protocol:
    maker = _Maker(run, run.output_dir / PROTOCOL)
    known = ["linear", "PLAN", "selection", *(f"{name}, k = {k}" for k in ks for name in ("k-same", "PLAN"))]
    for name in rows:
        if name not in known:
            raise ConfigError(f"the protocol has no row {name!r}, only {', '.join(known)}.")
    wanted = [name for name in known if not rows or name in rows]
    image_sets, left_out = [], []
    for name in wanted:
        logger.info("protocol: %s", name)
        most = maker.most_k(name)
        if most is not None:
            left_out.append(f"{name} is left out: the smallest class has patients for k of at most {most}.")
            continue
        image_sets.append(maker.image_set(name))
        maker.draw(image_sets[-1])
    evaluation = evaluate(image_sets, maker.inputs(seeds))
    result = Protocol(evaluation, tuple(ks), maker.lesions(image_sets), tuple(left_out))
    write_text(maker.folder / "plan.md", result.to_markdown())
    write_json(maker.folder / "plan.json", asdict(result))
    return result


class _Maker:
    """Makes the rows in the folder of the protocol."""

    def __init__(self, run: FinishedRun, folder: Path) -> None:
        self.run, self.folder = run, folder
        self.base = run.config("common", "evaluate")
        for id in ("generator_file", "latents_file", "identity_file", "class_file"):
            file = Path(self.base.get_parsed_content(id))
            if not file.is_file():
                raise ArtifactError(
                    f"{file} is missing: the run has to finish its stages up to train_class; run it again to go on."
                )
        self.training, self.test, self.generator = (
            self.base.get_parsed_content(name) for name in ("training", "test", "trained_generator")
        )

    def most_k(self, name: str) -> int | None:
        """The greatest k that the row could have, if that is less than its own."""
        _, _, k = name.partition("k = ")
        most = self.base.get_parsed_content("anchor_maker").most_k // (2 if name.startswith("PLAN") else 1)
        return int(most) if k and int(k) > most else None

    def image_set(self, name: str) -> ImageSet:
        """The images of a row."""
        kind, _, k = name.partition(", k = ")
        if kind == "k-same":
            return self._averages(name, int(k))
        if kind == "selection":
            changes: dict[str, Any] = {"anchor_kind": "prior", "walk_kind": "none"}
        elif k:
            changes = {"anchor_kind": "k_same", "k": int(k), "walk_kind": "plan"}
        else:
            changes = {**RANDOM_POINTS, **(STRAIGHT if kind == "linear" else {"walk_kind": "plan"})}
        folder = self.folder / _file_name(name)
        files = {"anchors_file": str(folder / "anchors.pt"), "paths_file": str(folder / "paths.pt")}
        for stage in ("anchors", "walk"):
            config = self.run.config("common", stage, **changes, **files)
            if stage == "walk":
                config["stage"]["parts_dir"] = str(folder / "parts")
            config.get_parsed_content("stage").run()
        paths = load_paths(files["paths_file"])
        points = select(paths, num_images=paths["num_images"])
        return ImageSet(name, synthesize_images(self.generator, points.latents), points.labels)

    def _averages(self, name: str, k: int) -> ImageSet:
        config = self.run.config("common", "evaluate", k=k)
        anchors = config.get_parsed_content("anchor_maker").k_same()
        images = synthesize_images(self.generator, anchors.latents)
        check = distance_check(
            self.training, self.test, config.get_parsed_content("embedding"),
            quantile=config.get_parsed_content("min_distance_quantile"), device=config.get_parsed_content("device"),
        )  # fmt: skip
        kept = torch.ones(len(images), dtype=torch.bool)
        if check is not None:
            rng = seeded_generator(config["seed"], "check of averages", k)
            kept = check(images, torch.rand(len(images), generator=rng))
        note = f"{name} has only as many images as there are groups of patients: {len(images)}, {int(kept.sum())} kept."
        return ImageSet(name, images[kept], anchors.labels[kept], note)

    def draw(self, image_set: ImageSet) -> None:
        """A sheet of some of its images, a class after the other."""
        labels = image_set.labels
        shown = torch.cat([torch.where(labels == label)[0][:SHOWN] for label in labels.unique()])
        path = self.folder / f"{_file_name(image_set.name)}.png"
        contact_sheet(image_set.images[shown], columns=SHOWN, path=path, zoom=2)

    def lesions(self, image_sets: Sequence[ImageSet]) -> dict[str, list[float]]:
        """See ``Protocol``."""
        datalist = read_json(self.base.get_parsed_content("datalist_file"))
        if datalist.get("name") != "phantoms" or len(self.generator.img_size) != 2:
            return {}
        counter = _lesion_counter(tuple(self.generator.img_size))
        sets = [ImageSet("real", self.training.images[:], self.training.labels), *image_sets]
        return {
            each.name: lesion_shares(counter(each.images[:][each.labels == each.labels.max()]))
            for each in sets
        }  # fmt: skip

    def inputs(self, seeds: int) -> AuditInputs:
        """What the rows are judged by: that of the run, but for the second φ_id."""
        base = self.base
        network = base.get_parsed_content("identity_network")()
        second = load_classifier(network, self._second_identity_net(), kind="identity_net")
        return AuditInputs(
            train=self.training, test=self.test, embedding=base.get_parsed_content("embedding"),
            classifier_factory=base.get_parsed_content("class_network"), cache_dir=self.folder / "evaluate",
            identity_net=second.to(base.get_parsed_content("device")),
            settings=base.get_parsed_content("stage#settings"), seeds=seeds, seed=base["seed"],
            augment=base.get_parsed_content("augmentation"), device=base.get_parsed_content("device"),
        )  # fmt: skip

    def _second_identity_net(self) -> Path:
        """φ_id of another seed, trained by the stage's own config; its checkpoint knows when it is done."""
        file = self.folder / "second_identity_net.pt"
        own = {"identity_file": str(file), "work_dir": str(self.folder / "second"), "seed": self.base["seed"] + 1}
        self.run.config("common", "train_identity", **own).get_parsed_content("stage").run()
        return file


@functools.cache
def _lesion_counter(img_size: tuple[int, ...]) -> LesionCounter:
    """Taught once per process."""
    return LesionCounter(img_size)


def _file_name(name: str) -> str:
    return name.replace(", k = ", "_").replace("-", "_")
