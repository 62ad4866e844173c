from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from monai_plan.data import contact_sheet
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


@pytest.mark.parametrize(("axis", "shape"), [(-1, (6, 4)), (0, (8, 6)), (1, (8, 4))])
def test_contact_sheet_of_volumes_shows_the_middle(tmp_path, axis, shape):
    volume = images(1, (1, 4, 6, 8))
    sheet = np.asarray(Image.open(contact_sheet(volume, columns=1, path=tmp_path / "s.png", slice_axis=axis)))
    middle = {-1: volume[0, 0, :, :, 4], 0: volume[0, 0, 2], 1: volume[0, 0, :, 3]}[axis]
    assert sheet.shape == shape
    assert np.abs(sheet.astype(int) - ((middle.T + 1) * 127.5).numpy()).max() <= 1


@pytest.mark.parametrize(
    ("shape", "columns"), [((0, 1, 4, 4), 2), ((2, 2, 4, 4), 2), ((2, 4, 4), 2), ((2, 1, 4, 4), 0)]
)
def test_contact_sheets_that_cannot_be_drawn(tmp_path, shape, columns):
    with pytest.raises(ConfigError, match="sheet"):
        contact_sheet(torch.zeros(shape), columns=columns, path=tmp_path / "s.png")
