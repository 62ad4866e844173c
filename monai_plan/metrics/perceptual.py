"""Perceptual distances as squared Euclidean distances between fixed embeddings.

Each embedding normalises the channels of every feature map to unit length, weights them, divides by the square root
of the map's area and lays all maps end to end. The squared distance of two embeddings is then the mean over space and
the sum over layers of the squared feature differences, as in LPIPS (Zhang et al., CVPR 2018). Since it is a squared
Euclidean distance, the least distance of many images to many others is a matrix product away (see ``nearest``).
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from monai_plan.tensor_file import load_tensors
from monai_plan.utils import ArtifactError, ConfigError, DataError, first_line, seeded_generator

EMBEDDING_NAMES = ("random", "squeezenet1_0", "lpips-alex", "lpips-vgg", "lpips-squeeze")


class PerceptualEmbedding(nn.Module, ABC):
    """Base of the embeddings: ``‖e(a) − e(b)‖²`` is the distance of the images a and b.

    A subclass gives ``feature_maps`` and, where its distance weights channels, ``channel_weights``. Nothing in it is
    trained: parameters are frozen and the module stays in eval mode, but gradients flow to the images.

    Args:
        spatial_dims, img_channels: 2 or 3, and the channels of the images.
        title: the name of the distance for tables and figures.
        eps: length below which a feature vector counts as zero when it is normalised.
    """

    def __init__(self, *, spatial_dims: int, img_channels: int, title: str, eps: float = 1e-6) -> None:
        super().__init__()
        if spatial_dims not in (2, 3):
            raise ConfigError(f"spatial_dims must be 2 or 3, got {spatial_dims}.")
        if img_channels < 1:
            raise ConfigError(f"img_channels must be at least 1, got {img_channels}.")
        self.spatial_dims, self.img_channels, self.title, self.eps = spatial_dims, img_channels, title, eps

    @abstractmethod
    def feature_maps(self, images: Tensor) -> list[Tensor]:
        """The raw feature maps of ``images`` [B, C, *spatial], shallow to deep, each [B, C_l, *spatial_l]."""

    def channel_weights(self) -> Sequence[Tensor] | None:
        """One tensor [C_l] of weights >= 0 per map, by which its squared differences count; None: all count 1."""
        return None

    def pooled_maps(self, images: Tensor) -> list[Tensor]:
        """The maps whose spatial means are ``pooled``: by default the deepest one."""
        return self.feature_maps(images)[-1:]

    def forward(self, images: Tensor) -> Tensor:
        """Embed ``images``.

        Args:
            images: [B, C, *spatial], values in [-1, 1].

        Returns:
            [B, E]; the squared Euclidean distance of two rows is the perceptual distance of their images.

        Raises:
            DataError: if the images have another number of axes or channels, or are too small.
        """
        self._check(images)
        maps = self.feature_maps(images)
        weights: Sequence[Tensor | None] = self.channel_weights() or [None] * len(maps)
        return torch.cat([self._flatten(m, w) for m, w in zip(maps, weights, strict=True)], dim=1)

    def pooled(self, images: Tensor) -> Tensor:
        """The spatial means of raw features, [B, F], for the Fréchet distance; ``images`` as in ``forward``."""
        self._check(images)
        return torch.cat([m.flatten(2).mean(2) for m in self.pooled_maps(images)], dim=1)

    def train(self, mode: bool = True) -> PerceptualEmbedding:
        """Stay in eval mode whatever ``mode`` says: an embedding is fixed."""
        return super().train(False)

    def _flatten(self, feature_map: Tensor, weight: Tensor | None) -> Tensor:
        x = feature_map.float().flatten(2)  # [B, C, area]
        # eps under the root: the length of a zero vector has a finite gradient.
        x = x / (x.square().sum(1, keepdim=True) + self.eps**2).sqrt()
        if weight is not None:
            x = x * weight.sqrt()[:, None]
        return (x / x.shape[2] ** 0.5).flatten(1)

    def _check(self, images: Tensor) -> None:
        if images.ndim != self.spatial_dims + 2 or images.shape[1] != self.img_channels:
            raise DataError(
                f"the {self.title} takes images [B, {self.img_channels}, *spatial] with {self.spatial_dims} spatial "
                f"axes, got the shape {tuple(images.shape)}: check spatial_dims and img_channels."
            )

    def _freeze(self) -> None:
        self.requires_grad_(False)
        self.eval()


class RandomFeatureEmbedding(PerceptualEmbedding):
    """A pyramid of fixed random filters: needs no weights and works in 2D and 3D.

    The image is halved by averaging, level after level. At each level random 3x3(x3) filters of zero mean, each with
    its negative and rectified, respond to the local structure, and the responses at a place are divided by their
    common length, so that contrast and exposure count little. The coarsest level adds its pixels, which hold the
    brightness. It knows less of what matters to the eye than a trained network: all structure counts alike.

    Args:
        spatial_dims, img_channels: 2 or 3, and the channels of the images.
        seed: of the filters; distances of different seeds do not compare.
        pixel_weight: weight of the mean squared difference of the coarsest level's pixels.
    """

    levels = 4  # resolutions at most; fewer where an axis would fall below four pixels
    num_filters = 12  # per level, and twice as many channels, since each comes with its negative
    contrast = 0.25  # a response's length, in image units, at which normalisation sets in: weaker noise counts less

    def __init__(self, spatial_dims: int, img_channels: int, *, seed: int = 0, pixel_weight: float = 1.0) -> None:
        title = "random-feature distance"
        super().__init__(spatial_dims=spatial_dims, img_channels=img_channels, title=title, eps=self.contrast)
        self.pixel_weight = pixel_weight
        self.filters: Tensor
        shape = (self.levels, self.num_filters, img_channels)
        weight = torch.randn(*shape, 3**spatial_dims, generator=seeded_generator(seed, "random features"))
        weight = weight - weight.mean(-1, keepdim=True)
        weight = weight / weight.flatten(2).norm(dim=2)[:, :, None, None]
        self.register_buffer("filters", weight.reshape(*shape, *[3] * spatial_dims))
        self._freeze()

    def feature_maps(self, images: Tensor) -> list[Tensor]:
        """The rectified responses of every level, fine to coarse, each [B, 24, *spatial_l]."""
        conv = functional.conv2d if self.spatial_dims == 2 else functional.conv3d
        maps = []
        for index, level in enumerate(self._pyramid(images)):
            # The finest level would be most of the embedding: every second place per axis is enough for its mean.
            response = conv(level, self.filters[index], stride=2 if index == 0 else 1)
            maps.append(torch.cat([response.relu(), (-response).relu()], dim=1))
        return maps

    def pooled_maps(self, images: Tensor) -> list[Tensor]:
        """All levels: together the statistics of structure at every scale."""
        return self.feature_maps(images)

    def forward(self, images: Tensor) -> Tensor:
        """Embed ``images`` [B, C, *spatial] in [-1, 1] as [B, E]; see the base class."""
        features = super().forward(images)
        pixels = self._pyramid(images)[-1].flatten(1)
        return torch.cat([features, pixels * (self.pixel_weight / pixels.shape[1]) ** 0.5], dim=1)

    def _pyramid(self, images: Tensor) -> list[Tensor]:
        pool = functional.avg_pool2d if self.spatial_dims == 2 else functional.avg_pool3d
        if min(images.shape[2:]) < 4:
            raise DataError(f"the {self.title} needs 4 pixels or more per axis, got {tuple(images.shape[2:])}.")
        pyramid = [images]
        while len(pyramid) < len(self.filters) and min(pyramid[-1].shape[2:]) >= 8:
            pyramid.append(pool(pyramid[-1], 2))
        return pyramid


class _Fire(nn.Module):
    """SqueezeNet's block, with torchvision's names."""

    def __init__(self, in_channels: int, squeeze: int, expand: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(in_channels, squeeze, 1)
        self.expand1x1 = nn.Conv2d(squeeze, expand, 1)
        self.expand3x3 = nn.Conv2d(squeeze, expand, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.squeeze(x).relu()
        return torch.cat([self.expand1x1(x), self.expand3x3(x)], dim=1).relu()


def _squeezenet1_0_features() -> nn.Sequential:
    """The feature stack of SqueezeNet 1.0 (Iandola et al., 2016), with torchvision's indices."""

    def pool() -> nn.Module:
        return nn.MaxPool2d(3, stride=2, ceil_mode=True)

    return nn.Sequential(
        *(nn.Conv2d(3, 96, 7, stride=2), nn.ReLU()),
        *(pool(), _Fire(96, 16, 64), _Fire(128, 16, 64), _Fire(128, 32, 128)),
        *(pool(), _Fire(256, 32, 128), _Fire(256, 48, 192), _Fire(384, 48, 192), _Fire(384, 64, 256)),
        *(pool(), _Fire(512, 64, 256)),
    )


