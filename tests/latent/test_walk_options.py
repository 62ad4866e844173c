"""What the walk does by option: terms, the relative objective, coarse to fine, W+."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from latent_fakes import FakeGenerator, assert_same_state, fake_classifier, make_walk, state_of
from torch import nn

from monai_plan.latent import LatentWalk, WalkSettings, linear_path
from monai_plan.networks import LatentDecoder
from monai_plan.utils import ConfigError

DIMS = pytest.mark.parametrize("spatial_dims", [2, 3])


def networks(spatial_dims: int) -> tuple[nn.Module, nn.Module, nn.Module]:
    return (
        FakeGenerator(spatial_dims),
        fake_classifier(spatial_dims, 7, seed=1),
        fake_classifier(spatial_dims, 3, seed=2),
    )


def end_points(*shape: int) -> tuple[torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(3)
    shape = shape or (6,)
    return torch.randn(shape, generator=rng), torch.randn(shape, generator=rng)


class FirstNumber(nn.Module):
    """A term: the first number of w, with noise unless it is in eval mode."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.dropout = nn.Dropout(0.5)

    def forward(self, w, images, labels):
        assert images.dtype == torch.float32
        assert len(images) == len(labels) == len(w)
        assert images.abs().max() <= 1
        return self.dropout(w.flatten(1)[:, 0]) * self.scale


ONLY_DISTANCE = {"lambda_id": 0.0, "lambda_class": 0.0, "schedule": "decay"}


# terms -----------------------------------------------------------------------------------------------------------


@DIMS
def test_a_linear_term_bends_the_path_to_a_parabola(spatial_dims):
    """L = L_dist + λ Σ_t w_t[0] is least on the line minus λ/4 · t (T − 1 − t) in that number."""
    w_a, w_b = end_points()
    term = (0.5, FirstNumber())
    before = state_of(term[1])
    walk = make_walk(*networks(spatial_dims), num_points=8, steps=400, terms={"first": term}, **ONLY_DISTANCE)
    result = walk(w_a, w_b, 1)
    assert_same_state(before, state_of(term[1]))
    expected = linear_path(w_a, w_b, 8)
    t = torch.arange(8)
    expected[:, 0] -= 0.5 / 4 * t * (7 - t)
    torch.testing.assert_close(result.path, expected, rtol=0, atol=2e-3)
    assert list(result.losses) == ["distance", "identity", "class", "first"]
    torch.testing.assert_close(result.losses["first"][-1], result.path[1:-1, 0].sum())
    torch.testing.assert_close(result.total, result.losses["distance"] + 0.5 * result.losses["first"])


def test_a_term_of_weight_zero_is_measured_and_does_not_pull():
    nets, ends = networks(2), end_points()
    plain = make_walk(*nets, num_points=6, steps=5)(*ends, 0)
    measured = make_walk(*nets, num_points=6, steps=5, terms={"first": (0.0, FirstNumber())})(*ends, 0)
    assert torch.equal(measured.path, plain.path)
    assert torch.equal(measured.total, plain.total)
    assert measured.losses["first"].abs().min() > 0


def test_terms_and_weights_belong_together():
    nets = networks(2)
    for terms, weights, message in (
        ({"mine": FirstNumber()}, {}, "term mine has no weight: name it in lambda_terms"),
        ({}, {"mine": 0.5}, "lambda_terms weighs a term mine that is not among the terms"),
        ({"mine": len}, {"mine": 0.5}, r"term mine is a builtin_function_or_method, but must be a torch\.nn\.Module"),
    ):
        with pytest.raises(ConfigError, match=message):
            LatentWalk(*nets, settings=WalkSettings(lambda_terms=weights), terms=terms)
    LatentWalk(*nets, settings=WalkSettings(lambda_terms={"mine": 0.0}))  # what does not pull need not be there


# the relative objective ------------------------------------------------------------------------------------------


class Rescaled(LatentDecoder):
    """G in a space W that is ``scale`` times as wide: synthesis(w) = G(w / scale)."""

    def __init__(self, generator: FakeGenerator, scale: float):
        super().__init__()
        self.generator, self.scale = generator, scale
        for name in ("z_dim", "w_dim", "num_classes", "img_size", "img_channels"):
            setattr(self, name, getattr(generator, name))

    def mapping(self, z, labels=None):
        return self.scale * self.generator.mapping(z, labels)

    def synthesis(self, w):
        return self.generator.synthesis(w / self.scale)


