"""The door: what may leave, by whichever way one comes to it."""

from __future__ import annotations

import ast
import itertools
import math
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

import monai_plan
from monai_plan.bundle.stages import SynthesizeStage
from monai_plan.latent import WalkSettings
from monai_plan.networks import StyleGAN2Generator, save_generator
from monai_plan.release import load_paths, may_leave, points_to_leave, read_release, select, synthesize_images
from monai_plan.transforms import OnlineSource
from monai_plan.utils import ArtifactError, save_artifact


@st.composite
def path_sets(draw):
    """(labels of paths in any order, T, class → images) with at most as many images as there are inner points."""
    num_points = draw(st.integers(3, 60))
    paths = draw(st.dictionaries(st.integers(0, 5), st.integers(1, 7), min_size=1, max_size=3))
    labels = draw(st.permutations([label for label, count in paths.items() for _ in range(count)]))
    numbers = {label: draw(st.integers(1, count * (num_points - 2))) for label, count in paths.items()}
    return torch.tensor(labels), num_points, numbers


SECRETS = [f"{number:064x}" for number in range(200)]


def walked(labels, kept, *, min_end_distance=0.0, secret=SECRETS[0]):
    """Paths whose point t of path p is (p, t)."""
    place = torch.stack(torch.meshgrid(*map(torch.arange, kept.shape), indexing="ij"), dim=2)
    return {
        "paths": place.float(), "labels": labels, "kept": kept, "anchor_kind": "k_same",
        "min_end_distance": min_end_distance, "secret": secret
    }  # fmt: skip


def everywhere(paths, num_points):
    """``kept`` True at the ends as well: the door closes these by itself."""
    return torch.ones(paths, num_points, dtype=torch.bool)


@settings(deadline=None, max_examples=200)
@given(path_sets())
def test_points_are_spread_evenly(problem):
    labels, num_points, numbers = problem
    points = select(walked(labels, everywhere(len(labels), num_points)), num_images=numbers)
    places = [tuple(place) for place in points.places.tolist()]
    assert points.latents.tolist() == points.places.tolist()
    assert torch.equal(points.labels, labels[points.places[:, 0]])
    assert len(set(places)) == len(places)  # no image twice
    assert all(1 <= point <= num_points - 2 for _, point in places)  # never an anchor
    by_path = {path: sorted(p for q, p in places if q == path) for path in range(len(labels))}
    for label, number in numbers.items():
        shares = [len(by_path[path]) for path in torch.where(labels == label)[0].tolist()]
        assert sum(shares) == number
        assert max(shares) - min(shares) <= 1  # over all paths
    for chosen in by_path.values():
        gaps = {b - a for a, b in itertools.pairwise(chosen)}
        assert not gaps or max(gaps) - min(gaps) <= 1  # and evenly along each
        if chosen:
            before, behind = chosen[0] - 1, num_points - 2 - chosen[-1]
            assert abs(before - behind) <= 1


def some(kept, random):
    for path, point in kept.nonzero().tolist():
        kept[path, point] = random.random() < 0.6
    return kept


@settings(deadline=None, max_examples=100)
@given(path_sets(), st.randoms(use_true_random=False))
def test_only_what_is_kept_is_taken(problem, random):
    labels, num_points, numbers = problem
    paths = walked(labels, some(everywhere(len(labels), num_points), random))
    there = paths["kept"][:, 1:-1].sum(1)
    numbers = {label: min(number, int(there[labels == label].sum())) for label, number in numbers.items()}
    points = select(paths, num_images=numbers).places
    assert len({tuple(place) for place in points.tolist()}) == len(points)
    assert may_leave(paths)[points[:, 0], points[:, 1]].all()
    shares = torch.bincount(points[:, 0], minlength=len(labels))
    for label, number in numbers.items():
        of_class = labels == label
        assert shares[of_class].sum() == number
        # even, as far as there is something: nobody gives less than another could spare
        unused = shares[of_class & (shares < there)]
        if len(unused):
            assert shares[of_class].max() <= unused.min() + 1


