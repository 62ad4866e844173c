"""The final check: no image leaves that is nearer to a real image than patients are to each other."""

from __future__ import annotations

import ignite.distributed as idist
import torch
from torch import Tensor

from monai_plan.metrics import Images, PerceptualEmbedding, nearest_other_images, nearest_real_images
from monai_plan.utils import ConfigError, DataError

__all__ = ["DistanceCheck", "check_quantile"]


def check_quantile(quantile: float, identities: Tensor) -> None:
    """Check that a quantile of the distances between patients can be taken.

    Args:
        quantile: q.
        identities: [N] int, the patient of every real image.

    Raises:
        ConfigError: if q lies outside [0, 1].
        DataError: if all images are of one patient.
    """
    if not 0 <= quantile <= 1:
        raise ConfigError(f"min_distance_quantile is {quantile}, but must lie in [0, 1]; None checks nothing.")
    if len(identities.unique()) < 2:
        raise DataError(
            "min_distance_quantile measures how far patients are from each other, but all images are of one subject: "
            "name the subjects in the data list, or set it to None."
        )


class DistanceCheck:
    """Says of images whether they are far enough from every real one.

    With d_q the q-quantile over the real images of the perceptual distance to the nearest image of another patient, an
    image at the distance d may leave with a chance that rises from 0 at d_q to 1 at d_2q: a sharp bound would show
    itself, and tell by its distance who is behind the check. For the same reason the real images are all that there
    are, of training and test section alike.

    Args:
        images: [N, C, *spatial], the real images, in [−1, 1].
        identities: [N] int, at least 0, the patient of each.
        embedding: of the perceptual distance.
        quantile: q in [0, 1].
        device: where to compute.

    Raises:
        ConfigError, DataError: see ``check_quantile``.
    """

    def __init__(
        self,
        images: Images,
        identities: Tensor,
        embedding: PerceptualEmbedding,
        *,
        quantile: float,
        device: torch.device | str = "cpu",
    ) -> None:
        check_quantile(quantile, identities)
        self.images, self.embedding, self.device = images, embedding, device
        bounds = torch.tensor([quantile, min(2 * quantile, 1)])
        distances = nearest_other_images(images, identities, embedding, device=device)
        self.least, self.surely = distances.quantile(bounds.to(distances)).unbind()

    def __call__(self, images: Tensor, chances: Tensor) -> Tensor:
        """[M] bool: whether each of the images [M, C, *spatial] in [−1, 1] may leave, by its draw of [0, 1).

        Under ``torch.distributed`` every rank calls with the same arguments and gets the whole result.
        """
        found = nearest_real_images(
            images, self.images, self.embedding, device=self.device, distributed=idist.get_world_size() > 1
        )
        return found.distances >= torch.lerp(self.least, self.surely, chances.to(self.least))
