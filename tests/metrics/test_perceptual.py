from __future__ import annotations

import importlib.util
import sys
import types

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from monai_plan.metrics.perceptual import (
    LPIPSEmbedding,
    RandomFeatureEmbedding,
    SqueezeNetEmbedding,
    _squeezenet1_0_features,
    perceptual_embedding,
)
from monai_plan.utils import ArtifactError, ConfigError, DataError


def subject_image(subject: int, shot: int, spatial_dims: int, size: int = 32) -> Tensor:
    """Two ellipsoids whose shape is the subject's and whose place and exposure are the shot's."""
    anatomy = torch.rand(8, generator=torch.Generator().manual_seed(subject))
    g = torch.Generator().manual_seed(1000 * subject + shot)
    pose = (torch.rand(3, generator=g) - 0.5) * 0.06
    axes = torch.meshgrid(*[torch.linspace(-1, 1, size)] * spatial_dims, indexing="ij")
    image = torch.full([size] * spatial_dims, -0.6)
    for side, radii in ((-0.45, anatomy[:3]), (0.45, anatomy[3:6])):
        r = ((axes[-1] - side - pose[0]) / (0.15 + 0.15 * radii[0])) ** 2
        for axis, radius in zip(axes[:-1], radii[1:], strict=False):
            r = r + ((axis - pose[1]) / (0.4 + 0.4 * radius)) ** 2
        image = image + 0.9 * torch.sigmoid(12 * (1 - r))
    image = image + 0.3 * torch.sin((8 + 8 * anatomy[6]) * (axes[0] + pose[1]) + 6 * anatomy[7])
    noise = torch.randn(image.shape, generator=g)
    return (image * (1 + pose[2]) + 0.05 * noise).clamp(-1, 1)[None]


def distance(embedding: nn.Module, a: Tensor, b: Tensor) -> Tensor:
    return (embedding(a) - embedding(b)).square().sum(1)


@pytest.fixture(scope="module")
def squeezenet_file(tmp_path_factory):
    """A random state dict with torchvision's keys and shapes, classifier included."""
    torch.manual_seed(0)
    state = {f"features.{k}": v for k, v in _squeezenet1_0_features().state_dict().items()}
    state |= {"classifier.1.weight": torch.zeros(1000, 512, 1, 1), "classifier.1.bias": torch.zeros(1000)}
    path = tmp_path_factory.mktemp("weights") / "squeezenet1_0.pth"
    torch.save(state, path)
    return path


@pytest.fixture(params=["random-2d", "random-3d", "random-rgb", "squeezenet", "squeezenet-rgb"])
def embedding_and_images(request, squeezenet_file):
    name, _, kind = request.param.partition("-")
    channels = 3 if kind == "rgb" else 1
    shape = (16, 16, 16) if kind == "3d" else (32, 24)
    images = torch.rand(3, channels, *shape, generator=torch.Generator().manual_seed(1)) * 2 - 1
    if name == "random":
        return RandomFeatureEmbedding(len(shape), channels), images
    return SqueezeNetEmbedding(squeezenet_file, img_channels=channels), images


def test_embedding_is_the_distance_by_definition(embedding_and_images):
    """‖e(a) − e(b)‖² equals the sum over layers of the mean over space of squared unit-vector differences."""
    embedding, images = embedding_and_images
    a, b = images[:1], images[1:2]
    expected = 0.0
    for x, y in zip(embedding.feature_maps(a), embedding.feature_maps(b), strict=True):
        x, y = (t / (t.square().sum(1, keepdim=True) + embedding.eps**2).sqrt() for t in (x, y))
        expected += float((x - y).square().sum(1).mean())
    if isinstance(embedding, RandomFeatureEmbedding):
        x, y = (embedding._pyramid(t)[-1] for t in (a, b))
        expected += float((x - y).square().mean())
    assert float(distance(embedding, a, b)) == pytest.approx(expected, rel=1e-4)


