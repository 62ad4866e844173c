"""StyleGAN2 against slow, obvious references: zero-stuffed images, explicit loops, one set of weights per sample."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck, gradgradcheck
from torch.func import functional_call

from monai_plan.networks import MappingNetwork, StyleGAN2Discriminator, StyleGAN2Generator
from monai_plan.networks.discriminator import minibatch_stddev
from monai_plan.networks.layers import (
    EqualizedConv,
    EqualizedLinear,
    ModulatedConv,
    activate,
    channels_at,
    smooth,
    smoothing_kernel,
    start_shape,
    upsample,
)
from monai_plan.networks.stylegan2 import SynthesisLayer
from monai_plan.utils import ConfigError

CONV = {2: F.conv2d, 3: F.conv3d}
SHAPE = {2: (5, 4), 3: (3, 4, 2)}  # odd, even and all axes different
TAPS = (1 / 8, 3 / 8, 3 / 8, 1 / 8)

# spatial_dims, img_size, img_channels, num_classes: square, oblong, no power of two, RGB, unconditional
NETWORKS = [
    (2, 8, 1, 2),
    (2, (16, 8), 1, 0),
    (2, (48, 32), 3, 3),
    (2, (12, 20), 1, 2),
    (3, 8, 1, 2),
    (3, (12, 8, 16), 1, 0),
]


def make_generator(spatial_dims=2, img_size=8, img_channels=1, num_classes=2, *, z_dim=5, w_dim=6, seed=0):
    torch.manual_seed(seed)
    return StyleGAN2Generator(
        spatial_dims, img_size, img_channels, z_dim, w_dim, num_classes,
        channel_base=192, channel_max=4, mapping_layers=2,
    )  # fmt: skip


def make_discriminator(spatial_dims=2, img_size=8, img_channels=1, num_classes=2, **options):
    torch.manual_seed(1)
    return StyleGAN2Discriminator(
        spatial_dims, img_size, img_channels, num_classes, channel_base=192, channel_max=4, **options
    )


def with_noise(generator, strength=1.0):
    for module in generator.modules():
        if isinstance(module, SynthesisLayer):
            module.noise_strength.data.fill_(strength)
    return generator


def latents(generator, batch=4, seed=3):
    rng = torch.Generator().manual_seed(seed)
    z = torch.randn(batch, generator.z_dim, generator=rng)
    labels = torch.arange(batch) % generator.num_classes if generator.num_classes else None
    return z, labels


def smooth_by_loops(x, padding, gain):
    """Every output element as a weighted sum over its 4 x 4 (x 4) window of the zero padded image."""
    spatial_dims = x.ndim - 2
    x = F.pad(x, [padding] * 2 * spatial_dims)
    size = [s - 3 for s in x.shape[2:]]
    out = x.new_zeros(*x.shape[:2], *size)
    for position in itertools.product(*map(range, size)):
        for tap in itertools.product(range(4), repeat=spatial_dims):
            weight = gain * math.prod(TAPS[t] for t in tap)
            source = tuple(p + t for p, t in zip(position, tap, strict=True))
            out[(..., *position)] += weight * x[(..., *source)]
    return out


def zero_stuff(x):
    """[B, C, *s] → [B, C, *(2 s - 1)]: a zero between any two neighbours."""
    out = x.new_zeros(*x.shape[:2], *(2 * s - 1 for s in x.shape[2:]))
    out[(..., *(slice(None, None, 2),) * (x.ndim - 2))] = x
    return out


def modulated_by_sample(x, w, conv):
    """arXiv 1912.04958, eq. 1-3, with one set of weights per sample."""
    dims = conv.spatial_dims
    weight = conv.weight / math.sqrt(conv.weight[0].numel())
    images = []
    for sample, style_w in zip(x, w, strict=True):
        s = conv.affine.weight @ style_w / math.sqrt(len(style_w)) + conv.affine.bias
        modulated = weight * s.view(1, -1, *(1,) * dims)  # eq. 1: w'_ijk = s_i w_ijk
        if conv.demodulate:  # eq. 3: w''_ijk = w'_ijk / sqrt(Σ_ik w'_ijk² + ε)
            norm = (modulated.square().sum(dim=tuple(range(1, dims + 2)), keepdim=True) + 1e-8).sqrt()
            modulated = modulated / norm
        if conv.up:
            kernel = modulated.flip(*range(2, dims + 2))  # a convolution, so the correlation gets the flipped kernel
            stuffed = F.pad(zero_stuff(sample[None]), [2] * 2 * dims)
            images.append(smooth_by_loops(CONV[dims](stuffed, kernel), padding=1, gain=2**dims))
        else:
            images.append(CONV[dims](sample[None], modulated, padding=conv.kernel_size // 2))
    return torch.cat(images)


@pytest.mark.parametrize("spatial_dims", [2, 3])
@pytest.mark.parametrize("padding", [1, 2])
def test_smooth_is_the_window_sum(spatial_dims, padding):
    x = torch.randn(2, 3, *SHAPE[spatial_dims])
    expected = smooth_by_loops(x, padding, gain=2.5)
    torch.testing.assert_close(smooth(x, smoothing_kernel(spatial_dims) * 2.5, padding), expected)


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_upsample_is_zero_stuffing_and_the_filter(spatial_dims):
    """upfirdn2d of the published code: stuff, pad by 2 before and 2 after (the last zero is stuffed too), filter."""
    x = torch.randn(2, 3, *SHAPE[spatial_dims])
    expected = smooth_by_loops(zero_stuff(x), padding=2, gain=2**spatial_dims)
    result = upsample(x, spatial_dims)
    assert result.shape[2:] == tuple(2 * s for s in x.shape[2:])
    torch.testing.assert_close(result, expected)


def test_upsample_of_a_row():
    """By hand: 0.75 of the nearer and 0.25 of the farther neighbour, zero outside."""
    x = torch.tensor([[4.0, 8.0], [4.0, 8.0]])[None, None]
    rows = torch.tensor([3.0, 5.0, 7.0, 6.0])
    expected = torch.stack([rows * 0.75, rows, rows, rows * 0.75])
    torch.testing.assert_close(upsample(x, 2)[0, 0], expected)


@pytest.mark.parametrize("spatial_dims", [2, 3])
@pytest.mark.parametrize("kernel_size", [1, 3])
@pytest.mark.parametrize("demodulate", [False, True])
def test_modulated_convolution(spatial_dims, kernel_size, demodulate):
    torch.manual_seed(0)
    conv = ModulatedConv(spatial_dims, 3, 2, 4, kernel_size=kernel_size, demodulate=demodulate)
    x, w = torch.randn(3, 3, *SHAPE[spatial_dims]), torch.randn(3, 4)
    torch.testing.assert_close(conv(x, w), modulated_by_sample(x, w, conv), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("spatial_dims", [2, 3])
@pytest.mark.parametrize("demodulate", [False, True])
def test_modulated_convolution_that_doubles_the_size(spatial_dims, demodulate):
    torch.manual_seed(0)
    conv = ModulatedConv(spatial_dims, 3, 2, 4, up=True, demodulate=demodulate)
    x, w = torch.randn(2, 3, *SHAPE[spatial_dims]), torch.randn(2, 4)
    result = conv(x, w)
    assert result.shape[2:] == tuple(2 * s for s in x.shape[2:])
    torch.testing.assert_close(result, modulated_by_sample(x, w, conv), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("spatial_dims", [2, 3])
@pytest.mark.parametrize("up", [False, True])
def test_demodulation_keeps_the_variance(spatial_dims, up):
    """What demodulation is for: unit variance whatever the style (arXiv 1912.04958, section 2.2)."""
    torch.manual_seed(0)
    conv = ModulatedConv(spatial_dims, 8, 16, 4, up=up)
    x = torch.randn(2, 8, *{2: (32, 32), 3: (10, 10, 10)}[spatial_dims])
    w = torch.randn(2, 4) * torch.tensor([[0.1], [50.0]])
    inside = (..., *(slice(2, -2),) * spatial_dims)
    deviations = conv(x, w)[inside].flatten(1).std(1)
    expected = 1.0 if not up else deviations.mean()  # the filter takes some of it away, the same for both
    torch.testing.assert_close(deviations, torch.ones(2) * expected, rtol=0.1, atol=0)


@pytest.mark.parametrize("spatial_dims", [2, 3])
@pytest.mark.parametrize("up", [False, True])
def test_first_and_second_derivative_of_the_modulated_convolution(spatial_dims, up):
    torch.manual_seed(0)
    conv = ModulatedConv(spatial_dims, 2, 2, 3, kernel_size=3, up=up).double()
    x = torch.randn(2, 2, *(2,) * spatial_dims, dtype=torch.double, requires_grad=True)
    w = torch.randn(2, 3, dtype=torch.double, requires_grad=True)
    weight = torch.randn_like(conv.weight).requires_grad_()

    def function(x, w, weight):
        return functional_call(conv, {"weight": weight}, (x, w))

    assert gradcheck(function, (x, w, weight))
    assert gradgradcheck(lambda x, w: conv(x, w), (x, w))


@pytest.mark.parametrize("spatial_dims", [2, 3])
@pytest.mark.parametrize("function", [upsample, lambda x, dims: smooth(x, smoothing_kernel(dims) * 4.0, padding=2)])
def test_first_and_second_derivative_of_the_filters(spatial_dims, function):
    x = torch.randn(1, 2, *(3, 2, 2)[:spatial_dims], dtype=torch.double, requires_grad=True)
    # the square makes the second derivative differ from zero
    assert gradcheck(lambda x: function(x, spatial_dims).square(), (x,))
    assert gradgradcheck(lambda x: function(x, spatial_dims).square(), (x,))


@pytest.mark.parametrize("lr_multiplier", [1.0, 0.01])
def test_equalized_linear(lr_multiplier):
    torch.manual_seed(0)
    layer = EqualizedLinear(400, 300, bias_init=2.0, lr_multiplier=lr_multiplier)
    x = torch.randn(50, 400)
    weight = layer.weight * lr_multiplier
    torch.testing.assert_close(weight.std().item(), 1.0, rtol=0.02, atol=0)  # N(0, 1) in effect
    torch.testing.assert_close(layer(x), x @ weight.T / 20 + 2.0, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close((layer(x) - 2.0).std().item(), 1.0, rtol=0.02, atol=0)


@pytest.mark.parametrize("spatial_dims", [2, 3])
@pytest.mark.parametrize("kernel_size", [1, 3])
def test_equalized_convolution(spatial_dims, kernel_size):
    torch.manual_seed(0)
    x = torch.randn(2, 3, *(6, 8, 4)[:spatial_dims])
    conv = EqualizedConv(spatial_dims, 3, 4, kernel_size)
    scaled = conv.weight / math.sqrt(3 * kernel_size**spatial_dims)
    torch.testing.assert_close(conv(x), CONV[spatial_dims](x, scaled, padding=kernel_size // 2))

    halving = EqualizedConv(spatial_dims, 3, 4, kernel_size, down=True)
    halving.load_state_dict(conv.state_dict())
    smoothed = smooth_by_loops(x, padding=1 if kernel_size == 1 else 2, gain=1.0)
    every = CONV[spatial_dims](smoothed, scaled)  # at every position; then every second one
    expected = every[(..., *(slice(None, None, 2),) * spatial_dims)]
    assert expected.shape[2:] == tuple(s // 2 for s in x.shape[2:])
    torch.testing.assert_close(halving(x), expected)


def test_activation():
    x = torch.tensor([-5.0, 0.0, 1.0])
    torch.testing.assert_close(activate(x), torch.tensor([-1.0, 0.0, 1.0]) * math.sqrt(2))
    torch.testing.assert_close(activate(x, gain=1.0), torch.tensor([-1.0, 0.0, 1.0]))


@given(st.lists(st.integers(1, 300), min_size=2, max_size=3), st.integers(0, 5))
def test_start_shape_times_a_power_of_two(start, exponent):
    size = tuple(s * 2**exponent for s in start)
    if any(s % 2 or s < 8 for s in size):
        with pytest.raises(ConfigError, match="must be even and at least 8"):
            start_shape(size)
        return
    found, doublings = start_shape(size)
    assert tuple(s * 2**doublings for s in found) == size
    assert doublings >= 1
    assert min(found) >= 4
    assert any(s % 2 or s < 8 for s in found)  # as many doublings as possible


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((64, 64), ((4, 4), 4)),
        ((48, 32), ((6, 4), 3)),
        ((96, 96, 64), ((6, 6, 4), 4)),
        ((12, 8, 16), ((6, 4, 8), 1)),
        ((10, 14), ((5, 7), 1)),
    ],
)
def test_start_shape_by_hand(size, expected):
    assert start_shape(size) == expected


@pytest.mark.parametrize("size", [(7, 8), (6, 6), (4, 4), (64, 63), (0, 8), (8, 8, 2)])
def test_start_shape_that_cannot_be(size):
    with pytest.raises(ConfigError, match=r"at least 8"):
        start_shape(size)
    with pytest.raises(ConfigError, match=r"at least 8"):
        StyleGAN2Generator(len(size), size, 1)


@pytest.mark.parametrize("network", [StyleGAN2Generator, StyleGAN2Discriminator])
@pytest.mark.parametrize(("spatial_dims", "size"), [(1, 8), (4, 8), (3, (8, 8)), (2, (8, 8, 8))])
def test_dimensions_that_cannot_be(network, spatial_dims, size):
    with pytest.raises(ConfigError, match="spatial_dims"):
        network(spatial_dims, size, 1)


def test_channels():
    assert channels_at((4, 4), 1024, 128) == 128
    assert channels_at((64, 32), 1024, 128) == 16
    assert channels_at((64, 64), 8, 128) == 1


@pytest.mark.parametrize(("spatial_dims", "img_size", "img_channels", "num_classes"), NETWORKS)
def test_shapes(spatial_dims, img_size, img_channels, num_classes):
    generator = make_generator(spatial_dims, img_size, img_channels, num_classes)
    discriminator = make_discriminator(spatial_dims, img_size, img_channels, num_classes)
    z, labels = latents(generator)
    images = generator(z, labels)
    size = (img_size,) * spatial_dims if isinstance(img_size, int) else img_size
    assert images.shape == (4, img_channels, *size)
    assert images.dtype == torch.float32
    assert generator.mapping(z, labels).shape == (4, generator.w_dim)
    logits = discriminator(images, labels)
    assert logits.shape == (4,)
    assert logits.isfinite().all()
    loss = logits.sum()
    loss.backward()
    unused = [name for name, p in [*generator.named_parameters(), *discriminator.named_parameters()] if p.grad is None]
    assert unused == []


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_the_logit_that_every_class_would_have(spatial_dims):
    torch.manual_seed(0)
    discriminator = StyleGAN2Discriminator(spatial_dims, 8, 1, 3, channel_base=64, channel_max=8)
    images = torch.rand(4, 1, *(8,) * spatial_dims) * 2 - 1
    logits, classes = discriminator.judge(images, torch.tensor([0, 2, 1, 1]))
    torch.testing.assert_close(classes[torch.arange(4), [0, 2, 1, 1]], logits)
    for label in range(3):
        torch.testing.assert_close(classes[:, label], discriminator(images, torch.full((4,), label)))
    alone = StyleGAN2Discriminator(spatial_dims, 8, 1, 0, channel_base=64, channel_max=8)
    logits, classes = alone.judge(images)
    assert torch.equal(classes[:, 0], logits)


@pytest.mark.parametrize(("spatial_dims", "img_size", "img_channels", "num_classes"), NETWORKS)
def test_generator_is_synthesis_after_mapping(spatial_dims, img_size, img_channels, num_classes):
    generator = with_noise(make_generator(spatial_dims, img_size, img_channels, num_classes)).eval()
    z, labels = latents(generator)
    with torch.no_grad():
        w = generator.mapping(z, labels)
        images = generator(z, labels)
        assert torch.equal(images, generator.synthesis(w))
        broadcast = w[:, None].expand(-1, generator.synthesis.num_ws, -1)
        assert torch.equal(images, generator.synthesis(broadcast))
        # no image depends on its batch
        torch.testing.assert_close(generator.synthesis(w[1:2]), images[1:2], rtol=1e-4, atol=1e-5)
        # every one of the num_ws styles reaches the image
        for layer in range(generator.synthesis.num_ws):
            mixed = broadcast.clone()
            mixed[:, layer] += 1
            assert (generator.synthesis(mixed) - images).flatten(1).abs().amax(1).min() > 1e-4, layer


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_number_of_styles(spatial_dims):
    """Two an octave, as in the published code: 2 log2(64) - 2 = 10 at 64."""
    assert make_generator(spatial_dims, 8).synthesis.num_ws == 4
    assert make_generator(2, 64).synthesis.num_ws == 10


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_noise_modes(spatial_dims):
    generator = make_generator(spatial_dims).eval()
    w = generator.mapping(*latents(generator)).detach()

    def image(mode=None):
        with torch.no_grad():
            return generator.synthesis(w, noise_mode=mode)

    # a new network has learnt no noise yet
    assert torch.equal(image("random"), image("const"))
    assert torch.equal(image("none"), image("const"))
    with_noise(generator)
    assert torch.equal(image("const"), image("const"))
    assert not torch.equal(image("random"), image("random"))
    assert not torch.equal(image("none"), image("const"))
    assert torch.equal(image("none"), image("none"))
    assert torch.equal(image(), image("const"))
    torch.manual_seed(7)
    first = image("random")
    torch.manual_seed(7)
    assert torch.equal(first, image("random"))
    assert not torch.equal(first[0], first[1])
    generator.train()
    assert not torch.equal(image(), image())
    with pytest.raises(ValueError, match="noise_mode is 'loud'"):
        image("loud")


def test_noise_is_added_before_the_activation():
    """A layer by hand: activate(conv + strength · noise + bias)."""
    torch.manual_seed(0)
    layer = SynthesisLayer(3, 2, 4, (5, 4), up=False, conv_clamp=None)
    layer.noise_strength.data.fill_(0.7)
    layer.bias.data = torch.tensor([0.3, -0.2]).view(2, 1, 1)
    x, w = torch.randn(2, 3, 5, 4), torch.randn(2, 4)
    x_out = modulated_by_sample(x, w, layer.conv) + 0.7 * layer.noise_const + layer.bias
    torch.testing.assert_close(layer(x, w, "const"), F.leaky_relu(x_out, 0.2) * 2**0.5, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [(2, 5), (2, 3, 6), (2, 5, 6), (6,)])
def test_styles_of_a_wrong_shape(shape):
    generator = make_generator()  # w_dim 6, num_ws 4
    with pytest.raises(ValueError, match=r"\[B, 6\] or \[B, 4, 6\]"):
        generator.synthesis(torch.randn(*shape))


def test_truncation_pulls_to_the_mean():
    generator = make_generator().train()
    for seed in range(3):
        generator.mapping(*latents(generator, seed=seed))
    generator.eval()
    z, labels = latents(generator)
    mean, w = generator.mapping.w_avg, generator.mapping(z, labels)
    assert mean.abs().min() > 0
    torch.testing.assert_close(generator.mapping(z, labels, truncation=0.0), mean.expand(4, -1))
    torch.testing.assert_close(generator.mapping(z, labels, truncation=0.7), mean + 0.7 * (w - mean))
    torch.testing.assert_close(
        generator(z, labels, truncation=0.0), generator.synthesis(mean.expand(4, -1)), rtol=1e-4, atol=1e-5
    )


def test_mean_style_follows_in_training_only():
    torch.manual_seed(0)
    mapping = MappingNetwork(5, 6, 0, num_layers=2, w_avg_beta=0.9)
    z = torch.randn(8, 5)
    expected = torch.zeros(6)
    for _ in range(3):
        w = mapping(z)
        expected = 0.9 * expected + 0.1 * w.detach().mean(0)
        torch.testing.assert_close(mapping.w_avg, expected)
    mapping.eval()
    mapping(z)
    torch.testing.assert_close(mapping.w_avg, expected)
    assert not mapping.w_avg.requires_grad


@pytest.mark.parametrize("num_classes", [0, 2])
def test_mapping_normalises_z(num_classes):
    generator = make_generator(num_classes=num_classes).eval()
    z, labels = latents(generator)
    w = generator.mapping(z, labels)
    torch.testing.assert_close(generator.mapping(z * torch.tensor([[0.1], [2], [3], [1000]]), labels), w)
    assert not torch.allclose(generator.mapping(z.flip(0), labels), w)


def test_label_decides_the_style():
    generator = make_generator(num_classes=3).eval()
    z = latents(generator, batch=1)[0].expand(3, -1)
    w = generator.mapping(z, torch.arange(3))
    assert torch.pdist(w).min() > 0.01


@pytest.mark.parametrize(
    "labels", [None, torch.tensor([0]), torch.tensor([[0, 1]]), torch.tensor([0, 2]), torch.tensor([-1, 0])]
)
def test_label_errors(labels):
    generator, discriminator = make_generator(), make_discriminator()
    with pytest.raises(ValueError, match="label"):
        generator(torch.randn(2, 5), labels)
    with pytest.raises(ValueError, match="label"):
        discriminator(torch.randn(2, 1, 8, 8), labels)


def test_superfluous_labels():
    with pytest.raises(ValueError, match="num_classes=0"):
        make_generator(num_classes=0)(torch.randn(2, 5), torch.tensor([0, 0]))


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_minibatch_standard_deviation_by_hand(spatial_dims):
    values = torch.tensor([1.0, 0.0, 3.0, 4.0])
    x = values.view(-1, 1, *(1,) * spatial_dims).repeat(1, 2, *(3,) * spatial_dims)
    x[:, 1] *= 3  # channel 1 deviates three times as much

    def statistic(x, group_size):
        result = minibatch_stddev(x, group_size)
        assert result.shape == (len(x), 3, *x.shape[2:])
        assert torch.equal(result[:, :2], x)
        channel = result[:, 2].flatten(1)
        assert (channel == channel[:, :1]).all()
        return channel[:, 0]

    # groups of images a stride apart: (0, 2) with deviations 1 and 3, (1, 3) with 2 and 6
    torch.testing.assert_close(statistic(x, 2), torch.tensor([2.0, 4.0, 2.0, 4.0]))
    everything = values.std(correction=0).item()
    torch.testing.assert_close(statistic(x, 4), torch.full((4,), 2 * everything))
    torch.testing.assert_close(statistic(x, 99), torch.full((4,), 2 * everything))
    # three images and groups of two: no group of two divides the batch
    torch.testing.assert_close(statistic(x[:3], 2), torch.full((3,), 1e-4))
    torch.testing.assert_close(statistic(x[:1], 4), torch.full((1,), 1e-4))


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_label_projection_by_hand(spatial_dims):
    discriminator = make_discriminator(spatial_dims, num_classes=3)
    torch.nn.init.normal_(discriminator.embed.bias)
    features = []
    discriminator.out.register_forward_hook(lambda module, args, output: features.append(output))
    images, labels = torch.randn(4, 1, *(8,) * spatial_dims), torch.tensor([2, 0, 1, 2])
    logits = discriminator(images, labels)
    for row, label, logit in zip(features[0], labels, logits, strict=True):
        target = discriminator.embed.weight[:, label] / math.sqrt(3) + discriminator.embed.bias
        target = target / target.square().mean().sqrt()
        torch.testing.assert_close(logit, row @ target / math.sqrt(len(row)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_discriminator_block_by_hand(spatial_dims):
    discriminator = make_discriminator(spatial_dims)
    block = discriminator.blocks[0]
    x = torch.randn(2, 4, *(8,) * spatial_dims)
    main = F.leaky_relu(block.conv1(F.leaky_relu(block.conv0(x), 0.2) * 2**0.5), 0.2) * 2**0.5
    expected = (main + block.skip(x)) / 2**0.5
    torch.testing.assert_close(block(x), expected)
    assert expected.shape[2:] == (4,) * spatial_dims


@settings(max_examples=5, deadline=None)
@given(st.integers(1, 9))
def test_discriminator_takes_any_batch(batch):
    discriminator = make_discriminator(num_classes=0)
    assert discriminator(torch.zeros(batch, 1, 8, 8)).shape == (batch,)


def test_autocast():
    """Only the convolutions of the images are in bfloat16: w, the logits' last layers and the images are float32."""
    generator, discriminator = make_generator().eval(), make_discriminator().eval()
    z, labels = latents(generator)
    dtypes = {}
    for module in (discriminator.conv, discriminator.fc, discriminator.out, discriminator.blocks[0].conv1):
        module.register_forward_hook(lambda module, args, output: dtypes.update({module: output.dtype}))
    with torch.no_grad():
        w = generator.mapping(z, labels)
        images = generator(z, labels)
        logits = discriminator(images, labels)
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(generator.mapping(z, labels), w)
            low_images = generator(z, labels)
            low_logits = discriminator(images, labels)
    assert list(dtypes.values()) == [torch.bfloat16, torch.float32, torch.float32, torch.float32]
    assert low_images.dtype == low_logits.dtype == torch.float32
    assert not torch.equal(low_images, images)
    torch.testing.assert_close(low_images, images, rtol=0.1, atol=0.1)
    torch.testing.assert_close(low_logits, logits, rtol=0.1, atol=0.1)