class SqueezeNetEmbedding(PerceptualEmbedding):
    """The SqueezeNet-1.0 feature distance, from a local weights file: 2D, grey or RGB, no linear heads.

    Seven feature maps, those after the first ReLU and after fire modules 3, 5, 6, 7, 8 and 9, the stages the lpips
    package taps in SqueezeNet 1.1. It is not LPIPS: no head was fitted to human judgements.

    Args:
        weights: a state dict with the keys of torchvision's ``squeezenet1_0``; its classifier is not used.
        img_channels: 1 (repeated to RGB) or 3.

    Raises:
        ArtifactError: if ``weights`` is missing or no such state dict.
    """

    taps = (1, 4, 7, 8, 9, 10, 12)
    smallest = 21  # px per axis: below that the third pooling has nothing left

    def __init__(self, weights: str | os.PathLike[str], *, img_channels: int = 1) -> None:
        super().__init__(spatial_dims=2, img_channels=img_channels, title="SqueezeNet-1.0 feature distance")
        _check_rgb(img_channels, self.title)
        with torch.random.fork_rng(devices=[]):  # the initial weights, soon replaced, are drawn
            self.features = _squeezenet1_0_features()
        _load_features(self.features, weights, "SqueezeNet 1.0")
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).reshape(3, 1, 1))
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225]).reshape(3, 1, 1))
        self._freeze()

    def feature_maps(self, images: Tensor) -> list[Tensor]:
        """The seven maps, with 96, 128, 256, 384, 384, 512 and 512 channels."""
        if min(images.shape[2:]) < self.smallest:
            raise DataError(
                f"the {self.title} needs {self.smallest} pixels or more per axis, got {tuple(images.shape[2:])}: "
                "use larger images or the embedding 'random'."
            )
        x = (images.expand(-1, 3, -1, -1) * 0.5 + 0.5 - self.mean) / self.std  # [-1, 1] to [0, 1] to ImageNet's scale
        maps = []
        for index, layer in enumerate(self.features):
            x = layer(x)
            if index in self.taps:
                maps.append(x)
        return maps


