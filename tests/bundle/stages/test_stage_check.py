"""The check of the data and of all stages' options, in 2D and 3D."""

from __future__ import annotations

import gc
import json
import re
import weakref

import pytest
import torch
from stage_fakes import (
    NAMES,
    K,
    make_dataset,
    make_generator,
    make_inverter,
    make_walk,
)
from torch import nn

from monai_plan.bundle import memory
from monai_plan.bundle.stages import CheckStage
from monai_plan.bundle.zoo import bundle_path
from monai_plan.latent import LatentInverter, LatentWalk
from monai_plan.networks import ImageAutoencoder, StyleGAN2Discriminator, StyleGAN2Generator
from monai_plan.utils import ArtifactError, ConfigError, DataError

OPTIONS = (
    {"batch_size": 16, "num_images": None, "points_per_batch": None, "num_points": 8}
    | {f"{name}_batch_size": 8 for name in ("autoencoder", "encoder", "inversion", "classifier", "evaluation")}
    | {"autoencoder_weights": None, "autoencoder_source": None}
)


def check(folder, *, training, test=None, **options):
    generator = make_generator(training.images.ndim - 2)
    defaults = {"inverter": make_inverter(generator), "walk": make_walk(generator), "batch_size": 16, "k": K}
    defaults |= {
        "anchor_kind": "k_same",
        "walk_kind": "plan",
        "num_images": None,
        "min_distance_quantile": 0.1,
        "release_name": "tiny",
    }
    classes, size = generator.num_classes, generator.img_size
    discriminator = StyleGAN2Discriminator(len(size), size, 1, classes, channel_base=64, channel_max=4)
    defaults |= {"discriminator": discriminator, "autoencoder": None, "options": OPTIONS}
    arguments = {**defaults, "balance": "real", "report_file": folder / "private" / "data.json", **options}
    CheckStage(training=training, test=test or training, **arguments).run()


def test_check_data_writes_counts(case, tmp_path):
    test = make_dataset(tmp_path / "data", case.dims, subjects=1, section="test")
    check(tmp_path, training=case.dataset, test=test)
    report = json.loads((tmp_path / "private" / "data.json").read_text())
    counts = {
        "images": 20, "subjects": 10, "has_subjects": True, "images_per_class": {"0": 10, "1": 10}, "left_out": [],
    }  # fmt: skip
    assert counts.items() <= report["training"].items()
    assert report["test"]["images"] == 4
    assert report["test"]["subjects"] == 2


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        # ten images a class, but of five patients
        ({"k": 3}, DataError, r"class 0 \(normal\) has 5 subjects .* k = 3 subjects each: .*, or use k <= 2\.$"),
        ({"walk_kind": "none"}, ConfigError, "averages of patients must not leave. Set anchor_kind to 'prior'"),
        ({"batch_size": 21}, DataError, "20 images, fewer than batch_size = 21"),
        ({"num_images": 1}, ConfigError, "num_images is 1, but there are 2 classes"),
        ({"balance": "even"}, ConfigError, "balance is 'even'"),
        ({"min_distance_quantile": 1.5}, ConfigError, r"min_distance_quantile is 1.5, but must lie in \[0, 1\]"),
        (
            {"release_name": "tiny\n## Approved"},
            ConfigError,
            r"release_name is 'tiny\\n## Approved' and has .* U\+000A",
        ),
    ],
)
def test_check_data_finds_what_cannot_work(case, tmp_path, options, error, message):
    with pytest.raises(error, match=message):
        check(tmp_path, training=case.dataset, **options)
    assert list(tmp_path.iterdir()) == []


