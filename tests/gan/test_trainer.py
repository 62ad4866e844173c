"""The GAN trainer on tiny networks: schedules, moving average, errors, checkpoints and continuation."""

from __future__ import annotations

import copy
import itertools
import logging
import math

import pytest
import torch
from gan_fakes import PLAYED, On, make_discriminator, make_trainer
from ignite.engine import Events
from monai.engines import IterationEvents
from torch.utils.data import DataLoader

import monai_plan.gan.trainer as trainer_module
from monai_plan.gan import (
    AdaptiveStrength,
    DifferentiableAugment,
)
from monai_plan.networks import StyleGAN2Discriminator
from monai_plan.networks.running import bf16_is_fast
from monai_plan.utils import ConfigError, TrainingError

KINDS = [(2, 0), (2, 2), (3, 0), (3, 2)]


@pytest.fixture(autouse=True)
def _quiet_engine():
    """Ignite logs the traceback of every error that ends an engine."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def weights(trainer):
    """A copy of all weights and of the optimisers' moments."""
    nets = {"generator": trainer.generator, "ema": trainer.ema, "discriminator": trainer.discriminator}
    found = {f"{name}.{key}": v.clone() for name, net in nets.items() for key, v in net.state_dict().items()}
    for name, optimizer in (("g", trainer.g_optimizer), ("d", trainer.d_optimizer)):
        for index, state in optimizer.state_dict()["state"].items():
            found |= {f"{name}_optimizer.{index}.{key}": torch.as_tensor(v).clone() for key, v in state.items()}
    return found


def assert_same(first, second):
    assert first.keys() == second.keys()
    different = [name for name in first if not torch.equal(first[name], second[name])]
    assert different == []


@pytest.mark.parametrize(("spatial_dims", "num_classes"), KINDS)
@pytest.mark.parametrize("amp", [False, True])
def test_runs_and_moves_every_weight(spatial_dims, num_classes, amp):
    outputs = []
    trainer = make_trainer(
        spatial_dims, num_classes,
        handlers=[On(Events.ITERATION_COMPLETED, lambda engine: outputs.append(engine.state.output))],
        augment=DifferentiableAugment(), amp=amp, max_epochs=2,
    )  # fmt: skip
    before = weights(trainer)
    trainer.run()
    after = weights(trainer)
    assert trainer.state.iteration == len(outputs) == 4
    assert all(value.isfinite().all() for value in after.values())
    for output in outputs:
        assert set(output) == {"g_loss", "d_loss", "real_sign"}
        assert all(value.ndim == 0 and value.isfinite() and not value.requires_grad for value in output.values())
        assert -1 <= output["real_sign"] <= 1
    # the constant noise is drawn once and not learnt, everything else is
    still = {name for name in before if torch.equal(before[name], after[name])}
    assert {name.rpartition(".")[2] for name in still} == {"noise_const"}
    assert not any(parameter.requires_grad for parameter in trainer.ema.parameters())
    assert not trainer.ema.training
    assert all(parameter.requires_grad for parameter in trainer.discriminator.parameters())


def test_an_unconditional_generator_needs_no_labels():
    trainer = make_trainer(num_classes=0)
    data = [{"image": torch.zeros(1, 8, 8)}] * 4
    trainer.data_loader = DataLoader(data, batch_size=2)
    trainer.run()
    assert trainer.state.iteration == 2


def test_the_discriminator_learns():
    """It tells bright images from what an untrained generator makes; without its steps it would not."""
    outputs = []
    trainer = make_trainer(
        images=torch.ones(16, 1, 8, 8) * 0.9, batch_size=8, lr=0.0, d_lr=0.01, max_epochs=20,
        handlers=[On(Events.ITERATION_COMPLETED, lambda engine: outputs.append(engine.state.output))],
    )  # fmt: skip
    trainer.run()
    assert outputs[-1]["d_loss"] < 0.5 * outputs[0]["d_loss"]
    assert outputs[-1]["real_sign"] == 1
    assert outputs[-1]["g_loss"] > 2


