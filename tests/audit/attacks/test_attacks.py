"""The attacks on copies: a planted one stands out, a stranger does not, the own patient is left out."""

from __future__ import annotations

import pytest
import torch

from monai_plan.audit.attacks import Embedder, People, RegisteredCopies, SoftReconstructions, registered_attacks
from monai_plan.audit.attacks.base import register_attack
from monai_plan.audit.attacks.copies import orientations
from monai_plan.audit.attacks.maps import blurred
from monai_plan.audit.controls import DISGUISES, disguise
from monai_plan.metrics import RandomFeatureEmbedding
from monai_plan.utils import ConfigError, DataError

SIZES = [(32, 32), (16, 16, 16)]


def images(count, size, seed):
    noise = torch.randn(count, 1, *size, generator=torch.Generator().manual_seed(seed))
    return (blurred(noise, 1.5) * 3).clamp(-1, 1)


def attack_of(kind, size):
    return kind(embedder=Embedder(RandomFeatureEmbedding(len(size), 1)))


@pytest.mark.parametrize(
    ("size", "disguised"),
    [*(((32, 32), kind) for kind in ("exact", "turned", "cropped", "mirrored", "inverted")), ((12, 12, 12), "turned")],
)
def test_a_copy_is_found_whatever_its_disguise(size, disguised):
    members = People(images(6, size, 0), list("abcdef"))
    attack = RegisteredCopies()
    index = attack.index(members)
    copies = -members.images[:2] if disguised == "inverted" else disguise(members.images[:2], disguised)
    strangers = attack.scores(index, images(2, size, 1)).values
    found = attack.scores(index, copies)
    assert found.nearest.tolist() == [0, 1]
    assert (found.values.amin(0) > strangers.amax(0)).all()


@pytest.mark.parametrize(("size", "ways"), [((32, 32), range(8)), ((32, 24), range(8)), ((10, 12, 11), [7])])
def test_a_copy_in_any_orientation_is_found(size, ways):
    members = People(images(6, size, 0), list("abcdef"))
    attack = RegisteredCopies()
    index = attack.index(members)
    strangers = attack.scores(index, images(2, size, 1)).values.amax(0)
    for number in ways:
        found = attack.scores(index, orientations(members.images[:2])[number])
        assert found.nearest.tolist() == [0, 1], number
        assert (found.values > strangers).all(), number


@pytest.mark.parametrize("size", [(6, 6), (6, 4), (4, 5, 6)])
def test_orientations_are_eight_and_each_is_undone_by_one_of_them(size):
    picture = images(1, size, 0)
    ways = orientations(picture)
    assert len(ways) == 8
    assert all(way.shape == picture.shape for way in ways)
    assert all(not torch.equal(a, b) for n, a in enumerate(ways) for b in ways[:n])
    upright = ways if len(set(size)) == 1 or len(size) == 3 else ways[:4]  # what is brought to a size is not undone
    assert all(any(torch.equal(back, picture) for back in orientations(way)) for way in upright)


def test_noise_on_a_cropped_copy_does_not_hide_it():
    """The images are blurred after the motion: before, a crop's edge would have in it what lies beyond."""
    members = People(images(20, (64, 64), 0), [f"p{i:02d}" for i in range(20)])
    attack = RegisteredCopies()
    index = attack.index(members)
    strangers = attack.scores(index, images(20, (64, 64), 1)).values[:, -1]
    found = attack.scores(index, disguise(members.images[:8], "combined"))
    assert found.nearest.tolist() == list(range(8))
    assert found.values[:, -1].min() > strangers.max()


@pytest.mark.parametrize("kind", [RegisteredCopies, SoftReconstructions])
def test_a_pale_and_dark_copy_is_a_copy(kind):
    members = People(images(8, (32, 32), 0), list("abcdefgh"))
    attack = attack_of(kind, (32, 32))
    index = attack.index(members)
    strangers, pale = (attack.scores(index, x) for x in (images(4, (32, 32), 1), members.images[:3] * 0.05 - 0.8))
    assert (pale.values.amin(0) > strangers.values.amax(0)).all()
    assert pale.nearest.tolist() == [0, 1, 2]


def test_soft_copies_are_found_by_the_distance():
    members = People(images(12, (32, 32), 0), [f"p{i}" for i in range(12)])
    attack = attack_of(SoftReconstructions, (32, 32))
    index = attack.index(members)
    found = attack.scores(index, disguise(members.images[:3], "softened"))
    assert found.nearest.tolist() == [0, 1, 2]
    assert found.values.min() > attack.scores(index, images(8, (32, 32), 1)).values.max()
    exact = attack.scores(index, members.images[:3]).values
    assert exact.min() > found.values.max()
    assert exact.isfinite().all(), "also at a distance of 0"


