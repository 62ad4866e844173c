"""The walks between all anchors, stopped, checked, with further pairs, in 2D and 3D."""

from __future__ import annotations

import logging

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from stage_fakes import (
    Spy,
    T,
    draw_anchors,
    make_dataset,
    make_walk,
    many_anchors,
    walk_anchors,
)
from torch import nn

import monai_plan.bundle.stages.walk as walk_module
import monai_plan.release.distance as distance_module
from monai_plan.bundle.anchor_maker import distance_check
from monai_plan.bundle.stages import class_counts
from monai_plan.bundle.stages.walk import _more_pairs
from monai_plan.latent import MarginTerm, WalkSettings
from monai_plan.metrics import nearest_real_images
from monai_plan.release import load_paths, points_to_leave, select, synthesize_images
from monai_plan.utils import ConfigError, DataError, TrainingError, load_artifact


@settings(deadline=None)
@given(
    st.dictionaries(st.integers(0, 9), st.integers(1, 60), min_size=1, max_size=5),
    st.one_of(st.none(), st.integers(0, 300)),
    st.sampled_from(["real", "balanced"]),
)
def test_class_counts(real, extra, balance):
    labels = torch.tensor([label for label, count in real.items() for _ in range(count)])
    total = len(labels) if extra is None else len(real) + extra
    numbers = class_counts(labels, num_images=None if extra is None else total, balance=balance)
    assert sum(numbers.values()) == total
    assert sorted(numbers) == sorted(real)
    assert min(numbers.values()) >= 1
    shares = {c: (n / len(labels) if balance == "real" else 1 / len(real)) for c, n in real.items()}
    if min(shares.values()) * total >= 1:
        assert all(abs(numbers[c] - share * total) < 1 for c, share in shares.items())
    else:  # classes too rare for an image get one all the same, at the cost of the most frequent
        assert all(numbers[c] <= shares[c] * total + 1 for c in real)


def test_class_counts_by_hand():
    labels = torch.tensor([0] * 6 + [1] * 3 + [4])
    assert class_counts(labels) == {0: 6, 1: 3, 4: 1}
    assert class_counts(labels, num_images=100) == {0: 60, 1: 30, 4: 10}
    assert class_counts(labels, num_images=30, balance="balanced") == {0: 10, 1: 10, 4: 10}
    assert class_counts(labels, num_images=3) == {0: 1, 1: 1, 4: 1}
    assert class_counts(torch.tensor([0] * 99 + [1]), num_images=2) == {0: 1, 1: 1}


@pytest.mark.parametrize(
    ("options", "message"),
    [({"num_images": 1}, "num_images is 1, but there are 2 classes"), ({"balance": "even"}, "balance is 'even'")],
)
def test_class_counts_errors(options, message):
    with pytest.raises(ConfigError, match=message):
        class_counts(torch.tensor([0, 1]), **options)


def test_walks(case):
    anchors = load_artifact(case.files.anchors, kind="anchors")
    paths = load_artifact(case.files.paths, kind="paths")
    assert paths["num_images"] == {0: 4, 1: 3}
    assert [sorted(pair) for pair in paths["pairs"].tolist()] == [[0, 1], [2, 3]]
    assert paths["labels"].tolist() == [0, 1]
    assert paths["paths"].shape == (2, T, 6)
    walk = make_walk(case.generator)
    for (a, b), path, index in zip(paths["pairs"].tolist(), paths["paths"], range(2), strict=True):
        assert torch.equal(path[0], anchors["latents"][a])
        assert torch.equal(path[-1], anchors["latents"][b])
        expected = walk(anchors["latents"][a], anchors["latents"][b], int(anchors["labels"][a]))
        torch.testing.assert_close(path, expected.path, rtol=1e-4, atol=1e-5)
        assert set(paths["losses"]) == {"distance", "identity", "class"}
        for name, values in paths["losses"].items():
            torch.testing.assert_close(values[index], expected.losses[name], rtol=1e-4, atol=1e-5)
    made_by = paths["header"]["made_by"]
    assert WalkSettings.from_dict(made_by["settings"]) == walk.settings
    assert (made_by["seed"], made_by["min_distance_quantile"]) == (0, None)


