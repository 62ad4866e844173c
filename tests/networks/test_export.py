"""The generator with one input, and its export by MONAI's commands."""

from __future__ import annotations

from pathlib import Path

import monai.bundle
import pytest
import torch
import torch.nn.functional as F

from monai_plan.networks import (
    OneInputGenerator,
    StyleGAN2Generator,
    latent_items,
    one_input_generator,
    save_generator,
)
from monai_plan.utils import ConfigError

BUNDLE = Path(__file__).parents[2] / "bundles" / "chest_xray_plan"


@pytest.mark.parametrize("spatial_dims", [2, 3])
@pytest.mark.parametrize("num_classes", [0, 3])
def test_one_input_gives_the_image_of_two(spatial_dims, num_classes):
    options = {"channel_base": 32, "channel_max": 8}
    generator = StyleGAN2Generator(spatial_dims, 8, 1, 5, 6, num_classes, **options).eval()
    single = OneInputGenerator(spatial_dims, 8, 1, 5, 6, num_classes, **options).train()
    single.load_state_dict(generator.state_dict())
    z, labels = torch.randn(4, 5), torch.tensor([2, 0, 1, 2])
    latent = torch.cat([z, F.one_hot(labels, 3)], dim=1) if num_classes else z
    wanted = generator(z, labels if num_classes else None)
    torch.testing.assert_close(single(latent), wanted)
    scripted = torch.jit.script(single)
    torch.testing.assert_close(scripted(latent), wanted)
    torch.testing.assert_close(scripted(latent[:1]), wanted[:1])
    assert single.training


def test_latents_of_one_class_or_of_all_in_turn():
    items = latent_items(4, 3, num_images=4)
    assert [item["image"][4:].tolist() for item in items] == [[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 0, 0]]
    of_one = latent_items(4, 3, num_images=4, label=1)
    assert [item["image"][4:].tolist() for item in of_one] == [[0, 1, 0]] * 4
    assert torch.equal(of_one[2]["image"][:4], items[2]["image"][:4])
    assert of_one[2]["image"].meta["filename_or_obj"] == "class_1_0002"
    assert latent_items(4, 0, num_images=1)[0]["image"].shape == (4,)
    for label in (3, -1):
        with pytest.raises(ConfigError, match="has the classes 0 to 2"):
            latent_items(4, 3, num_images=1, label=label)


@pytest.mark.parametrize("use_trace", [False, True], ids=["script", "trace"])
def test_monai_exports_the_moving_average_of_a_training(tmp_path, monkeypatch, use_trace):
    """Whose sizes the generator's file says; from another folder."""
    generator = StyleGAN2Generator(2, 16, 1, 6, 6, 2, channel_base=64, channel_max=8, mapping_layers=4)
    torch.save({"ema": generator.state_dict()}, tmp_path / "checkpoint.pt")
    other = StyleGAN2Generator(2, 16, 1, 6, 6, 2, channel_base=64, channel_max=8, mapping_layers=4)
    save_generator(other, tmp_path / "model.pt", made_by={})
    monkeypatch.chdir(tmp_path)
    monai.bundle.ckpt_export(
        net_id="network_def", filepath="exported.ts", ckpt_file="checkpoint.pt", key_in_ckpt="ema",
        meta_file=str(BUNDLE / "configs" / "metadata.json"), config_file=str(BUNDLE / "configs" / "inference.json"),
        bundle_root=str(BUNDLE), generator_file="model.pt", device="cpu", input_shape=[2, 8], use_trace=use_trace,
    )  # fmt: skip
    exported = torch.jit.load("exported.ts")
    z, labels = torch.randn(3, 6), torch.tensor([1, 0, 0])
    wanted = generator.eval()(z, labels)
    torch.testing.assert_close(exported(torch.cat([z, F.one_hot(labels, 2)], dim=1)), wanted)


def test_a_file_or_an_untrained_network(tmp_path):
    generator = StyleGAN2Generator(2, 16, 1, 6, 6, 2, channel_base=64, channel_max=8)
    save_generator(generator, tmp_path / "model.pt", made_by={})
    loaded = one_input_generator(tmp_path / "model.pt", spatial_dims=3, img_size=64, img_channels=3)
    assert (loaded.spatial_dims, loaded.img_size, loaded.img_channels) == (2, (16, 16), 1)
    assert not any(weight.requires_grad for weight in loaded.parameters())
    untrained = one_input_generator(spatial_dims=2, img_size=[16, 16], img_channels=3, z_dim=4, num_classes=1)
    assert untrained(torch.randn(1, 5)).shape == (1, 3, 16, 16)
