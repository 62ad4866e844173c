"""Attackers with more than images, on numbers whose truth is known."""

from __future__ import annotations

import re

import pytest
import torch

from monai_plan.audit.attacks import People
from monai_plan.audit.leaks import differencing_row, generator_row, membership_row


def points(count, seed, size=8):
    return torch.randn(count, size, generator=torch.Generator().manual_seed(seed))


def people(latents, name="p"):
    return People(latents, [f"{name}{index:03d}" for index in range(len(latents))])


def result(accuracy, half):
    return {"accuracy": [accuracy] * 2, "low": [accuracy - half] * 2, "high": [accuracy + half] * 2}


@pytest.mark.parametrize(
    ("released", "real", "verdict", "said"),
    [
        (result(0.52, 0.05), result(0.7, 0.05), "Nothing found", r"52 % right \(47 to 57\)"),
        (result(0.6, 0.05), result(0.7, 0.05), "Attention", "better than chance"),
        (result(0.6, 0.05), result(0.53, 0.05), "No answer", "not even a classifier trained on the patients' own"),
    ],
)
def test_membership_needs_a_control_that_works(released, real, verdict, said):
    row = membership_row(released, real)
    assert row.verdict == verdict
    assert re.search(said, row.sentence)
    assert row.figures["accuracy"] == pytest.approx(released["accuracy"][0])


def test_who_has_the_generator_tells_members_of_a_release_made_of_them():
    members, held_out = people(points(60, 0)), people(points(40, 1), "h")
    told = generator_row(members, held_out, members.images + 0.1 * points(60, 2))
    assert told.figures["area_low"] > 0.9
    assert "it can be told who took part" in told.sentence
    strangers = generator_row(members, held_out, points(60, 3))
    assert strangers.figures["area_low"] < 0.5 < strangers.figures["area_high"]
    assert strangers.verdict == told.verdict == "If the generator leaks"
    assert (told.told_by_generator, strangers.told_by_generator) == (True, False)


def test_several_projections_of_a_patient_count_once():
    members = People(points(60, 0), [f"p{index // 3}" for index in range(60)])
    row = generator_row(members, people(points(40, 1), "h"), points(10, 2))
    assert row.power.startswith("20 and 40 patients")


def test_the_last_one_of_an_average_is_found_if_it_is_released():
    latents = people(points(40, 0))
    groups = [list(range(start, start + 5)) for start in range(0, 40, 5)]
    averages = torch.stack([latents.images[group].mean(0) for group in groups])
    found = differencing_row(latents, [0] * 40, groups, averages)
    assert found.figures["rate"] == 1
    assert found.figures["guess"] == pytest.approx(1 / 36)
    assert "finds the last one" in found.sentence
    strangers = differencing_row(latents, [0] * 40, groups, points(8, 1) / 5**0.5)
    assert strangers.figures["rate"] < 0.2
    assert "does not find" in strangers.sentence
    assert (found.told_by_generator, strangers.told_by_generator) == (True, False)


def test_an_average_does_not_mix_classes():
    latents = people(points(20, 0))
    row = differencing_row(latents, [0, 1] * 10, [[0, 2, 4], [1, 3, 5]], points(4, 1))
    assert row.figures["guess"] == pytest.approx(1 / 8)
