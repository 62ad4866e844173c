"""Networks in files: what is saved comes back, and what is not ours is refused without being executed."""

from __future__ import annotations

import errno
import os
import pickle

import monai.bundle
import pytest
import torch
from torch import nn

from monai_plan.networks import (
    StyleGAN2Generator,
    classifier_outputs,
    is_imported,
    load_classifier,
    load_generator,
    save_classifier,
    save_generator,
)
from monai_plan.utils import ArtifactError, ConfigError, load_artifact, save_artifact

NETWORKS = [(2, (16, 8), 1, 2), (2, (12, 8), 3, 0), (3, (12, 8, 16), 1, 2)]


def make_generator(spatial_dims=2, img_size=(8, 8), img_channels=1, num_classes=2):
    torch.manual_seed(0)
    return StyleGAN2Generator(
        spatial_dims, img_size, img_channels, 5, 6, num_classes, channel_base=64, channel_max=4, mapping_layers=3
    )


def make_classifier(num_outputs=2, *, width=4, norm=True):
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, width, 3), nn.BatchNorm2d(width)] if norm else [nn.Conv2d(1, width, 3)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, num_outputs))


@pytest.mark.parametrize(("spatial_dims", "img_size", "img_channels", "num_classes"), NETWORKS)
def test_generator_comes_back(tmp_path, spatial_dims, img_size, img_channels, num_classes):
    generator = make_generator(spatial_dims, img_size, img_channels, num_classes)
    labels = torch.tensor([0, 1]) if num_classes else None
    z = torch.randn(2, 5)
    generator.train()(z, labels)  # moves w_avg away from 0
    for name, parameter in generator.named_parameters():
        if name.endswith("noise_strength"):
            parameter.data.fill_(0.5)
    generator.eval()
    save_generator(generator, tmp_path / "model.pt", made_by={"epochs": 3})
    torch.manual_seed(99)  # weights and noise come from the file, not from the draw of a new network
    loaded = load_generator(tmp_path / "model.pt")
    assert torch.equal(loaded(z, labels), generator(z, labels))
    assert torch.equal(loaded(z, labels, truncation=0.5), generator(z, labels, truncation=0.5))
    assert loaded.architecture == generator.architecture
    assert not any(module.training for module in loaded.modules())
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    assert all(parameter.requires_grad for parameter in generator.parameters())
    assert load_artifact(tmp_path / "model.pt", kind="generator")["header"]["made_by"] == {"epochs": 3}
    assert [file.name for file in tmp_path.iterdir()] == ["model.pt"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"img_size": [16, 8]}, r'images of \[8, 8\], but img_size is \[16, 8\]: run with --img_size "\[8, 8\]"'),
        ({"img_size": [8, 8, 8]}, r"images of \[8, 8\], but img_size is \[8, 8, 8\]"),
        ({"img_channels": 3}, "images of 1 channels, but img_channels is 3: run with --img_channels 1"),
        ({"num_classes": 5}, "images of 2 classes, but num_classes is 5: run with --num_classes 2"),
    ],
)
def test_a_generator_must_fit_the_run(tmp_path, change, message):
    """A given one; the id to change is named."""
    save_generator(make_generator(), tmp_path / "model.pt")
    fit = {"img_size": (8, 8), "img_channels": 1, "num_classes": 2}
    load_generator(tmp_path / "model.pt", fit=fit)
    with pytest.raises(ConfigError, match=message):
        load_generator(tmp_path / "model.pt", fit=fit | change)


def test_an_unconditional_generator_fits_any_classes_and_a_broken_one_none(tmp_path):
    fit = {"img_size": (8, 8), "img_channels": 1, "num_classes": 2}
    generator = make_generator(num_classes=0)
    save_generator(generator, tmp_path / "model.pt")
    load_generator(tmp_path / "model.pt", fit=fit)
    next(generator.parameters()).data.view(-1)[0] = float("nan")
    save_generator(generator, tmp_path / "model.pt")
    with pytest.raises(ArtifactError, match=r"model\.pt has values in state_dict that are not finite"):
        load_generator(tmp_path / "model.pt", fit=fit)


