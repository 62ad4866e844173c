"""The generator as other tools want it: one tensor in, one image out."""

from __future__ import annotations

from torch import Tensor

from monai_plan.networks.stylegan2 import StyleGAN2Generator


class OneInputGenerator(StyleGAN2Generator):
    """A ``StyleGAN2Generator`` whose z and label come in one tensor.

    For MONAI's ``ckpt_export`` and ``onnx_export``: TorchScript and ONNX want one floating point input and no options.
    The arguments and the weights are those of ``StyleGAN2Generator``.
    """

    def forward(self, latent: Tensor) -> Tensor:  # type: ignore[override]
        """[B, z_dim + num_classes] → [B, C, *img_size], about [-1, 1], not clamped; with constant noise.

        The input is z, standard normal, and behind it a one-hot label, if there are classes.
        """
        z, one_hot = latent[:, : self.z_dim], latent[:, self.z_dim :]
        return self.synthesis(self.mapping(z, one_hot.argmax(1) if self.num_classes else None), noise_mode="const")