def test_embedding_is_fixed_and_lets_gradients_through(embedding_and_images):
    embedding, images = embedding_and_images
    embedding.train()
    assert not embedding.training
    assert not any(p.requires_grad for p in embedding.parameters())
    images = images.clone().requires_grad_(True)
    distance(embedding, images[:1], images[1:2]).sum().backward()
    assert images.grad.isfinite().all()
    assert images.grad[:2].abs().sum() > 0


def test_flat_images_have_finite_gradients(embedding_and_images):
    embedding, images = embedding_and_images
    flat = torch.zeros_like(images).requires_grad_(True)
    distance(embedding, flat, images).sum().backward()
    assert flat.grad.isfinite().all()


def test_rows_do_not_depend_on_the_batch(embedding_and_images):
    embedding, images = embedding_and_images
    torch.testing.assert_close(embedding(images)[1:2], embedding(images[1:2]))
    pooled = embedding.pooled(images)
    assert pooled.ndim == 2
    torch.testing.assert_close(pooled[1:2], embedding.pooled(images[1:2]))


def test_wrong_images_are_refused(embedding_and_images):
    embedding, images = embedding_and_images
    for wrong in (images[0], images[:, :1].repeat(1, 2, *[1] * (images.ndim - 2)), images[..., :3]):
        with pytest.raises(DataError, match="got"):
            embedding(wrong)


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_random_features_tell_subjects_apart(spatial_dims):
    embedding = RandomFeatureEmbedding(spatial_dims, 1)
    first, second = (torch.stack([subject_image(s, shot, spatial_dims) for s in range(16)]) for shot in (0, 1))
    d = torch.cdist(embedding(first), embedding(second)).square()
    others = ~torch.eye(16, dtype=torch.bool)
    assert (d.diagonal()[:, None] < d)[others].float().mean() > 0.9


@pytest.mark.parametrize("spatial_dims", [2, 3])
@pytest.mark.parametrize("corruption", ["blur", "shift", "noise"])
def test_random_feature_distance_rises_with_corruption(spatial_dims, corruption):
    embedding = RandomFeatureEmbedding(spatial_dims, 1)
    images = torch.stack([subject_image(s, 0, spatial_dims) for s in range(6)])
    pool = functional.avg_pool2d if spatial_dims == 2 else functional.avg_pool3d
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    corrupt = {
        "blur": lambda n: pool(functional.pad(images, [n] * 2 * spatial_dims, mode="replicate"), 2 * n + 1, 1),
        "shift": lambda n: images.roll(n, -1),
        "noise": lambda n: images + 0.05 * n * noise,
    }[corruption]
    distances = [float(distance(embedding, corrupt(n), images).mean()) for n in (0, 1, 2, 4)]
    assert distances[0] == pytest.approx(0, abs=1e-6)
    assert distances == sorted(distances)
    assert distances[1] > 0


def test_random_features_follow_their_seed_alone():
    image = subject_image(0, 0, 2)[None]
    torch.manual_seed(1)
    first = RandomFeatureEmbedding(2, 1, seed=3)(image)
    torch.manual_seed(2)
    torch.testing.assert_close(RandomFeatureEmbedding(2, 1, seed=3)(image), first, rtol=0, atol=0)
    assert not torch.allclose(RandomFeatureEmbedding(2, 1, seed=4)(image), first)


def test_zero_mean_filters_see_no_brightness_but_the_pixels_do():
    image = subject_image(0, 0, 2)[None]
    blind = RandomFeatureEmbedding(2, 1, pixel_weight=0.0)
    assert float(distance(blind, image, image + 0.2)) == pytest.approx(0, abs=1e-6)
    assert float(distance(RandomFeatureEmbedding(2, 1), image, image + 0.2)) == pytest.approx(0.04, rel=1e-3)


def test_squeezenet_taps_are_those_of_lpips(squeezenet_file):
    embedding = SqueezeNetEmbedding(squeezenet_file)
    maps = embedding.feature_maps(torch.zeros(1, 1, 64, 64))
    assert [m.shape[1] for m in maps] == [96, 128, 256, 384, 384, 512, 512]
    assert [m.shape[2] for m in maps] == [29, 14, 7, 7, 7, 7, 3]
    assert all((m >= 0).all() for m in maps)


