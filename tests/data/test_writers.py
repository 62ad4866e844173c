from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from monai_plan.data import contact_sheet, middle_planes
from monai_plan.utils import ConfigError


def images(count, shape, seed=0):
    return torch.rand(count, *shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_contact_sheet(tmp_path):
    batch = images(5, (1, 4, 6))
    path = contact_sheet(batch, columns=3, path=tmp_path / "figures/sheet.png", zoom=2)
    sheet = np.asarray(Image.open(path))
    assert sheet.shape == (2 * 12 + 1, 3 * 8 + 2)
    fourth = ((batch[3, 0].T + 1) * 127.5).round().to(torch.uint8).numpy()
    assert np.abs(sheet[13::2, :8:2].astype(int) - fourth).max() <= 1
    assert (sheet[12] == 0).all()
    assert (sheet[13:, 18:] == 0).all()
    rgb = contact_sheet(images(1, (3, 4, 6)), columns=1, path=tmp_path / "rgb.png")
    assert np.asarray(Image.open(rgb)).shape == (6, 4, 3)


def test_contact_sheet_of_volumes_shows_three_planes(tmp_path):
    volume = images(1, (1, 4, 6, 8))
    sheet = np.asarray(Image.open(contact_sheet(volume, columns=1, path=tmp_path / "s.png")))
    assert sheet.shape == (6 + 8 + 8, 6)
    axial, coronal, sagittal = volume[0, 0, :, :, 4], volume[0, 0, :, 3], volume[0, 0, 2]
    for shown, plane in ((sheet[:6, 1:5], axial), (sheet[6:14, 1:5], coronal), (sheet[14:], sagittal)):
        upright = np.flipud(plane.T.numpy())  # the front, or the head, at the top
        assert np.abs(shown.astype(int) - (upright + 1) * 127.5).max() <= 1
    assert (sheet[:14, [0, 5]] == 0).all()


def test_planes_of_long_voxels_have_their_true_proportions():
    volume = images(1, (1, 4, 6, 8))
    planes = middle_planes(volume, voxel_size=(0.5, 0.5, 1.5))[0, 0]
    assert planes.shape == (6, 6 + 2 * 24)
    assert torch.equal(planes[:, 30:], volume[0, 0, 2].repeat_interleave(3, 1).flip(1))
    assert torch.equal(middle_planes(volume, voxel_size=(2, 2, 2)), middle_planes(volume))
    assert middle_planes(volume, voxel_size=(1e-4, 1e-4, 100)).shape[3] == 6 + 2 * 8 * 16  # no memory is lost to it


@pytest.mark.parametrize(
    ("shape", "columns"), [((0, 1, 4, 4), 2), ((2, 2, 4, 4), 2), ((2, 4, 4), 2), ((2, 1, 4, 4), 0)]
)
def test_contact_sheets_that_cannot_be_drawn(tmp_path, shape, columns):
    with pytest.raises(ConfigError, match="sheet"):
        contact_sheet(torch.zeros(shape), columns=columns, path=tmp_path / "s.png")