class LPIPSEmbedding(PerceptualEmbedding):
    """LPIPS itself (Zhang et al., CVPR 2018) as an embedding: ``‖e(a) − e(b)‖²`` is what the lpips package returns.

    The package brings the linear heads; the backbone is torchvision's file, from ``weights`` or from the cache of
    ``torch.hub``. Nothing is ever downloaded.

    Args:
        net: ``"alex"``, ``"vgg"`` or ``"squeeze"``.
        weights: torchvision's ImageNet state dict of that network; None looks in the cache of ``torch.hub``.
        img_channels: 1 (repeated to RGB) or 3.

    Raises:
        ConfigError: if ``net`` is unknown, or lpips or torchvision cannot be imported.
        ArtifactError: if the backbone's file is missing or of another network.
    """

    # The names under which torchvision stores the weights that the heads were fitted to (IMAGENET1K_V1).
    files: Mapping[str, str] = {
        "alex": "alexnet-owt-7be5be79.pth",
        "vgg": "vgg16-397923af.pth",
        "squeeze": "squeezenet1_1-b8a52dc0.pth",
    }

    def __init__(
        self, net: str = "alex", weights: str | os.PathLike[str] | None = None, *, img_channels: int = 1
    ) -> None:
        if net not in self.files:
            raise ConfigError(f"net must be one of {', '.join(self.files)}, got {net!r}.")
        # lpips adds 1e-10 to the length; under the root that is the same to the last bits, and differentiable.
        super().__init__(spatial_dims=2, img_channels=img_channels, title=f"LPIPS ({net})", eps=1e-10)
        _check_rgb(img_channels, self.title)
        try:
            import lpips
        except (ImportError, RuntimeError) as error:  # a torchvision built for another torch raises RuntimeError
            raise ConfigError(
                f"LPIPS needs the packages lpips and torchvision, which cannot be imported here ({error}): "
                'pip install "monai_plan[lpips]", or use the embedding squeezenet1_0 with a local weights file, '
                "or random."
            ) from error
        if weights is None:
            weights = Path(torch.hub.get_dir()) / "checkpoints" / self.files[net]
        # pnet_rand: the backbone starts without a download; the heads come with the package.
        with torch.random.fork_rng(devices=[]):
            model = lpips.LPIPS(net=net, pnet_rand=True, verbose=False)
        self.scaling = model.scaling_layer
        self.net = model.net
        _load_features(self.net, weights, self.files[net].split("-")[0])
        self.heads = nn.ParameterList([head.model[-1].weight.detach().flatten() for head in model.lins])
        self._freeze()

    def feature_maps(self, images: Tensor) -> list[Tensor]:
        """The maps that the lpips package compares: five (alex, vgg) or seven (squeeze)."""
        return list(self.net(self.scaling(images.expand(-1, 3, -1, -1))))

    def channel_weights(self) -> Sequence[Tensor]:
        """The package's linear heads."""
        return list(self.heads)


