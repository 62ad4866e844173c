"""Transforms that put synthetic samples into an existing MONAI pipeline."""

from monai_plan.transforms.epochs import (
    RandSubstituteSynthetic,
    RandSubstituteSyntheticD,
    RandSubstituteSyntheticd,
    RandSubstituteSyntheticDict,
    SyntheticEpochHandler,
)
from monai_plan.transforms.online import OnlineSource
from monai_plan.transforms.substitute import (
    SubstituteSynthetic,
    SubstituteSyntheticD,
    SubstituteSyntheticd,
    SubstituteSyntheticDict,
)

__all__ = [
    "OnlineSource",
    "RandSubstituteSynthetic",
    "RandSubstituteSyntheticD",
    "RandSubstituteSyntheticDict",
    "RandSubstituteSyntheticd",
    "SubstituteSynthetic",
    "SubstituteSyntheticD",
    "SubstituteSyntheticDict",
    "SubstituteSyntheticd",
    "SyntheticEpochHandler",
]
