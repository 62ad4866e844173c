"""Training on two ranks: gloo on the CPU."""

from __future__ import annotations

import copy

import ignite.distributed as idist
import pytest
import torch
import torch.multiprocessing as mp
from gan_fakes import make_discriminator
from torch import nn

from monai_plan.engines import ResumeHandler
from monai_plan.gan import AdaptiveStrength, DifferentiableAugment, ResidentLoader, StyleGAN2Trainer
from monai_plan.gan.trainer import _average_over_ranks
from monai_plan.networks import StyleGAN2Generator


class Images:
    """What the loader needs of a ``CheckedDataset``."""

    def __init__(self, spatial_dims):
        drawn = torch.Generator().manual_seed(0)
        self.images = torch.rand(8, 1, *(8,) * spatial_dims, generator=drawn) * 2 - 1
        self.labels = torch.arange(8) % 2

    def __len__(self):
        return 8


def train(spatial_dims, objective, folder, *, seed, max_epochs):
    """Two iterations an epoch, on whatever ranks there are; returns the trainer."""
    torch.manual_seed(seed)  # the ranks begin with different networks
    size = {"channel_base": 32, "channel_max": 4}
    generator = StyleGAN2Generator(spatial_dims, 8, 1, 5, 6, 2, mapping_layers=2, **size)
    discriminator = make_discriminator(spatial_dims, objective=objective)
    augment = DifferentiableAugment(p=0.2)
    saved = {
        "generator": generator,
        "ema": copy.deepcopy(generator),
        "discriminator": discriminator,
        "g_optimizer": torch.optim.Adam(generator.parameters(), lr=0.002, betas=(0.0, 0.99)),
        "d_optimizer": torch.optim.Adam(discriminator.parameters(), lr=0.002, betas=(0.0, 0.99)),
    }
    adaptive = AdaptiveStrength(augment, images_to_full=100, interval=4)
    batch_size = 4 // idist.get_world_size()
    trainer = StyleGAN2Trainer(
        device="cpu", max_epochs=max_epochs, epoch_length=2, amp=False, augment=augment, adaptive=adaptive,
        r1_interval=1, objective=objective,
        train_data_loader=ResidentLoader(Images(spatial_dims), batch_size=batch_size),
        train_handlers=[ResumeHandler(path=folder / "checkpoint.pt", save_dict={**saved, "adaptive": adaptive})],
        **saved,
    )  # fmt: skip
    trainer.run()
    return trainer


def summary(trainer):
    """Everything that the ranks must agree on."""
    networks = {"generator": trainer.generator, "ema": trainer.ema, "discriminator": trainer.discriminator}
    found = {f"{name}.{key}": value for name, net in networks.items() for key, value in net.state_dict().items()}
    found |= {f"output.{name}": value for name, value in trainer.state.output.items()}
    return found | {"images": trainer.state.images_seen}


def on_rank(rank, spatial_dims, objective, folder):
    """What one of the two processes does."""
    torch.set_num_threads(1)
    idist.initialize("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    network = nn.Linear(2, 1)
    network(torch.full((1, 2), float(rank))).sum().backward()
    number = torch.tensor(float(10 * rank))
    _average_over_ranks(network, number)
    found = {"mean": [network.weight.grad.tolist(), network.bias.grad.tolist(), number.item()]}
    trainer = train(spatial_dims, objective, folder, seed=rank, max_epochs=2)
    found["first"] = summary(trainer)
    idist.barrier()  # the first rank has saved
    # goes on from the checkpoint
    found["second"] = summary(train(spatial_dims, objective, folder, seed=9 + rank, max_epochs=3))
    torch.save(found, folder / f"rank{rank}.pt")
    idist.barrier()
    idist.finalize()


@pytest.mark.parametrize(("spatial_dims", "objective"), [(2, "logistic"), (2, "aided"), (3, "logistic")])
def test_two_ranks_train_one_network(tmp_path, spatial_dims, objective):
    mp.spawn(on_rank, args=(spatial_dims, objective, tmp_path), nprocs=2)
    first, second = (torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in (0, 1))
    assert first["mean"] == second["mean"] == [[[0.5, 0.5]], [1.0], 5.0]
    for run in ("first", "second"):
        assert first[run].keys() == second[run].keys()
        for name, value in first[run].items():
            assert torch.equal(torch.as_tensor(value), torch.as_tensor(second[run][name])), (run, name)
    assert (first["first"]["images"], first["second"]["images"]) == (16, 24)
    checkpoint = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert checkpoint["trainer"]["iteration"] == 6
    for name, value in checkpoint["ema"].items():
        assert torch.equal(value, first["second"][f"ema.{name}"]), name
    # the same number of images and steps on one rank: other draws, the same course
    alone = summary(train(spatial_dims, objective, tmp_path / "alone", seed=0, max_epochs=2))
    assert alone["images"] == 16
    assert all(torch.as_tensor(value).isfinite().all() for value in alone.values())
