"""The stages that train φ_id and φ_class: on which images, with which settings, and what they write."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from monai_plan.bundle.stages import TrainClassStage, TrainIdentityStage, identities
from monai_plan.data import HeldImages
from monai_plan.engines import ClassifierSettings
from monai_plan.networks import classifier_outputs, load_classifier
from monai_plan.release import synthesize_images
from monai_plan.utils import ConfigError, DataError, save_artifact


class Dataset(SimpleNamespace):
    """Twenty images."""

    def __len__(self):
        return 20


class Painter(nn.Module):
    """w is the image."""

    def __init__(self, spatial_dims):
        super().__init__()
        self.img_channels, self.img_size = 1, [2] * spatial_dims
        self.weight = nn.Parameter(torch.ones(()))

    def synthesis(self, w):
        return (self.weight * w).view(-1, self.img_channels, *self.img_size)


@pytest.fixture(params=[2, 3])
def case(request, tmp_path):
    """Twenty images of ten patients, and two starts of the inversion of each."""
    pixels = 2**request.param
    g = torch.Generator().manual_seed(0)
    names = [f"patient{i // 2}" for i in range(20)]
    dataset = Dataset(
        images=HeldImages(torch.rand(20, 1, *[2] * request.param, generator=g) * 2 - 1),
        labels=torch.arange(20) // 2 % 2,
        subjects=names, keys=[f"{i}.png" for i in range(20)], identities=torch.arange(20) // 2,
    )  # fmt: skip
    latents = torch.rand(20, 2, pixels, generator=g) * 2 - 1
    save_artifact(tmp_path / "latents.pt", kind="latents", data={"latents": latents, "keys": dataset.keys})
    options = {
        "dataset": dataset, "settings": ClassifierSettings(2, 8), "augment": lambda item: item,
        "output_file": tmp_path / "net.pt", "work_dir": tmp_path / "work",
    }  # fmt: skip
    return SimpleNamespace(
        dataset=dataset, options=options, latents=latents, generator=Painter(request.param), pixels=pixels,
        latents_file=tmp_path / "latents.pt",
        network=lambda n: lambda: nn.Sequential(nn.Flatten(), nn.Linear(pixels, n)),
    )  # fmt: skip


@pytest.mark.parametrize("identity_of", ["subject", "image"])
def test_the_identity_net_learns_reals_and_reconstructions(case, identity_of):
    outputs = {"subject": 10, "image": 20}[identity_of]
    stage = TrainIdentityStage(
        generator=case.generator, latents_file=case.latents_file, identity_of=identity_of,
        network=case.network(outputs), **case.options,
    )  # fmt: skip
    (images, labels), (held_out, held_out_labels) = stage.data()
    expected = [i // 2 if identity_of == "subject" else i for i in range(20)]
    assert labels.tolist() == expected * 2  # real images and the first of two starts
    assert held_out_labels.tolist() == expected
    assert torch.equal(images[:20], case.dataset.images[:])
    assert torch.equal(images[20:], synthesize_images(case.generator, case.latents[:, 0]))
    assert torch.equal(held_out, synthesize_images(case.generator, case.latents[:, 1]))  # not in the training
    stage.run()
    file = case.options["output_file"]
    assert classifier_outputs(file, kind="identity_net") == outputs
    load_classifier(case.network(outputs)(), file, kind="identity_net")


def test_of_a_single_start_the_real_images_validate(case):
    data = {"latents": case.latents[:, :1], "keys": case.dataset.keys}
    save_artifact(case.latents_file, kind="latents", data=data)
    stage = TrainIdentityStage(
        generator=case.generator, latents_file=case.latents_file, network=case.network(10), **case.options
    )
    (images, _), (held_out, _) = stage.data()
    assert len(images) == 40
    assert torch.equal(held_out, case.dataset.images[:])


def test_the_identity_net_s_errors(case):
    with pytest.raises(ConfigError, match="identity_of is 'patient'"):
        identities(case.dataset, "patient")
    case.dataset.keys = case.dataset.keys[1:]
    with pytest.raises(DataError, match=r"latents\.pt is of other images than the data list"):
        TrainIdentityStage(
            generator=case.generator, latents_file=case.latents_file, network=case.network(10), **case.options
        ).data()


def test_the_class_net_is_validated_on_other_patients(case):
    def sides(seed):
        stage = TrainClassStage(network=case.network(2), seed=seed, **case.options)
        found = []
        for images, labels in stage.data():
            index = [int((case.dataset.images[:] == image).flatten(1).all(1).nonzero()) for image in images]
            assert torch.equal(labels, case.dataset.labels[index])
            found.append(index)
        return found

    training, validation = sides(1)
    assert sorted(training + validation) == list(range(20))
    assert {i // 2 for i in training}.isdisjoint(i // 2 for i in validation)
    assert sorted(case.dataset.labels[validation].tolist()) == [0, 0, 1, 1]  # one of five patients per class
    assert sides(1) == [training, validation]
    assert sides(2) != [training, validation]


def test_the_class_net_s_weights_follow_the_seed_alone(case):
    def weights(seed, name):
        torch.manual_seed(len(name))
        file = case.options["work_dir"].parent / name
        options = {**case.options, "output_file": file, "work_dir": file.with_suffix("")}
        TrainClassStage(network=case.network(2), seed=seed, **options).run()
        return load_classifier(case.network(2)(), file, kind="class_net")[1].weight

    first = weights(3, "one.pt")
    assert torch.equal(weights(3, "another.pt"), first)
    assert not torch.equal(weights(4, "third.pt"), first)
    assert classifier_outputs(case.options["work_dir"].parent / "one.pt", kind="class_net") == 2
