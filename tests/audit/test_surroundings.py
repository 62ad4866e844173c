"""What stands around the attacks: pictures that are one, classes, and what to bear in mind."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import torch

from monai_plan.audit.attacks.maps import blurred
from monai_plan.audit.reading import ReadImages
from monai_plan.audit.surroundings import by_class, joined_groups, notes_on


def images(count, seed=0):
    noise = torch.randn(count, 1, 24, 24, generator=torch.Generator().manual_seed(seed))
    return (blurred(noise, 1.5) * 3).clamp(-1, 1)


def read(count, labels=None, names=None, **settings):
    subjects = [str(number) for number in range(count)]
    labels = None if labels is None else torch.tensor(labels)
    return ReadImages(images(count), subjects, True, subjects, labels, names or {}, "x", **settings)


def test_pictures_that_are_nearly_the_same_count_once():
    pictures = images(6)
    again = (0.5 * pictures[:2] + 0.2, pictures[2:3] + 0.01 * images(1, 9))
    groups = joined_groups(torch.cat([pictures, *again]), list("abcdefghi"))
    assert groups == list("abcdef") + list("abc")
    assert joined_groups(pictures, list("aabbcc")) == list("aabbcc")
    chained = joined_groups(torch.cat([pictures[:2], pictures[:2]]), list("abbc"))
    assert len(set(chained)) == 1, "a group that shares a picture with two others joins them"


def test_a_picture_of_one_grey_resembles_nothing():
    flat = torch.zeros(2, 1, 24, 24)
    assert joined_groups(flat, ["a", "b"]) == ["a", "b"]


def test_classes_are_matched_by_their_names():
    members = read(3, [0, 1, 1], {0: "well", 1: "ill"})
    released = read(3, [0, 0, 2], {0: "ill", 2: "odd"})
    found = SimpleNamespace(p_values=[0.001, 0.5, 1.0])
    rows = by_class(found, released, members)
    assert [tuple(row) for row in rows] == [("well", 0, 1, 0, 1.0), ("ill", 2, 2, 1, 0.001), ("odd", 1, 0, 0, 1.0)]
    assert by_class(found, replace(released, labels=None), members) == ()


def test_notes_name_what_had_no_part():
    members = read(4, [0, 0, 1, 1], {0: "well", 1: "ill"})
    whole = read(20, [0, 1] * 10, {0: "well", 1: "ill"})
    assert notes_on(whole, members, members, num_groups=20) == []
    assert "19 groups of released images say little" in notes_on(whole, members, members, num_groups=19)[1]
    part = read(2, [0, 0], {0: "well", 1: "ill"}, skipped=["a.png", "b.png"], unlisted=["/x/y.png"])
    unnamed = replace(members, has_subjects=False, skipped=["patient_7.png"])
    notes = "\n".join(notes_on(part, unnamed, members, num_groups=1))
    told = ["2 files of the release could not be read", "a.png, b.png", "1 image file in the folder", "names no pat",
            "2 images count as 1 group.", "no image of ill", "1 file of those who took part"]  # fmt: skip
    assert [text for text in told if text not in notes] == []
    assert "patient_7" not in notes
    assert "/x" not in notes


def test_notes_tell_of_other_depths_flat_images_and_what_nothing_reads():
    members = read(4)
    odd = read(20, unread=[".npy", "", ".npy"], depths=["16 bits", "8 bits"], skipped=["a.png", ""])
    odd.images[3] = 0.5
    notes = "\n".join(notes_on(odd, members, members, num_groups=20))
    told = ["3 files in the folder of the release (.npy, no suffix)", "mixes files of 16 bits and of 8 bits",
            "1 released image of one grey value", "a.png and 1 more."]  # fmt: skip
    assert [text for text in told if text not in notes] == []
    elsewhere = read(20, skipped=["", ""])
    assert notes_on(elsewhere, members, members, num_groups=20) == [
        "2 files of the release could not be read and had no part in this."
    ]