def test_an_imported_generator_is_told(tmp_path):
    save_generator(make_generator(), tmp_path / "model.pt")
    assert not is_imported(tmp_path / "model.pt")
    save_generator(make_generator(), tmp_path / "model.pt", made_by={"imported": "network.pkl"})
    assert is_imported(tmp_path / "model.pt")


def test_monai_bundle_load_finds_the_weights(tmp_path):
    """It looks for them at the top of the file, and would return a random network without an error."""
    generator = make_generator()
    save_generator(generator, tmp_path / "zoo" / "models" / "model.pt")
    torch.manual_seed(99)
    network = StyleGAN2Generator(**generator.architecture)
    loaded = monai.bundle.load("zoo", model=network, bundle_dir=tmp_path, source="github", device="cpu")
    found = loaded if isinstance(loaded, dict) else loaded.state_dict()  # MONAI 1.4 gives the weights alone
    for name, value in generator.state_dict().items():
        assert torch.equal(found[name], value), name
    size = (tmp_path / "zoo" / "models" / "model.pt").stat().st_size
    data = {"state_dict": generator.state_dict(), "architecture": generator.architecture}
    save_artifact(tmp_path / "once.pt", kind="generator", data=data)
    assert size < 1.3 * (tmp_path / "once.pt").stat().st_size  # the weights are there once


def test_classifier_comes_back(tmp_path):
    network = make_classifier()
    network.train()(torch.randn(8, 1, 6, 6))  # statistics of the batch norm
    save_classifier(network, tmp_path / "net.pt", kind="class_net", num_outputs=2)
    loaded = make_classifier()
    nn.init.zeros_(loaded[-1].weight)
    assert load_classifier(loaded, tmp_path / "net.pt", kind="class_net") is loaded
    x = torch.randn(3, 1, 6, 6)
    assert torch.equal(loaded(x), network.eval()(x))
    assert not loaded.training
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    assert classifier_outputs(tmp_path / "net.pt", kind="class_net") == 2


@pytest.mark.parametrize("other", [make_classifier(5), make_classifier(2, width=3), make_classifier(2, norm=False)])
def test_classifier_of_another_architecture(tmp_path, other):
    class Small(nn.Sequential):
        pass

    save_classifier(make_classifier(), tmp_path / "net.pt", kind="identity_net", num_outputs=2)
    with pytest.raises(ArtifactError, match=r"net\.pt holds the weights of a Sequential with 2 outputs.* the Small of"):
        load_classifier(Small(*other), tmp_path / "net.pt", kind="identity_net")


def test_wrong_kind_names_both(tmp_path):
    save_generator(make_generator(), tmp_path / "model.pt")
    save_classifier(make_classifier(), tmp_path / "net.pt", kind="class_net", num_outputs=2)
    with pytest.raises(ArtifactError, match=r"net\.pt holds class_net, but generator was expected"):
        load_generator(tmp_path / "net.pt")
    with pytest.raises(ArtifactError, match=r"net\.pt holds class_net, but identity_net was expected"):
        load_classifier(make_classifier(), tmp_path / "net.pt", kind="identity_net")
    with pytest.raises(ArtifactError, match=r"model\.pt holds generator, but class_net was expected"):
        classifier_outputs(tmp_path / "model.pt", kind="class_net")


def test_missing_file(tmp_path):
    with pytest.raises(ArtifactError, match=r"model\.pt does not exist: run the stage"):
        load_generator(tmp_path / "model.pt")


def test_foreign_file(tmp_path):
    torch.save(make_generator().state_dict(), tmp_path / "model.pt")
    with pytest.raises(ArtifactError, match="was not written by monai_plan"):
        load_generator(tmp_path / "model.pt")
    torch.save([1, 2], tmp_path / "model.pt")
    with pytest.raises(ArtifactError, match="was not written by monai_plan"):
        load_generator(tmp_path / "model.pt")