def perceptual_embedding(
    name: str,
    *,
    spatial_dims: int,
    img_channels: int,
    weights: str | os.PathLike[str] | None = None,
    seed: int = 0,
) -> PerceptualEmbedding:
    """Make an embedding by its name.

    Args:
        name: ``"random"``, ``"squeezenet1_0"``, ``"lpips-alex"``, ``"lpips-vgg"`` or ``"lpips-squeeze"``.
        spatial_dims, img_channels: 2 or 3, and the channels; the pretrained ones know 2D images of 1 or 3 only.
        weights: the backbone's local file: needed by squeezenet1_0, optional for LPIPS, none for random.
        seed: of the random filters.

    Raises:
        ConfigError: if the name is unknown or does not fit the other arguments.
        ArtifactError: if the weights are missing or of another network.
    """
    if name not in EMBEDDING_NAMES:
        raise ConfigError(f"there is no perceptual embedding {name!r}: use one of {', '.join(EMBEDDING_NAMES)}.")
    if name == "random":
        if weights is not None:
            raise ConfigError(
                f"the perceptual embedding 'random' takes no weights, got {os.fspath(weights)}: leave weights out, or "
                "name the embedding they belong to."
            )
        return RandomFeatureEmbedding(spatial_dims, img_channels, seed=seed)
    if spatial_dims != 2:
        raise ConfigError(
            f"the perceptual embedding {name!r} knows 2D images only, got spatial_dims {spatial_dims}: use 'random'."
        )
    if name == "squeezenet1_0":
        if weights is None:
            raise ConfigError(
                "the perceptual embedding 'squeezenet1_0' needs weights, the path of torchvision's squeezenet1_0 "
                "state dict: give it, or use 'random', which needs none."
            )
        return SqueezeNetEmbedding(weights, img_channels=img_channels)
    return LPIPSEmbedding(name.removeprefix("lpips-"), weights, img_channels=img_channels)


def _check_rgb(img_channels: int, title: str) -> None:
    if img_channels not in (1, 3):
        raise ConfigError(
            f"the {title} takes grey or RGB images, got img_channels {img_channels}: use the embedding 'random'."
        )


def load_published(
    module: nn.Module,
    path: str | os.PathLike[str],
    *,
    network: str,
    file: str,
    own_name: Callable[[str], str | None],
    part: str | None = None,
) -> None:
    """Load a published state dict, strictly, into a module whose names are ``own_name(key)``; None leaves a part out.

    With ``part`` the file may as well hold a dict in which the state dict has that name.

    Raises:
        ArtifactError: if ``path`` is missing, damaged, or not the ``file`` of the ``network``.
    """
    if not os.path.isfile(path):
        missing = "is no file" if os.path.exists(path) else "does not exist"
        raise ArtifactError(
            f"{os.fspath(path)} {missing}: put the weights of {network} there, or give the path of {file}."
        )
    try:
        with open(path, "rb") as content:
            state: Any = load_tensors(content)
        if part is not None and isinstance(state, Mapping):
            state = state.get(part, state)
        _check_state(state)
        named = ((own_name(key), value) for key, value in state.items())
        module.load_state_dict({name: value for name, value in named if name is not None})
        for name, value in module.state_dict().items():
            if not value.isfinite().all():
                raise ValueError(f"{name} holds NaN or infinite values")
    except Exception as error:  # torch.load raises what it likes on a damaged file
        no_tensors = type(error).__name__ in ("UnpicklingError", "KeyError", "EOFError")
        reason = "it is no file of tensors alone" if no_tensors else _what_differs(error)
        raise ArtifactError(
            f"{os.fspath(path)} does not hold the weights of {network}: give {file}. ({reason})"
        ) from error


def _check_state(state: Any) -> None:
    """Names and tensors of real numbers."""
    if not isinstance(state, Mapping):
        raise ValueError(f"it holds a {type(state).__name__}, not tensors by name")
    for name, value in state.items():
        if not isinstance(value, Tensor):
            raise ValueError(f"{name} is a {type(value).__name__}, not a tensor")
        if value.is_complex():
            raise ValueError(f"{name} holds complex numbers")


def _what_differs(error: Exception) -> str:
    """In one line; of what ``load_state_dict`` lists below its heading, the first."""
    heading, *differences = [line.strip() for line in str(error).splitlines()] or [type(error).__name__]
    return differences[0][:300] if differences and heading.startswith("Error(s) in loading") else first_line(error)


def _load_features(module: nn.Module, path: str | os.PathLike[str], network: str) -> None:
    """Load torchvision's state dict but for the classifier; ``features.3.weight`` may be lpips' ``slice2.3.weight``."""
    names = {name[name.startswith("slice") and name.index(".") + 1 :]: name for name in module.state_dict()}

    def own_name(key: str) -> str | None:
        name = key.removeprefix("features.")
        return None if key.startswith("classifier.") else names.get(name, name)

    load_published(
        module, path, network=network, file=f"torchvision's ImageNet state dict of {network}", own_name=own_name
    )