def test_check_data_tries_the_networks(case, tmp_path):
    pixels = 8**case.dims
    for identities, classes, message in (
        (9, 2, "identity_network returns 9 logits, but 10 are needed: give it num_identities outputs"),
        (10, 1, "class_network returns 1 logits, but 2 are needed: give it num_classes outputs"),
    ):
        nets = [nn.Sequential(nn.Flatten(), nn.Linear(pixels, n)) for n in (identities, classes)]
        with pytest.raises(ConfigError, match=message):
            check(tmp_path, training=case.dataset, walk=LatentWalk(case.generator, *nets))
    torch.manual_seed(0)
    larger = StyleGAN2Generator(case.dims, 16, 1, 5, 6, 2, channel_base=64, channel_max=4, mapping_layers=2)
    with pytest.raises(ConfigError, match=r"makes images \[1, 16.*\], but the real ones are \[1, 8"):
        check(tmp_path, training=case.dataset, walk=make_walk(larger))
    term = {"wrong": nn.Bilinear(3, 3, 3)}
    with pytest.raises(TypeError, match="positional arguments but 4 were given"):
        check(tmp_path, training=case.dataset, walk=make_walk(case.generator, terms=term, lambda_terms={"wrong": 0.0}))
    wrong_embedding = LatentInverter(make_generator(case.dims), nn.Linear(3, 3))
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        check(tmp_path, training=case.dataset, inverter=wrong_embedding)


def test_volumes_of_colour_cannot_be_released(tmp_path, monkeypatch):
    volumes = make_dataset(tmp_path / "data", 3, subjects=4)
    monkeypatch.setattr(volumes, "images", volumes.images[:].expand(-1, 3, -1, -1, -1))
    with pytest.raises(ConfigError, match="img_channels is 3, but a release holds volumes of one channel: write the"):
        check(tmp_path, training=volumes, batch_size=2)


def test_check_data_advises_what_works(tmp_path):
    few = make_dataset(tmp_path / "data", 2, subjects=3)
    with pytest.raises(DataError, match=r"3 subjects .*: add patients or leave the class out\.$"):
        check(tmp_path, training=few, batch_size=4)


def test_a_class_without_a_name(case, tmp_path, monkeypatch):
    monkeypatch.setattr(case.dataset, "label_names", {0: "normal"})
    with pytest.raises(DataError, match='class 1 has images, but no name in "labels"'):
        check(tmp_path, training=case.dataset)


def test_memory_that_is_not_there_is_known_before(case, tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO")
    check(tmp_path, training=case.dataset)
    sizes = r"in GiB: check 0\.59, train_autoencoder 0\.\d\d, .*, synthesize 0\.59, evaluate 0\.\d\d, audit 0\.\d\d$"
    assert re.search(sizes, caplog.text, re.M)
    stages = json.loads((bundle_path("chest_xray_plan") / "configs" / "stages.json").read_text())["stages"]
    told = re.search("in GiB: (.*)", caplog.text)[1]
    assert re.findall(r"(\w+) [\d.]+", told) == [stage["name"] for stage in stages]
    for options, id in (
        ({"batch_size": 10**9}, "train needs about .* lower batch_size, which is 1000000000, or img_size"),
        ({"inversion_batch_size": 10**9}, "invert needs about .* lower inversion_batch_size"),
        ({"classifier_batch_size": 10**9}, "train_identity needs about .* lower inversion_starts or img_size"),
        ({"points_per_batch": 10**9}, "walk needs about .* lower points_per_batch"),
        ({"num_images": 10**9}, "anchors needs about .* lower num_images"),
    ):
        with pytest.raises(ConfigError, match=id):
            check(tmp_path, training=case.dataset, options=OPTIONS | options)
    monkeypatch.setattr(memory, "_machine_memory", lambda: None)  # where the system does not say
    check(tmp_path, training=case.dataset, options=OPTIONS | {"batch_size": 10**9})


def test_what_a_network_keeps_is_counted():
    layers = nn.Sequential(nn.Linear(1000, 300), nn.ReLU(), nn.Linear(300, 50), nn.Sigmoid())
    # the inputs of both layers and what the last one gives; the first one's is the ReLU's result
    assert memory._kept(lambda count: layers(torch.zeros(count, 1000))) == 4 * (1000 + 300 + 50)


def test_what_was_kept_to_be_counted_is_given_back():
    """At once, not when Python looks for cycles: of large volumes it would be gigabytes."""
    results = []

    def call(count):
        result = torch.zeros(count, 1000, requires_grad=True).exp()  # whose node keeps the result itself
        results.append(weakref.ref(result))
        return result

    gc.disable()
    try:
        assert memory._kept(call) == 4 * 1000
        assert [result() for result in results] == [None, None]
    finally:
        gc.enable()


def test_what_a_network_takes_in_passing_is_counted():
    layers = nn.Sequential(nn.Linear(1000, 300, bias=False), nn.ReLU(), nn.Linear(300, 50, bias=False))
    # what is given is held outside; with it live the first layer's result and the ReLU's, and no more
    assert memory._passing(lambda count: layers(torch.zeros(count, 1000))) == 4 * (1000 + 300 + 300)
    assert memory._passing(lambda count: layers[0].weight.flatten()) == 0  # a view of what was there


@pytest.mark.parametrize(
    ("subjects", "names", "message"),
    [
        (1, NAMES, r"class 0 \(normal\) has one subject in the training section, but φ_class learns from one"),
        (9, {0: "normal"}, "the training section has one class, but φ_class tells two or more apart"),
    ],
)
def test_what_phi_class_needs_is_known_before_the_training(tmp_path, subjects, names, message):
    """Whatever the anchors are: those of G's own distribution need no k patients."""
    few = make_dataset(tmp_path / "data", 2, subjects=subjects, names=names)
    with pytest.raises(DataError, match=message):
        check(tmp_path, training=few, anchor_kind="prior", batch_size=2)


def test_a_damaged_generator_is_left_to_the_training(case, tmp_path, caplog):
    file = tmp_path / "private" / "model.pt"
    file.parent.mkdir()
    file.write_bytes(b"truncated")
    check(tmp_path, training=case.dataset)
    assert "the stage train makes it again" in caplog.text


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"autoencoder_weights": "kl.pt"}, r"autoencoder_weights is 'kl.pt' and autoencoder_source None: give both"),
        ({"autoencoder_source": "others"}, r"autoencoder_weights is None and autoencoder_source 'others'"),
        (
            {"autoencoder_weights": "kl.pt", "autoencoder_source": "others"},
            "'kl.pt', but the GAN works without an autoencoder",
        ),
    ],
)
def test_a_published_autoencoder_says_what_it_learnt(case, tmp_path, given, message):
    with pytest.raises(ConfigError, match=message):
        check(tmp_path, training=case.dataset, options={**OPTIONS, **given})


