"""What an attack finds with its controls: planted copies alarm, strangers do not, a biased split has no answer."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from monai_plan.audit.attacks import CopyAttack, People, Scores
from monai_plan.audit.findings import find_copies
from monai_plan.audit.rows import copy_row
from monai_plan.audit.statistics import exact_interval
from monai_plan.utils import DataError

SIZE = (8, 8)


class Pixels(NamedTuple):
    flat: Tensor
    subjects: Tensor


class NearestPixels(CopyAttack):
    """Minus the logarithm of the distance of pixels: quick, and a copy stands out."""

    name, title, attacker = "pixels", "Pixels", "eyes"
    alarm, planted, must_find = "tail", ("exact",), ("exact", "turned")
    calls = 0

    def settings(self) -> dict[str, Any]:
        return {}

    def index(self, members):
        return Pixels(members.images.flatten(1), members.numbers)

    def scores(self, index, images, *, own=None):
        type(self).calls += 1
        distances = torch.cdist(images.flatten(1), index.flat)
        if own is not None:
            distances = distances.masked_fill(own[:, None] == index.subjects, torch.inf)
        least = distances.min(1)
        return Scores(-least.values.clamp_min(1e-3).log()[:, None], least.indices)


class RankedPixels(NearestPixels):
    name, alarm = "ranked", "rank"


def people(count, seed, *, per_patient=1, noise=1.0):
    images = noise * torch.randn(count * per_patient, 1, *SIZE, generator=torch.Generator().manual_seed(seed)) / 4
    return People(images.clamp(-1, 1), [f"{seed}-{i // per_patient:03d}" for i in range(count * per_patient)])


def find(tmp_path, attack=None, *, members=None, held_out=None, released=None, groups=None):
    members = members or people(60, 0)
    released = people(50, 6).images if released is None else released
    return find_copies(
        attack or NearestPixels(),
        members=members,
        held_out=held_out or people(40, 11),
        released=released,
        groups=groups or [str(i) for i in range(len(released))],
        cache_dir=tmp_path,
    )


@pytest.mark.parametrize("kind", [NearestPixels, RankedPixels])
def test_strangers_do_not_alarm_and_what_is_planted_is_found(tmp_path, kind):
    found = find(tmp_path, kind())
    assert found.num_planted == (5, 5)
    assert found.strangers == 100
    assert found.control.trials == 40
    assert not found.biased
    row = copy_row(kind(), found)
    assert row.verdict in ("Nothing found", "Attention")
    assert row.sentence.startswith("No copy found: it found 5 of 5 planted copies")
    fewest = row.figures["fewest_noticed"]
    assert fewest >= 4
    told = f"would not notice fewer than {fewest} in the release"
    if fewest > 50:
        told = "might miss them even were all 50 groups copies"
    assert row.sentence.startswith(f"No copy found: it found 5 of 5 planted copies, but {told}.")
    assert f" It {told}." in row.power


def test_a_copy_alarms_and_names_its_patient(tmp_path):
    members = people(60, 0)
    released = people(50, 6).images
    released[7] = members.images[33]
    found = find(tmp_path, members=members, released=released)
    assert found.num_alarming == 1
    assert min(range(50), key=lambda index: found.p_values[index]) == 7
    assert found.nearest[7] == 33
    row = copy_row(NearestPixels(), found)
    assert row.verdict == "Alarm"
    assert "1 image resembles one patient more than any of 100 strangers' images does" in row.sentence
    assert "do not release" in row.sentence
    assert row.figures["p"] < 0.01


def test_many_near_images_alarm_by_rank_and_groups_count_once(tmp_path):
    members = people(60, 0)
    near = members.images[:20] + 0.3 * people(20, 3).images
    released = torch.cat([people(30, 6).images, near])
    found = find(tmp_path, RankedPixels(), members=members, released=released)
    assert found.rank.above == 20
    assert copy_row(RankedPixels(), found).verdict == "Alarm"
    grouped = find(tmp_path, RankedPixels(), members=members, released=released, groups=["a"] * 30 + ["b"] * 20)
    assert grouped.rank[:2] == (1, 2)
    assert copy_row(RankedPixels(), grouped).verdict != "Alarm"


def test_noise_on_the_held_out_patients_alone_is_no_answer(tmp_path):
    found = find(tmp_path, held_out=people(40, 11, noise=2.0))
    assert found.biased
    row = copy_row(NearestPixels(), found)
    assert row.verdict == "No answer"
    assert "Split the data list anew" in row.sentence


def test_a_biased_split_silences_a_small_p_by_rank_and_no_copy(tmp_path):
    members = people(60, 0)
    near = members.images[:20] + 0.3 * people(20, 3).images
    released = torch.cat([people(30, 6).images, near])
    sides = {"members": members, "held_out": people(40, 11, noise=2.0), "released": released}
    found = find(tmp_path, RankedPixels(), **sides)
    assert found.biased
    row = copy_row(RankedPixels(), replace(found, rank=found.rank._replace(p_value=1e-9)))
    assert row.verdict == "No answer"
    assert row.sentence.startswith("No answer, though p = 1e-09: held-out patients")
    assert row.figures["p"] is None
    alarm = replace(found, p_values=(1e-9, *found.p_values[1:]))
    assert copy_row(NearestPixels(), alarm).verdict == "Alarm"


@pytest.mark.parametrize("attack", [NearestPixels, RankedPixels])
@pytest.mark.parametrize(
    ("p_value", "rank", "verdict"),
    [(1e-4, 0.5, "Alarm"), (0.02, 0.5, "Attention"), (0.6, 0.03, "Attention"), (0.02, 0.03, "Attention")],
)
def test_a_sentence_has_the_p_of_its_cell(tmp_path, attack, p_value, rank, verdict):
    found = find(tmp_path, attack())
    if attack is RankedPixels:
        p_value, rank = 1.0, min(p_value, rank)
    found = replace(found, p_values=(p_value,) * 50, rank=found.rank._replace(p_value=rank))
    row = copy_row(attack(), found)
    assert row.verdict == verdict
    told = re.findall(r"(?:p =|by rank) ([\d.e-]+)", row.sentence)
    assert told, row.sentence
    assert all(f"p = {number}" in row.main or f"by rank {number}" in row.main for number in told)
    assert row.figures["p"] == (rank if attack is RankedPixels else p_value)


def test_a_row_says_where_to_look_and_when_one_group_is_too_few(tmp_path):
    found = find(tmp_path, RankedPixels(), held_out=people(20, 11))
    assert "One group alone cannot alarm: 5 of 50 must lie above" in copy_row(RankedPixels(), found).power
    assert "One group alone" not in copy_row(NearestPixels(), found).power
    alone = find(tmp_path, RankedPixels(), released=people(1, 6).images)
    assert "One group alone" not in copy_row(RankedPixels(), alone).power
    alarm = replace(found, p_values=(1e-9, *found.p_values[1:]))
    assert "exposed.png" in copy_row(NearestPixels(), alarm).sentence
    assert "run again with --private" in copy_row(NearestPixels(), alarm, gallery=False).sentence


def test_few_patients_are_no_answer(tmp_path):
    found = find(tmp_path, members=people(30, 0), held_out=people(19, 11))
    row = copy_row(NearestPixels(), found)
    assert row.verdict == "No answer"
    assert row.figures["p"] is None
    assert "More patients in both sections help" in row.sentence
    assert copy_row(RankedPixels(), find(tmp_path, RankedPixels(), held_out=people(2, 11))).verdict == "Nothing found"


def test_an_attack_that_misses_what_was_planted_has_no_say(tmp_path):
    found = replace(find(tmp_path), planted={"exact": exact_interval(3, 5)})
    row = copy_row(NearestPixels(), found)
    assert row.verdict == "No answer"
    assert "of 5 planted copies that were exact the attack found 3 only" in row.sentence


def test_a_release_of_too_few_groups_for_a_rank_test_is_no_answer(tmp_path):
    few = {"members": people(20, 0), "held_out": people(20, 11), "released": people(8, 6).images}
    row = copy_row(RankedPixels(), find(tmp_path, RankedPixels(), groups=["a"] * 8, **few))
    assert row.verdict == "No answer"
    assert "were all 1 groups nearer to one patient than 40 strangers, chance could explain it" in row.sentence


def test_a_disguise_that_escapes_is_named(tmp_path):
    planted = {"exact": exact_interval(5, 5), "turned": exact_interval(5, 5), "noised": exact_interval(3, 5)}
    row = copy_row(NearestPixels(), replace(find(tmp_path), planted=planted))
    assert "Copies that are noised may escape it" in row.sentence


def test_patients_count_and_not_images(tmp_path):
    found = find(tmp_path, members=people(30, 0, per_patient=3), held_out=people(25, 11, per_patient=2))
    assert found.strangers == 55
    assert found.control.trials == 25


def test_finished_blocks_are_read_again_until_an_input_changes(tmp_path):
    first = find(tmp_path)
    NearestPixels.calls = 0
    assert find(tmp_path) == first
    assert NearestPixels.calls == 0
    released = people(50, 6).images
    released[0] += 0.01
    find(tmp_path, released=released)
    assert NearestPixels.calls == 1, "of the release alone"
    find(tmp_path, members=people(61, 0))
    assert NearestPixels.calls > 3


def test_sides_that_share_a_patient_or_are_too_small_are_refused(tmp_path):
    with pytest.raises(DataError, match="subject 0-000 is a member and held out"):
        find(tmp_path, held_out=people(40, 0))
    with pytest.raises(DataError, match="needs two patients or more who took part and as many who did not, got 1"):
        find(tmp_path, held_out=people(1, 11))