RELATIVE = {"normalize": True, "lambda_id": 0.2, "lambda_class": 0.2, "lr": 0.02}


@settings(deadline=None, max_examples=10)
@given(st.floats(0.01, 100), st.sampled_from([2, 3]))
def test_a_wider_w_gives_the_wider_path(scale, spatial_dims):
    generator, *classifiers = networks(spatial_dims)
    w_a, w_b = end_points()
    options = {"num_points": 7, "steps": 10, **RELATIVE}
    plain = make_walk(generator, *classifiers, **options)(w_a, w_b, 1)
    wide = make_walk(Rescaled(generator, scale), *classifiers, **options)(scale * w_a, scale * w_b, 1)
    assert (plain.path - linear_path(w_a, w_b, 7)).abs().max() > 0.05
    torch.testing.assert_close(wide.path / scale, plain.path, rtol=0, atol=5e-3)
    torch.testing.assert_close(wide.total, plain.total, rtol=1e-3, atol=0)


def test_the_published_objective_is_another_one_in_a_wider_w():
    """Which the test above would not notice if the two were the same."""
    generator, *classifiers = networks(2)
    w_a, w_b = end_points()
    options = {"num_points": 7, "steps": 10, **RELATIVE, "normalize": False}
    plain = make_walk(generator, *classifiers, **options)(w_a, w_b, 1)
    wide = make_walk(Rescaled(generator, 10.0), *classifiers, **options)(10 * w_a, 10 * w_b, 1)
    assert (wide.path / 10 - plain.path).abs().max() > 0.05


@DIMS
def test_the_conversion_of_the_weights(spatial_dims):
    """With λ (T − 1) (T − 2) / ‖w_b − w_a‖² it is the published objective over a constant."""
    nets, (w_a, w_b) = networks(spatial_dims), end_points()
    squared = (w_b - w_a).square().sum()
    factor = (11 * 10 / squared).item()
    options = {"num_points": 12, "lr": 0.02}
    published = make_walk(*nets, steps=8, **options)(w_a, w_b, 2)
    unit = (squared / 6).sqrt().item()
    relative = make_walk(
        *nets, steps=8, normalize=True, lambda_id=0.025 * factor, lambda_class=0.25 * factor,
        **{**options, "lr": 0.02 / unit},
    )(w_a, w_b, 2)  # fmt: skip
    torch.testing.assert_close(relative.total * squared / 11, published.total, rtol=1e-3, atol=0)
    torch.testing.assert_close(relative.path, published.path, rtol=0, atol=5e-3)


def test_the_relative_weights_hold_for_any_number_of_points():
    """Twice as many points: the same curve, and the same objective."""
    nets, (w_a, w_b) = networks(2), end_points()
    options = {"steps": 400, "schedule": "decay", **RELATIVE, "lr": 0.05, "beta2": 0.95}
    few, many = (make_walk(*nets, num_points=t, **options)(w_a, w_b, 1) for t in (26, 51))
    assert many.total[-1].item() == pytest.approx(few.total[-1].item(), rel=0.03)
    bend = (few.path - linear_path(w_a, w_b, 26)).norm(dim=1).max()
    assert bend > 0.1
    assert (many.path[::2] - few.path).norm(dim=1).max() < 0.1 * bend


def test_the_same_point_twice_has_no_distance_to_divide_by():
    w, _ = end_points()
    with pytest.raises(ConfigError, match="w_a and w_b are the same point, but normalize"):
        make_walk(*networks(2), normalize=True)(w, w.clone(), 0)


# Adam's second moment ---------------------------------------------------------------------------------------------


def test_large_first_gradients_are_forgotten():
    """A cliff at the start, a gentle slope beyond it: with 0.999 the points are slow long after it."""

    class Cliff(nn.Module):
        def forward(self, w, images, labels):
            first = w[:, 0]
            return torch.where(first < 0.05, 50 * (0.05 - first), 0 * first) - 0.5 * first

    ends = torch.zeros(6), torch.tensor([0.0, 4.0, 0.0, 0.0, 0.0, 0.0])
    terms = {"cliff": (1.0, Cliff())}
    options = {"num_points": 4, "steps": 200, "lr": 0.01, "terms": terms, **ONLY_DISTANCE}
    gone = {
        beta2: make_walk(*networks(2), beta2=beta2, **options)(*ends, 0).path[1:-1, 0].mean().item()
        for beta2 in (0.95, 0.999)
    }
    assert gone[0.95] == pytest.approx(0.25, abs=0.02)  # the least point: 2 · w = 0.5 for two points between zeros
    assert gone[0.999] < 0.18


