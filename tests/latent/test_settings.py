"""Settings: what is published, what the bundle chooses, what cannot work, and that they go through a file."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from monai_plan.latent import InversionSettings, WalkSettings
from monai_plan.utils import ConfigError


def test_the_published_walk():
    """T, steps, rate and weights of the published code: its 0.1 and 1 on means of four points, here on sums."""
    settings = WalkSettings.published()
    assert settings == WalkSettings()
    assert (settings.num_points, settings.steps, settings.lr, settings.schedule) == (50, 500, 0.1, "constant")
    assert (settings.beta2, settings.coarse_points, settings.normalize) == (0.999, 0, False)
    assert settings.weights == pytest.approx({"identity": 0.1 / 4, "class": 1 / 4})


def test_the_published_projector():
    settings = InversionSettings.published()
    assert (settings.steps, settings.lr, settings.initial_noise, settings.noise_ramp) == (1000, 0.1, 0.05, 0.75)
    assert (settings.lr_rampup, settings.lr_rampdown, settings.patience, settings.space) == (0.05, 0.25, 0, "w")


@pytest.mark.parametrize(
    ("num_points", "changes", "expected"),
    [
        (50, {}, (25, 200, 30)),
        (33, {}, (25, 200, 30)),
        (32, {}, (0, 200, 200)),
        (50, {"coarse_points": 0}, (0, 200, 200)),
        (32, {"coarse_points": 8}, (8, 200, 30)),
        (50, {"steps": 7, "coarse_steps": None, "coarse_points": None}, (25, 200, 7)),
    ],
)
def test_the_fast_walk_goes_from_coarse_to_fine_where_it_pays(num_points, changes, expected):
    settings = WalkSettings.fast(num_points=num_points, **changes)
    assert (settings.coarse_points, settings.coarse_steps, settings.steps) == expected
    assert (settings.schedule, settings.beta2, settings.lr) == ("decay", 0.95, 0.1)


@pytest.mark.parametrize(("encoder", "start_noise", "initial_noise"), [(True, 0.03, 0.0), (False, 0.0, 0.05)])
def test_the_fast_inversion_has_noise_where_no_encoder_guesses(encoder, start_noise, initial_noise):
    settings = InversionSettings.fast(encoder=encoder, steps=None, starts=3)
    assert (settings.start_noise, settings.initial_noise) == (start_noise, initial_noise)
    assert (settings.steps, settings.starts, settings.patience, settings.pixel_weight) == (200, 3, 15, 1.0)


@pytest.mark.parametrize("kind", [WalkSettings, InversionSettings])
def test_none_leaves_what_is_chosen_and_an_unknown_name_is_refused(kind):
    assert kind.fast(lr=None) == kind.fast()
    assert kind.fast(lr=0.3).lr == 0.3
    for make in (lambda: kind.fast(stebs=3), lambda: kind.from_dict({"stebs": 3})):
        with pytest.raises(ConfigError, match=r"stebs is no setting of the \w+: the closest known is steps"):
            make()


@pytest.mark.parametrize(
    "settings",
    [WalkSettings.fast(lambda_terms={"margin": 0.5}), WalkSettings(), InversionSettings.fast(space="w_plus")],
)
def test_a_file_gives_them_back(settings):
    values = settings.as_dict()
    assert type(settings).from_dict(values) == settings
    assert values["lr"] == settings.lr
    assert all(isinstance(value, int | float | str | dict) for value in values.values())


def test_in_words():
    assert str(WalkSettings.published()) == (
        "500 steps of 50 points; rate 0.1, constant, β2 0.999; λ_id 0.025, λ_class 0.25"
    )
    ours = WalkSettings.fast(num_points=40, lambda_id=0.5, normalize=True, lambda_terms={"margin": 2.0, "other": 0.0})
    assert str(ours) == (
        "200 steps of 25 points, then 30 steps of 40 points at a tenth of the rate; rate 0.1, decaying, β2 0.95; "
        "λ_id 0.5, λ_class 0.25, λ_margin 2.0, relative to the straight line"
    )
    assert str(InversionSettings.published()) == (
        "1000 steps from 5 starts in W at rate 0.1; noise of 0.05 σ_w that fades"
    )
    assert str(InversionSettings.fast(encoder=True, starts=1, space="w_plus")) == (
        "at most 200 steps from 1 start in W+ at rate 0.2, ended after 15 steps without 1 % progress; "
        "starts 0.03 σ_w apart, pixel weight 1.0"
    )


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"num_points": 2}, "a whole number of at least 3"),
        ({"num_points": "many"}, "a whole number of at least 3"),
        ({"steps": -1}, "a whole number of at least 0"),
        ({"steps": 2.5}, "a whole number of at least 0"),
        ({"lr": 0.0}, "above 0 and finite"),
        ({"lr": math.nan}, "above 0 and finite"),
        ({"lr": "fast"}, "above 0 and finite"),
        ({"schedule": "linear"}, "'constant' or 'decay'"),
        ({"beta2": 1.0}, "at least 0 and below 1"),
        ({"beta2": -0.1}, "at least 0 and below 1"),
        ({"lambda_id": -1.0}, "at least 0 and finite"),
        ({"lambda_class": math.inf}, "at least 0 and finite"),
        ({"lambda_terms": {"margin": -1.0}}, "names, each with a number of at least 0"),
        ({"lambda_terms": 0.5}, "names, each with a number of at least 0"),
        ({"coarse_points": -3}, "a whole number of at least 0"),
        ({"coarse_points": 2}, "at least 3 and less than num_points = 50, or 0 to walk"),
        ({"coarse_points": 50}, "at least 3 and less than num_points = 50, or 0 to walk"),
        ({"coarse_points": "four"}, "a whole number of at least 0"),
        ({"coarse_steps": 0}, "a whole number of at least 1"),
        ({"normalize": "yes"}, "True or False"),
        ({"amp": 1}, "True or False"),
    ],
)
def test_walks_that_cannot_work(change, rule):
    ((name, value),) = change.items()
    for make in (WalkSettings, WalkSettings.fast, lambda **changes: replace(WalkSettings(), **changes)):
        with pytest.raises(ConfigError) as error:
            make(**change)
        message = str(error.value)
        assert message.startswith(f"{name} of the walk is {value!r}, but must be {rule}")


@pytest.mark.parametrize("name", ["distance", "identity", "class"])
def test_a_term_needs_a_name_of_its_own(name):
    with pytest.raises(ConfigError, match=f"lambda_terms has the name '{name}'"):
        WalkSettings(lambda_terms={name: 1.0})


@pytest.mark.parametrize(
    "change",
    [
        {"space": "z"}, {"steps": 0}, {"lr": 0.0}, {"starts": 0}, {"start_noise": -0.1}, {"lr_rampup": 1.5},
        {"lr_rampdown": -0.1}, {"initial_noise": -1.0}, {"noise_ramp": 0.0}, {"patience": -1}, {"tolerance": 1.0},
        {"pixel_weight": -1.0}, {"num_mean_samples": 1}, {"steps": "many"},
    ],
)  # fmt: skip
def test_inversions_that_cannot_work(change):
    ((name, value),) = change.items()
    with pytest.raises(ConfigError) as error:
        InversionSettings(**change)
    assert str(error.value).startswith(f"{name} of the inversion is {value!r}, but must be ")


def test_several_starts_must_differ():
    with pytest.raises(ConfigError, match="both 0, so its 2 starts would be one and the same"):
        InversionSettings(starts=2, initial_noise=0.0)
    assert InversionSettings(starts=1, initial_noise=0.0).starts == 1
    assert InversionSettings(starts=2, initial_noise=0.0, start_noise=0.1).starts == 2