def test_walk_goes_on_after_a_stop(case, tmp_path):
    options = {
        "anchors_file": many_anchors(tmp_path), "dataset": case.dataset, "output_file": tmp_path / "paths.pt",
        "parts_dir": tmp_path / "parts", "num_images": 24,
    }  # fmt: skip
    killed = Spy(make_walk(case.generator), stop_at=4)
    with pytest.raises(KeyboardInterrupt):
        walk_anchors(walk=killed, **options)
    assert not options["output_file"].exists()
    second = Spy(make_walk(case.generator))
    walk_anchors(walk=second, **options)
    assert len(killed.calls) == 4
    assert len(second.calls) == 2  # 12 images a class at 4 inner points: 3 pairs a class
    result = load_artifact(options["output_file"], kind="paths")
    assert len(result["paths"]) == 6
    done = {(tuple(a.tolist()), tuple(b.tolist())) for a, b, _ in killed.calls + second.calls}
    assert done == {(tuple(p[0].tolist()), tuple(p[-1].tolist())) for p in result["paths"]}
    # every anchor is used
    assert set(result["pairs"].flatten().tolist()) == set(range(8))


@pytest.mark.parametrize("points_per_batch", [8, 1000])  # two pairs at once, all at once
def test_pairs_walked_together_give_the_same_data_set(case, tmp_path, points_per_batch, caplog, monkeypatch):
    monkeypatch.setattr("monai_plan.progress.LINE_SECONDS", 0.0)
    caplog.set_level("INFO")
    options = {"anchors_file": many_anchors(tmp_path), "dataset": case.dataset, "num_images": 24}
    for name, walk in (
        ("alone", make_walk(case.generator)),
        ("together", make_walk(case.generator, points_per_batch=points_per_batch)),
    ):
        walk_anchors(walk=walk, output_file=tmp_path / f"{name}.pt", parts_dir=tmp_path / name, **options)
    assert "walk: 6.0 of 6" in caplog.text
    alone, together = (load_artifact(tmp_path / f"{name}.pt", kind="paths") for name in ("alone", "together"))
    assert torch.equal(alone["pairs"], together["pairs"])
    torch.testing.assert_close(alone["paths"], together["paths"], rtol=0, atol=5e-3)
    for name, values in alone["losses"].items():
        torch.testing.assert_close(values, together["losses"][name], rtol=1e-3, atol=1e-4)


def test_walk_makes_parts_of_other_anchors_or_settings_anew(case, tmp_path):
    options = {"dataset": case.dataset, "output_file": tmp_path / "paths.pt", "parts_dir": tmp_path / "parts"}
    first = Spy(make_walk(case.generator))
    walk_anchors(walk=first, anchors_file=case.files.anchors, **options)
    same, longer = Spy(make_walk(case.generator)), Spy(make_walk(case.generator, num_points=T + 1))
    walk_anchors(walk=same, anchors_file=case.files.anchors, **options)
    assert same.calls == []
    walk_anchors(walk=longer, anchors_file=case.files.anchors, **options)
    assert len(longer.calls) == len(first.calls)
    term, other_term = (MarginTerm(nn.Flatten(), case.dataset.images[:n], margin=9.0) for n in (2, 3))
    changes = [
        {"beta2": 0.9}, {"normalize": True}, {"terms": {"margin": term}, "lambda_terms": {"margin": 1.0}},
        {"terms": {"margin": term}, "lambda_terms": {"margin": 2.0}},
        {"terms": {"margin": other_term}, "lambda_terms": {"margin": 2.0}},
    ]  # fmt: skip
    for change in changes:
        changed, again = (Spy(make_walk(case.generator, num_points=T + 1, **change)) for _ in range(2))
        walk_anchors(walk=changed, anchors_file=case.files.anchors, **options)
        assert len(changed.calls) == len(first.calls), change
        walk_anchors(walk=again, anchors_file=case.files.anchors, **options)
        assert again.calls == []
    assert set(load_artifact(options["output_file"], kind="paths")["losses"]) == {
        "distance", "identity", "class", "margin",
    }  # fmt: skip
    elsewhere = Spy(make_walk(case.generator, num_points=T + 1))
    walk_anchors(walk=elsewhere, anchors_file=many_anchors(tmp_path, 2), **options)
    assert elsewhere.calls