def test_points_by_hand():
    labels = torch.tensor([0, 1, 0])
    paths = walked(labels, everywhere(3, 8))
    points = select(paths, num_images={0: 3, 1: 6}).places.tolist()
    assert sorted(points) in (
        [[0, 2], [0, 5], *([1, t] for t in range(1, 7)), [2, 4]],
        [[0, 4], *([1, t] for t in range(1, 7)), [2, 2], [2, 5]],
    )
    assert select(paths).places.tolist() == [[p, t] for p in range(3) for t in range(1, 7)]
    paths["kept"][1] = False
    assert select(paths).places.tolist() == [[p, t] for p in (0, 2) for t in range(1, 7)]


def test_points_near_an_end_do_not_leave():
    """By the length of the path and not by the number of the point: here most points crowd near its first end."""
    places = torch.tensor([0.0, 0.05, 0.1, 0.2, 0.32, 0.34, 0.5, 0.66, 0.68, 1.0])
    data = walked(torch.tensor([0]), everywhere(1, 10), min_end_distance=1 / 3)
    data["paths"] = (places[:, None] * torch.tensor([3.0, 4.0]))[None]
    assert may_leave(data).nonzero()[:, 1].tolist() == [5, 6, 7]
    assert select(data).places[:, 1].tolist() == [5, 6, 7]
    assert may_leave({**data, "min_end_distance": 0.0}).nonzero()[:, 1].tolist() == list(range(1, 9))


def test_the_last_patient_of_an_anchor_is_not_found_from_an_image():
    """Differencing: k · w less the k − 1 known patients is near the last one where w is near the anchor."""
    rng = torch.Generator().manual_seed(0)
    patients = torch.randn(40, 1, 16, generator=rng) + 0.6 * torch.randn(40, 5, 16, generator=rng)  # of 40 anchors
    ends = patients.mean(1)
    paths = torch.stack([torch.lerp(ends[a], ends[a + 1], torch.linspace(0, 1, 25)[:, None]) for a in range(39)])

    def found(min_end_distance):
        data = {**walked(torch.zeros(39, dtype=torch.int64), everywhere(39, 25)), "min_end_distance": min_end_distance}
        hits = []
        for path, point in select({**data, "paths": paths}).places.tolist():
            anchor = path if point <= 12 else path + 1
            for hidden in range(5):
                others = patients[anchor, [n for n in range(5) if n != hidden]]
                guess = (patients.flatten(0, 1) - (5 * paths[path, point] - others.sum(0))).norm(dim=1)
                guess[[5 * anchor + n for n in range(5) if n != hidden]] = torch.inf
                hits.append(int(guess.argmin()) == 5 * anchor + hidden)
        return sum(hits) / len(hits)

    assert found(0.0) > 0.15
    assert found(0.375) < 2 / 196


class RealSet:
    """What the doors ask of the real images."""

    def __init__(self, images, labels):
        self.images, self.labels = images, labels
        self.label_names = {0: "normal", 1: "lesion"}
        self.has_subjects, self.num_subjects = True, len(images)
        self.intensity = None
        self.patients_affines = torch.eye(4).repeat(len(images), 1, 1)

    def __len__(self):
        return len(self.images)


