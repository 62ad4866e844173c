"""NVlabs' pickles: the images are those of the published formulas, and a malicious file runs nothing.

The files are written here in the published layout, by modules whose names are those of the published code. The
reference is slow and independent: zero-stuffed images, one set of weights per sample, no convolution of torch, float64.
"""

from __future__ import annotations

import contextlib
import copyreg
import io
import itertools
import math
import os
import pickle
import struct
import sys
import zipfile
from collections import OrderedDict
from types import ModuleType

import numpy as np
import pytest
import torch
import torch.utils.collect_env
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from monai.transforms import LoadImage
from PIL import Image
from torch import nn

from monai_plan.__main__ import main
from monai_plan.latent import LatentWalk, WalkSettings
from monai_plan.networks import StyleGAN2Generator, load_generator, save_generator
from monai_plan.networks.import_stylegan2 import load_stylegan2_pickle
from monai_plan.utils import ArtifactError, ConfigError, file_digest, load_artifact

# ---------------------------------------------------------------------------------------------------------------------
# The published layout
# ---------------------------------------------------------------------------------------------------------------------

SOURCE = "raise RuntimeError('the source code in the file was executed')\n"


class EasyDict(dict):
    """Named as the published dict with attributes."""

    __module__ = "dnnlib.util"


def _reconstruct_persistent_obj(meta):
    """What the published loader does first: it executes the module's source."""
    exec(meta["module_src"], {})
    return meta["class_name"]


_reconstruct_persistent_obj.__module__ = "torch_utils.persistence"


@contextlib.contextmanager
def published_modules():
    """The modules of the published code that pickle looks up; they are there for the writer, not for the reader."""
    with pytest.MonkeyPatch.context() as patch:
        for name, content in (
            ("torch_utils", {}),
            ("torch_utils.persistence", {"_reconstruct_persistent_obj": _reconstruct_persistent_obj}),
            ("dnnlib", {}),
            ("dnnlib.util", {"EasyDict": EasyDict}),
        ):
            module = ModuleType(name)
            vars(module).update(content)
            patch.setitem(sys.modules, name, module)
        yield


class Stored(nn.Module):
    """A module that is stored as the published persistent objects: its attributes beside source code."""

    source = SOURCE

    def __init__(self, class_name, **attributes):
        super().__init__()
        self.class_name = class_name
        self._init_args, self._init_kwargs = (), {}
        for name, value in attributes.items():
            setattr(self, name, value)

    def __reduce__(self):
        state = {name: value for name, value in vars(self).items() if name != "class_name"}
        meta = {"type": "class", "version": 6, "module_src": self.source, "class_name": self.class_name, "state": state}
        return _reconstruct_persistent_obj, (meta,), None


def fully_connected(inputs, outputs, *, activation="linear", lr=1, bias=0.0):
    return Stored(
        "FullyConnectedLayer",
        activation=activation,
        weight=nn.Parameter(torch.randn(outputs, inputs) / lr),
        bias=nn.Parameter((bias + torch.randn(outputs) * 0.3) / lr),
        weight_gain=lr / np.sqrt(inputs),
        bias_gain=lr,
    )


def with_filter(module):
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0])
    module.register_buffer("resample_filter", taps.outer(taps) / 64)
    return module


def synthesis_layer(inputs, outputs, w_dim, size, *, up, clamp, noise=True, half=False):
    layout = torch.channels_last if half else torch.contiguous_format
    layer = Stored(
        "SynthesisLayer",
        resolution=size,
        up=up,
        use_noise=noise,
        activation="lrelu",
        conv_clamp=clamp,
        padding=1,
        act_gain=np.sqrt(2),
        affine=fully_connected(w_dim, inputs, bias=1.0),
        weight=nn.Parameter(torch.randn(outputs, inputs, 3, 3).to(memory_format=layout)),
        bias=nn.Parameter(torch.randn(outputs) * 0.3),
    )
    if noise:
        layer.register_buffer("noise_const", torch.randn(size, size))
        layer.noise_strength = nn.Parameter(torch.tensor(0.5))
    return with_filter(layer)


def synthesis_block(inputs, outputs, w_dim, size, channels, *, clamp, noise, half):
    block = Stored("SynthesisBlock", in_channels=inputs, resolution=size, architecture="skip", use_fp16=half)
    options = {"clamp": clamp, "noise": noise, "half": half}
    if inputs == 0:
        block.const = nn.Parameter(torch.randn(outputs, size, size))
    else:
        block.conv0 = synthesis_layer(inputs, outputs, w_dim, size, up=2, **options)
    block.conv1 = synthesis_layer(outputs, outputs, w_dim, size, up=1, **options)
    block.torgb = Stored(
        "ToRGBLayer",
        conv_clamp=clamp,
        affine=fully_connected(w_dim, outputs, bias=1.0),
        weight=nn.Parameter(torch.randn(channels, outputs, 1, 1)),
        bias=nn.Parameter(torch.randn(channels) * 0.3),
        weight_gain=1 / np.sqrt(outputs),
    )
    return with_filter(block)