def test_weights_that_do_not_fit_the_architecture_beside_them(tmp_path):
    generator = make_generator()
    generator.architecture["channel_max"] = 3
    save_generator(generator, tmp_path / "model.pt")
    with pytest.raises(ArtifactError, match=r"model\.pt: the weights do not fit the architecture .*'channel_max': 3"):
        load_generator(tmp_path / "model.pt")


@pytest.mark.parametrize("change", [{"attention": True}, {"img_size": [7, 7]}])
def test_architecture_that_this_version_cannot_build(tmp_path, change):
    generator = make_generator()
    generator.architecture |= change
    save_generator(generator, tmp_path / "model.pt")
    with pytest.raises(ArtifactError, match=r"model\.pt.*architecture"):
        load_generator(tmp_path / "model.pt")


def test_another_network(tmp_path):
    data = {"network": "Diffusion", "architecture": {}, "state_dict": {}}
    save_artifact(tmp_path / "model.pt", kind="generator", data=data)
    with pytest.raises(ArtifactError, match=r"model\.pt cannot be loaded: Diffusion is no registered decoder"):
        load_generator(tmp_path / "model.pt")


@pytest.mark.parametrize("share", [0, 0.001, 0.1, 0.5, 0.9, 0.999])
def test_truncated_file(tmp_path, share):
    file = tmp_path / "model.pt"
    save_generator(make_generator(), file)
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(ArtifactError, match=r"model\.pt cannot be read as generator: it is damaged"):
        load_generator(file)


@pytest.mark.parametrize("seed", range(40))
def test_file_of_noise(tmp_path, seed):
    """Bytes that are no checkpoint, some of them valid beginnings of a pickle, a zip or a tar."""
    rng = torch.Generator().manual_seed(seed)
    noise = bytes(torch.randint(256, (200,), generator=rng).tolist())
    start = [b"", b"\x80\x02", b"PK\x03\x04", b"(lp0\n", b"\x80\x02}q\x00", b"text\n", b"cos\n", b"\x00" * 300]
    file = tmp_path / "model.pt"
    file.write_bytes(start[seed % len(start)] + noise)
    with pytest.raises(ArtifactError, match=r"model\.pt cannot be read"):
        load_generator(file)


class Malicious:
    """Makes a folder when it is unpickled by anything that executes."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("form", ["torch", "pickle", "artifact"])
def test_nothing_in_a_file_is_executed(tmp_path, form):
    file, made = tmp_path / "model.pt", tmp_path / "made"
    if form == "torch":
        torch.save({"header": Malicious(made)}, file)
    elif form == "pickle":
        file.write_bytes(pickle.dumps(Malicious(made), protocol=2))
    else:
        data = {"network": "StyleGAN2Generator", "architecture": {}, "state_dict": {"w": Malicious(made)}}
        save_artifact(file, kind="generator", data=data)
    for load in (
        lambda: load_generator(file),
        lambda: load_classifier(make_classifier(), file, kind="generator"),
        lambda: classifier_outputs(file, kind="generator"),
    ):
        with pytest.raises(ArtifactError, match=r"model\.pt cannot be read"):
            load()
        assert not made.exists()
    if form != "pickle":
        torch.load(file, weights_only=False)  # the file is what it claims to be
    else:
        pickle.loads(file.read_bytes())
    assert made.exists()


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    file = tmp_path / "model.pt"
    save_generator(make_generator(), file)
    before = file.read_bytes()

    def broken(value, opened):
        opened.write(b"half")
        raise OSError(errno.ENOSPC, "no space left")

    monkeypatch.setattr(torch, "save", broken)
    with pytest.raises(OSError, match=r"no space left: .*model\.pt"):
        save_generator(make_generator(3, (8, 8, 8)), file)
    assert file.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["model.pt"]