@settings(deadline=None, max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(random=st.randoms(use_true_random=False))
def test_no_door_gives_a_refused_point_or_an_end(tmp_path, random):
    """Neither the stage synthesize nor the on-line source."""
    torch.manual_seed(random.randrange(1000))
    generator = StyleGAN2Generator(2, 8, 1, 5, 6, 2, channel_base=64, channel_max=4, mapping_layers=2).eval()
    labels = torch.tensor([0, 1, 0])
    kept = some(everywhere(3, 7), random)
    kept[:2, 3] = True  # each class has a point
    data = {
        "paths": 4 * torch.randn(3, 7, 6), "labels": labels, "kept": kept,
        "num_images": {label: int(kept[labels == label, 1:-1].sum()) for label in (0, 1)},
        "anchor_kind": "k_same", "min_end_distance": 0.0, "secret": SECRETS[0],
    }  # fmt: skip
    made_by = {"settings": WalkSettings.fast(7).as_dict(), "min_distance_quantile": 0.1}
    save_artifact(tmp_path / "paths.pt", kind="paths", data=data, made_by=made_by)
    save_artifact(tmp_path / "anchors.pt", kind="anchors", data={"labels": torch.tensor([0, 0, 1, 1]), "k": 5})
    save_generator(generator, tmp_path / "model.pt")
    images = synthesize_images(generator, data["paths"].flatten(0, 1)).unflatten(0, (3, 7))
    pixels = images.flatten(0, 1).flatten(1)
    apart = torch.cdist(pixels, pixels, p=math.inf) + torch.eye(len(pixels))
    assume(apart.min() > 5 / 255)  # or an image would not tell which point it is
    allowed = {tuple(place) for place in kept.nonzero().tolist() if 0 < place[1] < 6}

    def place_of(image):
        far = (images - image).abs().flatten(2).amax(2)
        assert far.min() <= 2.01 / 255  # a level of 8 bits: another batch may round to the next one
        return divmod(int(far.argmin()), 7)

    source = OnlineSource(tmp_path / "model.pt", tmp_path / "paths.pt")
    assert {place_of(source.image(n)) for n in range(len(source.labels))} == allowed
    real = RealSet(torch.rand(4, 1, 8, 8) * 2 - 1, torch.tensor([0, 0, 1, 1]))
    SynthesizeStage(
        generator=generator, paths_file=tmp_path / "paths.pt", anchors_file=tmp_path / "anchors.pt", dataset=real,
        datalist_file=tmp_path / "release" / "datalist.json", card_file=tmp_path / "card.md", name="tiny",
    ).run()  # fmt: skip
    assert {place_of(image) for image in read_release(tmp_path / "release").images} == allowed


def test_nothing_else_reads_what_was_kept():
    """A rule in one place: whoever wants points asks ``select`` or ``may_leave``."""
    package = Path(monai_plan.__file__).parent
    found = {
        file.relative_to(package).as_posix()
        for file in package.rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if (isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant) and node.slice.value == "kept")
        or (isinstance(node, ast.Call) and any(isinstance(a, ast.Constant) and a.value == "kept" for a in node.args))
    }
    assert found == {"release/select.py"}


def _whole(*shape):
    return torch.zeros(shape, dtype=torch.int64)


WRONG = {
    "paths": [torch.zeros(3, 4), torch.zeros(3, 4, 0), torch.zeros(3, 4, 6, 2, 1), torch.zeros(3, 4, 6).long()],
    "labels": [_whole(2), _whole(3, 1), torch.zeros(3)],
    "pairs": [_whole(2, 2), _whole(3, 3), torch.zeros(3, 2)],
    "kept": [None, torch.ones(2, 4, dtype=torch.bool), torch.ones(3, 4), torch.ones(3, 5, dtype=torch.bool)],
    "anchor_kind": [None, "average", 5],
    "min_end_distance": [None, -1, -1.0, 0.5, True, "0.3", torch.tensor(0.3)],
    "secret": [None, "", 7, "5e", "x" * 64],
    "num_images": [{0: -1}, {0: 2.5}, {"0": 2}],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in WRONG.items() for value in values])
def test_paths_that_do_not_say_what_may_leave_are_refused(tmp_path, name, value):
    data = {"paths": torch.zeros(3, 4, 6), "labels": _whole(3), "pairs": _whole(3, 2), "num_images": {0: 2}}
    data |= {
        "anchor_kind": "k_same",
        "min_end_distance": 0.0,
        "secret": SECRETS[0],
        "kept": torch.ones(3, 4, dtype=torch.bool),
    }
    save_artifact(tmp_path / "paths.pt", kind="paths", data=data)
    load_paths(tmp_path / "paths.pt")
    save_artifact(tmp_path / "paths.pt", kind="paths", data={**data, name: value})
    with pytest.raises(ArtifactError, match=rf"paths\.pt (does not say .*: its {name} must be|has a \w+ as {name}: )"):
        load_paths(tmp_path / "paths.pt")
    if value is None:
        del data[name]
        save_artifact(tmp_path / "paths.pt", kind="paths", data=data)
        with pytest.raises(ArtifactError, match=rf"paths\.pt does not say .*: its {name} must be"):
            load_paths(tmp_path / "paths.pt")


def test_of_a_path_between_equal_ends_nothing_leaves():
    paths = torch.stack([torch.ones(9, 6), torch.linspace(0, 1, 9)[:, None].expand(9, 6)])
    far = points_to_leave(paths, 0.25, anchor_kind="k_same")
    assert far.any(1).tolist() == [False, True]