def make_network(
    size=8,
    c_dim=0,
    channels=1,
    num_layers=2,
    *,
    z_dim=5,
    w_dim=6,
    base=48,
    most=4,
    clamp=None,
    lr=0.01,
    noise=True,
    half_sizes=0,
    seed=0,
):
    """A published generator with random weights."""
    torch.manual_seed(seed)
    mapping = Stored("MappingNetwork", z_dim=z_dim, c_dim=c_dim, w_dim=w_dim, num_layers=num_layers, w_avg_beta=0.995)
    if c_dim:
        mapping.embed = fully_connected(c_dim, w_dim)
    for index in range(num_layers):
        inputs = w_dim if index else z_dim + (w_dim if c_dim else 0)
        setattr(mapping, f"fc{index}", fully_connected(inputs, w_dim, activation="lrelu", lr=lr))
    mapping.register_buffer("w_avg", torch.randn(w_dim))
    sizes = [2**n for n in range(2, int(math.log2(size)) + 1)]
    synthesis = Stored("SynthesisNetwork", w_dim=w_dim, img_resolution=size, block_resolutions=sizes)
    inputs = 0
    for length in sizes:
        outputs = min(base // length, most)
        half = length * 2**half_sizes > size
        block = synthesis_block(inputs, outputs, w_dim, length, channels, clamp=clamp, noise=noise, half=half)
        setattr(synthesis, f"b{length}", block)
        inputs = outputs
    network = Stored("Generator", z_dim=z_dim, c_dim=c_dim, w_dim=w_dim, img_resolution=size, img_channels=channels)
    network._init_kwargs = {"z_dim": z_dim, "synthesis_kwargs": EasyDict(channel_base=base, channel_max=most)}
    network.synthesis, network.mapping = synthesis, mapping
    return network.eval().requires_grad_(False)


def snapshot(network):
    """What the published trainer saves, with a G that is not the average and a discriminator."""
    other = Stored("Generator", synthesis=fully_connected(2, 3))
    discriminator = Stored("Discriminator", b8=with_filter(Stored("DiscriminatorBlock", weight_gain=1 / np.sqrt(9))))
    return {
        "training_set_kwargs": EasyDict(class_name="training.dataset.ImageFolderDataset", path="images.zip"),
        "G": other,
        "D": discriminator,
        "G_ema": network,
        "augment_pipe": None,
    }


def write(path, network, *, protocol=4):
    with published_modules():
        path.write_bytes(pickle.dumps(snapshot(network), protocol=protocol))
    return path


# ---------------------------------------------------------------------------------------------------------------------
# The published formulas
# ---------------------------------------------------------------------------------------------------------------------


def linear(x, layer):
    """Equalised learning rate; leaky ReLU with gain where the layer says so."""
    lr = layer.bias_gain
    y = x @ layer.weight.double().T * lr / math.sqrt(x.shape[1]) + layer.bias.double() * lr
    return y if layer.activation == "linear" else torch.where(y > 0, y, 0.2 * y) * math.sqrt(2)


def normalised(x):
    return x / torch.sqrt((x**2).mean(1, keepdim=True) + 1e-8)


def reference_w(network, z, labels=None, psi=1.0):
    mapping = network.mapping
    x = normalised(z.double())
    if labels is not None:
        one_hot = torch.eye(mapping.c_dim, dtype=torch.double)[labels]
        x = torch.cat([x, normalised(linear(one_hot, mapping.embed))], dim=1)
    for index in range(mapping.num_layers):
        x = linear(x, getattr(mapping, f"fc{index}"))
    mean = mapping.w_avg.double()
    return mean + psi * (x - mean)


def doubled(x, before, after):
    """A zero behind every row and column, padding, and the 4 x 4 filter with gain 4."""
    channels, height, width = x.shape
    stuffed = x.new_zeros(channels, 2 * height + before + after, 2 * width + before + after)
    stuffed[:, before : before + 2 * height : 2, before : before + 2 * width : 2] = x
    rows, columns = stuffed.shape[1] - 3, stuffed.shape[2] - 3
    out = x.new_zeros(channels, rows, columns)
    for (i, a), (j, b) in itertools.product(enumerate((1, 3, 3, 1)), repeat=2):
        out += 4 * a * b / 64 * stuffed[:, i : i + rows, j : j + columns]
    return out


def correlation(x, weight):
    """[I, H, W] and [O, I, k, k] → [O, H - k + 1, W - k + 1]."""
    k = weight.shape[-1]
    rows, columns = x.shape[1] - k + 1, x.shape[2] - k + 1
    terms = [
        torch.einsum("oi,ihw->ohw", weight[:, :, i, j], x[:, i : i + rows, j : j + columns])
        for i, j in itertools.product(range(k), repeat=2)
    ]
    return torch.stack(terms).sum(0)


def clamped(x, limit):
    return x if limit is None else x.clamp(-limit, limit)


def reference_layer(x, w, layer, epsilon):
    """Every image with its own weights; where the size doubles, the filter comes before a flipped kernel."""
    images = []
    for image, style in zip(x, linear(w, layer.affine), strict=True):
        weight = layer.weight.double() * style[None, :, None, None]
        weight = weight / torch.sqrt((weight**2).sum(dim=(1, 2, 3), keepdim=True) + epsilon)
        if layer.up == 2:
            image = correlation(doubled(image, 1 + 2, 1 + 1), weight.flip(2, 3))
        else:
            image = correlation(nn.functional.pad(image, [1] * 4), weight)
        images.append(image)
    y = torch.stack(images)
    if layer.use_noise:
        y = y + layer.noise_const.double() * layer.noise_strength.double()
    y = y + layer.bias.double()[:, None, None]
    return clamped(torch.where(y > 0, y, 0.2 * y) * math.sqrt(2), layer.conv_clamp)


def reference_image(network, ws, *, epsilon=1e-8):
    """ws [B, num_ws, w_dim] → [B, C, rows, columns]."""
    styles = list(ws.double().unbind(1))
    image = None
    for length in network.synthesis.block_resolutions:
        block = getattr(network.synthesis, f"b{length}")
        if length == 4:
            x = block.const.double().expand(len(ws), -1, -1, -1)
        else:
            x = reference_layer(x, styles.pop(0), block.conv0, epsilon)
        x = reference_layer(x, styles.pop(0), block.conv1, epsilon)
        style = linear(styles[0], block.torgb.affine) / math.sqrt(x.shape[1])  # shared with the next block
        rgb = torch.einsum("oi,bi,bihw->bohw", block.torgb.weight.double()[..., 0, 0], style, x)
        rgb = clamped(rgb + block.torgb.bias.double()[:, None, None], block.torgb.conv_clamp)
        image = rgb if image is None else rgb + torch.stack([doubled(below, 2, 1) for below in image])
    assert len(styles) == 1
    return image


def close(ours, expected, tolerance=1e-4):
    torch.testing.assert_close(ours.double(), expected, rtol=tolerance, atol=tolerance)


def random_ws(network, batch=2):
    num_ws = 2 * len(network.synthesis.block_resolutions)
    return torch.randn(batch, num_ws, network.w_dim, generator=torch.Generator().manual_seed(5))


# size, c_dim, channels, num_layers, options: unconditional, conditional; grey, RGB; with what published networks have
NETWORKS = [
    (8, 0, 1, 2, {}),
    (16, 3, 3, 8, {"z_dim": 6, "base": 32, "most": 8}),
    (16, 2, 1, 1, {"clamp": 1.5, "half_sizes": 2}),
    (32, 2, 3, 3, {"clamp": 256, "half_sizes": 4, "base": 100, "most": 6}),
    (8, 1, 4, 2, {"lr": 0.002}),
    (8, 0, 1, 2, {"noise": False}),
]


# ---------------------------------------------------------------------------------------------------------------------
# The same images
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "c_dim", "channels", "num_layers", "options"), NETWORKS)
@pytest.mark.parametrize("protocol", [3, 5])
def test_images_are_those_of_the_published_formulas(tmp_path, size, c_dim, channels, num_layers, options, protocol):
    network = make_network(size, c_dim, channels, num_layers, **options)
    generator = load_stylegan2_pickle(write(tmp_path / "network.pkl", network, protocol=protocol))
    ws = random_ws(network)
    expected = reference_image(network, ws)
    assert expected.shape == (2, channels, size, size)
    close(generator.synthesis(ws), expected.mT)  # rows are first there, columns here
    w = ws[:, 0]
    close(generator.synthesis(w), reference_image(network, w[:, None].expand_as(ws)).mT)


