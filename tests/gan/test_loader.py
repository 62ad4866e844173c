"""Batches from memory: every image once a pass, the same order from any position, a share for every rank."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from monai_plan.gan import ResidentLoader
from monai_plan.gan import loader as loader_module
from monai_plan.utils import ConfigError


class Images(SimpleNamespace):
    """What the loader needs of a ``CheckedDataset``; pixel and label of image i are i."""

    def __init__(self, count, spatial_dims=2):
        numbers = torch.arange(count)
        super().__init__(images=numbers.float().view(-1, 1, *(1,) * spatial_dims), labels=numbers)

    def __len__(self):
        return len(self.labels)


def flat(batches):
    return list(itertools.chain.from_iterable(batches))


def numbers(loader, count):
    """The images of the next ``count`` batches."""
    batches = list(itertools.islice(loader, count))
    for batch in batches:
        assert torch.equal(batch["image"].flatten().long(), batch["label"])
    return [batch["label"].tolist() for batch in batches]


@settings(max_examples=30, deadline=None)
@given(
    count=st.integers(1, 30),
    batch_size=st.integers(1, 10),
    seed=st.integers(0, 3),
    spatial_dims=st.sampled_from([2, 3]),
)
def test_a_pass_shows_no_image_twice(count, batch_size, seed, spatial_dims):
    if batch_size > count:
        with pytest.raises(ConfigError, match=f"{count} images.*lower batch_size"):
            ResidentLoader(Images(count), batch_size=batch_size)
        return
    loader = ResidentLoader(Images(count, spatial_dims), batch_size=batch_size, seed=seed)
    assert len(loader) == count // batch_size
    batches = numbers(loader, 2 * len(loader))
    first, second = flat(batches[: len(loader)]), flat(batches[len(loader) :])
    assert len(set(first)) == len(first) == len(loader) * batch_size
    assert len(set(second)) == len(second)


@settings(max_examples=30, deadline=None)
@given(count=st.integers(4, 20), batch_size=st.integers(1, 4), position=st.integers(0, 30))
def test_the_batches_after_a_position_are_those_of_an_uninterrupted_run(count, batch_size, position):
    images = Images(count)
    whole = numbers(ResidentLoader(images, batch_size=batch_size, seed=5), position + 6)
    loader = ResidentLoader(images, batch_size=batch_size, seed=5)
    loader.position = position
    assert numbers(loader, 6) == whole[position:]


def test_passes_and_seeds_differ():
    batches = numbers(ResidentLoader(Images(64), batch_size=32), 4)
    assert batches[:2] != batches[2:]
    assert numbers(ResidentLoader(Images(64), batch_size=32, seed=1), 1) != batches[:1]


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_the_ranks_share_one_global_batch(monkeypatch, world_size):
    def of_rank(rank):
        monkeypatch.setattr(loader_module.idist, "get_world_size", lambda: world_size)
        monkeypatch.setattr(loader_module.idist, "get_rank", lambda: rank)
        return numbers(ResidentLoader(Images(30), batch_size=6 // world_size), 7)

    parts = [of_rank(rank) for rank in range(world_size)]
    together = [flat(batches) for batches in zip(*parts, strict=True)]
    monkeypatch.undo()
    assert together == numbers(ResidentLoader(Images(30), batch_size=6), 7)


@pytest.mark.parametrize(("free", "where"), [(10_000, "cuda"), (100, "cpu")])
def test_images_go_to_a_gpu_that_has_the_memory(monkeypatch, free, where):
    moved = []
    monkeypatch.setattr(loader_module.torch.cuda, "mem_get_info", lambda device: (free, free))
    monkeypatch.setattr(torch.Tensor, "to", lambda tensor, device: moved.append(device) or tensor)
    ResidentLoader(Images(10), batch_size=2, device="cuda")
    assert [device.type for device in moved] == (["cuda"] * 2 if where == "cuda" else [])


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_only_what_goes_to_a_gpu_is_pinned(monkeypatch, device):
    """Images that do not fit on the GPU come from memory whose copy need not be waited for."""
    pinned = []
    monkeypatch.setattr(loader_module.torch.cuda, "mem_get_info", lambda device: (0, 0))
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: pinned.append(tensor) or tensor)
    batch = next(iter(ResidentLoader(Images(10), batch_size=2, device=device)))
    found = [any(tensor is given for given in pinned) for tensor in batch.values()]
    assert found == [device == "cuda"] * 2