@pytest.mark.parametrize("kind", [RegisteredCopies, SoftReconstructions])
def test_an_images_own_patient_is_passed_over(kind):
    pictures = images(12, (16, 16), 0)
    members = People(torch.cat([pictures, pictures[:1]]), [*(f"p{i:02d}" for i in range(12)), "p00"])
    attack = attack_of(kind, (16, 16))
    index = attack.index(members)
    seen = attack.scores(index, pictures[:2])
    unseen = attack.scores(index, pictures[:2], own=members.numbers[:2])
    assert seen.nearest.tolist()[1] == 1
    assert seen.nearest.tolist()[0] in (0, 12)
    assert unseen.nearest.tolist()[0] not in (0, 12)
    assert unseen.nearest.tolist()[1] != 1
    assert (unseen.values < seen.values).all()


@pytest.mark.parametrize("kind", [RegisteredCopies, SoftReconstructions])
def test_scores_of_an_image_do_not_depend_on_the_others(kind):
    members = People(images(6, (16, 16), 0), list("abcdef"))
    attack = attack_of(kind, (16, 16))
    index = attack.index(members)
    queries = images(3, (16, 16), 1)
    torch.testing.assert_close(attack.scores(index, queries).values[1:2], attack.scores(index, queries[1:2]).values)


@pytest.mark.parametrize("kind", [RegisteredCopies, SoftReconstructions])
def test_a_second_patient_with_the_same_image_takes_the_lead_away(kind):
    pictures = images(8, (16, 16), 0)
    twice = People(torch.cat([pictures, pictures[:1]]), [f"p{i}" for i in range(9)])
    attack = attack_of(kind, (16, 16))
    values = attack.scores(attack.index(twice), pictures[:1]).values
    alone = attack.scores(attack.index(People(pictures, twice.subjects[:8])), pictures[:1]).values
    lead = 1 if kind is RegisteredCopies else -1
    assert values[0, lead] == pytest.approx(0, abs=1e-4)
    assert alone[0, lead] > 1
    if kind is RegisteredCopies:
        assert values[0, 0] == alone[0, 0], "but it is as close as before"


def test_a_patient_with_many_images_does_not_crowd_out_the_others():
    pictures = images(8, (16, 16), 0)
    many = pictures[:1] + 0.05 * images(40, (16, 16), 3)
    attack = RegisteredCopies()
    index = attack.index(People(torch.cat([many, pictures[1:]]), ["a"] * 40 + list("bcdefgh")))
    values = attack.scores(index, pictures[:1]).values
    assert (values[:, 1:] > 0.3).all(), "the lead before the best of the others is known"


def test_a_single_member_has_no_lead():
    pictures = images(2, (16, 16), 0)
    for kind in (RegisteredCopies, SoftReconstructions):
        attack = attack_of(kind, (16, 16))
        index = attack.index(People(pictures[:1], ["a"]))
        assert attack.scores(index, pictures).values[:, -1].tolist() == [0, 0]


def test_disguises_are_repeatable_and_of_the_same_shape_and_range():
    for size in SIZES:
        pictures = images(2, size, 0)
        for kind in DISGUISES:
            copy = disguise(pictures, kind, seed=3)
            assert copy.shape == pictures.shape
            assert copy.abs().max() <= 1
            assert torch.equal(copy, disguise(pictures, kind, seed=3))
            assert torch.equal(copy, pictures) == (kind == "exact")
    assert torch.equal(disguise(pictures, "mirrored"), pictures.flip(2))


def test_the_registry_names_each_attack_once():
    assert [attack.name for attack in registered_attacks()] == ["copies", "reconstructions"]
    with pytest.raises(ConfigError, match="already"):
        register_attack(RegisteredCopies)


def test_people_are_counted_in_sorted_order():
    assert People(torch.zeros(3, 1, 8, 8), ["b", "a", "b"]).numbers.tolist() == [1, 0, 1]
    with pytest.raises(DataError, match="3 images, but 1 subjects"):
        People(torch.zeros(3, 1, 8, 8), ["a"])


def test_features_are_compared_of_images_that_cost_the_same_whatever_their_size():
    class Sizes(Embedder):
        seen: list[tuple[int, ...]]

        def __call__(self, pictures):
            self.seen.append(tuple(pictures.shape[2:]))
            return super().__call__(pictures)

    embedder = Sizes(RandomFeatureEmbedding(2, 1))
    embedder.seen = []
    attack = RegisteredCopies(embedder=embedder)
    for size in ((128, 96), (40, 40)):
        attack.index(People(images(2, size, 0), list("ab")))
    assert embedder.seen == [(64, 48), (40, 40)]
