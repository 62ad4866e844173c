"""The residual network behind φ_id, φ_class and the encoder."""

from __future__ import annotations

from collections.abc import Sequence

from monai.networks.nets import ResNet


def resnet_classifier(
    num_outputs: int,
    *,
    spatial_dims: int,
    img_channels: int,
    layers: Sequence[int] = (2, 2, 2, 2),
    channels: Sequence[int] = (64, 128, 256, 512),
    stride: int = 2,
    max_pool: bool = True,
) -> ResNet:
    """MONAI's ResNet of basic blocks; by default ResNet-18.

    Args:
        num_outputs: logits, or numbers of another kind.
        spatial_dims, img_channels: 2 or 3, and the channels of an image.
        layers, channels: blocks and channels of the four levels.
        stride: of the first convolution, which is 7 wide. With 1, for images of about 32 pixels, it is 3 wide and no
            pooling follows.
        max_pool: halve the image once more behind the first convolution, where ``stride`` is not 1.

    Returns:
        [B, img_channels, *spatial] -> [B, num_outputs], with random weights.
    """
    return ResNet(
        block="basic",
        layers=list(layers),
        block_inplanes=list(channels),
        spatial_dims=spatial_dims,
        n_input_channels=img_channels,
        conv1_t_size=7 if stride > 1 else 3,
        conv1_t_stride=stride,
        no_max_pool=stride == 1 or not max_pool,
        num_classes=num_outputs,
    )