def test_the_generator_follows():
    """Against a frozen, trained discriminator its loss falls."""
    trainer = make_trainer(images=torch.ones(16, 1, 8, 8) * 0.9, batch_size=8, lr=0.0, d_lr=0.01, max_epochs=10)
    trainer.run()
    g_losses = []
    second = make_trainer(
        images=torch.ones(16, 1, 8, 8) * 0.9, batch_size=8, lr=0.02, d_lr=0.0, max_epochs=10,
        handlers=[On(Events.ITERATION_COMPLETED, lambda engine: g_losses.append(engine.state.output["g_loss"]))],
    )  # fmt: skip
    second.discriminator.load_state_dict(trainer.discriminator.state_dict())
    second.run()
    assert sum(g_losses[-3:]) < 0.5 * sum(g_losses[:3])


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_r1_every_interval(spatial_dims, monkeypatch):
    """Iterations 1, 4 and 7 of 8; the weight is γ/2 times the interval."""
    due, original = [], trainer_module.r1_penalty

    def spy(logits, images):
        assert images.requires_grad
        assert images.is_leaf
        assert not torch.is_autocast_enabled("cpu")
        due.append(trainer.state.iteration)
        return original(logits, images)

    monkeypatch.setattr(trainer_module, "r1_penalty", spy)
    trainer = make_trainer(spatial_dims, max_epochs=4, r1_interval=3, amp=True)
    trainer.run()
    assert due == [1, 4, 7]


def test_r1_without_weight_is_not_computed(monkeypatch):
    monkeypatch.setattr(trainer_module, "r1_penalty", None)
    make_trainer(r1_weight=0.0).run()


@pytest.mark.parametrize("augment", [None, DifferentiableAugment(p=1.0)])
def test_discriminator_objective_by_hand(augment, monkeypatch):
    """The gradient of the first step is that of d_loss + γ/2 · interval · R1, generator detached."""
    gradients = {}

    def keep(engine):
        gradients.update({name: p.grad.clone() for name, p in engine.discriminator.named_parameters()})

    monkeypatch.setattr(trainer_module, "r1_penalty", lambda logits, images: logits.square().mean() * 3)
    trainer = make_trainer(
        augment=augment, r1_weight=0.4, r1_interval=5, lr=0.0, num_images=4,
        handlers=[On(IterationEvents.BACKWARD_COMPLETED, keep)],
    )  # fmt: skip
    states = []
    original = trainer._discriminator_step

    def spy(*args):
        states.append((torch.get_rng_state(), args))
        return original(*args)

    monkeypatch.setattr(trainer, "_discriminator_step", spy)
    trainer.run()

    rng_state, (reals, labels) = states[0]
    torch.set_rng_state(rng_state)
    change = augment or (lambda x: x)
    fakes = trainer.generator(torch.randn(4, 5), labels).detach()
    real_logits = trainer.discriminator(change(reals), labels)
    fake_logits = trainer.discriminator(change(fakes), labels)
    loss = -torch.nn.functional.logsigmoid(real_logits).mean() - torch.nn.functional.logsigmoid(-fake_logits).mean()
    penalty = 3 * trainer.discriminator(change(reals), labels).square().mean()
    expected = torch.autograd.grad(loss + 0.4 / 2 * 5 * penalty, list(trainer.discriminator.parameters()))
    for (name, gradient), wanted in zip(gradients.items(), expected, strict=True):
        torch.testing.assert_close(gradient, wanted, rtol=1e-3, atol=1e-5, msg=name)


def test_generator_objective_by_hand(monkeypatch):
    """-log σ(D(G(z))); the step of the discriminator adds nothing to it."""
    trainer = make_trainer(lr=0.0, num_images=4, augment=DifferentiableAugment(p=1.0))
    states = []
    original = trainer._generator_step

    def spy(*args):
        states.append((torch.get_rng_state(), args))
        return original(*args)

    monkeypatch.setattr(trainer, "_generator_step", spy)
    trainer.run()
    generator, discriminator = trainer.generator, trainer.discriminator
    gradients = {name: p.grad.clone() for name, p in generator.named_parameters()}

    rng_state, (_, labels) = states[0]
    torch.set_rng_state(rng_state)
    logits = discriminator(trainer.augment(generator(torch.randn(4, 5), labels)), labels)
    loss = -torch.nn.functional.logsigmoid(logits).mean()
    expected = torch.autograd.grad(loss, list(generator.parameters()))
    for (name, gradient), wanted in zip(gradients.items(), expected, strict=True):
        torch.testing.assert_close(gradient, wanted, rtol=1e-3, atol=1e-5, msg=name)