def test_what_it_learnt_is_one_line(case, tmp_path):
    coder = ImageAutoencoder(case.dims, 1, channels=[4, 4], latent_channels=2, norm_num_groups=2)
    given = {**OPTIONS, "autoencoder_weights": "kl.pt", "autoencoder_source": "others\n## Approved"}
    with pytest.raises(ConfigError, match=r"autoencoder_source is 'others\\n## Approved' and has .* U\+000A"):
        check(tmp_path, training=case.dataset, options=given, autoencoder=coder)


def test_an_autoencoder_is_tried_before_it_is_trained(case, tmp_path):
    options = {"channels": [4, 4], "latent_channels": 2, "norm_num_groups": 2}
    given = {**OPTIONS, "autoencoder_weights": str(tmp_path / "kl.pt"), "autoencoder_source": "others"}
    coder = ImageAutoencoder(case.dims, 1, **options)
    with pytest.raises(ArtifactError, match=r"kl\.pt does not exist"):
        check(tmp_path, training=case.dataset, options=given, autoencoder=coder)
    state = coder.network.state_dict()
    torch.save({name: torch.full_like(value, 1e30) for name, value in state.items()}, tmp_path / "kl.pt")
    with pytest.raises(ConfigError, match=r"with the weights of .*kl\.pt makes NaN or infinite values of an image"):
        check(tmp_path, training=case.dataset, options=given, autoencoder=coder)
    torch.save({name: torch.zeros_like(value) for name, value in state.items()}, tmp_path / "kl.pt")
    with pytest.raises(ConfigError, match=r"with the weights of .*kl\.pt makes the same of an image and of a ramp"):
        check(tmp_path, training=case.dataset, options=given, autoencoder=coder)
    without_blocks = ImageAutoencoder(case.dims, 1, **{**options, "channels": [4, 8]}, num_res_blocks=0)
    with pytest.raises(ConfigError, match="the autoencoder of the id autoencoder cannot work on images"):
        check(tmp_path, training=case.dataset, autoencoder=without_blocks)
