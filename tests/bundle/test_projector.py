"""A generator from a file, with which the audit projects images."""

from __future__ import annotations

import pytest
import torch

from monai_plan.bundle.projector import FileProjector
from monai_plan.networks import StyleGAN2Generator, save_generator
from monai_plan.utils import ArtifactError, ConfigError


@pytest.mark.parametrize("classes", [0, 2])
def test_images_of_the_generator_are_told_from_each_other(tmp_path, classes):
    torch.manual_seed(0)
    generator = StyleGAN2Generator(2, 16, 1, 8, 8, classes, channel_base=64, channel_max=8, mapping_layers=2).eval()
    save_generator(generator, tmp_path / "model.pt")
    projector = FileProjector(tmp_path / "model.pt")
    assert (projector.img_size, projector.img_channels, projector.num_classes) == ((16, 16), 1, classes)
    with torch.no_grad():
        w = generator.mapping(torch.randn(4, 8), torch.tensor([0, 1, 0, 1]) if classes else None)
        images = generator.synthesis(w).clamp(-1, 1)
    for labels in (torch.tensor([0, 1, 0, 1]) if classes else None, None):
        found = projector(images[[0, 1, 2, 3, 0]], labels if labels is None else labels[[0, 1, 2, 3, 0]])
        assert found.shape == (5, 8)
        with torch.no_grad():
            distances = torch.cdist(generator.synthesis(found).flatten(1), images.flatten(1))
        assert distances.argmin(1).tolist() == [0, 1, 2, 3, 0]


def test_what_is_no_generator_is_refused(tmp_path):
    with pytest.raises(ArtifactError):
        FileProjector(tmp_path / "missing.pt")
    torch.save({"a": 1}, tmp_path / "other.pt")
    (tmp_path / "datalist.json").write_text("{}")
    for name in ("other.pt", "datalist.json"):
        with pytest.raises(ConfigError, match="is no generator") as error:
            FileProjector(tmp_path / name)
        assert "elete" not in str(error.value)