@pytest.mark.parametrize(("size", "c_dim", "channels", "num_layers", "options"), NETWORKS)
def test_styles_are_those_of_the_published_formulas(tmp_path, size, c_dim, channels, num_layers, options):
    network = make_network(size, c_dim, channels, num_layers, **options)
    generator = load_stylegan2_pickle(write(tmp_path / "network.pkl", network))
    z = torch.randn(4, network.z_dim) * 3
    labels = torch.arange(4) % c_dim if c_dim else None
    close(generator.mapping(z, labels), reference_w(network, z, labels))
    close(generator.mapping(z, labels, truncation=0.6), reference_w(network, z, labels, psi=0.6))
    w = reference_w(network, z, labels, psi=0.6)
    num_ws = 2 * len(network.synthesis.block_resolutions)
    expected = reference_image(network, w[:, None].expand(-1, num_ws, -1))
    close(generator(z, labels, truncation=0.6), expected.mT, tolerance=1e-3)  # the rounding of w is amplified


def test_the_clamp_is_at_work_in_the_table():
    network = make_network(16, 2, 1, 1, clamp=1.5)
    ws = random_ws(network)
    before = reference_image(network, ws)
    for module in network.modules():
        module.conv_clamp = None
    assert (reference_image(network, ws) - before).abs().max() > 0.1


def test_the_clamp_is_an_option_that_older_files_do_not_have(tmp_path):
    generator = StyleGAN2Generator(2, 8, 1, 4, 4, channel_base=16, mapping_layers=1).eval()
    del generator.architecture["conv_clamp"]
    save_generator(generator, tmp_path / "model.pt")
    z = torch.randn(2, 4)
    assert torch.equal(load_generator(tmp_path / "model.pt")(z), generator(z))
    for limit in (0, -1.0):
        with pytest.raises(ConfigError, match=r"conv_clamp is .* above 0"):
            StyleGAN2Generator(2, 8, 1, conv_clamp=limit)


