"""The walk: each loss by hand, the whole against a slow reference of the published form, and its side effects."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from latent_fakes import FakeGenerator, OutOfMemoryAbove, assert_same_state, fake_classifier, make_walk, state_of
from torch import nn
from torch.nn import functional

from monai_plan.latent import LatentWalk, WalkSettings, linear_path
from monai_plan.utils import ConfigError, TrainingError

DIMS = pytest.mark.parametrize("spatial_dims", [2, 3])


def networks(spatial_dims: int) -> tuple[nn.Module, nn.Module, nn.Module]:
    return (
        FakeGenerator(spatial_dims),
        fake_classifier(spatial_dims, 7, seed=1),
        fake_classifier(spatial_dims, 3, seed=2),
    )


def end_points(w_dim: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(3)
    return torch.randn(w_dim, generator=rng), torch.randn(w_dim, generator=rng)


def kl_from_uniform(logits):
    """KL(U ‖ softmax of logits [n]), by its definition."""
    uniform = torch.full_like(logits, 1 / len(logits))
    return (uniform * (uniform.log() - logits.softmax(0).log())).sum()


def published_loss(generator, identity_net, class_net, path, label):
    """The published form: chunks of four inner points, the means of their losses weighted 0.1 and 1."""
    loss = sum(((b - a) ** 2).sum() for a, b in pairwise(path))
    for first in range(1, len(path) - 1, 4):
        images = generator.synthesis(torch.stack(path[first : min(first + 4, len(path) - 1)])).clamp(-1, 1)
        id_logits = identity_net(images)
        uniform = torch.full_like(id_logits, 1 / id_logits.shape[1])
        loss = loss + 0.1 * functional.kl_div(id_logits.log_softmax(1), uniform, reduction="batchmean")
        target = torch.full((len(images),), label)
        loss = loss + functional.cross_entropy(class_net(images), target, reduction="mean")
    return loss


def published_walk(nets, w_a, w_b, label, num_points, steps, lr=0.1):
    """Adam on the published loss; (path, its loss)."""
    points = [(w_a + (w_b - w_a) * t / (num_points - 1)).requires_grad_() for t in range(1, num_points - 1)]
    adam = torch.optim.Adam(points, lr=lr, betas=(0.9, 0.999))
    for _ in range(steps):
        adam.zero_grad()
        published_loss(*nets, [w_a, *points, w_b], label).backward()
        adam.step()
    path = [w_a, *points, w_b]
    return torch.stack(path).detach(), published_loss(*nets, path, label).item()


@DIMS
def test_gradient_equals_the_published_form_at_any_split(spatial_dims):
    """T = 50: our sums with λ 0.025 and 0.25 are the published means of chunks with 0.1 and 1."""
    nets = networks(spatial_dims)
    for net in nets:
        net.eval()
    path = torch.randn(50, 6, generator=torch.Generator().manual_seed(1))
    points = list(path.clone().requires_grad_().unbind())
    loss = published_loss(*nets, points, 1)
    expected = torch.stack(torch.autograd.grad(loss, points[1:-1]))
    for points_per_batch in (1, 7, 48, 100):
        walk = make_walk(*nets, points_per_batch=points_per_batch)
        losses, gradient = walk.objective.losses_and_gradient(path[None], path[None, 1:-1], [1])
        torch.testing.assert_close(gradient[0], expected, rtol=1e-4, atol=1e-5)
        assert (losses[:, 0] @ torch.tensor([1.0, 0.025, 0.25])).item() == pytest.approx(loss.item(), rel=1e-5)


@DIMS
def test_defaults_equal_the_published_walk(spatial_dims):
    nets = networks(spatial_dims)
    w_a, w_b = end_points()
    result = make_walk(*nets, steps=8)(w_a, w_b, 1)
    for net in nets:
        net.eval()
    for steps in (0, 1, 8):
        path, loss = published_walk(nets, w_a, w_b, 1, num_points=50, steps=steps)
        assert result.total[steps].item() == pytest.approx(loss, rel=1e-3)
    # Adam divides by the size of the gradient, so rounding shows where that is near zero; points move by 0.1 a step.
    torch.testing.assert_close(result.path, path, rtol=0, atol=5e-3)


@DIMS
@pytest.mark.parametrize("num_points", [3, 10])
def test_result_does_not_depend_on_the_split(spatial_dims, num_points):
    w_a, w_b = end_points()
    nets, options = networks(spatial_dims), {"num_points": num_points, "steps": 5}
    whole = make_walk(*nets, **options)(w_a, w_b, 0)
    assert whole.path.shape == (num_points, 6)
    for points_per_batch in (1, 3, 100):
        split = make_walk(*nets, points_per_batch=points_per_batch, **options)(w_a, w_b, 0)
        torch.testing.assert_close(split.path, whole.path, rtol=0, atol=5e-3)
        torch.testing.assert_close(split.total, whole.total, rtol=1e-3, atol=0)


def test_weights_do_not_depend_on_the_number_of_points():
    """Each point weighs the same at any T: of identical points, the losses are proportional to their number."""
    w = end_points()[0]
    short, long = (make_walk(*networks(2), num_points=t, steps=0)(w, w, 0) for t in (12, 22))
    for name in ("identity", "class"):
        torch.testing.assert_close(long.losses[name], 2 * short.losses[name])
    torch.testing.assert_close(long.total, 2 * short.total)


@DIMS
def test_zero_steps_is_the_linear_path_with_its_losses(spatial_dims):
    nets = networks(spatial_dims)
    w_a, w_b = end_points()
    result = make_walk(*nets, num_points=6, steps=0, lambda_id=2.0, lambda_class=3.0)(w_a, w_b, 2)
    path = linear_path(w_a, w_b, 6)
    assert torch.equal(result.path, path)
    for net in nets:
        net.eval()
    images = nets[0].synthesis(path[1:-1]).clamp(-1, 1)
    expected = {
        "distance": sum(((b - a) ** 2).sum() for a, b in pairwise(path)),
        "identity": sum(kl_from_uniform(logits) for logits in nets[1](images)),
        "class": -nets[2](images).log_softmax(1)[:, 2].sum(),
    }
    assert set(result.losses) == set(expected)
    for name, value in expected.items():
        torch.testing.assert_close(result.losses[name], value.detach()[None])
    torch.testing.assert_close(
        result.total, (expected["distance"] + 2 * expected["identity"] + 3 * expected["class"]).detach()[None]
    )


@DIMS
def test_end_points_stay_and_networks_are_left_as_they_were(spatial_dims):
    nets = networks(spatial_dims)
    nets[1][0].eval()  # a mixed state must come back as well
    nets[2][0].weight.requires_grad_(False)
    before = state_of(*nets)
    w_a, w_b = end_points()
    with torch.no_grad():  # as inside an evaluator
        result = make_walk(*nets, num_points=8, steps=4, lr=0.005)(w_a, w_b, 0)
    assert_same_state(before, state_of(*nets))
    assert torch.equal(result.path[0], w_a)
    assert torch.equal(result.path[-1], w_b)
    assert not torch.equal(result.path, linear_path(w_a, w_b, 8))
    assert result.path.dtype == torch.float32
    assert not result.path.requires_grad
    assert all(loss.shape == (5,) for loss in (*result.losses.values(), result.total))
    assert result.total[-1] < result.total[0]


def test_no_gradient_of_a_weight_is_computed():
    """Not even for nothing: a modulated convolution would pay for one gradient of its weights per sample."""
    nets = networks(2)
    seen = []
    for net in nets[1:]:
        net.register_forward_hook(lambda n, *_: seen.append((n.training, any(p.requires_grad for p in n.parameters()))))
    make_walk(*nets, num_points=4, steps=1)(*end_points(), 0)
    assert seen == [(False, False)] * 4  # both networks, in the step and after it


def test_networks_come_back_after_an_error():
    nets = networks(2)
    before = state_of(*nets)
    with pytest.raises(ConfigError, match="Label 3"):
        make_walk(*nets, num_points=8, steps=4)(*end_points(), 3)
    assert_same_state(before, state_of(*nets))


def test_calls_do_not_depend_on_earlier_ones():
    walk = make_walk(*networks(2), num_points=6, steps=3)
    w_a, w_b = end_points()
    first = walk(w_a, w_b, 0)
    walk(w_b, 2 * w_a, 1)
    assert torch.equal(walk(w_a, w_b, 0).path, first.path)


class Nearest(nn.Module):
    """An identity classifier that knows its training images: logits fall with the squared distance to each."""

    def __init__(self, images: torch.Tensor, sharpness: float):
        super().__init__()
        self.register_buffer("images", images)
        self.sharpness = sharpness

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return -self.sharpness * torch.cdist(x.flatten(1), self.images.flatten(1)).square()


def patient_on_the_line(spatial_dims):
    """A generator, φ_id that knows three patients, one near the straight line, φ_class, their images and the ends."""
    generator = FakeGenerator(spatial_dims, w_dim=4).eval()
    w_a, w_b = torch.tensor([-1.0, 0, 0, 0]), torch.tensor([1.0, 0, 0, 0])
    patients = torch.tensor([[0.1, 0.05, 0, 0], [0, 1.0, 0.3, 0], [0, -0.8, 1.0, 0]])
    with torch.no_grad():
        images = generator.synthesis(patients).clamp(-1, 1)
        centres = generator.synthesis(torch.tensor([[0.0, 0, 0, 1], [0.0, 0, 0, -1]])).clamp(-1, 1)
    identity_net, class_net = Nearest(images, 5 / images[0].numel()), Nearest(centres, 8 / images[0].numel())
    return (generator, identity_net, class_net), images, w_a, w_b


@DIMS
def test_walk_goes_round_a_patient_and_keeps_the_class(spatial_dims):
    """A patient lies on the straight line: the walk must halve L_id, keep away from him, and keep the class."""
    nets, images, w_a, w_b = patient_on_the_line(spatial_dims)
    generator, _, class_net = nets
    walk = make_walk(*nets, num_points=12, steps=150, lr=0.05, lambda_id=1.0)
    result = walk(w_a, w_b, 0)
    assert result.losses["identity"][-1] < 0.5 * result.losses["identity"][0]

    def nearest(path):
        with torch.no_grad():
            return torch.cdist(generator.synthesis(path[1:-1]).flatten(1), images.flatten(1)).min()

    assert nearest(result.path) > 1.2 * nearest(linear_path(w_a, w_b, 12))
    with torch.no_grad():
        assert (class_net(generator.synthesis(result.path[1:-1])).argmax(1) == 0).all()


@DIMS
@pytest.mark.parametrize("recipe", [{}, {"schedule": "decay", "beta2": 0.5}])
def test_many_pairs_at_once_are_the_same_as_one_after_the_other(spatial_dims, recipe):
    options = {"num_points": 7, "steps": 6, "lambda_id": 0.5, "lr": 0.02, **recipe}
    rng = torch.Generator().manual_seed(5)
    w_a, w_b, labels = torch.randn(4, 6, generator=rng), torch.randn(4, 6, generator=rng), [2, 0, 1, 0]
    nets = networks(spatial_dims)
    alone = [make_walk(*nets, **options)(a, b, y) for a, b, y in zip(w_a, w_b, labels, strict=True)]
    for points_per_batch in (1024, 8, 3):  # batches that end within a pair, too
        walk = make_walk(*nets, points_per_batch=points_per_batch, **options)
        together = walk.walk_pairs(w_a, w_b, labels)
        assert walk.pairs_per_batch == max(points_per_batch // 5, 1)
        for one, other in zip(alone, together, strict=True):
            torch.testing.assert_close(other.path, one.path, rtol=0, atol=5e-3)
            torch.testing.assert_close(other.total, one.total, rtol=1e-3, atol=0)
            for name, values in one.losses.items():
                torch.testing.assert_close(other.losses[name], values, rtol=1e-3, atol=1e-5)
    assert make_walk(*nets).walk_pairs([], [], []) == []


def test_as_many_ends_as_labels():
    with pytest.raises(ConfigError, match="1 w_a, 2 w_b and 2 labels"):
        make_walk(*networks(2)).walk_pairs(torch.zeros(1, 6), torch.zeros(2, 6), [0, 1])


def test_decay_by_hand():
    walk = make_walk(*networks(2), steps=8, lr=0.2, schedule="decay")
    rates = [walk._rate(step) for step in range(8)]
    half = 0.1 * math.sqrt(0.5)
    assert rates == pytest.approx([0.2] * 5 + [0.1 + half, 0.1, 0.1 - half])
    assert make_walk(*networks(2), steps=8, lr=0.2)._rate(7) == 0.2


@DIMS
def test_bfloat16_is_near_and_leaves_the_losses_in_float32(spatial_dims):
    nets = networks(spatial_dims)
    w_a, w_b = end_points()
    exact, rough = (make_walk(*nets, num_points=8, steps=0, amp=amp)(w_a, w_b, 1) for amp in (False, True))
    assert rough.total.dtype == torch.float32
    torch.testing.assert_close(rough.total, exact.total, rtol=0.03, atol=0)
    assert not torch.equal(rough.total, exact.total)


def test_out_of_memory_halves_the_batch_and_goes_on():
    generator, identity_net, class_net = networks(2)
    w_a, w_b = end_points()
    expected = make_walk(generator, identity_net, class_net, num_points=12, steps=3)(w_a, w_b, 0)
    small = OutOfMemoryAbove(identity_net, 3)
    walk = make_walk(generator, small, class_net, num_points=12, steps=3)
    torch.testing.assert_close(walk(w_a, w_b, 0).path, expected.path, rtol=0, atol=5e-3)
    assert small.failures == 2  # 10 → 5 → 2, found once
    with pytest.raises(TrainingError, match="not hold even one sample"):
        make_walk(generator, OutOfMemoryAbove(identity_net, 0), class_net, num_points=4)(w_a, w_b, 0)


class NanAfter(nn.Module):
    """A classifier whose output turns to NaN after a number of calls."""

    def __init__(self, network: nn.Module, calls: int):
        super().__init__()
        self.network, self.left = network, calls

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.left -= 1
        return self.network(x) * (1 if self.left >= 0 else math.nan)


@pytest.mark.parametrize("calls", [0, 2])
def test_loss_that_is_not_finite_ends_the_walk(calls):
    generator, identity_net, class_net = networks(2)
    walk = make_walk(generator, NanAfter(identity_net, calls), class_net, num_points=4, steps=4)
    with pytest.raises(TrainingError, match=rf"not finite after {calls} steps .*identity nan"):
        walk(*end_points(), 0)


def test_progress_counts_steps():
    seen = []
    walk = make_walk(*networks(2), num_points=4, steps=3)
    walk(*end_points(), 0, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_a_batch_has_at_least_one_point():
    with pytest.raises(ConfigError, match="points_per_batch of the walk is 0, but must be at least 1"):
        make_walk(*networks(2), points_per_batch=0)


def test_the_default_is_the_fast_walk():
    assert LatentWalk(*networks(2)).settings == WalkSettings.fast()


@pytest.mark.parametrize(
    ("w_a", "w_b", "message"),
    [
        (torch.zeros(5), torch.zeros(6), r"w_a must be \[w_dim\] = \[6\]: got \[5\]"),
        (torch.zeros(6), torch.zeros(1, 6), "w_b must be"),
        (torch.zeros(6), torch.full((6,), math.inf), "w_b has values that are not finite"),
    ],
)
def test_bad_end_points(w_a, w_b, message):
    with pytest.raises(ConfigError, match=message):
        make_walk(*networks(2))(w_a, w_b, 0)


def test_generator_without_the_contract_is_refused():
    classifiers = fake_classifier(2, 2), fake_classifier(2, 2)
    with pytest.raises(ConfigError, match=r"Linear cannot be used as the generator: it is no .*Decoder\. Wrap it"):
        make_walk(nn.Linear(2, 2), *classifiers)
    generator = FakeGenerator(2)
    del generator.w_dim
    with pytest.raises(ConfigError, match="FakeGenerator lacks w_dim: set what is missing"):
        make_walk(generator, *classifiers)
