"""Images in memory: in as few bits as hold them, and not a bit other than as floats."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from monai.transforms import Compose, Resized
from PIL import Image

from monai_plan.data import CheckedDataset, HeldImages, IntensityScaling, LoadShownImaged, ScaleShownd, write_datalist
from monai_plan.data.held import GrowingImages
from monai_plan.utils import ConfigError


def scaled(values: torch.Tensor, low: float, high: float) -> torch.Tensor:
    return ScaleShownd("image", IntensityScaling("range", (low, high)))({"image": values})["image"]


def held(images: torch.Tensor, span: float) -> HeldImages:
    growing = GrowingImages(images.shape, span=span)
    for index, image in enumerate(images):
        growing.put(index, image)
    return growing.held


@pytest.mark.parametrize(
    ("low", "high", "bits"),
    [(0, 255, 8), (0, 100, 8), (0, 4095, 16), (0, 65535, 16), (-1000, 400, 16), (-20.5, 79.5, 8)],
)
def test_every_value_of_the_bits_comes_back_as_it_is_scaled(low: float, high: float, bits: int) -> None:
    values = torch.arange(low, high + 1).float().reshape(1, 1, 1, -1)
    images = held(scaled(values, low, high), high - low)
    assert torch.equal(images[:], scaled(values, low, high))
    assert images.nbytes == values.numel() * bits // 8


@pytest.mark.parametrize(("block", "bits"), [(1, 8), (2, 16), (4, 16), (8, 16), (16, 16), (3, 32)])
def test_means_of_blocks_as_resizing_makes_them(block: int, bits: int) -> None:
    pixels = torch.randint(0, 256, (3, 1, 48, 96), generator=torch.Generator().manual_seed(0)).float()
    resize = Resized("image", (48 // block, 96 // block), mode="area")
    images = torch.stack([scaled(resize({"image": x})["image"].as_tensor(), 0, 255) for x in pixels])
    found = held(images, 255.0)
    assert torch.equal(found[:], images)
    assert found.nbytes == images.numel() * bits // 8


@given(st.floats(0.5, 70000), st.integers(0, 9))
def test_whatever_the_span_nothing_changes(span: float, seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    exact = scaled(torch.randint(0, int(span) + 1, (4, 2, 3), generator=rng).float(), 0, span)
    images = torch.cat([exact, torch.rand(1, 2, 3, generator=rng) * 2 - 1])
    found = held(images, span)
    assert torch.equal(found[:], images)
    assert held(images[:4], span).nbytes <= found.nbytes


def test_an_image_that_needs_more_bits_changes_no_other_one() -> None:
    eight = scaled(torch.randint(0, 256, (200, 1, 4, 4)).float(), 0, 255)
    quarters = scaled(torch.randint(0, 1021, eight.shape).float() / 4, 0, 255)
    kinds = [eight, quarters, torch.rand(eight.shape)]
    images = torch.stack([kinds[min(number // 90, 2)][number] for number in range(200)])
    growing = GrowingImages(images.shape, span=255.0)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda index: growing.put(index, images[index]), range(200)))
    assert torch.equal(growing.held[:], images)
    assert growing.held.stored.dtype == torch.float32


def test_it_is_looked_at_as_a_tensor() -> None:
    images = scaled(torch.randint(0, 256, (7, 1, 2, 3)).float(), 0, 255)
    found = held(images, 255.0)
    assert (found.shape, found.ndim, len(found)) == (images.shape, 4, 7)
    for index in (3, slice(2, 5), [4, 0], torch.tensor([6, 1]), images[:, 0, 0, 0] > 0, (slice(None), 0)):
        assert torch.equal(found[index], images[index])
        assert found[index].dtype == torch.float32
    assert [len(batch) for batch in found.split(3)] == [3, 3, 1]
    assert torch.equal(torch.cat(list(found.split(3))), images)
    assert torch.equal(found.subset([5, 2])[:], images[[5, 2]])
    assert torch.equal(torch.stack(list(found)), images)  # type: ignore[call-overload]
    for holder in (found, HeldImages(images)):
        holder[:].zero_()  # what is done to it does not reach the images
        holder[2].zero_()
        next(iter(holder.split(7))).zero_()
        assert torch.equal(holder[:], images)


def test_several_become_one() -> None:
    eight = scaled(torch.randint(0, 256, (3, 1, 2, 2)).float(), 0, 255)
    quarters = scaled(torch.randint(0, 1021, (2, 1, 2, 2)).float() / 4, 0, 255)
    floats = torch.rand(2, 1, 2, 2)
    for parts, bits in (([eight, eight], 8), ([eight, quarters], 16), ([quarters, floats, eight], 32)):
        whole = HeldImages.joined(*(held(part, 255.0) for part in parts))
        assert torch.equal(whole[:], torch.cat(parts))
        assert whole.nbytes == whole[:].numel() * bits // 8
    assert torch.equal(HeldImages.joined(held(eight, 255.0), HeldImages(floats))[:], torch.cat([eight, floats]))


@pytest.mark.parametrize(("dtype", "high", "bits"), [(np.uint8, 255, 8), (np.uint16, 4095, 16)])
def test_a_data_set_of_so_many_bits_is_held_in_as_many(tmp_path, dtype, high, bits) -> None:
    rng, items = np.random.default_rng(0), []
    for number in range(6):
        Image.fromarray(rng.integers(0, high + 1, (8, 12)).astype(dtype)).save(tmp_path / f"{number}.png")
        items.append({"image": f"{number}.png", "label": 0})
    file = write_datalist(tmp_path / "datalist.json", labels={0: "a"}, sections={"training": items}, name="a")
    steps = [LoadShownImaged("image"), ScaleShownd("image", IntensityScaling("range", (0.0, float(high))))]
    options = {"datalist_file": file, "img_size": (12, 8), "img_channels": 1, "num_classes": 1}
    data = CheckedDataset(transform=Compose(steps), cache_dir=tmp_path / "cache", **options)
    assert data.images.nbytes == 6 * 8 * 12 * bits // 8
    again = CheckedDataset(transform=Compose(steps), cache_dir=tmp_path / "cache", **options)
    assert again.images.nbytes == data.images.nbytes
    assert torch.equal(again.images[:], data.images[:])
    for number in range(6):
        read = Compose(steps)({"image": str(tmp_path / f"{number}.png")})["image"].as_tensor()
        assert torch.equal(data[number]["image"], read)


def test_room_that_is_not_there_names_the_size():
    with pytest.raises(ConfigError, match=r"14 images of 100000 x 100000 x 100000 need .* GiB, more than this machine"):
        GrowingImages((14, 1, 100_000, 100_000, 100_000), span=255)