def test_epsilon_of_the_demodulation_is_that_of_the_published_code(tmp_path):
    """It matters where the styles of a layer are nearly 0."""
    network = make_network()
    for layer in (network.synthesis.b4.conv1, network.synthesis.b8.conv0):
        layer.affine.weight *= 1e-5
        layer.affine.bias *= 1e-5
    ws = random_ws(network)
    expected = reference_image(network, ws)
    assert (reference_image(network, ws, epsilon=1e-8 * 36) - expected).abs().max() > 0.1
    close(load_stylegan2_pickle(write(tmp_path / "network.pkl", network)).synthesis(ws), expected.mT)


def test_noise(tmp_path):
    network = make_network()
    generator = load_stylegan2_pickle(write(tmp_path / "network.pkl", network))
    silent = load_stylegan2_pickle(write(tmp_path / "silent.pkl", make_network(noise=False)))
    w = random_ws(network)[:, 0]
    assert not torch.equal(generator.synthesis(w, noise_mode="random"), generator.synthesis(w))
    assert not torch.equal(generator.synthesis(w, noise_mode="none"), generator.synthesis(w))
    assert torch.equal(silent.synthesis(w, noise_mode="random"), silent.synthesis(w))


def test_images_lie_as_loaded_by_monai(tmp_path):
    """A PNG of the published image, as MONAI loads it, is what our generator makes."""
    network = make_network(16, channels=1)
    generator = load_stylegan2_pickle(write(tmp_path / "network.pkl", network))
    ws = random_ws(network, batch=1)
    rows = reference_image(network, ws)[0, 0]
    low, high = rows.min(), rows.max()
    pixels = ((rows - low) / (high - low) * 255).round().to(torch.uint8)
    Image.fromarray(pixels.numpy()).save(tmp_path / "image.png")
    loaded = LoadImage(image_only=True, ensure_channel_first=True)(tmp_path / "image.png").as_tensor()
    ours = (generator.synthesis(ws)[0] - low) / (high - low) * 255
    assert (loaded - ours).abs().max() < 0.51
    assert (loaded.mT - ours).abs().max() > 50  # the orientation is no matter of taste


def test_what_the_network_is(tmp_path):
    network = make_network(32, 2, 3, 3, clamp=256, base=100, most=6)
    generator = load_stylegan2_pickle(write(tmp_path / "network.pkl", network))
    assert generator.architecture == {
        "spatial_dims": 2,
        "img_size": [32, 32],
        "img_channels": 3,
        "z_dim": 5,
        "w_dim": 6,
        "num_classes": 2,
        "channel_base": 96,  # 3 channels at 32, 6 at 16 and below, as with 100
        "channel_max": 6,
        "mapping_layers": 3,
        "conv_clamp": 256.0,
    }
    assert not any(module.training for module in generator.modules())
    assert not any(parameter.requires_grad for parameter in generator.parameters())
    assert torch.equal(generator.mapping.w_avg, network.mapping.w_avg)


def test_half_precision_and_frozen_tensors(tmp_path):
    """Weights that a layer keeps as buffers (frozen in the training), and in float16."""
    network = make_network()
    layer = network.mapping.fc0
    weight = layer.weight.data
    del layer.weight
    layer.register_buffer("weight", weight.half())
    for tensor in (network.synthesis.b8.conv1.weight, network.synthesis.b8.conv1.resample_filter):
        tensor.data = tensor.half()
    generator = load_stylegan2_pickle(write(tmp_path / "network.pkl", network))
    assert {tensor.dtype for tensor in generator.state_dict().values()} == {torch.float32}
    z, ws = torch.randn(2, 5), random_ws(network)
    close(generator.mapping(z), reference_w(network, z))
    close(generator.synthesis(ws), reference_image(network, ws).mT)


def test_command_and_walk(tmp_path, capsys):
    network = make_network(16, 2, 1, 2, clamp=1.5)
    file = write(tmp_path / "network.pkl", network)
    output = tmp_path / "private" / "model.pt"
    assert main(["import-stylegan2", str(file), "--output", str(output)]) == 0
    assert capsys.readouterr().out == f"wrote {output}\n"
    generator, direct = load_generator(output), load_stylegan2_pickle(file)
    assert generator.architecture == direct.architecture
    ws = random_ws(network)
    assert torch.equal(generator.synthesis(ws), direct.synthesis(ws))
    close(generator.synthesis(ws), reference_image(network, ws).mT)
    header = load_artifact(output, kind="generator")["header"]
    assert header["made_by"] == {"imported": "network.pkl", "sha256": file_digest(file)}

    classifiers = [nn.Sequential(nn.Flatten(), nn.Linear(256, outputs)) for outputs in (3, 2)]
    walk = LatentWalk(generator, *classifiers, settings=WalkSettings.fast(4, steps=2))
    w = generator.mapping(torch.randn(2, 5), torch.tensor([1, 1]))
    path = walk(w[0], w[1], 1).path
    assert path.shape == (4, 6)
    assert path.isfinite().all()