def test_walk_warns_when_there_are_too_few_pairs(case, tmp_path, caplog):
    """One pair a class gives four inner points; ten images a class were asked for."""
    with caplog.at_level(logging.WARNING, logger=walk_module.__name__):
        walk_anchors(
            walk=make_walk(case.generator), anchors_file=case.files.anchors, dataset=case.dataset,
            output_file=tmp_path / "paths.pt", parts_dir=tmp_path / "parts",
        )  # fmt: skip
    assert len(caplog.records) == 2
    assert "class 0: 10 images were asked for, but 2 anchors give 1 paths and so 4 images" in caplog.text
    paths = load_artifact(tmp_path / "paths.pt", kind="paths")
    assert paths["num_images"] == {0: 4, 1: 4}
    points = select(paths, num_images=paths["num_images"]).places
    assert len({tuple(point) for point in points.tolist()}) == 8


def test_only_the_middle_leaves(case, tmp_path):
    """With ``min_end_distance`` as many more pairs are walked as that takes."""
    options = {"anchors_file": many_anchors(tmp_path), "dataset": case.dataset, "num_images": 8}
    pairs = []
    for name, share in (("all", 0.0), ("middle", 0.3)):
        walk = make_walk(case.generator, min_end_distance=share)
        walk_anchors(walk=walk, output_file=tmp_path / f"{name}.pt", parts_dir=tmp_path / name, **options)
        paths = load_artifact(tmp_path / f"{name}.pt", kind="paths")
        assert paths["min_end_distance"] == share
        assert torch.equal(paths["kept"], points_to_leave(paths["paths"], share, anchor_kind="k_same"))
        assert paths["kept"].sum(1).max() == (4 if name == "all" else 2)  # of six points
        assert paths["num_images"] == {0: 4, 1: 4}
        pairs.append(len(paths["pairs"]))
    assert pairs == [4, 4]  # as many as use every anchor, two of each class
    walk_anchors(
        walk=walk, output_file=tmp_path / "more.pt", parts_dir=tmp_path / "middle", **{**options, "num_images": 16}
    )
    assert len(load_artifact(tmp_path / "more.pt", kind="paths")["pairs"]) == 8


def distances_to_reals(case, paths):
    """[P, T − 2], one by one: of what would be released to the nearest real image."""
    rows = [
        ((image - real).square().sum())
        for path in paths
        for image in synthesize_images(case.generator, path[1:-1])
        for real in case.dataset.images
    ]
    return torch.stack(rows).view(len(paths), paths.shape[1] - 2, -1).min(2).values


