"""Re-identification: what is learnt from other patients' pairs links second images, and says so where it does not."""

from __future__ import annotations

import pytest
import torch

from monai_plan.audit.attacks import Embedder, People
from monai_plan.audit.reidentification import halves, learn_metric, link, reidentification_row
from monai_plan.audit.statistics import exact_interval
from monai_plan.metrics import RandomFeatureEmbedding

AXES = 24


def patients(count, each, seed):
    """Features whose first axes are the patient's own and whose others, far wider, are any image's."""
    generator = torch.Generator().manual_seed(seed)
    own = torch.randn(count, AXES, generator=generator).repeat_interleave(each, 0)
    wide = torch.cat([torch.full((12,), 0.1), torch.full((AXES - 12,), 5.0)])
    own[:, 12:] *= 0
    features = own + wide * torch.randn(count * each, AXES, generator=generator)
    return features, torch.arange(count).repeat_interleave(each)


def linked(released, groups=None):
    gallery, numbers = patients(40, 2, 1)
    strangers, theirs = patients(30, 1, 2)
    return link(
        learn_metric(*patients(60, 3, 0)), gallery=gallery, patients=numbers, strangers=strangers,
        stranger_patients=theirs, released=released, groups=groups or [str(n) for n in range(len(released))],
    )  # fmt: skip


def test_the_metric_leaves_what_differs_within_a_patient():
    features, numbers = patients(60, 3, 0)
    metric = learn_metric(features, numbers)
    before, after = (x.square().sum(1).mean() for x in (features[:, 12:], (features @ metric)[:, 12:]))
    kept = (features @ metric)[:, :12].square().sum(1).mean() / features[:, :12].square().sum(1).mean()
    assert kept > 20 * after / before
    assert torch.isfinite(learn_metric(features[:3], torch.arange(3))).all(), "without a pair"


def test_second_images_are_linked_and_strangers_are_not():
    found = linked(patients(20, 1, 3)[0])
    assert found.pairs.low > 0.9
    assert found.first.value > 0.8
    assert found.rank.p_value > 0.05
    row = reidentification_row([found, found])
    assert row.verdict == "Nothing found"
    assert row.sentence.endswith(
        f"it finds {2 * found.second.hits} of {2 * found.second.trials} second images of patients."
    )
    weak = found._replace(second=exact_interval(8, 80))
    assert "weak alone: it finds 16 of 160 second images" in reidentification_row([weak, weak]).sentence


def test_further_images_of_patients_ask_for_attention_and_groups_count_once():
    again = patients(40, 2, 1)[0][::2] + 0.05 * torch.randn(40, AXES, generator=torch.Generator().manual_seed(4))
    row = reidentification_row([linked(again)])
    assert row.verdict == "Attention"
    assert row.figures["p"] < 0.01
    assert row.figures["found"] > 20
    assert reidentification_row([linked(again, ["one"] * 40)]).figures["tested"] == 1


def test_pairs_that_cannot_be_told_are_no_answer():
    noise = torch.randn(80, AXES, generator=torch.Generator().manual_seed(5))
    numbers = torch.arange(40).repeat_interleave(2)
    found = link(
        learn_metric(noise, numbers), gallery=noise.flip(0), patients=numbers, strangers=noise[:20] + 1,
        stranger_patients=torch.arange(20), released=noise[:10], groups=[str(n) for n in range(10)],
    )  # fmt: skip
    assert reidentification_row([found]).verdict == "No answer"


@pytest.mark.parametrize(("each", "played"), [(1, 0), (2, 2)])
def test_patients_with_several_images_are_needed(each, played):
    embedder = Embedder(RandomFeatureEmbedding(2, 1))
    pictures = torch.rand(60 * each, 1, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    names = [f"{number // each:03d}" for number in range(60 * each)]
    cut = 40 * each
    found = halves(
        embedder, members=People(pictures[:cut], names[:cut]), held_out=People(pictures[cut:], names[cut:]),
        released=pictures[:10], groups=list("abcdefghij"),
    )  # fmt: skip
    assert len(found) == played
    row = reidentification_row(found)
    assert row.verdict == "No answer" if not played else row.figures["tested"] == 10
    if not played:
        assert "10 patients with several images" in row.sentence
        assert row.figures == {"p": None}