def test_command_tells_errors_in_one_sentence(tmp_path, capsys):
    file, output = tmp_path / "network.pkl", tmp_path / "model.pt"
    assert main(["import-stylegan2", str(file), "--output", str(output)]) == 2
    assert capsys.readouterr().err == (
        f"monai_plan: {file} does not exist: give the .pkl file of a StyleGAN2 network.\n"
    )
    file.write_bytes(pickle.dumps(eval))
    assert main(["import-stylegan2", str(file), "--output", str(output)]) == 2
    assert "asks for 'builtins.eval'" in capsys.readouterr().err
    assert not output.exists()


# ---------------------------------------------------------------------------------------------------------------------
# What is refused
# ---------------------------------------------------------------------------------------------------------------------


def set_attribute(module, name, value):
    return lambda network: setattr(network.get_submodule(module), name, value)


def remove(module, name):
    return lambda network: delattr(network.get_submodule(module), name)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (set_attribute("synthesis.b8", "architecture", "resnet"), r"synthesis\.b8\.architecture is 'resnet', but only"),
        (set_attribute("synthesis.b4", "architecture", "orig"), r"synthesis\.b4\.architecture is 'orig', but only"),
        (set_attribute("synthesis.b8.conv0", "activation", "relu"), r"b8\.conv0\.activation is 'relu', .* 'lrelu'"),
        (set_attribute("mapping.fc1", "activation", "swish"), r"mapping\.fc1\.activation is 'swish'"),
        (set_attribute("synthesis.b4.torgb.affine", "activation", "lrelu"), r"affine\.activation is 'lrelu'"),
        (set_attribute("synthesis.b8.conv1", "conv_clamp", 2), r"conv_clamp is not the same in all layers"),
        (set_attribute("synthesis.b8.conv1", "conv_clamp", "2"), r"conv_clamp is '2', but must be a number"),
        (set_attribute("synthesis.b8.conv1", "conv_clamp", -2.0), r"conv_clamp is -2\.0, but must be a number above 0"),
        (remove("synthesis.b8.conv1", "conv_clamp"), r"lacks synthesis\.b8\.conv1\.conv_clamp"),
        (set_attribute("mapping.fc1", "bias_gain", "much"), r"mapping\.fc1\.bias_gain is 'much', but must be a n"),
        (set_attribute("mapping.fc1", "bias_gain", 10**500), r"mapping\.fc1\.bias_gain is 1000.*, but must be a n"),
        (remove("mapping.fc1", "bias_gain"), r"lacks mapping\.fc1\.bias_gain"),
        (
            lambda network: network.synthesis.b8.conv1.resample_filter.copy_(torch.ones(4, 4) / 16),
            r"b8\.conv1\.resample_filter is not the filter \[1, 3, 3, 1\]",
        ),
        (set_attribute("synthesis", "input", Stored("SynthesisInput")), "it is a StyleGAN3 generator"),
        (
            set_attribute("synthesis.b8", "attention", fully_connected(2, 2)),
            r"has tensors that StyleGAN2 does not have, synthesis\.b8\.attention\.bias among 2",
        ),
        (remove("mapping", "w_avg"), r"lacks tensors that StyleGAN2 has, mapping\.w_avg among 1"),
        (remove("synthesis.b8.conv1", "noise_const"), r"lacks .*synthesis\.b8\.conv1\.noise_const among 1"),
        (
            lambda network: network.synthesis.b8.conv1.noise_const.set_(torch.zeros(8)),
            r"synthesis\.b8\.conv1\.noise_const has shape \[8\], expected \[8, 8\]",
        ),
        (remove("synthesis.b8", "conv1"), r"lacks synthesis\.b8\.conv1\.weight"),
        (remove("mapping", "fc0"), r"lacks mapping\.fc0\.weight"),
        (remove("synthesis", "b4"), r"lacks .*synthesis\.b4"),
        (remove("synthesis", "b8"), r"its sizes make no generator: img_size is \[4, 4\]"),
        (
            lambda network: network.synthesis.b8.conv1.bias.set_(torch.zeros(3)),
            r"synthesis\.b8\.conv1\.bias has shape \[3, 1, 1\], expected \[4, 1, 1\]",
        ),
        (lambda network: network.mapping.w_avg.set_(torch.zeros(7)), r"mapping\.w_avg has shape \[7\], expected \[6\]"),
        (
            lambda network: network.synthesis.b8.register_buffer("steps", torch.zeros(3, dtype=torch.long)),
            r"synthesis\.b8\.steps does not fit its numbers, or they are no floating",
        ),
        (
            lambda network: setattr(network.synthesis.b8, "again", network.mapping.fc0),
            r"its modules are no tree: .* is there twice",
        ),
        (
            lambda network: setattr(network.synthesis.b8, "foreign", nn.Linear(2, 2)),
            r"asks for 'torch\.nn\.modules\.linear\.Linear'",
        ),
    ],
)
def test_another_network_is_refused_by_name(tmp_path, change, message):
    network = make_network()
    change(network)
    with pytest.raises(ArtifactError, match=rf"network\.pkl cannot be imported: .*{message}"):
        load_stylegan2_pickle(write(tmp_path / "network.pkl", network))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"G": None, "D": 1}, r"has no G_ema, the averaged generator, but \['D', 'G'\]"),
        ({"G_ema": None}, "its G_ema is no network"),
        ({"G_ema": set()}, "its G_ema is not stored in the form"),
        ([1, 2], "holds no dict of networks with G_ema"),
        ({"G_ema": torch.zeros(2)}, "its G_ema is not stored in the form"),
        ({"G_ema": {(1, 2): 3}}, "damaged"),
        ({"G_ema": 1 << 5000}, "has the pickle opcode LONG4"),
    ],
)
def test_another_content_is_refused(tmp_path, value, message):
    file = tmp_path / "network.pkl"
    file.write_bytes(pickle.dumps(value, protocol=3))
    with pytest.raises(ArtifactError, match=message):
        load_stylegan2_pickle(file)