def test_squeezenet_repeats_grey_and_scales_to_imagenet(squeezenet_file):
    grey = torch.rand(2, 1, 32, 32) * 2 - 1
    embedding = SqueezeNetEmbedding(squeezenet_file, img_channels=3)
    rgb = grey.repeat(1, 3, 1, 1)
    torch.testing.assert_close(SqueezeNetEmbedding(squeezenet_file)(grey), embedding(rgb))
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    scaled = ((rgb + 1) / 2 - mean[:, None, None]) / std[:, None, None]
    torch.testing.assert_close(embedding.feature_maps(rgb)[0], embedding.features[:2](scaled))


def test_making_an_embedding_leaves_the_global_generator_alone(squeezenet_file):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    SqueezeNetEmbedding(squeezenet_file)
    RandomFeatureEmbedding(2, 1)
    assert torch.equal(torch.get_rng_state(), before)


def test_wrong_squeezenet_files_are_named(tmp_path, squeezenet_file):
    with pytest.raises(ArtifactError, match=r"nowhere\.pth does not exist"):
        SqueezeNetEmbedding(tmp_path / "nowhere.pth")
    state = torch.load(squeezenet_file, weights_only=True)
    wrong = {
        "text.pth": b"not a state dict",
        "short.pth": {k: v for k, v in state.items() if k != "features.12.squeeze.bias"},
        "long.pth": state | {"features.13.weight": torch.zeros(1)},
        "bare.pth": {k.removeprefix("features.") + "x": v for k, v in state.items()},
        "list.pth": [1, 2],
    }
    for name, content in wrong.items():
        path = tmp_path / name
        path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
        with pytest.raises(ArtifactError, match=f"{name} does not hold"):
            SqueezeNetEmbedding(path)


def test_embeddings_are_made_by_name(squeezenet_file):
    assert perceptual_embedding("random", spatial_dims=3, img_channels=2).title == "random-feature distance"
    named = perceptual_embedding("squeezenet1_0", spatial_dims=2, img_channels=1, weights=squeezenet_file)
    assert named.title == "SqueezeNet-1.0 feature distance"


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("lpips", {}, "no perceptual embedding 'lpips'"),
        ("squeezenet1_0", {}, "needs weights"),
        ("squeezenet1_0", {"spatial_dims": 3, "weights": "x.pth"}, "use 'random'"),
        ("lpips-alex", {"spatial_dims": 3}, "use 'random'"),
        ("squeezenet1_0", {"img_channels": 2, "weights": "x.pth"}, "img_channels 2"),
        ("random", {"weights": "x.pth"}, "takes no weights"),
        ("random", {"spatial_dims": 4}, "spatial_dims must be 2 or 3"),
    ],
)
def test_names_that_do_not_fit_are_refused(name, options, message):
    with pytest.raises(ConfigError, match=message):
        perceptual_embedding(name, **({"spatial_dims": 2, "img_channels": 1} | options))


# LPIPS. The package needs torchvision for the layers of its backbones; where torchvision is not installed, a stand-in
# with the same layers at the same indices lets the package's own forward run.


def _alexnet() -> nn.Module:
    def conv(*args: int, **options: int) -> list[nn.Module]:
        return [nn.Conv2d(*args, **options), nn.ReLU(inplace=True)]

    return nn.Sequential(
        *conv(3, 64, 11, stride=4, padding=2), nn.MaxPool2d(3, 2),
        *conv(64, 192, 5, padding=2), nn.MaxPool2d(3, 2),
        *conv(192, 384, 3, padding=1), *conv(384, 256, 3, padding=1), *conv(256, 256, 3, padding=1), nn.MaxPool2d(3, 2),
    )  # fmt: skip


def _vgg16() -> nn.Module:
    layers: list[nn.Module] = []
    channels = 3
    for out in (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512, 0):
        if out:
            layers += [nn.Conv2d(channels, out, 3, padding=1), nn.ReLU(inplace=True)]
            channels = out
        else:
            layers.append(nn.MaxPool2d(2, 2))
    return nn.Sequential(*layers)


