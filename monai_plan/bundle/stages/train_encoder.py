"""The stage that trains the encoder, from which the inversion begins."""

from __future__ import annotations

import os
from dataclasses import dataclass

from ignite.engine import Engine

from monai_plan.latent import LatentEncoder
from monai_plan.networks import save_classifier

__all__ = ["TrainEncoderStage"]


@dataclass(kw_only=True, eq=False)
class TrainEncoderStage:
    """Train the encoder, or go on with it, and save it. An inversion that begins at the mean has no use for it: then
    the untrained one is saved.

    Args:
        trainer: of the encoder's network.
        encoder: the encoder.
        output_file: where it goes.
        inversion_init: where the inversion begins, "encoder" or "mean".
    """

    trainer: Engine
    encoder: LatentEncoder
    output_file: str | os.PathLike[str]
    inversion_init: str

    def run(self) -> None:
        """Train if the inversion begins at the encoder, and save."""
        if self.inversion_init == "encoder":
            self.trainer.run()
        save_classifier(self.encoder, self.output_file, kind="encoder", num_outputs=len(self.encoder.mean))