def test_tensorflow_network_is_refused_with_a_remedy(tmp_path):
    file = tmp_path / "network.pkl"
    file.write_bytes(b"\x80\x03cdnnlib.tflib.network\nNetwork\nq\x00)\x81q\x01.")
    with pytest.raises(ArtifactError, match=r"a TensorFlow network\. Convert it with legacy\.py"):
        load_stylegan2_pickle(file)


def zip_file():
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("data.pkl", "x")
    return content.getvalue()


@pytest.mark.parametrize(
    "content", [b"", b"\x89PNG\r\n\x1a\n" + bytes(50), zip_file(), b"hello\n", b"(lp0\n."], ids=range(5)
)
def test_a_file_that_is_no_pickle(tmp_path, content):
    file = tmp_path / "network.pkl"
    file.write_bytes(content)
    with pytest.raises(ArtifactError, match=r"network\.pkl cannot be imported: it is no pickle"):
        load_stylegan2_pickle(file)


def test_missing_file(tmp_path):
    with pytest.raises(ArtifactError, match=r"network\.pkl does not exist"):
        load_stylegan2_pickle(tmp_path / "network.pkl")
    with pytest.raises(ArtifactError, match="does not exist"):
        load_stylegan2_pickle(tmp_path)


# ---------------------------------------------------------------------------------------------------------------------
# Malice and damage
# ---------------------------------------------------------------------------------------------------------------------


class Runs:
    """Has a function called when it is unpickled by anything that calls."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


class RunsLater:
    """Has its state do it."""

    def __setstate__(self, path):
        os.mkdir(path)

    def __reduce__(self):
        return RunsLater, (), self.path


def runs_later(path):
    value = RunsLater()
    value.path = path
    return value


def text(value):
    """The opcode of a string."""
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def in_numbers(value, *, zipped):
    """A network in whose tensor's bytes, which the published loader gives to torch.load, there is more than numbers."""
    data = io.BytesIO()
    torch.save(value, data, _use_new_zipfile_serialization=zipped)
    return with_tensor(Runs(torch.storage._load_from_bytes, data.getvalue()), 0, (6,), (1,))


def with_tensor(storage, offset, size, stride):
    network = make_network()
    network.mapping._buffers["w_avg"] = Runs(
        torch._utils._rebuild_tensor_v2, storage, offset, size, stride, False, OrderedDict()
    )
    return snapshot(network)


def with_source(source):
    network = make_network()
    for module in network.modules():
        module.source = source
    return {"G_ema": network}


MALICIOUS = {
    "system": (lambda path: Runs(os.system, f'mkdir "{path}"'), r"asks for '\w+\.system'"),
    "mkdir": (lambda path: {"G_ema": Runs(os.mkdir, path)}, r"asks for '\w+\.mkdir'"),
    "eval": (lambda path: Runs(eval, f"__import__('os').mkdir({path!r})"), r"asks for 'builtins\.eval'"),
    "exec": (lambda path: Runs(exec, f"import os; os.mkdir({path!r})"), r"asks for 'builtins\.exec'"),
    "beside the networks": (
        lambda path: snapshot(make_network()) | {"augment_pipe": Runs(os.mkdir, path)},
        r"asks for '\w+\.mkdir'",
    ),
    "in an attribute": (
        lambda path: snapshot(Stored("Generator", z_dim=Runs(os.mkdir, path))),
        r"asks for '\w+\.mkdir'",
    ),
    "state": (runs_later, r"asks for '[\w.]*RunsLater'"),
    "shell of torch": (
        lambda path: Runs(torch.utils.collect_env.run, f'mkdir "{path}"'),
        r"asks for 'torch\.utils\.collect_env\.run'",
    ),
    "argument of torch": (
        lambda path: with_tensor(Runs(os.mkdir, path), 0, (6,), (1,)),
        r"asks for '\w+\.mkdir'",
    ),
    "in numbers": (
        lambda path: in_numbers(Runs(os.mkdir, path), zipped=False),
        r"numbers of its mapping\.w_avg are damaged or hold more",
    ),
    "in zipped numbers": (
        lambda path: in_numbers(Runs(os.mkdir, path), zipped=True),
        r"numbers of its mapping\.w_avg are damaged or hold more",
    ),
    "getattr": (
        lambda path: (
            b"\x80\x03cbuiltins\ngetattr\n(cbuiltins\ngetattr\n(cos\npath\n"
            + (text("os") + b"tR" + text("mkdir") + b"tR" + text(path) + b"\x85R.")
        ),
        r"asks for 'builtins\.getattr'",
    ),
    "behind a known module": (
        lambda path: (
            b"\x80\x04" + text("torch.storage") + text("io.open") + b"\x93" + text(path) + text("w") + b"\x86R."
        ),
        r"asks for 'torch\.storage\.io\.open'",
    ),
    "INST": (lambda path: b"\x80\x03(" + text(path) + b"ios\nmkdir\n.", "has the pickle opcode INST"),
    "OBJ": (lambda path: b"\x80\x03(cos\nmkdir\n" + text(path) + b"o.", r"asks for 'os\.mkdir'"),
}