# W+ --------------------------------------------------------------------------------------------------------------


@DIMS
def test_the_same_w_in_all_layers_has_the_losses_of_w(spatial_dims):
    nets, (w_a, w_b) = networks(spatial_dims), end_points()
    single = make_walk(*nets, num_points=6, steps=0)(w_a, w_b, 1)
    layers = make_walk(*nets, num_points=6, steps=0)(w_a.expand(3, 6), w_b.expand(3, 6), 1)
    assert layers.path.shape == (6, 3, 6)
    for name in ("identity", "class"):
        torch.testing.assert_close(layers.losses[name], single.losses[name])
    torch.testing.assert_close(layers.losses["distance"], 3 * single.losses["distance"])


@DIMS
@pytest.mark.parametrize("options", [{}, {"normalize": True, "lambda_id": 0.5}])
def test_a_walk_in_w_plus(spatial_dims, options):
    nets = networks(spatial_dims)
    w_a, w_b = end_points(2, 3, 6)  # two pairs of three layers
    walk = make_walk(*nets, **{"num_points": 7, "steps": 60, "lr": 0.01, **options})
    together = walk.walk_pairs(w_a, w_b, [1, 2])
    for a, b, label, result in zip(w_a, w_b, [1, 2], together, strict=True):
        assert result.path.shape == (7, 3, 6)
        assert torch.equal(result.path[0], a)
        assert torch.equal(result.path[-1], b)
        assert result.total[-1] < result.total[0]
        alone = walk(a, b, label)
        torch.testing.assert_close(result.path, alone.path, rtol=0, atol=5e-3)


@pytest.mark.parametrize(
    ("w_a", "w_b", "message"),
    [
        (torch.zeros(2, 5), torch.zeros(2, 6), r"w_a must be \[w_dim\] = \[6\]: got \[2, 5\]"),
        (torch.zeros(2, 6), torch.zeros(3, 6), "w_a and w_b must both be"),
        (torch.zeros(6), torch.zeros(2, 6), "w_a and w_b must both be"),
        (torch.zeros(1, 6), torch.zeros(1, 6), "w_a must be"),  # a batch of one by mistake
    ],
)
def test_bad_latents_of_w_plus(w_a, w_b, message):
    with pytest.raises(ConfigError, match=message):
        make_walk(*networks(2))(w_a, w_b, 0)


def test_pairs_of_one_space_are_walked_together():
    with pytest.raises(ConfigError, match=r"shapes \[\[6\], \[2, 6\]\]"):
        make_walk(*networks(2)).walk_pairs(*[[torch.zeros(6), torch.zeros(2, 6)]] * 2, [0, 0])


# ends of which nothing is wanted -----------------------------------------------------------------------------------


@DIMS
@pytest.mark.parametrize("coarse", [{}, {"coarse_points": 9, "coarse_steps": 200}])
def test_idle_ends_lie_on_straight_lines_and_are_not_synthesised(spatial_dims, coarse):
    """L = L_dist + λ Σ_t w_t[0] over the middle alone is least on a parabola there, with tangents to the ends."""
    w_a, w_b = end_points()
    nets, points = networks(spatial_dims), []
    synthesis = nets[0].synthesis
    nets[0].synthesis = lambda w: points.append(len(w)) or synthesis(w)
    walk = make_walk(
        *nets, num_points=17, steps=400, min_end_distance=0.25, terms={"first": (0.05, FirstNumber())}, lr=0.05,
        **coarse, **ONLY_DISTANCE,
    )  # fmt: skip
    assert (walk.settings.num_idle, walk.settings.num_moving) == (3, 9)
    path = walk(w_a, w_b, 0).path
    moving = torch.arange(4, 13)
    laplace = 4 * torch.eye(15) - 2 * torch.eye(15).roll(1, 0).tril() - 2 * torch.eye(15).roll(-1, 0).triu()
    pull = torch.zeros(15)
    pull[moving - 1] = 0.05
    expected = linear_path(w_a, w_b, 17)
    expected[1:-1, 0] -= torch.linalg.solve(laplace, pull)
    torch.testing.assert_close(path, expected, rtol=0, atol=2e-2 if coarse else 2e-3)
    assert set(points) <= {9, 5}  # of 17 and of 9 points
    for a, b, c in ((0, 2, 4), (16, 14, 12)):
        torch.testing.assert_close(path[b], (path[a] + path[c]) / 2, rtol=0, atol=1e-5)
    assert WalkSettings(min_end_distance=0.0).num_moving == 48


