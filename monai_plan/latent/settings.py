"""What decides the result of a walk and of an inversion, as values: checked, printed in words, kept in files."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from difflib import get_close_matches
from typing import Any, TypeVar

from monai_plan.rules import Rule, Ruled, checked, number, one_of, switch, whole
from monai_plan.utils import ConfigError

ANCHORS = ("prior", "k_same")  # points of G's own distribution, or averages of patients
WALKS = ("plan", "none")  # a walk between anchors, or none: the anchors themselves
SPACES = ("w", "w_plus")  # where latents live: one w per image, or one for every layer of G
Own = TypeVar("Own", bound="_Settings")

_ABOVE_0 = number(lambda value: value > 0, "above 0 and finite")
_AT_LEAST_0 = number(lambda value: value >= 0, "at least 0 and finite")
_BELOW_1 = number(lambda value: 0 <= value < 1, "at least 0 and below 1")
_SHARE = number(lambda value: 0 <= value <= 1, "from 0 to 1")
_WEIGHTS: Rule = (
    lambda value: isinstance(value, Mapping) and all(map(_AT_LEAST_0[0], value.values())),
    "names, each with a number of at least 0",
)


@dataclass(frozen=True)
class _Settings(Ruled):
    """What both kinds share."""

    @classmethod
    def published(cls: type[Own]) -> Own:
        """What the published code does."""
        return cls()

    def as_dict(self) -> dict[str, Any]:
        """All of them as plain values, for the header of a file."""
        return asdict(self)

    @classmethod
    def from_dict(cls: type[Own], values: Mapping[str, Any]) -> Own:
        """What ``as_dict`` gave.

        Raises:
            ConfigError: if there is no such setting, or a value lies outside its range.
        """
        known = [setting.name for setting in fields(cls)]
        for name in values:
            if name not in known:
                closest = get_close_matches(name, known, n=1, cutoff=0) or known
                raise ConfigError(f"{name} is no setting of {cls.OF}: the closest known is {closest[0]}.")
        return cls(**values)

    @classmethod
    def _chosen(cls: type[Own], chosen: Mapping[str, Any], changes: Mapping[str, Any]) -> Own:
        """What is chosen, with those changes that are not None."""
        return cls.from_dict({**chosen, **{name: value for name, value in changes.items() if value is not None}})


@dataclass(frozen=True)
class WalkSettings(_Settings):
    """How ``LatentWalk`` walks; the defaults are ``published()``.

    Attributes:
        num_points: T, at least 3, end points included.
        steps: Adam steps with all T points, at least 0; 0 gives the straight line, or the coarse path.
        lr: learning rate of the first step, above 0.
        schedule: "constant", as published, or "decay", which lowers the rate to 0 by a cosine over the second half of
            the steps: Adam at a constant rate circles the minimum.
        beta2: decay of Adam's second moment, in [0, 1); its first is 0.9. Where the straight line has lost the class,
            the first gradients are many times the later ones, and at 0.999, as published, they are long remembered.
        coarse_points: T_c, at least 3 and less than T: first ``coarse_steps`` steps, at a rate that decays, with a path
            of T_c points, whose λ are scaled so that the same curve is the best one; then T points on that curve
            and ``steps`` steps at a tenth of ``lr``. 0, as published: all T points from the start.
        coarse_steps: at least 1; without ``coarse_points`` it has no part.
        lambda_id: λ_id, at least 0.
        lambda_class: λ_class, at least 0.
        lambda_terms: λ of each further term by its name, at least 0; at 0 a term is measured and does not pull.
        normalize: an objective relative to the straight line, see ``LatentWalk``; False is as published.
        min_end_distance: share of the path at either end, at least 0 and below 0.5, of which nothing is wanted: its
            points are not synthesised, have no part in L_id, L_class and the terms, and lie evenly on the straight line
            to the nearest point that moves. 0, as published: all inner points move.
        amp: bfloat16 autocast of the three networks, the losses in float32; faster where ``bf16_is_fast``, and
            accurate to about three digits. False computes all in float32.

    Raises:
        ConfigError: if a value lies outside its range, or ``min_end_distance`` leaves no point to move.

    Example:
        >>> print(WalkSettings.fast(lambda_id=0.05))
        200 steps of 25 points, then 30 steps of 50 points at a tenth of the rate; rate 0.1, decaying, β2 0.95;
        λ_id 0.05, λ_class 0.25
    """

    num_points: int = checked(50, whole(3))
    steps: int = checked(500, whole(0))
    lr: float = checked(0.1, _ABOVE_0)
    schedule: str = checked("constant", one_of("constant", "decay"))
    beta2: float = checked(0.999, _BELOW_1)
    coarse_points: int = checked(0, whole(0))
    coarse_steps: int = checked(200, whole(1))
    lambda_id: float = checked(0.025, _AT_LEAST_0)
    lambda_class: float = checked(0.25, _AT_LEAST_0)
    lambda_terms: Mapping[str, float] = field(default_factory=dict, metadata={"rule": _WEIGHTS})
    normalize: bool = checked(False, switch)
    min_end_distance: float = checked(0.0, number(lambda value: 0 <= value < 0.5, "at least 0 and below 0.5"))
    amp: bool = checked(False, switch)

    OF = "the walk"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.coarse_points and not 3 <= self.coarse_points < self.num_points:
            raise ConfigError(
                f"coarse_points of the walk is {self.coarse_points}, but must be at least 3 and less than num_points = "
                f"{self.num_points}, or 0 to walk with all points from the start."
            )
        if self.num_moving < 1:
            raise ConfigError(
                f"min_end_distance of the walk is {self.min_end_distance}: none of {self.num_points} points is left "
                "to move; take less, or more points."
            )
        if self.coarse_points:
            self.coarse()  # which has its own points to leave
        taken = sorted(self.lambda_terms.keys() & {"distance", "identity", "class"})
        if taken:
            raise ConfigError(f"lambda_terms has the name {taken[0]!r}, which a loss of the walk bears: take another.")

    @classmethod
    def fast(cls, num_points: int = 50, *, anchors: str = "prior", **changes: Any) -> WalkSettings:
        """What the bundle uses: a lower objective than the published 500 steps reach, for a quarter of the images.

        Args:
            num_points: T. Above 32 the walk goes from coarse to fine; shorter paths do not need to.
            anchors: what the ends are: "prior", points of G's own distribution, or "k_same", averages of patients, of
                which at either end 0.375 of the path is left out.
            changes: other settings by name; None leaves what is chosen here.

        Raises:
            ConfigError: if there is no such setting, or a value lies outside its range.
        """
        coarse_points = changes.get("coarse_points")
        if coarse_points is None:
            coarse_points = 25 if isinstance(num_points, int) and num_points > 32 else 0
        recipe = {"num_points": num_points, "schedule": "decay", "beta2": 0.95, "coarse_points": coarse_points}
        recipe |= {"steps": 30 if coarse_points else 200, "min_end_distance": 0.375 if anchors == "k_same" else 0.0}
        return cls._chosen(recipe, changes)

    @property
    def weights(self) -> dict[str, float]:
        """λ of every term by its name, L_id and L_class first."""
        return {"identity": self.lambda_id, "class": self.lambda_class, **self.lambda_terms}

    @property
    def num_idle(self) -> int:
        """Points between an end and the first one that moves."""
        return max(math.ceil(round(self.min_end_distance * (self.num_points - 1), 6)) - 1, 0)

    @property
    def num_moving(self) -> int:
        """Points that are synthesised and move."""
        return self.num_points - 2 * (1 + self.num_idle)

    def coarse(self) -> WalkSettings:
        """The walk of ``coarse_points`` that is least on the same curve.

        Two neighbours' pull on a point goes as the square of the step, 1/(T − 1)², so λ does; the relative
        objective has the factor (T − 1)/(T − 2) of its means besides, T − 2 the points that move.
        """
        coarse = replace(self, num_points=self.coarse_points, coarse_points=0)
        finer = (self.num_points - 1) / (self.coarse_points - 1)
        scale = finer * coarse.num_moving / self.num_moving if self.normalize else finer**2
        return replace(
            coarse,
            steps=self.coarse_steps,
            schedule="decay",
            lambda_id=self.lambda_id * scale,
            lambda_class=self.lambda_class * scale,
            lambda_terms={name: weight * scale for name, weight in self.lambda_terms.items()},
        )

    def __str__(self) -> str:
        steps = f"{self.steps} steps of {self.num_points} points"
        if self.coarse_points:
            steps = f"{self.coarse_steps} steps of {self.coarse_points} points, then {steps} at a tenth of the rate"
        rate = f"rate {self.lr}, {'decaying' if self.schedule == 'decay' else 'constant'}, β2 {self.beta2}"
        weights = [f"λ_id {self.lambda_id}", f"λ_class {self.lambda_class}"]
        weights += [f"λ_{name} {weight}" for name, weight in self.lambda_terms.items() if weight]
        weights += ["relative to the straight line"] if self.normalize else []
        ends = f"; {self.min_end_distance:.3g} of the path at either end left out" if self.min_end_distance else ""
        return f"{steps}; {rate}; {', '.join(weights)}{ends}"


@dataclass(frozen=True)
class SelectionSettings(_Settings):
    """How ``PriorAnchors`` chooses among draws of G; the defaults are ``published()``: random points, none refused.

    Attributes:
        truncation: ψ, from 0.1 to 1: how far from its class's mean a w lies, 1 as far as the mapping puts it. With less
            all images of a class would be one and the same.
        candidates: draws per point, at least 1; the more, the less φ_id knows those that are taken.
        min_class_probability: of φ_class for the class, in [0, 1].
        latent_share: share of the draws, in [0, 1), that is left out for lying nearest to a patient in W.
        identity_share: share of the draws that then remain, in [0, 1], those that φ_id knows least, among which the
            points are chosen that lie farthest apart; 0: those known least, however alike.

    Raises:
        ConfigError: if a value lies outside its range.

    Example:
        >>> print(SelectionSettings(candidates=20, min_class_probability=0.9, latent_share=0.1, identity_share=0.5))
        1 of 20 draws; φ_class at least 0.9; 0.1 of them left out, nearest to a patient in W; farthest apart among the
        0.5 that φ_id knows least
    """

    truncation: float = checked(1.0, number(lambda value: 0.1 <= value <= 1, "from 0.1 to 1"))
    candidates: int = checked(1, whole(1))
    min_class_probability: float = checked(0.0, _SHARE)
    latent_share: float = checked(0.0, _BELOW_1)
    identity_share: float = checked(0.0, _SHARE)

    OF = "the selection"

    def __str__(self) -> str:
        parts = [f"1 of {self.candidates} draws" if self.candidates > 1 else "random draws"]
        parts += [f"truncation {self.truncation}"] if self.truncation < 1 else []
        parts += [f"φ_class at least {self.min_class_probability}"] if self.min_class_probability else []
        parts += [f"{self.latent_share} of them left out, nearest to a patient in W"] if self.latent_share else []
        spread = f"farthest apart among the {self.identity_share} that φ_id knows least"
        parts += [spread] if self.identity_share else []
        return "; ".join(parts)


@dataclass(frozen=True)
class InversionSettings(_Settings):
    """How ``LatentInverter`` projects; the defaults are ``published()``, StyleGAN2's projector from five starts.

    Attributes:
        space: "w", or "w_plus" for a w of each layer: nearer to the image, and farther from where G was trained.
        steps: n, Adam steps, at least 1.
        lr: the highest learning rate, above 0.
        starts: S, at least 1.
        start_noise: distance of the starts s > 0 from the first, in units of σ_w per axis, at least 0.
        lr_rampup: fraction of the steps in which the learning rate rises, in [0, 1].
        lr_rampdown: fraction of the steps in which it falls, in [0, 1].
        initial_noise: the noise on w at the start, in units of σ_w, at least 0.
        noise_ramp: fraction of the steps in which the noise fades, in (0, 1].
        patience: steps without progress before the learning rate falls; 0: all n steps for all.
        tolerance: the fraction by which the distance must sink to count as progress, in [0, 1).
        pixel_weight: weight of the mean squared pixel difference, at least 0.
        num_mean_samples: draws of z for the mean and σ_w of each class, at least 2.

    Raises:
        ConfigError: if a value lies outside its range, or several starts would be one and the same (neither
            ``start_noise`` nor ``initial_noise``).

    Example:
        >>> print(InversionSettings.fast(encoder=True, starts=2))
        at most 200 steps from 2 starts in W at rate 0.2, ended after 15 steps without 1 % progress; starts 0.03 σ_w
        apart, pixel weight 1.0
    """

    space: str = checked("w", one_of(*SPACES))
    steps: int = checked(1000, whole(1))
    lr: float = checked(0.1, _ABOVE_0)
    starts: int = checked(5, whole(1))
    start_noise: float = checked(0.0, _AT_LEAST_0)
    lr_rampup: float = checked(0.05, _SHARE)
    lr_rampdown: float = checked(0.25, _SHARE)
    initial_noise: float = checked(0.05, _AT_LEAST_0)
    noise_ramp: float = checked(0.75, number(lambda value: 0 < value <= 1, "above 0 and at most 1"))
    patience: int = checked(0, whole(0))
    tolerance: float = checked(0.01, _BELOW_1)
    pixel_weight: float = checked(0.0, _AT_LEAST_0)
    num_mean_samples: int = checked(10_000, whole(2))

    OF = "the inversion"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.starts > 1 and not (self.start_noise or self.initial_noise):
            raise ConfigError(
                f"start_noise and initial_noise of the inversion are both 0, so its {self.starts} starts would be one "
                "and the same: set one of them, or take 1 start."
            )

    @classmethod
    def fast(cls, *, encoder: bool = False, **changes: Any) -> InversionSettings:
        """What the bundle uses: no more steps than help, a fast rate, and pixels beside the perceptual distance.

        Args:
            encoder: whether an encoder guesses the beginning. Then its starts lie 0.03 σ_w apart and w has no noise,
                which would only undo the guess.
            changes: other settings by name; None leaves what is chosen here.

        Raises:
            ConfigError: if there is no such setting, or a value lies outside its range.
        """
        recipe = {"steps": 200, "lr": 0.2, "patience": 15, "pixel_weight": 1.0}
        return cls._chosen({**recipe, **({"start_noise": 0.03, "initial_noise": 0.0} if encoder else {})}, changes)

    def __str__(self) -> str:
        starts = f"{self.starts} start{'s' if self.starts > 1 else ''} in {'W' if self.space == 'w' else 'W+'}"
        steps = f"{self.steps} steps from {starts} at rate {self.lr}"
        if self.patience:
            steps = f"at most {steps}, ended after {self.patience} steps without {100 * self.tolerance:g} % progress"
        noise = [f"starts {self.start_noise} σ_w apart"] if self.start_noise else []
        noise += [f"noise of {self.initial_noise} σ_w that fades"] if self.initial_noise else []
        noise += [f"pixel weight {self.pixel_weight}"] if self.pixel_weight else []
        return "; ".join([steps, *([", ".join(noise)] if noise else [])])