@pytest.mark.parametrize("protocol", [3, 4])
@pytest.mark.parametrize("case", MALICIOUS)
def test_nothing_in_a_file_is_executed(tmp_path, case, protocol):
    make, message = MALICIOUS[case]
    file, made = tmp_path / "network.pkl", tmp_path / "made"
    value = make(str(made))
    with published_modules():
        file.write_bytes(value if isinstance(value, bytes) else pickle.dumps(value, protocol=protocol))
    with pytest.raises(ArtifactError, match=message):
        load_stylegan2_pickle(file)
    assert not made.exists()
    run_by_unpickling(file)
    assert made.exists()  # the file is what it claims to be


def run_by_unpickling(file):
    """Unpickle as usual, also what fails after it has done its work."""
    with published_modules(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys.modules["torch_utils.persistence"], "_reconstruct_persistent_obj", lambda meta: None)
        with contextlib.suppress(Exception):
            pickle.loads(file.read_bytes())


def test_source_code_in_a_file_is_not_executed(tmp_path):
    made = tmp_path / "made"
    file = tmp_path / "network.pkl"
    with published_modules():
        file.write_bytes(pickle.dumps(with_source(f"import os\nos.mkdir({str(made)!r})\n")))
    ws = random_ws(make_network())
    close(load_stylegan2_pickle(file).synthesis(ws), reference_image(make_network(), ws).mT)
    assert not made.exists()
    assert sorted(tmp_path.iterdir()) == [file]
    with published_modules(), contextlib.suppress(FileExistsError):  # the second module's source ends it
        pickle.loads(file.read_bytes())
    assert made.exists()


def test_the_extension_registry_is_not_asked(tmp_path):
    file, made = tmp_path / "network.pkl", tmp_path / "made"
    copyreg.add_extension(os.mkdir.__module__, "mkdir", 240)
    try:
        file.write_bytes(pickle.dumps(Runs(os.mkdir, str(made)), protocol=2))
        with pytest.raises(ArtifactError, match="has the pickle opcode EXT1"):
            load_stylegan2_pickle(file)
        assert not made.exists()
        pickle.loads(file.read_bytes())
        assert made.exists()
    finally:
        copyreg.remove_extension(os.mkdir.__module__, "mkdir", 240)


def storage_bytes(numel, data, keys=("0",)):
    """What torch writes for a storage, with a number of elements of our choice."""

    class Pickler(pickle.Pickler):
        def persistent_id(self, value):
            return ("storage", torch.FloatStorage, "0", "cpu", numel, None) if value is self else None

    content = io.BytesIO()
    pickler = Pickler(content, protocol=2)
    for value in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}, pickler, list(keys)):
        pickler.clear_memo()
        pickler.dump(value)
    return content.getvalue() + struct.pack("<q", numel) + data


def test_numbers_are_read_in_this_form(tmp_path):
    """So that the next test is one of sizes."""
    values = torch.arange(6.0)
    storage = Runs(torch.storage._load_from_bytes, storage_bytes(6, values.numpy().tobytes()))
    file = tmp_path / "network.pkl"
    with published_modules():
        file.write_bytes(pickle.dumps(with_tensor(storage, 0, (6,), (1,))))
    assert torch.equal(load_stylegan2_pickle(file).mapping.w_avg, values)


@pytest.mark.parametrize(
    ("numel", "offset", "size", "stride"),
    [
        (2**40, 0, (6,), (1,)),  # more numbers than there are in the file
        (2**34, 0, (2**34,), (1,)),
        (-1, 0, (6,), (1,)),
        (6, 0, (2**20, 2**20), (0, 0)),  # one number for many
        (6, 1, (6,), (1,)),  # beyond the end
        (6, -1, (6,), (1,)),
        (6, 2**70, (6,), (1,)),
        (6, 0, (6,), (2,)),
        (6, 0, (-2, -3), (1, 1)),
        (6, 0, (2**70,), (1,)),
        (6, 0, ("6",), (1,)),
        (6, 0, (6,), ("1",)),
        (6, 0, 6, 1),
        (6, "0", (6,), (1,)),
        (6, 0, (1,) * 100_000 + (6,), (1,) * 100_001),
    ],
)
def test_tensors_of_impossible_sizes(tmp_path, numel, offset, size, stride):
    storage = Runs(torch.storage._load_from_bytes, storage_bytes(numel, bytes(24)))
    file = tmp_path / "network.pkl"
    with published_modules():
        file.write_bytes(pickle.dumps(with_tensor(storage, offset, size, stride)))
    with pytest.raises(ArtifactError, match=r"its mapping\.w_avg"):
        load_stylegan2_pickle(file)