def _squeezenet1_1() -> nn.Module:
    fire = type(_squeezenet1_0_features()[3])
    layers: list[nn.Module] = [nn.Conv2d(3, 64, 3, stride=2), nn.ReLU(inplace=True)]
    channels = 64
    for out in ((0, 0), (16, 64), (16, 64), (0, 0), (32, 128), (32, 128), (0, 0),
                (48, 192), (48, 192), (64, 256), (64, 256)):  # fmt: skip
        if out[0]:
            layers.append(fire(channels, *out))
            channels = 2 * out[1]
        else:
            layers.append(nn.MaxPool2d(3, 2, ceil_mode=True))
    return nn.Sequential(*layers)


@pytest.fixture
def lpips_package(monkeypatch):
    pytest.importorskip("numpy")
    if importlib.util.find_spec("lpips") is None:
        pytest.skip("the optional package lpips is not installed")
    if importlib.util.find_spec("torchvision") is None:
        models = types.ModuleType("torchvision.models")
        for name, make in (("alexnet", _alexnet), ("vgg16", _vgg16), ("squeezenet1_1", _squeezenet1_1)):
            setattr(models, name, lambda pretrained, make=make: types.SimpleNamespace(features=make()))
        package = types.ModuleType("torchvision")
        package.models = models
        monkeypatch.setitem(sys.modules, "torchvision", package)
        monkeypatch.setitem(sys.modules, "torchvision.models", models)
        for name in [n for n in sys.modules if n.split(".")[0] == "lpips"]:
            monkeypatch.delitem(sys.modules, name)
    lpips = pytest.importorskip("lpips", reason="the optional package lpips cannot be imported", exc_type=ImportError)
    yield lpips
    for name in [n for n in sys.modules if n.split(".")[0] == "lpips"]:
        monkeypatch.delitem(sys.modules, name)


@pytest.mark.parametrize(
    ("net", "make"), [("alex", _alexnet), ("vgg", _vgg16), ("squeeze", _squeezenet1_1)], ids=["alex", "vgg", "squeeze"]
)
def test_lpips_embedding_is_lpips(net, make, lpips_package, tmp_path, monkeypatch):
    """Against the package's own forward, with a backbone file of random weights under torchvision's keys."""
    torch.manual_seed(3)
    features = make().state_dict()
    path = tmp_path / "checkpoints" / LPIPSEmbedding.files[net]
    path.parent.mkdir()
    torch.save({f"features.{k}": v for k, v in features.items()} | {"classifier.1.bias": torch.zeros(2)}, path)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    embedding = LPIPSEmbedding(net, img_channels=3)
    assert embedding.title == f"LPIPS ({net})"

    reference = lpips_package.LPIPS(net=net, pnet_rand=True, verbose=False)
    reference.net.load_state_dict({k: features[k.split(".", 1)[1]] for k in reference.net.state_dict()})
    a, b = (torch.rand(2, 3, 64, 64) * 2 - 1 for _ in range(2))
    torch.testing.assert_close(distance(embedding, a, b), reference(a, b).flatten(), rtol=1e-4, atol=1e-6)

    grey = LPIPSEmbedding(net, path)
    torch.testing.assert_close(
        distance(grey, a[:, :1], b[:, :1]),
        reference(a[:, :1].repeat(1, 3, 1, 1), b[:, :1].repeat(1, 3, 1, 1)).flatten(),
        rtol=1e-4,
        atol=1e-6,
    )


def test_lpips_never_downloads(lpips_package, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(ArtifactError, match=r"alexnet-owt-7be5be79\.pth does not exist"):
        LPIPSEmbedding("alex")
    torch.save({"features.0.weight": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(ArtifactError, match=r"other\.pth does not hold"):
        LPIPSEmbedding("alex", tmp_path / "other.pth")


def test_missing_lpips_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "lpips", None)
    with pytest.raises(ConfigError, match=r'pip install "monai_plan\[lpips\]"'):
        perceptual_embedding("lpips-alex", spatial_dims=2, img_channels=1)
    with pytest.raises(ConfigError, match="net must be one of"):
        LPIPSEmbedding("resnet")
