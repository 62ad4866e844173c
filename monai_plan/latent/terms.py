"""The terms of the walk's objective, one number per point: L_id and L_class of PLAN, and what can be added to them."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from monai_plan.metrics import Images, PerceptualEmbedding, nearest_other_images
from monai_plan.networks import frozen
from monai_plan.utils import ConfigError, DataError


class _ClassifierTerm(nn.Module):
    """A term of what a classifier says."""

    def __init__(self, network: nn.Module, *, amp: bool = False) -> None:
        super().__init__()
        self.network, self.amp = network, amp

    def _logits(self, images: Tensor) -> Tensor:
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self.amp):
            return self.network(images)


class IdentityTerm(_ClassifierTerm):
    """L_id = KL(U ‖ softmax φ_id(x̄)) = −log n − 1/n · Σ_{i=1}^{n} log softmax_i φ_id(x̄) (PLAN), U uniform over n.

    It is 0 where every identity is equally probable.

    Args:
        network: φ_id, images [B, C, *spatial] in [−1, 1] → logits [B, n] over n ≥ 2 identities.
        amp: bfloat16 autocast of φ_id; the loss is in float32.
    """

    def forward(self, w: Tensor, images: Tensor, labels: Tensor) -> Tensor:
        """L_id [N] of the images; w and the labels are not used.

        Raises:
            ConfigError: if φ_id does not return [N, n] with n ≥ 2.
        """
        logits = self._logits(images)
        if logits.ndim != 2 or logits.shape[1] < 2:
            raise ConfigError(
                f"The identity classifier must return [B, n], n ≥ 2 identities: got {list(logits.shape)}."
            )
        return -math.log(logits.shape[1]) - logits.float().log_softmax(1).mean(1)


class ClassTerm(_ClassifierTerm):
    """L_class = CE(φ_class(x̄), y) = −log softmax_y φ_class(x̄) (PLAN).

    Args:
        network: φ_class, images [B, C, *spatial] in [−1, 1] → logits [B, num_classes].
        amp: bfloat16 autocast of φ_class; the loss is in float32.
    """

    def forward(self, w: Tensor, images: Tensor, labels: Tensor) -> Tensor:
        """L_class [N] of the images with labels y [N]; w is not used.

        Raises:
            ConfigError: if φ_class does not return [N, num_classes], or a label lies outside the classes.
        """
        logits = self._logits(images)
        if logits.ndim != 2:
            raise ConfigError(f"The class classifier must return [B, num_classes]: got {list(logits.shape)}.")
        wrong = [label for label in labels.tolist() if not 0 <= label < logits.shape[1]]
        if wrong:
            raise ConfigError(
                f"Label {wrong[0]} lies outside the classes 0 … {logits.shape[1] - 1} of the class classifier."
            )
        return functional.cross_entropy(logits.float(), labels.to(logits.device), reduction="none")


class MarginTerm(nn.Module):
    """L_m = max(0, m − min_j ‖e(x̄) − e(x_j)‖²) / m: how far an image intrudes into the margin of the nearest real one.

    It is not in the published form. It is 1 on a real image and 0 from the margin on. The nearest x_j is found by a
    matrix product, its distance is then taken as a difference, which keeps its digits where the two are close.

    Args:
        embedding: e, images [B, C, *spatial] in [−1, 1] → [B, E], of a perceptual distance.
        images: [M, C, *spatial], the real images x_j. Their embeddings stay in memory, M · E numbers.
        margin: m, a squared distance above 0. Default: the median over the real images of the distance to the nearest
            image of another identity.
        identities: [M] int, at least 0, the patient of each image, for the default margin.
        batch_size: images embedded at once, at least 1.
        device: where to embed. Default: where the embedding is.

    Raises:
        ConfigError: if ``margin`` or ``batch_size`` lies outside its range, or both margin and identities are missing.
        DataError: if there are no images, or no margin can be taken from them.
    """

    centre: Tensor
    reals: Tensor
    squares: Tensor
    margin: Tensor

    def __init__(
        self,
        embedding: PerceptualEmbedding,
        images: Images,
        *,
        margin: float | None = None,
        identities: Tensor | None = None,
        batch_size: int = 64,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        if margin is None and identities is None:
            raise ConfigError("margin is None and there are no identities to take it from: give one of both.")
        if margin is not None and not 0 < margin < math.inf:
            raise ConfigError(f"margin is {margin}, but must be above 0 and finite; None takes it from the images.")
        if batch_size < 1:
            raise ConfigError(f"batch_size must be at least 1, got {batch_size}.")
        if not len(images):
            raise DataError("There are no real images to keep a margin to.")
        self.embedding = embedding
        if device is not None:
            embedding.to(device)
        here = next((t.device for t in [*embedding.parameters(), *embedding.buffers()]), torch.device(device or "cpu"))
        with torch.no_grad(), frozen(embedding):
            reals = torch.cat([embedding(x.as_subclass(Tensor).to(here)).float() for x in images.split(batch_size)])
        if identities is not None and margin is None:
            between = nearest_other_images(images, identities, embedding, batch_size=batch_size, device=here)
            margin = between.median().item()
            if not 0 < margin < math.inf:
                raise DataError(
                    f"The median distance to the nearest image of another identity is {margin:g}, which is no margin: "
                    "name the patients in the data list, leave copies out, or set the margin."
                )
        self.register_buffer("centre", reals.mean(0))  # about it they are short and lose few digits in the product
        self.register_buffer("reals", reals.sub_(self.centre))
        self.register_buffer("squares", self.reals.square().sum(1))
        self.register_buffer("margin", torch.tensor(margin, device=here))

    def forward(self, w: Tensor, images: Tensor, labels: Tensor) -> Tensor:
        """L_m [N] of the images; w and the labels are not used."""
        embedded = self.embedding(images).float() - self.centre
        nearest = (self.squares - 2 * embedded.detach() @ self.reals.T).argmin(1)
        distances = (embedded - self.reals[nearest]).square().sum(1)
        return functional.relu(self.margin - distances) / self.margin
