"""What a GPU would notice: the host waiting for the device, and copies in the loop."""

from __future__ import annotations

import contextlib

import pytest
import torch
from gan_fakes import PLAYED, make_trainer
from torch.overrides import TorchFunctionMode

import monai_plan.gan.trainer as trainer_module
from monai_plan.gan import AdaptiveStrength, DifferentiableAugment

EVERYTHING = {
    "flips": (0, 1), "fractional_translation": 0.1, "scale": 0.1, "anisotropy": 0.1, "rotation": 10.0, "gamma": 0.1,
    "noise": 0.1,
}  # fmt: skip


class NoCopiesFromTheHost(TorchFunctionMode):
    """Raises where a tensor is made of Python numbers on a device, or of a tensor on the CPU."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor) and result.device.type == "meta":
            if function in (torch.tensor, torch.as_tensor):
                raise AssertionError(f"{function} copies numbers to the device")
            if function in (torch.Tensor.to, torch.Tensor.copy_) and any(
                isinstance(a, torch.Tensor) and a.device.type == "cpu" for a in args
            ):
                raise AssertionError(f"{function} copies a tensor to the device")
        return result


def on_meta(monkeypatch, spatial_dims, **options):
    """Two epochs of two iterations on the meta device, where no number can be read."""
    monkeypatch.setattr(torch, "autocast", lambda *args, **kwargs: contextlib.nullcontext())  # unknown to it
    monkeypatch.setattr(trainer_module._FiniteLossGuard, "__call__", lambda self, engine: None)  # reads one number
    trainer = make_trainer(spatial_dims, **options)
    for module in (trainer.generator, trainer.ema, trainer.discriminator, trainer.augment, trainer.adaptive):
        module.to("meta")
    for optimizer, network in (
        (trainer.g_optimizer, trainer.generator), (trainer.d_optimizer, trainer.discriminator)
    ):  # fmt: skip
        optimizer.param_groups[0]["params"] = list(network.parameters())
    trainer.state.device = torch.device("meta")
    trainer.state.finite = trainer.state.finite.to("meta")
    images = torch.zeros(4, 1, *(8,) * spatial_dims, device="meta")
    trainer.data_loader = [{"image": images, "label": torch.zeros(4, dtype=torch.long, device="meta")}] * 2
    with NoCopiesFromTheHost():
        for _ in range(3):
            trainer.state.iteration += 1
            trainer._iteration(trainer, trainer.data_loader[0])
    return trainer


@pytest.mark.parametrize(("spatial_dims", "objective"), PLAYED)
@pytest.mark.parametrize("changes", [{}, EVERYTHING])
def test_an_iteration_never_reads_from_the_device_nor_copies_to_it(monkeypatch, spatial_dims, objective, changes):
    """On the meta device .item(), branches on tensors and shapes that depend on data raise."""
    augment = DifferentiableAugment(**changes)
    trainer = on_meta(
        monkeypatch, spatial_dims, objective=objective, augment=augment, adaptive=AdaptiveStrength(augment),
        r1_interval=2, r2_weight=0.5,
    )  # fmt: skip
    assert all(p.grad is not None for p in trainer.discriminator.parameters())


def test_a_read_or_a_copy_would_be_seen(monkeypatch):
    class Reading(DifferentiableAugment):
        def forward(self, images):
            return super().forward(images) if images.sum() > 0 else images

    class Copying(DifferentiableAugment):
        def forward(self, images):
            return super().forward(images) * torch.tensor([2.0], device=images.device)

    for kind, error in ((Reading, RuntimeError), (Copying, AssertionError)):
        augment = kind()
        with pytest.raises(error):
            on_meta(monkeypatch, 2, augment=augment, adaptive=AdaptiveStrength(augment))
