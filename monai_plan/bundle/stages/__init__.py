"""The stages of a bundle, one object per file: constructed by a config, run by ``run()``.

Each reads named files, writes named files, and keeps its finished parts in a work folder, from which it goes on when
it was stopped. All of it is private except what ``SynthesizeStage`` and ``EvaluateStage`` write below ``release/``.
"""

from monai_plan.bundle.options import check_options
from monai_plan.bundle.stages.anchors import AnchorsStage
from monai_plan.bundle.stages.audit import AuditStage
from monai_plan.bundle.stages.check import CheckStage
from monai_plan.bundle.stages.evaluate import EvaluateStage
from monai_plan.bundle.stages.invert import InvertStage, reproduction_distances
from monai_plan.bundle.stages.synthesize import SynthesizeStage
from monai_plan.bundle.stages.train import TrainStage
from monai_plan.bundle.stages.train_autoencoder import TrainAutoencoderStage
from monai_plan.bundle.stages.train_class import TrainClassStage
from monai_plan.bundle.stages.train_encoder import TrainEncoderStage
from monai_plan.bundle.stages.train_identity import TrainIdentityStage, identities
from monai_plan.bundle.stages.walk import WalkStage, class_counts

__all__ = [
    "AnchorsStage",
    "AuditStage",
    "CheckStage",
    "EvaluateStage",
    "InvertStage",
    "SynthesizeStage",
    "TrainAutoencoderStage",
    "TrainClassStage",
    "TrainEncoderStage",
    "TrainIdentityStage",
    "TrainStage",
    "WalkStage",
    "check_options",
    "class_counts",
    "identities",
    "reproduction_distances",
]
