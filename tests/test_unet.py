"""The network: shapes, sizes, and its two forms that compute the same."""

import pytest
import torch
from support.models import SHAPES

from vesselseg import spec
from vesselseg.unet import HEADS, UNet, fold_batch_norm


def seeded(head, *, width=8, depth=3):
    """A narrow network with batch norms that do something."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = UNet(width, depth, head, norm=True)
        for name, value in network.named_buffers():
            if name.endswith("running_mean"):
                value.normal_(0, 0.2)
            elif name.endswith("running_var"):
                value.uniform_(0.5, 2)
        for name, value in network.named_parameters():
            if ".norm." in name:
                value.data.uniform_(0.5, 1.5)
    return network.eval()


def test_has_every_head_that_a_model_spec_can_name():
    assert tuple(HEADS) == spec.HEADS


@pytest.mark.parametrize("head", HEADS)
def test_logits_have_the_size_of_the_image(head):
    network = seeded(head)
    assert network.size_divisor == 4
    with torch.inference_mode():
        assert network(torch.zeros(2, 3, 12, 20)).shape == (2, 2, 12, 20)


@pytest.mark.parametrize("head", HEADS)
def test_a_network_with_folded_batch_norms_gives_the_same_logits(head):
    trained = seeded(head)
    folded = UNet(8, 3, head)
    folded.load_state_dict(fold_batch_norm(trained.state_dict()))
    x = torch.randn(2, 3, 32, 48, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected, logits = trained(x), folded(x)
    assert expected.std() > 0.01
    torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("head", HEADS)
def test_the_network_has_the_parameters_of_the_published_one(head):
    published = {
        key: shape
        for key, shape in SHAPES[head].items()
        if not key.startswith("auxiliary_head.") and not key.endswith("num_batches_tracked")
    }
    with torch.device("meta"):
        state = UNet(64, 5, head, norm=True).state_dict()
    ours = [list(v.shape) for k, v in state.items() if not k.endswith("num_batches_tracked")]
    assert sorted(ours) == sorted(published.values())


def test_reducing_before_enlarging_equals_the_published_order():
    """The 1x1 convolution and the bilinear enlargement of the decoder commute."""
    up = seeded("fcn").decoder[0]
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(1, 16, 5, 7, generator=generator)
    skip = torch.randn(1, 8, 10, 14, generator=generator)
    with torch.inference_mode():
        large = torch.nn.functional.interpolate(x, scale_factor=2, mode="bilinear")
        published = up.block(torch.cat([skip, up.reduce(large).relu()], dim=1))
        torch.testing.assert_close(up(x, skip), published, rtol=1e-5, atol=1e-5)
