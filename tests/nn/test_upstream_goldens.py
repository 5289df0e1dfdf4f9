"""Numbers that ModelScope's own TensorFlow graph gave on seeded weights and inputs; what is here must give them too.

Upstream speaks B, G, R: networks that do not care for the order get its arrays as they are, the losses that do get them flipped.
"""

import numpy as np
import pytest
import torch

from stylekit.methods.dctnet import surface, upstream_content, upstream_tv
from stylekit.nn import losses
from stylekit.nn.discriminator import PatchDiscriminator
from stylekit.nn.unet import Generator, guided_filter, upsample_legacy
from stylekit.nn.vgg import VGG19_MEAN_BGR, Vgg


def nchw(array):
    return torch.from_numpy(np.ascontiguousarray(array.transpose(0, 3, 1, 2))).float()


def picture(seed):
    return nchw(np.random.RandomState(seed).uniform(-1, 1, (2, 32, 32, 3)))


X, C, P = picture(42), picture(43), picture(44)


def kernel(seed, like):
    outputs, inputs, height, width = like.shape
    drawn = np.random.RandomState(seed).randn(height, width, inputs, outputs) * np.sqrt(2 / (height * width * inputs))
    return torch.from_numpy(drawn.transpose(3, 2, 0, 1)).float()


def bias(seed, like):
    return torch.from_numpy(0.1 * np.random.RandomState(seed).randn(*like.shape)).float()


@pytest.fixture(scope="module")
def generator():
    network = Generator()
    unet = network.unet
    convs = [unet.stem, unet.down1a, unet.down1b, unet.down2a, unet.down2b]
    convs += [conv for block in unet.res for conv in (block.conv1, block.conv2)]
    convs += [unet.mid, unet.up1a, unet.up1b, unet.up2, unet.head]
    with torch.no_grad():
        for j, conv in enumerate(convs):
            conv.weight.copy_(kernel(2 * j, conv.weight))
            conv.bias.copy_(bias(2 * j + 1, conv.bias))
    return network.requires_grad_(False)


def discriminator(inputs, first):
    network = PatchDiscriminator(inputs)
    with torch.no_grad():
        for i, conv in enumerate([*network.convs, network.out]):
            j = first + 3 * i
            conv.weight.copy_(kernel(j, conv.weight))
            conv.bias.copy_(bias(j + 1, conv.bias))
            conv.u.copy_(torch.from_numpy(np.random.RandomState(1000 + j + 2).randn(1, conv.u.shape[1])))
    return network


@pytest.fixture(scope="module")
def vgg():
    network = Vgg(19, VGG19_MEAN_BGR, last="conv4_4")
    with torch.no_grad():
        for k, conv in enumerate(network.convs.values()):
            conv.weight.copy_(kernel(500 + k, conv.weight))
            conv.bias.fill_(0.01 * k)
    return network.requires_grad_(False)


def at(tensor, n, y, x):
    return tensor[n, :, y, x].tolist()


def test_parameter_counts():
    assert sum(p.numel() for p in Generator().parameters()) == 1_467_075
    assert sum(p.numel() for p in PatchDiscriminator(1).parameters()) == 286_561
    assert sum(p.numel() for p in PatchDiscriminator(3).parameters()) == 287_137


def test_unet(generator):
    raw = generator.unet(X)
    assert raw.mean().item() == pytest.approx(-1.542905, abs=1e-4)
    assert raw.std(correction=0).item() == pytest.approx(3.005724, abs=1e-4)
    assert at(raw, 0, 0, 0) == pytest.approx([1.003208, -0.730948, 1.378155], abs=1e-4)
    assert at(raw, 1, 31, 31) == pytest.approx([-0.324138, -0.674359, 0.343673], abs=1e-4)


def test_generator_ends_with_the_guided_filter(generator):
    made = generator(X)
    assert made.mean().item() == pytest.approx(-1.546932, abs=1e-4)
    assert made.std(correction=0).item() == pytest.approx(2.702544, abs=1e-4)
    assert at(made, 0, 0, 0) == pytest.approx([0.352452, -1.088202, 2.398562], abs=1e-4)
    assert at(made, 1, 31, 31) == pytest.approx([-0.426488, -0.109242, 0.317655], abs=1e-4)


