"""What a GPU would notice: the host waiting for the device, copies in the loop, and torch.compile."""

from __future__ import annotations

import contextlib
import functools

import pytest
import torch
from gan_fakes import PLAYED, On, make_trainer
from ignite.engine import Events
from torch.overrides import TorchFunctionMode

import monai_plan.gan.trainer as trainer_module
from monai_plan.gan import (
    AdaptiveStrength,
    DifferentiableAugment,
    ProjectedDiscriminator,
    r1_penalty,
    r1_penalty_of,
)
from monai_plan.networks import StyleGAN2Discriminator
from monai_plan.utils import ConfigError

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
    for name in ("finite", "path_length_mean"):
        setattr(trainer.state, name, getattr(trainer.state, name).to("meta"))
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
        r1_interval=2, r2_weight=0.5, path_length_weight=2.0, path_length_interval=2,
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


@pytest.mark.parametrize("spatial_dims", [2, 3])
@pytest.mark.parametrize("num_classes", [0, 2])
def test_the_penalty_as_one_function_is_the_penalty(spatial_dims, num_classes):
    discriminator = StyleGAN2Discriminator(spatial_dims, 8, 1, num_classes, channel_base=64, channel_max=4)
    images = torch.randn(4, 1, *(8,) * spatial_dims, requires_grad=True)
    labels = torch.tensor([0, 1, 1, 0]) if num_classes else None
    expected = r1_penalty(discriminator(images, labels), images)
    found = r1_penalty_of(discriminator, images, labels)
    torch.testing.assert_close(found, expected)
    parameters = [p for name, p in discriminator.named_parameters() if name != "out.bias"]
    slopes = torch.autograd.grad(found, parameters, allow_unused=True)
    for slope, wanted in zip(slopes, torch.autograd.grad(expected, parameters, allow_unused=True), strict=True):
        torch.testing.assert_close(slope, wanted)
    assert any(slope is not None and slope.abs().max() > 0 for slope in slopes)


@pytest.fixture
def traced(monkeypatch):
    """torch.compile without code generation: tracing and derivatives as ever, the operations themselves eager."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    monkeypatch.setattr(
        trainer_module.torch, "compile", functools.partial(torch.compile, backend="aot_eager", fullgraph=True)
    )
    yield
    torch._dynamo.reset()


def weights(trainer):
    networks = {"generator": trainer.generator, "ema": trainer.ema, "discriminator": trainer.discriminator}
    return {f"{name}.{key}": v.clone() for name, net in networks.items() for key, v in net.state_dict().items()}


def projected():
    torch.manual_seed(0)
    return ProjectedDiscriminator(2, 8, 1, 2, backbone="random", width=4, embed_dim=4, feature_size=32)


@pytest.mark.parametrize("kind", ["logistic", "relativistic", "hinge on features", "aided"])
def test_compiled_training_is_the_eager_one(traced, kind):
    """The same losses and gradients in three iterations, R1 and path length in the first and last; the same keys.

    The rate is 0, since Adam makes a whole step of the rounding error of a gradient that is almost 0.
    """
    options = {"objective": kind.split()[0], "r1_interval": 2, "path_length_weight": 2.0, "path_length_interval": 2}
    if kind == "relativistic":
        options["r2_weight"] = 0.5
    if "features" in kind:
        options |= {"r1_weight": 0.0}
    found, keys = [], []
    for compiled in (False, True):
        losses = []
        trainer = make_trainer(
            compile=compiled, num_images=12, lr=0.0,
            handlers=[On(Events.ITERATION_COMPLETED, lambda e, to=losses: to.append(e.state.output["d_loss"]))],
            augment=DifferentiableAugment(), discriminator=projected() if "features" in kind else None, **options,
        )  # fmt: skip
        for name, parameter in trainer.generator.named_parameters():
            if name.endswith("noise_strength"):
                parameter.data.fill_(0.3)
        trainer.run()
        keys.append(list(weights(trainer)))
        found.append({"losses": torch.stack(losses)})
        for name, network in (("generator", trainer.generator), ("discriminator", trainer.discriminator)):
            found[-1] |= {f"{name}.{key}": p.grad for key, p in network.named_parameters()}
    assert torch._dynamo.utils.counters["graph_break"] == {}
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] >= 4  # D and G, with and without gradients
    assert keys[0] == keys[1]
    for name, wanted in found[0].items():
        scale = wanted.abs().max()
        torch.testing.assert_close(found[1][name], wanted, rtol=1e-3, atol=float(1e-4 * scale + 1e-6), msg=name)
    assert max(value.abs().max() for name, value in found[0].items() if name.startswith("generator")) > 1e-4


def test_compiled_training_continues_bit_for_bit(traced, tmp_path):
    def stop(engine):
        raise KeyboardInterrupt

    options = {"compile": True, "max_epochs": 2, "resident": True, "num_images": 8}
    whole = make_trainer(folder=tmp_path / "whole", **options)
    whole.run()
    with pytest.raises(KeyboardInterrupt):
        make_trainer(
            folder=tmp_path / "parts", handlers=[On(Events.ITERATION_COMPLETED(once=3), stop)], **options
        ).run()  # fmt: skip
    continued = make_trainer(folder=tmp_path / "parts", seed=0, **options)
    for parameter in continued.generator.parameters():
        parameter.data.zero_()
    continued.run()
    first, second = weights(whole), weights(continued)
    assert [name for name in first if not torch.equal(first[name], second[name])] == []
    checkpoint = torch.load(tmp_path / "parts" / "checkpoint.pt", weights_only=True)
    assert checkpoint["generator"].keys() == whole.generator.state_dict().keys()


def test_without_a_compiler_it_says_so_at_once():
    config = torch._inductor.config.patch({"cpp.cxx": ("no-such-compiler",), "force_disable_caches": True})
    torch._dynamo.reset()
    with config, pytest.raises(ConfigError, match=r"compile is True.*g\+\+.*compile to False"):
        make_trainer(compile=True)
    torch._dynamo.reset()


@pytest.mark.slow
def test_generated_code_computes_what_the_networks_do():
    """Inductor's code, g++ included: losses and gradients as the eager ones."""
    torch._dynamo.reset()
    found = []
    with torch._inductor.config.patch(fallback_random=True):  # the eager random numbers
        for compiled in (False, True):
            losses = []
            trainer = make_trainer(
                compile=compiled, r1_interval=2, lr=0.0,
                handlers=[On(Events.ITERATION_COMPLETED, lambda e, to=losses: to.append(e.state.output["d_loss"]))],
            )  # fmt: skip
            trainer.run()
            networks = (trainer.generator, trainer.discriminator)
            found.append([torch.stack(losses), *(p.grad for network in networks for p in network.parameters())])
    torch._dynamo.reset()
    for value, wanted in zip(found[1], found[0], strict=True):
        torch.testing.assert_close(value, wanted, rtol=1e-3, atol=float(1e-4 * wanted.abs().max() + 1e-6))
