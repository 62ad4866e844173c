"""The decoder contract: a toy decoder of a user's own is saved, loaded, inverted and walked with through it alone."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from monai_plan.latent import InversionSettings, LatentInverter, LatentWalk, WalkSettings
from monai_plan.networks import LatentDecoder, decoder, load_generator, register_decoder, save_generator
from monai_plan.utils import ArtifactError, ConfigError, load_artifact, save_artifact


class ToyDecoder(LatentDecoder):
    """w → a small image by one matrix; nothing but the contract."""

    def __init__(self, w_dim, *, size=4):
        super().__init__()
        self.z_dim, self.w_dim, self.num_classes = 3, w_dim, 2
        self.img_size, self.img_channels = (size, size), 1
        self.architecture = {"w_dim": w_dim, "size": size}
        self.to_w = nn.Linear(3, w_dim)
        self.by_class = nn.Embedding(2, w_dim)
        self.to_image = nn.Linear(w_dim, size**2)

    def mapping(self, z, labels=None):
        return self.to_w(z) + self.by_class(labels)

    def synthesis(self, w):
        return self.to_image(w).tanh().view(-1, 1, *self.img_size)


@pytest.fixture
def registered(monkeypatch):
    """The registry with the toy in it, as it was before afterwards."""
    monkeypatch.setattr(decoder, "_REGISTERED", dict(decoder._REGISTERED))
    assert register_decoder(ToyDecoder) is ToyDecoder


def make_toy():
    torch.manual_seed(0)
    return ToyDecoder(5)


def test_a_registered_decoder_comes_back_and_is_all_that_inversion_and_walk_need(registered, tmp_path):
    toy = make_toy()
    save_generator(toy, tmp_path / "model.pt")
    data = load_artifact(tmp_path / "model.pt", kind="generator")
    assert (data["network"], data["architecture"]) == ("ToyDecoder", {"w_dim": 5, "size": 4})
    generator = load_generator(tmp_path / "model.pt")
    assert type(generator) is ToyDecoder
    assert not any(weight.requires_grad for weight in generator.parameters())
    z, labels = torch.randn(3, 3), torch.tensor([0, 1, 1])
    images = generator(z, labels)
    assert torch.equal(images, toy(z, labels))

    settings = InversionSettings(steps=300, starts=1)
    found = LatentInverter(generator, nn.Flatten(), settings=settings)(images, labels, ["a", "b", "c"])
    torch.testing.assert_close(generator.synthesis(found.best_latents), images, rtol=0, atol=0.02)
    nets = [nn.Sequential(nn.Flatten(), nn.Linear(16, outputs)) for outputs in (4, 2)]
    result = LatentWalk(generator, *nets, settings=WalkSettings.fast(6, steps=30, lr=0.02))(*found.best_latents[1:], 1)
    assert result.path.shape == (6, 5)
    assert result.total[-1] < result.total[0]


def test_a_decoder_of_one_layer_has_no_w_plus():
    with pytest.raises(ConfigError, match="'w_plus', but ToyDecoder has no num_ws"):
        LatentInverter(make_toy(), nn.Flatten(), settings=InversionSettings(space="w_plus"))


def test_a_class_that_nobody_registered(tmp_path):
    with pytest.raises(ConfigError, match=r"ToyDecoder is no registered decoder \(known: StyleGAN2Generator\): import"):
        save_generator(make_toy(), tmp_path / "model.pt")
    assert list(tmp_path.iterdir()) == []
    data = {"network": "ToyDecoder", "architecture": {}, "state_dict": {}}
    save_artifact(tmp_path / "model.pt", kind="generator", data=data)
    with pytest.raises(ArtifactError, match=r"model\.pt cannot be loaded: ToyDecoder is .* import the module that"):
        load_generator(tmp_path / "model.pt")


def test_an_architecture_that_no_file_can_hold(registered, tmp_path):
    toy = make_toy()
    for architecture in ({"norm": nn.BatchNorm2d}, None):
        toy.architecture = architecture
        if architecture is None:
            del toy.architecture
        with pytest.raises(ConfigError, match="This ToyDecoder cannot be saved: its architecture must hold"):
            save_generator(toy, tmp_path / "model.pt")
    assert list(tmp_path.iterdir()) == []


def test_a_name_belongs_to_one_class(registered):
    other = type("ToyDecoder", (LatentDecoder,), {"__module__": "elsewhere"})
    with pytest.raises(ConfigError, match=f"elsewhere registers a decoder ToyDecoder, a name that {__name__} "):
        register_decoder(other)
    again = type("ToyDecoder", (LatentDecoder,), {"__module__": __name__})  # a module that is loaded again
    assert register_decoder(again) is again
    with pytest.raises(ConfigError, match="no subclass of"):
        register_decoder(nn.Linear)


@pytest.mark.parametrize("member", ["mapping", "synthesis", "z_dim", "num_classes", "img_size", "img_channels"])
def test_what_is_missing_is_named(member):
    if member in ("mapping", "synthesis"):
        lacking = type("Lacking", (LatentDecoder,), {})
        (other,) = {"mapping", "synthesis"} - {member}
        setattr(lacking, other, getattr(ToyDecoder, other))
        toy = lacking()
        for name in ("z_dim", "w_dim", "num_classes", "img_size", "img_channels"):
            setattr(toy, name, 1)
    else:
        toy = make_toy()
        delattr(toy, member)
    with pytest.raises(ConfigError, match=f" lacks {member}: "):
        toy.check_contract()