def test_surface_filter():
    smooth = surface(C)
    assert smooth.mean().item() == pytest.approx(0.018594686, abs=1e-5)
    assert smooth.std(correction=0).item() == pytest.approx(0.35917208, abs=1e-5)
    assert at(smooth, 0, 0, 0) == pytest.approx([-0.478229, 0.171965, -0.453413], abs=1e-5)
    assert at(smooth, 1, 31, 31) == pytest.approx([-0.276743, 0.568519, 0.612500], abs=1e-5)
    assert torch.allclose(smooth, guided_filter(C, C.clone(), 5, 0.2), atol=1e-6)


def test_vgg_features_before_relu(vgg):
    found = vgg.features(X.flip(1), ("conv4_4",))["conv4_4"]
    assert found.shape == (2, 512, 4, 4)
    assert found.mean().item() == pytest.approx(0.872486, abs=1e-3)
    assert found.std(correction=0).item() == pytest.approx(106.102745, abs=1e-2)
    assert found[0, :3, 0, 0].tolist() == pytest.approx([15.228723, 27.623762, -7.278126], abs=1e-3)


def test_discriminator_and_its_power_iteration():
    network = discriminator(3, 57)
    first, second = network(X), network(X)
    assert first.shape == (2, 1, 4, 4)
    assert first.mean().item() == pytest.approx(0.1778155, abs=1e-5)
    assert first[0, 0, 0, 0].item() == pytest.approx(0.1564217, abs=1e-5)
    assert first[1, 0, 3, 3].item() == pytest.approx(0.1719358, abs=1e-5)
    assert second.mean().item() == pytest.approx(0.1793824, abs=1e-5)
    assert second[0, 0, 0, 0].item() == pytest.approx(0.1501213, abs=1e-5)


def test_adversarial_losses(generator):
    made = generator(X)
    rgb_weights = torch.tensor([0.3, 0.6, 0.1])
    gray = losses.colour_shift(made.flip(1), rgb_weights)
    assert losses.lsgan_generator(discriminator(1, 36)(gray)).item() == pytest.approx(1.3138845, abs=1e-5)
    assert losses.lsgan_generator(discriminator(3, 57)(surface(made))).item() == pytest.approx(0.6767725, abs=1e-5)


def test_content_and_total_variation(generator, vgg):
    made = generator(X)
    assert upstream_tv(made).item() == pytest.approx(3.1108962e-4, rel=1e-5)
    photo, fake, superpixel = (vgg.features(x.flip(1), ("conv4_4",))["conv4_4"] for x in (X, made, P))
    assert upstream_content([photo, superpixel], fake).item() == pytest.approx(0.042836186, rel=1e-5)


def test_upsampling_copies_even_pixels_and_repeats_the_edge():
    line = torch.tensor([0.0, 1, 2, 3])
    doubled = torch.tensor([0, 0.5, 1, 1.5, 2, 2.5, 3, 3])
    assert torch.equal(upsample_legacy(line.view(1, 1, 1, 4))[0, 0, 0], doubled)
    assert torch.equal(upsample_legacy(line.view(1, 1, 4, 1))[0, 0, :, 0], doubled)


def test_gray_weights_lie_around_luma():
    drawn = torch.stack([losses.draw_gray_weights(torch.Generator().manual_seed(s), torch.zeros(1)) for s in range(2000)])
    assert drawn.mean(0).tolist() == pytest.approx([0.299, 0.587, 0.114], abs=0.01)
    for channel, (low, high) in enumerate(losses.GRAY_RANGES):
        assert low <= drawn[:, channel].min() < low + 0.02 < high - 0.02 < drawn[:, channel].max() <= high


def test_identity_start_repeats_the_photograph():
    network = Generator(16, 3)
    network.start_as_identity()
    assert torch.allclose(network.unet(X), X, atol=1e-6)
    assert not torch.allclose(Generator(16, 3).unet(X), X, atol=1e-1)