def test_points_near_a_real_image_are_dropped_and_further_pairs_walked(case, tmp_path, monkeypatch, caplog):
    options = {"anchors_file": many_anchors(tmp_path), "dataset": case.dataset, "parts_dir": tmp_path / "parts"}
    walk = make_walk(case.generator)
    walk_anchors(walk=walk, output_file=tmp_path / "all.pt", num_images=48, **options)
    everything = load_artifact(tmp_path / "all.pt", kind="paths")
    least = distances_to_reals(case, everything["paths"]).quantile(0.3)
    between = torch.full((21,), least)  # all quantiles alike: no chance is left
    monkeypatch.setattr(distance_module, "nearest_other_images", lambda *_, **__: between)
    options |= {"walk": walk, "embedding": nn.Flatten(), "output_file": tmp_path / "paths.pt"}
    with caplog.at_level(logging.WARNING, logger=walk_module.__name__):
        walk_anchors(num_images=8, min_distance_quantile=0.5, **options)
    result = load_artifact(tmp_path / "paths.pt", kind="paths")
    expected = torch.zeros_like(result["kept"])
    expected[:, 1:-1] = distances_to_reals(case, result["paths"]) >= least
    assert 0 < expected.sum() < 4 * len(expected)
    assert torch.equal(result["kept"], expected)
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []
    assert result["num_images"] == {0: 4, 1: 4}
    for label in (0, 1):
        kept = result["kept"][result["labels"] == label].sum(1)
        assert kept.sum() >= 4
        assert len(kept) == 2 or kept[:-1].sum() < 4  # every anchor is used, and no pair more than needed
    assert result["header"]["made_by"]["min_distance_quantile"] == 0.5
    points = select(result, num_images=result["num_images"]).places
    assert expected[points[:, 0], points[:, 1]].all()
    assert len(points) == 8
    with caplog.at_level(logging.WARNING, logger=walk_module.__name__):
        walk_anchors(num_images=48, min_distance_quantile=0.5, **options)
    assert "points are far enough from every real image" in caplog.text
    result = load_artifact(tmp_path / "paths.pt", kind="paths")
    assert len(result["paths"]) == 12  # all pairs there are
    assert sum(result["num_images"].values()) == result["kept"].sum()


def test_the_check_keeps_away_from_held_out_patients_alike(case, tmp_path):
    """An image of a patient of either section is refused, and nothing but a draw tells how near is near."""
    test = make_dataset(tmp_path / "test", case.dims, subjects=2, section="test", seed=5)
    check = distance_check(case.dataset, test, nn.Flatten(), quantile=0.2, device="cpu")
    assert check is not None
    far = torch.full((1, 1, *case.generator.img_size), 3.0)
    for images in (case.dataset.images, test.images):
        assert not check(images, torch.zeros(len(images))).any()
    assert check(far, torch.ones(1)).all()
    assert 0 < check.least < check.surely
    # at a distance between the bounds the chance decides, the farther the surer
    image, unit = case.dataset.images[:1], torch.zeros(1, *case.generator.img_size)
    unit.flatten()[0] = 1.0
    away = [image + unit * (check.least + share * (check.surely - check.least)).sqrt() for share in (0.2, 0.8)]
    moved = [nearest_real_images(x, case.dataset.images, nn.Flatten()).distances for x in away]
    assert all(check.least < distance < check.surely for distance in moved)
    draws = torch.linspace(0, 0.999, 200)
    rates = [float(check(x.expand(200, *x.shape[1:]), draws).double().mean()) for x in away]
    assert rates == pytest.approx([0.2, 0.8], abs=0.02)


@pytest.mark.parametrize(
    ("wanted", "found", "walked", "most", "expected"),
    [
        (40, 40, 4, 99, {}),
        (40, 30, 4, 99, {0: 2}),  # 7.5 points a pair: the ten that lack are two pairs
        (40, 30, 4, 5, {0: 1}),  # there are no more
        (40, 2, 4, 99, {0: 4}),  # nobody knows yet: as many again
        (40, 0, 4, 99, {0: 4}),
        (40, 0, 16, 99, {}),  # hopeless
        (40, 1, 16, 99, {0: 16}),
        (40, 30, 4, 4, {}),
    ],
)
def test_how_many_more_pairs(wanted, found, walked, most, expected):
    labels = torch.tensor([0] * walked + [1] * 3)
    more = _more_pairs({0: wanted, 1: 5}, {0: found, 1: 5}, labels, {0: most, 1: 9})
    assert more == expected


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"min_distance_quantile": 1.5}, ConfigError, "min_distance_quantile is 1.5"),
        # Between images of noise lies more than between noise and smooth pictures.
        ({}, TrainingError, "No point of class 0 is as far from every real image as min_distance_quantile = 0.5"),
    ],
)
def test_errors_of_the_check_of_distances(case, tmp_path, changes, error, message):
    options = {"embedding": nn.Flatten(), "min_distance_quantile": 0.5, **changes}
    with pytest.raises(error, match=message):
        walk_anchors(
            walk=make_walk(case.generator), anchors_file=case.files.anchors, dataset=case.dataset,
            output_file=tmp_path / "paths.pt", parts_dir=tmp_path / "parts", num_images=4, **options,
        )  # fmt: skip
    assert not (tmp_path / "paths.pt").exists()