@pytest.mark.parametrize("objective", ["logistic", "aided", "relativistic"])
def test_the_class_loss_by_hand(objective):
    """Each player's loss grows by the cross entropy of the logits that each class would have: of fakes, of reals."""
    outputs, judged = [], []
    for weight in (0.0, 0.7):
        keep = On(Events.ITERATION_COMPLETED, lambda engine: outputs.append(engine.state.output))
        trainer = make_trainer(objective=objective, lr=0.0, num_images=4, class_weight=weight, handlers=[keep])
        original = trainer._judged
        trainer._judged = lambda *given, of=original: judged.append(given) or of(*given)
        trainer.run()
    wanted = [
        0.7 * torch.nn.functional.cross_entropy(trainer.discriminator.judge(images, labels)[1], labels)
        for images, labels in judged[2:]
    ]
    found = [outputs[1][name] - outputs[0][name] for name in ("g_loss", "d_loss")]
    torch.testing.assert_close(torch.stack(found), torch.stack(wanted).detach(), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("num_classes", [0, 1])
def test_without_two_classes_there_is_no_class_loss(num_classes, monkeypatch):
    monkeypatch.setattr(trainer_module.F, "cross_entropy", None)
    data = [{"image": torch.zeros(1, 8, 8), "label": 0}] * 4
    trainer = make_trainer(num_classes=num_classes, class_weight=0.3)
    trainer.data_loader = DataLoader(data, batch_size=2)
    trainer.run()


def test_the_class_loss_needs_a_discriminator_that_learns_from_images():
    discriminator = make_discriminator(objective="aided").aid
    with pytest.raises(ConfigError, match="class_weight is 0"):
        make_trainer(objective="hinge", discriminator=discriminator, class_weight=0.3)


@pytest.mark.parametrize("objective", ["logistic", "aided"])
def test_the_class_loss_teaches_the_classes(objective):
    """A real image of another class than the one that is asked for is told from its own."""
    labels = torch.arange(16) % 2
    images = (labels * 2.0 - 1)[:, None, None, None] * torch.linspace(-0.9, 0.9, 8).expand(16, 1, 8, 8)
    trainer = make_trainer(
        objective=objective, images=images, batch_size=8, lr=0.0, d_lr=0.005, max_epochs=20, class_weight=1.0
    )
    trainer.run()
    assert (trainer.discriminator.judge(images, labels)[1].argmax(1) == labels).all()


@pytest.mark.parametrize(("half_life", "rampup"), [(10.0, 0.5), (10_000, 0.05)])
def test_moving_average_is_that_of_a_loop(half_life, rampup):
    history = []
    trainer = make_trainer(
        max_epochs=4, ema_half_life=half_life, ema_rampup=rampup,
        handlers=[On(Events.ITERATION_COMPLETED, lambda engine: history.append(copy.deepcopy(engine.generator)))],
    )  # fmt: skip
    average = {name: p.detach().clone() for name, p in trainer.ema.named_parameters()}
    trainer.run()
    assert len(history) == 8
    for step, generator in enumerate(history, start=1):
        images = 4 * step
        kept = 0.5 ** (4 / min(half_life, images * rampup))
        for name, parameter in generator.named_parameters():
            average[name] = kept * average[name] + (1 - kept) * parameter.detach()
    for name, parameter in trainer.ema.named_parameters():
        torch.testing.assert_close(parameter, average[name], msg=name)
        if name.startswith("synthesis.blocks.0.const"):
            assert not torch.equal(parameter, history[-1].get_parameter(name))
    for name, buffer in trainer.ema.named_buffers():
        assert torch.equal(buffer, history[-1].get_buffer(name)), name
    assert trainer.ema.mapping.w_avg.abs().min() > 0


def test_half_life_in_images():
    """After half_life images of a constant network half of the way to it is done."""
    trainer = make_trainer(lr=0.0, num_images=4, max_epochs=8, ema_half_life=32.0, ema_rampup=math.inf)
    for parameter in trainer.ema.parameters():
        parameter.zero_()
    trainer.run()  # 8 iterations of 4 images
    for average, parameter in zip(trainer.ema.parameters(), trainer.generator.parameters(), strict=True):
        torch.testing.assert_close(average, parameter.detach() / 2)


def test_same_seed_same_weights():
    first, second = (make_trainer(seed=3, max_epochs=2, augment=DifferentiableAugment()) for _ in range(2))
    for trainer in (first, second):
        torch.manual_seed(0)
        trainer.run()
    assert_same(weights(first), weights(second))


def test_nan_image_ends_the_training_and_leaves_the_checkpoint(tmp_path):
    images = torch.rand(8, 1, 8, 8)

    def damage(engine):
        images[5] = math.nan

    trainer = make_trainer(
        images=images, folder=tmp_path, max_epochs=4, handlers=[On(Events.EPOCH_STARTED(once=3), damage)]
    )
    good = {}
    trainer.add_event_handler(Events.EPOCH_COMPLETED(once=2), lambda engine: good.update(weights(engine)))
    with pytest.raises(TrainingError, match="not finite before iteration 6"):
        trainer.run()
    checkpoint = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert checkpoint["trainer"]["iteration"] == 4
    for name, value in checkpoint["generator"].items():
        assert torch.equal(value, good[f"generator.{name}"])
    # and from there it goes on
    images[5] = 0.0
    second = make_trainer(images=images, folder=tmp_path, max_epochs=4, seed=1)
    second.run()
    assert second.state.epoch == 4
    assert all(value.isfinite().all() for value in weights(second).values())


@pytest.mark.parametrize("options", [{"lr": math.inf}, {"d_lr": math.inf}, {"r1_weight": math.inf}])
def test_weights_that_are_not_finite_are_never_saved(tmp_path, options):
    """Also where the last step of an epoch makes them, which no loss has seen yet."""
    with pytest.raises(TrainingError, match="not finite"):
        make_trainer(folder=tmp_path, num_images=4, **options).run()  # one iteration
    assert list(tmp_path.iterdir()) == []


def test_damage_is_found_within_fifty_iterations():
    trainer = make_trainer(num_images=60, batch_size=1, lr=math.inf)
    with pytest.raises(TrainingError, match="iteration 50:"):
        trainer.run()


@pytest.mark.parametrize("spatial_dims", [2, 3])
@pytest.mark.parametrize("kill", [False, True])
def test_continues_where_it_stopped(tmp_path, spatial_dims, kill):
    """Two epochs, then an end or a kill in the middle of the third, then a new process with four."""
    options = {"folder": tmp_path}
    after_two, handlers = {}, []

    def stop(engine):
        raise KeyboardInterrupt

    if kill:
        handlers.append(On(Events.ITERATION_COMPLETED(once=5), stop))
    first = make_trainer(spatial_dims, max_epochs=3 if kill else 2, handlers=handlers, **options)

    def keep(engine):
        after_two.update(weights(engine))

    first.add_event_handler(Events.EPOCH_COMPLETED(once=2), keep)
    if kill:
        with pytest.raises(KeyboardInterrupt):
            first.run()
    else:
        first.run()

    seen = []

    def look(engine):
        seen.append((engine.state.epoch, engine.state.iteration))
        if len(seen) == 1:
            assert_same(weights(engine), after_two)

    second = make_trainer(spatial_dims, max_epochs=4, seed=9, handlers=[On(Events.ITERATION_STARTED, look)], **options)
    second.run()
    assert seen == [(3, 5), (3, 6), (4, 7), (4, 8)]
    assert second.state.max_epochs == 4
    checkpoint = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert checkpoint["trainer"]["iteration"] == 8


def test_a_finished_training_is_not_repeated(tmp_path):
    first = make_trainer(folder=tmp_path, max_epochs=2)
    first.run()
    second = make_trainer(folder=tmp_path, max_epochs=2, seed=1)
    second.run()
    assert_same(weights(first), weights(second))
    assert second.state.epoch == 2


@pytest.fixture
def six_seconds(monkeypatch):
    """Every look at the clock finds six seconds gone: 12 an epoch of two iterations, five epochs a minute."""
    clock = itertools.count(step=6)
    monkeypatch.setattr(trainer_module.time, "perf_counter", lambda: float(next(clock)))


@pytest.mark.parametrize(("minutes", "epochs"), [(0.001, 1), (0.45, 2), (0.55, 3), (1, 5)])
def test_minutes_end_with_the_epoch_that_is_nearest(six_seconds, minutes, epochs):
    """Whatever ``max_epochs`` says; a training of as many epochs without a clock is the same."""
    timed = make_trainer(minutes=minutes, max_epochs=1)
    timed.run()
    assert timed.state.epoch == timed.state.max_epochs == epochs
    counted = make_trainer(max_epochs=epochs)
    counted.run()
    assert_same(weights(timed), weights(counted))


def test_minutes_count_what_was_spent_before(tmp_path, six_seconds):
    first = make_trainer(folder=tmp_path, minutes=0.4)
    first.run()
    again = make_trainer(folder=tmp_path, minutes=0.4)
    again.run()
    assert (first.state.epoch, again.state.epoch, again.state.seconds) == (2, 2, first.state.seconds)
    longer = make_trainer(folder=tmp_path, minutes=1)
    longer.run()
    assert longer.state.epoch == 5
    other = tmp_path / "by epochs"
    make_trainer(folder=other, max_epochs=2).run()  # no clock ran: its checkpoint depends on nothing but its inputs
    assert torch.load(other / "checkpoint.pt", weights_only=True)["trainer"]["seconds"] == 0
    timed = make_trainer(folder=other, minutes=0.4)
    timed.run()
    assert timed.state.epoch == 2 + 2


@pytest.mark.parametrize("minutes", [0, -1, math.nan])
def test_minutes_are_above_0(minutes):
    with pytest.raises(ConfigError, match="minutes is"):
        make_trainer(minutes=minutes)


@pytest.mark.parametrize("other", [{"channel_max": 3}, {"num_classes": 3}, {"spatial_dims": 3}])
def test_checkpoint_of_another_architecture(tmp_path, other, caplog):
    make_trainer(folder=tmp_path).run()
    before = (tmp_path / "checkpoint.pt").read_bytes()
    with caplog.at_level(logging.WARNING):
        trainer = make_trainer(folder=tmp_path, **other)
        trainer.run()
    assert [r.getMessage() for r in caplog.records if r.name == "monai_plan.engines.handlers"] == [
        f"{tmp_path / 'checkpoint.pt'} is of other networks: the training begins anew"
    ]
    assert (tmp_path / "checkpoint.pt").read_bytes() != before
    fresh = make_trainer(**other)
    fresh.run()
    assert_same(weights(trainer), weights(fresh))


@pytest.mark.parametrize(("spatial_dims", "objective"), PLAYED)
@pytest.mark.parametrize("stopped_at", [6, 9])
def test_interrupted_and_continued_equals_uninterrupted(tmp_path, spatial_dims, objective, stopped_at):
    """Bit for bit, with every part that has a state; three iterations an epoch do not fill a pass over the images."""
    images = torch.rand(17, 1, *(8,) * spatial_dims) * 2 - 1

    def make(folder, seed, handlers=()):
        augment = DifferentiableAugment(p=0.3)
        adaptive = AdaptiveStrength(augment, images_to_full=200, interval=16)  # three moves: p cannot return
        return make_trainer(
            spatial_dims, folder=folder, seed=seed, max_epochs=4, epoch_length=3, images=images, resident=True,
            objective=objective, augment=augment, adaptive=adaptive, r1_interval=2, r2_weight=0.5,
            handlers=handlers,
        )  # fmt: skip

    def state(trainer):
        extra = {"p": trainer.adaptive.p}
        extra["images_seen"] = torch.tensor(trainer.state.images_seen)
        return {**weights(trainer), **{name: value.clone() for name, value in extra.items()}}

    whole = make(tmp_path / "whole", 3)
    start = {name: value.clone() for name, value in whole.generator.state_dict().items()}
    whole.run()

    def stop(engine):
        raise KeyboardInterrupt

    stopped = make(tmp_path / "parts", 3, handlers=[On(Events.ITERATION_COMPLETED(once=stopped_at), stop)])
    with pytest.raises(KeyboardInterrupt):
        stopped.run()
    torch.manual_seed(99)  # another process, with another random state and other first weights
    continued = make(tmp_path / "parts", 4)
    continued.run()
    assert_same(state(whole), state(continued))
    assert whole.state.images_seen == 48
    assert whole.adaptive.p != 0.3
    assert not torch.equal(start["synthesis.blocks.0.const"], whole.generator.synthesis.blocks[0].const)


def test_draws_depend_on_the_seed_and_the_iteration():
    found = []
    for seed in (0, 0, 1):
        trainer = make_trainer(seed=3, max_epochs=2)
        trainer.seed = seed
        torch.manual_seed(len(found))  # what the random state was does not matter
        trainer.run()
        found.append(weights(trainer))
    assert_same(found[0], found[1])
    assert not torch.equal(
        found[0]["generator.synthesis.blocks.0.const"], found[2]["generator.synthesis.blocks.0.const"]
    )


def test_relativistic_objective_by_hand():
    """Each loss compares the i-th real with the i-th fake, of the same class; R1 and R2 are added every interval."""
    gradients = {}

    def keep(engine):
        gradients["d"] = {name: p.grad.clone() for name, p in engine.discriminator.named_parameters()}

    trainer = make_trainer(
        objective="relativistic", lr=0.0, num_images=4, r1_weight=0.4, r2_weight=0.6, r1_interval=5,
        handlers=[On(IterationEvents.BACKWARD_COMPLETED, keep)],
    )  # fmt: skip
    states = {}
    originals = {name: getattr(trainer, name) for name in ("_generator_step", "_discriminator_step")}
    for name in originals:

        def spy(reals, labels, *, name=name):
            states[name] = (torch.get_rng_state(), reals, labels)
            return originals[name](reals, labels)

        setattr(trainer, name, spy)
    trainer.run()
    generator, discriminator = trainer.generator, trainer.discriminator
    softplus = torch.nn.functional.softplus

    def images_and_difference(name):
        rng_state, reals, labels = states[name]
        torch.set_rng_state(rng_state)
        reals = reals.clone().requires_grad_()
        fakes = generator(torch.randn(4, 5), labels)
        fakes = fakes if name == "_generator_step" else fakes.detach().requires_grad_()
        real_logits, fake_logits = discriminator(reals, labels), discriminator(fakes, labels)
        return reals, fakes, real_logits, fake_logits

    _, _, real_logits, fake_logits = images_and_difference("_generator_step")
    loss = softplus(real_logits - fake_logits).mean()
    expected = torch.autograd.grad(loss, list(generator.parameters()), allow_unused=True)
    for (name, parameter), wanted in zip(generator.named_parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, wanted, rtol=1e-3, atol=1e-6, msg=name)

    reals, fakes, real_logits, fake_logits = images_and_difference("_discriminator_step")
    loss = softplus(fake_logits - real_logits).mean()
    for weight, images, logits in ((0.4, reals, real_logits), (0.6, fakes, fake_logits)):
        (slope,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
        loss = loss + weight / 2 * 5 * slope.square().flatten(1).sum(1).mean()
    expected = torch.autograd.grad(loss, list(discriminator.parameters()), allow_unused=True)
    for (name, gradient), wanted in zip(gradients["d"].items(), expected, strict=True):
        wanted = torch.zeros_like(gradient) if wanted is None else wanted
        torch.testing.assert_close(gradient, wanted, rtol=1e-3, atol=1e-5, msg=name)


def test_an_unknown_objective_is_refused():
    with pytest.raises(ConfigError, match="wasserstein"):
        make_trainer(objective="wasserstein")


@pytest.mark.parametrize("num_images", [0, 3])
def test_loader_without_a_batch(num_images):
    with pytest.raises(ConfigError, match=r"no batch.*batch_size"):
        make_trainer(images=torch.zeros(num_images, 1, 8, 8))


def test_epoch_length_restarts_the_loader():
    trainer = make_trainer(epoch_length=5, max_epochs=2)  # the loader has two batches
    trainer.run()
    assert trainer.state.iteration == 10


def test_autocast_is_on_for_the_logistic_loss_alone(monkeypatch):
    found = []
    original = StyleGAN2Discriminator.forward

    def spy(self, images, labels=None):
        found.append(torch.is_autocast_enabled("cpu"))
        return original(self, images, labels)

    monkeypatch.setattr(StyleGAN2Discriminator, "forward", spy)
    make_trainer(num_images=4, amp=True).run()
    assert found == [True, True, True, False]  # generator's, real, fake, R1
    found.clear()
    make_trainer(num_images=4, amp=False).run()
    assert found == [False] * 4


def test_bf16_is_fast_answers():
    assert isinstance(bf16_is_fast(torch.device("cpu")), bool)
    assert not bf16_is_fast(torch.device("meta"))
    assert make_trainer(amp=None).amp_bf16 == bf16_is_fast(torch.device("cpu"))
