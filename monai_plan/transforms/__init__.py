"""Transforms that put synthetic samples into an existing MONAI pipeline."""

from monai_plan.transforms.online import OnlineSource
from monai_plan.transforms.substitute import (
    RandSubstituteSynthetic,
    RandSubstituteSyntheticD,
    RandSubstituteSyntheticd,
    RandSubstituteSyntheticDict,
    SubstituteSynthetic,
    SubstituteSyntheticD,
    SubstituteSyntheticd,
    SubstituteSyntheticDict,
    SyntheticEpochHandler,
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