def test_the_check_of_distances_needs_two_subjects(case, tmp_path, monkeypatch):
    monkeypatch.setattr(case.dataset, "identities", torch.zeros_like(case.dataset.identities))
    with pytest.raises(DataError, match="all images are of one subject"):
        walk_anchors(
            walk=make_walk(case.generator), anchors_file=case.files.anchors, dataset=case.dataset,
            output_file=tmp_path / "paths.pt", parts_dir=tmp_path / "parts", num_images=4,
            embedding=nn.Flatten(), min_distance_quantile=0.5,
        )  # fmt: skip


def test_walk_without_a_warning(case, tmp_path, caplog):
    with caplog.at_level(logging.WARNING, logger=walk_module.__name__):
        walk_anchors(
            walk=make_walk(case.generator), anchors_file=case.files.anchors, dataset=case.dataset,
            output_file=tmp_path / "paths.pt", parts_dir=tmp_path / "parts", num_images=8, balance="balanced",
        )  # fmt: skip
    assert caplog.records == []


def test_all_points_between_the_generators_own_leave_and_each_end_once(case, tmp_path):
    """Nobody is behind an end, so the ends leave too; a further pair of the same ends does not release them again."""
    options = {
        "walk": make_walk(case.generator), "dataset": case.dataset, "anchors_file": tmp_path / "anchors.pt",
        "output_file": tmp_path / "paths.pt", "parts_dir": tmp_path / "parts",
    }  # fmt: skip
    draw_anchors(case, options["anchors_file"], num_images=4 * T)
    walk_anchors(num_images=6 * T, **options)  # more than disjoint pairs give
    paths = load_paths(options["output_file"])
    assert paths["anchor_kind"] == "prior"
    assert len(paths["pairs"]) > len(paths["pairs"].unique()) // 2
    points = select(paths)
    assert len(points.latents.unique(dim=0)) == len(points.latents)
    anchors = load_artifact(options["anchors_file"], kind="anchors")["latents"]
    assert {tuple(w) for w in anchors.tolist()} <= {tuple(w) for w in points.latents.tolist()}


def test_without_a_walk_the_anchors_leave_unless_patients_are_behind_them(case, tmp_path):
    options = {"walk": make_walk(case.generator), "dataset": case.dataset, "kind": "none", "num_images": 7}
    draw_anchors(case, tmp_path / "anchors.pt", walk="none")
    walk_anchors(
        anchors_file=tmp_path / "anchors.pt", output_file=tmp_path / "paths.pt", parts_dir=tmp_path / "parts", **options
    )
    paths = load_paths(tmp_path / "paths.pt")
    anchors = load_artifact(tmp_path / "anchors.pt", kind="anchors")
    assert torch.equal(paths["paths"][:, 0], anchors["latents"])
    points = select(paths, num_images=paths["num_images"])
    assert sorted(points.places[:, 0].tolist()) == list(range(7))
    assert (paths["losses"], paths["header"]["made_by"]["settings"]) == ({}, None)
    with pytest.raises(ConfigError, match=r"walk_kind is 'none'.*averages of patients.*Set anchor_kind to 'prior'"):
        walk_anchors(
            anchors_file=case.files.anchors, output_file=tmp_path / "b.pt", parts_dir=tmp_path / "parts", **options
        )
