"""The one residual network: MONAI's ResNet-18 by default, and small enough for small images."""

from __future__ import annotations

import pytest
import torch
from monai.networks.nets import resnet18

from monai_plan.networks import resnet_classifier


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_by_default_it_is_resnet18(spatial_dims):
    torch.manual_seed(0)
    ours = resnet_classifier(5, spatial_dims=spatial_dims, img_channels=1).eval()
    torch.manual_seed(0)
    theirs = resnet18(spatial_dims=spatial_dims, n_input_channels=1, num_classes=5, conv1_t_stride=2).eval()
    images = torch.randn(2, 1, *[32] * spatial_dims)
    with torch.no_grad():
        torch.testing.assert_close(ours(images), theirs(images), rtol=0, atol=0)


@pytest.mark.parametrize(("stride", "max_pool", "kept"), [(1, True, 32), (2, True, 8), (2, False, 16)])
def test_how_much_of_the_image_its_first_level_sees(stride, max_pool, kept):
    network = resnet_classifier(
        3, spatial_dims=2, img_channels=2, layers=[1, 1, 1, 1], channels=[4, 4, 4, 4], stride=stride, max_pool=max_pool
    )
    seen = []
    network.layer1.register_forward_hook(lambda module, inputs, output: seen.append(output.shape))
    assert network(torch.randn(2, 2, 32, 32)).shape == (2, 3)
    assert seen == [(2, 4, kept, kept)]