@pytest.mark.parametrize("numel", [6, 2**26])
def test_memory_that_the_file_does_not_fill(tmp_path, numel):
    """A storage that is announced, but not in the list of those that follow, has whatever was in the memory."""
    storage = Runs(torch.storage._load_from_bytes, storage_bytes(numel, b"", keys=()))
    file = tmp_path / "network.pkl"
    with published_modules():
        file.write_bytes(pickle.dumps(with_tensor(storage, 0, (6,), (1,))))
        assert torch.empty(0).set_(pickle.loads(pickle.dumps(storage))).numel() == numel
    with pytest.raises(ArtifactError, match=r"its mapping\.w_avg does not fit its numbers"):
        load_stylegan2_pickle(file)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x80\x03" + text("a") + b"Q.", "pickle opcode BINPERSID"),
        (b"\x80\x05\x97.", "pickle opcode NEXT_BUFFER"),
        (b"\x80\x03cos\npath.mkdir\n.", r"asks for 'os\.path\.mkdir'"),
        (b"\x80\x04" + text("collections") + text("OrderedDict.__class__") + b"\x93.", r"OrderedDict\.__class__'"),
        (b"\x80\x04" + text("collections") + b"}\x93.", "damaged"),  # a name that is a dict
        (b"\x80\x03ccollections\nOrderedDict\n}b.", "damaged"),  # attributes for a class
        (b"\x80\x03ccollections\nOrderedDict\n)R}b.", "damaged"),
        (b"\x80\x03}}R.", "damaged"),  # a call of a dict
        (b"\x80\x03)Na.", "damaged"),  # an item for a tuple
        (b"\x80\x03]NNs.", "damaged"),
        (b"\x80\x03(}Nu.", "damaged"),
        (b"\x80\x03h\x05.", "damaged"),  # never stored
        (b"\x80\x03Nr\xff\xff\xff\xff.", "holds no dict of networks"),  # stored under the highest number there is
        (b"\x80\x03})" + b"\x85" * 100_000 + b"Ns.", "damaged"),  # a key whose hash would overflow the C stack
        (b"\x80\x03B\xff\xff\xff\xff.", "damaged"),
        (b"\x80\x04\x8e" + b"\xff" * 8 + b".", "damaged"),
        (b"\x80\x03a.", "damaged"),
        (b"\x80\x03.", "damaged"),
        (b"\x80\x03\xff.", "damaged"),
        (b"\x80", "damaged"),
    ],
)
def test_crooked_pickles(tmp_path, content, message):
    file = tmp_path / "network.pkl"
    file.write_bytes(content)
    with pytest.raises(ArtifactError, match=message):
        load_stylegan2_pickle(file)


def test_deep_and_wide_values_are_named_briefly(tmp_path):
    deep = []
    for _ in range(100):
        deep = [deep, deep]  # 2^100 items if it were written out
    network = make_network()
    network.synthesis.b8.architecture = deep
    with pytest.raises(ArtifactError, match=r"b8\.architecture is .*'skip'") as error:
        load_stylegan2_pickle(write(tmp_path / "network.pkl", network))
    assert len(str(error.value)) < 1000


@pytest.fixture(scope="module")
def small_file():
    """The bytes of a small network."""
    with published_modules():
        return pickle.dumps(snapshot(make_network(8, 2, 1, 1, z_dim=2, w_dim=2, most=1)), protocol=4)


@pytest.mark.parametrize("share", [0.01, 0.3, 0.6, 0.9, 0.9999])
def test_truncated_file(tmp_path, small_file, share):
    file = tmp_path / "network.pkl"
    file.write_bytes(small_file[: int(len(small_file) * share)])
    with pytest.raises(ArtifactError, match=r"cannot be imported: it is damaged: copy or download it again"):
        load_stylegan2_pickle(file)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(where=st.floats(0, 1), new=st.binary(min_size=1, max_size=4), old=st.integers(0, 4))
def test_damage_gives_an_error_for_people_or_other_numbers(tmp_path, small_file, where, new, old):
    start = 2 + int(where * (len(small_file) - 2))
    file = tmp_path / "network.pkl"
    file.write_bytes(small_file[:start] + new + small_file[start + old :])
    message = f"{file} cannot be imported: "
    try:
        assert load_stylegan2_pickle(file).img_size == (8, 8)
    except ArtifactError as error:
        message = str(error)
    assert message.startswith(f"{file} cannot be imported: ")
    assert "\n" not in message