def test_an_end_distance_that_leaves_nothing_is_refused():
    for options in ({"num_points": 6, "min_end_distance": 0.45}, {"coarse_points": 4, "min_end_distance": 0.49}):
        with pytest.raises(ConfigError, match=r"min_end_distance of the walk is 0\.4\d: none of \d+ points is left"):
            WalkSettings(**options)
    with pytest.raises(ConfigError, match=r"min_end_distance of the walk is 0\.5, but must be at least 0 and below"):
        WalkSettings(min_end_distance=0.5)


# coarse to fine --------------------------------------------------------------------------------------------------


@DIMS
@pytest.mark.parametrize("normalize", [False, True])
def test_the_coarse_path_lies_on_the_curve_of_the_fine_objective(spatial_dims, normalize):
    """A linear term bends the line to a parabola, whatever T: every second of 13 points is one of the 7 coarse ones."""
    w_a, w_b = end_points()
    squared = (w_b - w_a).square().sum().item()
    weight = 0.05 * (12 * 11 / squared if normalize else 1)
    rate = {"lr": 0.05 / math.sqrt(squared / 6)} if normalize else {"lr": 0.05}
    walk = make_walk(
        *networks(spatial_dims), num_points=13, steps=0, coarse_points=7, coarse_steps=400, normalize=normalize,
        terms={"first": (weight, FirstNumber())}, **rate, **ONLY_DISTANCE,
    )  # fmt: skip
    path = walk(w_a, w_b, 0).path
    t = torch.arange(13)
    expected = linear_path(w_a, w_b, 13)
    expected[:, 0] -= 0.05 / 4 * t * (12 - t)
    torch.testing.assert_close(path[::2], expected[::2], rtol=0, atol=5e-3)
    torch.testing.assert_close(path[1::2], (path[:-1:2] + path[2::2]) / 2, rtol=0, atol=1e-6)
    assert (expected - linear_path(w_a, w_b, 13)).abs().max() > 0.4  # there is something to see


@DIMS
@pytest.mark.parametrize("options", [{"beta2": 0.5}, {"lr": 0.02}])
def test_the_coarse_walk_is_that_of_fewer_points(spatial_dims, options):
    """With every option, λ times (6 / 3)²."""
    w_a, w_b = end_points()
    nets, shared = networks(spatial_dims), {"lr": 0.05, "schedule": "decay", **options}
    walk = make_walk(
        *nets, num_points=7, steps=0, coarse_points=4, coarse_steps=120, lambda_id=0.2, lambda_class=0.3, **shared
    )
    expected = make_walk(*nets, num_points=4, steps=120, lambda_id=0.8, lambda_class=1.2, **shared)(w_a, w_b, 1)
    torch.testing.assert_close(walk(w_a, w_b, 1).path[::2], expected.path)
    assert (expected.path - linear_path(w_a, w_b, 4)).abs().max() > 0.01


@DIMS
@pytest.mark.parametrize("shape", [(6,), (2, 6)])
def test_a_coarse_walk_is_refined(spatial_dims, shape):
    w_a, w_b = end_points(*shape)
    options = {"num_points": 9, "lambda_id": 0.5, "lambda_class": 0.5, "lr": 0.05, "schedule": "decay"}
    seen = []
    nets = networks(spatial_dims)
    walk = make_walk(*nets, steps=4, coarse_points=4, coarse_steps=30, **options)
    result = walk(w_a, w_b, 1, progress=lambda done, total: seen.append((done, total)))
    straight = make_walk(*nets, steps=0, **options)(w_a, w_b, 1)
    coarse = make_walk(*nets, steps=0, coarse_points=4, coarse_steps=30, **options)(w_a, w_b, 1)
    assert torch.equal(result.path[[0, -1]], torch.stack([w_a, w_b]))
    assert result.total.shape == (6,)
    for name, values in result.losses.items():
        torch.testing.assert_close(values[0], straight.losses[name][0])
        torch.testing.assert_close(values[1], coarse.losses[name][-1])
    assert result.total[-1] < result.total[1] < result.total[0]
    assert seen == [(done, 34) for done in range(1, 35)]
    together = walk.walk_pairs([w_a, w_b], [w_b, w_a], [1, 0])
    torch.testing.assert_close(together[0].path, result.path, rtol=1e-3, atol=1e-4)
