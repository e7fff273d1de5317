"""The U-Net of images: equal to diffusers' by carried weights, published sizes, conditions, and every option."""

import importlib.util
import json
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from gendiff.config import build, describe
from gendiff.denoise import Denoiser
from gendiff.files import UserError
from gendiff.guide.log_prob import classifier
from gendiff.nn.unet import PUBLISHED, NoisyClassifier, UNet
from gendiff.nn.unet.classifier import AttentionPool
from gendiff.nn.unet.layers import Convolution, CrossAttention, Doubling, SelfAttention, Step, dropout
from gendiff.process import GaussianProcess, JointProcess
from gendiff.schedule import Cosine
from gendiff.space import Euclidean

SMALL = {"width": 8, "multipliers": (1, 2), "blocks": 1, "attention": (4,), "size": 8, "groups": 4}
ADM = {"scale_shift": True, "residual_resampling": True, "head_channels": 4, "learned_variance": True}


def network(fields=None, seed=0, **options):
    """A small network in float64, far from its start, where it puts out nothing."""
    torch.manual_seed(seed)
    net = UNet(fields or {"pixel": 3}, **{**SMALL, **options}).double()
    return shaken(net)


def shaken(net):
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return net.eval()


def data(*shape, seed=1):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def run(net, x, **condition):
    level = torch.linspace(-1, 1, len(x), dtype=x.dtype)[:, None]
    return net({"pixel": x}, level, None, condition or None)["pixel"]


def close(found, expected, tolerance=1e-11):
    assert expected.abs().max() > 0.1
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance)


def benchmark():
    """The benchmark's module, which knows how weights of diffusers are carried over."""
    pytest.importorskip("diffusers", reason="diffusers is not installed")
    path = Path(__file__).parents[2] / "benchmarks" / "unet.py"
    spec = importlib.util.spec_from_file_location("unet_benchmark", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# Published networks


@pytest.mark.parametrize(
    "options", [{}, ADM, {"conditions": {"class": 3, "image": {"grid": 1}, "text": {"tokens": 5}}}]
)
def test_a_new_network_puts_out_exactly_zero(options):
    net = UNet({"pixel": 3}, **{**SMALL, **options})
    for values in net({"pixel": torch.randn(2, 3, 8, 8)}, torch.randn(2, 1)).values():
        assert (values == 0).all()


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("ddpm-32", 35_746_307),
        ("adm-64", 295_904_454),  # "296M"
        ("adm-128", 421_529_606),  # "422M"
        ("adm-256", 553_838_086),  # "554M"
        ("adm-512", 558_997_638),  # "559M"
        ("adm-64-256", 311_795_910),  # "312M"
        ("adm-128-512", 308_835_270),  # "309M"
    ],
)
def test_published_networks_have_their_parameters(name, published):
    """With classes there is a null class more, and with an image a channel that says where it is known."""
    conditions = {} if name.startswith("ddpm") else {"class": 1000}
    if name.count("-") == 2:
        conditions["image"] = {"grid": 3}
    with torch.device("meta"):
        net = UNet({"pixel": 3}, conditions=conditions, **PUBLISHED[name])
    null = 4 * net.width if "class" in conditions else 0
    known = 9 * net.width if "image" in conditions else 0
    assert sum(p.numel() for p in net.parameters()) == published + null + known


@pytest.mark.parametrize(
    ("size", "multipliers", "blocks", "published"),
    [
        (64, (1, 2, 3, 4), 4, 65_438_568),
        (128, (1, 1, 2, 3, 4), 2, 42_568_040),
        (256, (1, 1, 2, 2, 4, 4), 2, 54_096_360),
        (512, (0.5, 1, 1, 2, 2, 4, 4), 2, 54_448_360),
    ],
)
def test_published_classifiers_have_their_parameters(size, multipliers, blocks, published):
    with torch.device("meta"):
        net = NoisyClassifier({"pixel": 3}, 1000, size, multipliers=multipliers, blocks=blocks)
    assert sum(p.numel() for p in net.parameters()) == published


def options_of(module, design, **more):
    shape = ["--width", "64", "--multipliers", "1", "2", "--blocks", "1", "--attention", "4", "--size", "8"]
    options = module.parse(["--design", design, *shape, "--groups", "8", "--dropout", "0"])
    for name, value in more.items():
        setattr(options, name, value)
    return options


@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize("design", ["ddpm", "adm"])
def test_results_and_gradients_are_those_of_diffusers(design, channels_last):
    module = benchmark()
    torch.manual_seed(0)
    theirs, ours = (n.double() for n in module.make(options_of(module, design, channels_last=channels_last)))
    theirs.time_proj = Backwards(ours.level[0])  # theirs are in float32 only
    x, t = data(2, 3, 8, 8).requires_grad_(), torch.tensor([3.0, 700.0], dtype=torch.float64)
    expected, found = theirs(x, t).sample, run_at(ours, x, t)
    close(found, expected, 1e-12)
    weight = data(2, 3, 8, 8, seed=2)
    one = torch.autograd.grad((expected * weight).sum(), [x, theirs.conv_in.weight, theirs.conv_out.bias])
    other = torch.autograd.grad((found * weight).sum(), [x, ours.encoder.first.weight, ours.last.bias])
    for a, b in zip(other, one, strict=True):
        close(a, b, 1e-11)


class Backwards(torch.nn.Module):
    """Our features of a noise level, in the order of diffusers."""

    def __init__(self, fourier):
        super().__init__()
        self.fourier = fourier

    def forward(self, level):
        return self.fourier(level).unflatten(-1, (2, -1)).flip(-1).flatten(-2)


def run_at(net, x, t):
    return net({"pixel": x}, t[:, None])["pixel"]


def test_noise_levels_are_embedded_as_steps_are_by_diffusers():
    module = benchmark()
    torch.manual_seed(0)
    theirs, ours = module.make(options_of(module, "ddpm"))
    x, t = torch.randn(3, 3, 8, 8), torch.tensor([0.0, 17.0, 999.0])
    with torch.no_grad():
        close(run_at(ours, x, t), theirs(x, t).sample, 1e-4)


# Layers


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(("side", "stride"), [(1, 1), (3, 1), (3, 2)])
def test_the_convolution_is_torchs(side, stride, memory_format):
    layer = Convolution(4, 6, side, stride).double()
    h = data(2, 4, 5, 7).contiguous(memory_format=memory_format)
    kernel = layer.weight.unflatten(1, (side, side, 4)).permute(0, 3, 1, 2).contiguous()
    found = layer(h)
    close(found, F.conv2d(h.contiguous(), kernel, layer.bias, stride, side // 2), 1e-14)
    assert found.is_contiguous(memory_format=memory_format)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_doubling_is_a_convolution_of_doubled_features(memory_format):
    torch.manual_seed(0)
    layer = Doubling(4, 6).double()
    h = data(2, 4, 3, 5).contiguous(memory_format=memory_format).requires_grad_()
    kernel = layer.weight.unflatten(1, (3, 3, 4)).permute(0, 3, 1, 2)
    found = layer(h)
    expected = F.conv2d(F.interpolate(h, scale_factor=2), kernel, layer.bias, padding=1)
    close(found, expected, 1e-14)
    weight = data(*found.shape, seed=3)
    wanted = [h, layer.weight, layer.bias]
    gradients = (torch.autograd.grad((y * weight).sum(), wanted, retain_graph=True) for y in (found, expected))
    for a, b in zip(*gradients, strict=True):
        close(a, b, 1e-12)


def test_matrices_start_like_torchs_kernels():
    torch.manual_seed(0)
    weight, expected = Convolution(16, 32).weight, torch.nn.Conv2d(16, 32, 3).weight
    bound = 1 / math.sqrt(9 * 16)
    assert weight.abs().max() <= bound
    assert expected.abs().max() <= bound
    assert weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.03)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_dropout_keeps_the_mean(memory_format):
    x = (torch.rand(5, 7, 31, 33) + 1).contiguous(memory_format=memory_format)
    found = dropout(x, 0.3)
    lost = found == 0
    torch.testing.assert_close(found[~lost], (x / 0.7)[~lost], rtol=1e-4, atol=0)
    assert lost.double().mean() == pytest.approx(0.3, abs=5 * math.sqrt(0.21 / x.numel()))
    for dim in range(4):  # neighbours know nothing of each other
        here, there = lost.narrow(dim, 1, x.shape[dim] - 1), lost.narrow(dim, 0, x.shape[dim] - 1)
        assert (here & there).double().mean() == pytest.approx(0.09, abs=5 * math.sqrt(0.09 / here.numel()))


# Options


def test_dropout_acts_in_training_only():
    net, plain = network(dropout=0.5), network()
    x = data(2, 3, 8, 8)
    close(run(net, x), run(plain, x), 0)
    net.train()
    one, other = run(net, x), run(net, x)
    assert (one - other).abs().max() > 0.1


@pytest.mark.parametrize("options", [{}, ADM], ids=["ddpm", "adm"])
def test_the_memory_format_changes_no_result(options):
    one, other = network(**options), network(**options, channels_last=False)
    x = data(2, 3, 8, 8)
    close(run(other, x), run(one, x))
    for net, memory_format in ((one, torch.channels_last), (other, torch.contiguous_format)):
        seen = []
        for module in net.modules():
            if isinstance(module, Step):
                module.register_forward_hook(lambda _, __, h, seen=seen: seen.append(h))
        run(net, x)
        assert len(seen) == len(net.encoder.down) + 1 + len(net.up)
        assert all(h.is_contiguous(memory_format=memory_format) for h in seen)


def test_gray_images_are_convolved_in_the_same_memory_format():
    net = network({"pixel": 1})
    net.encoder.first.register_forward_hook(lambda _, __, h: seen.append(h))
    seen = []
    run(net, data(2, 1, 8, 8))
    assert seen[0].is_contiguous(memory_format=torch.channels_last)


def test_checkpoints_change_no_gradient():
    x, gradients = data(2, 3, 8, 8), []
    for checkpoint in (False, True):
        net = network(checkpoint=checkpoint, dropout=0.2, **ADM).train()
        torch.manual_seed(3)
        run(net, x).square().sum().backward()
        gradients.append([p.grad for p in net.parameters()])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(other, one, rtol=0, atol=0)


def test_heads_share_the_channels():
    """Four heads of 16 channels are heads of 4 channels; other numbers give other results with the same weights."""
    x = data(2, 3, 8, 8)
    one, two, four = network(), network(heads=2), network(head_channels=4)
    for other in (two, four):
        assert (run(one, x) - run(other, x)).abs().max() > 1e-3
    close(run(network(heads=4), x), run(four, x), 0)


def test_attention_is_where_it_is_asked_for():
    def places(net):
        return [i for i, s in enumerate(net.encoder.down) if any(isinstance(m, SelfAttention) for m in s)]

    assert places(network(attention=())) == []
    assert places(network(attention=(8,))) == [0]
    assert places(network(attention=(4,))) == [2]  # after the block at 8 and the halving
    assert places(network(attention=(8, 4))) == [0, 2]
    assert places(network(attention=(4,), size=(8, 16))) == [2]
    net = network(attention=(8, 4), conditions={"text": {"tokens": 5}})
    assert [sum(isinstance(m, kind) for m in net.modules()) for kind in (SelfAttention, CrossAttention)] == [7, 7]


def test_the_variance_is_another_output():
    plain, net = network(), network(learned_variance=True)
    x = {"pixel": data(2, 3, 8, 8)}
    with torch.no_grad():
        weights = plain.state_dict()
        for name in ("last.weight", "last.bias"):
            weights[name] = torch.cat((weights[name], net.state_dict()[name][3:]))
        net.load_state_dict(weights)
    found = net(x, torch.zeros(2, 1).double())
    assert list(found) == ["pixel", "pixel_fraction"]
    close(found["pixel"], plain(x, torch.zeros(2, 1).double())["pixel"], 1e-12)
    assert found["pixel_fraction"].shape == (2, 3, 8, 8)
    assert (found["pixel"] - found["pixel_fraction"]).abs().max() > 0.1


def test_an_earlier_estimate_is_read_and_zero_where_there_is_none():
    net, x, level = network(self_condition=True), data(2, 3, 8, 8), torch.zeros(2, 1).double()
    nothing = net({"pixel": x}, level)["pixel"]
    close(net({"pixel": x, "pixel_previous": torch.zeros_like(x)}, level)["pixel"], nothing, 0)
    assert (net({"pixel": x, "pixel_previous": x}, level)["pixel"] - nothing).abs().max() > 0.1


def test_fields_stand_beside_each_other_in_alphabetical_order():
    two, one, level = network({"b": 2, "a": 1}), network({"pixel": 3}), torch.zeros(2, 1).double()
    x = data(2, 3, 8, 8)
    found = two({"b": x[:, 1:], "a": x[:, :1]}, level)
    assert list(found) == ["a", "b"]
    close(torch.cat((found["a"], found["b"]), 1), one({"pixel": x}, level)["pixel"], 0)


def test_every_noise_level_is_told():
    net, x = network(levels=2), data(1, 3, 8, 8)
    levels = [torch.tensor([pair], dtype=torch.float64) for pair in ((0.0, 0.0), (1.0, 0.0), (0.0, 1.0))]
    zero, first, second = (net({"pixel": x}, level)["pixel"] for level in levels)
    for one, other in ((zero, first), (zero, second), (first, second)):
        assert (one - other).abs().max() > 1e-3


def test_a_patch_is_a_pixel_of_its_own_channels():
    patched = network(patch=2, size=16, conditions={"image": {"grid": 1}})
    plain = network({"pixel": 12, "zimage": 8}).double()  # the image, and where it is known, stand behind
    with torch.no_grad():
        weights = patched.state_dict()
        for name in ("last.weight", "last.bias"):  # what comes of the image is not asked for
            weights[name] = torch.cat((weights[name], plain.state_dict()[name][12:]))
        plain.load_state_dict(weights)
    x, image = data(2, 3, 16, 16), data(2, 1, 16, 16, seed=4)
    found = run(patched, x, image=image)
    small, known = F.pixel_unshuffle(x, 2), F.pixel_unshuffle(torch.cat((image, torch.ones_like(image)), 1), 2)
    level = torch.linspace(-1, 1, 2).double()[:, None]
    expected = plain({"pixel": small, "zimage": known}, level)["pixel"]
    close(found, F.pixel_shuffle(expected, 2), 1e-12)
    with pytest.raises(UserError, match=r"multiples of 2, got \[16, 15\]"):
        run(patched, data(2, 3, 16, 15))


@pytest.mark.parametrize("options", [{}, ADM], ids=["ddpm", "adm"])
def test_results_without_gradients_are_the_same(options):
    net, x = network(**options), data(2, 3, 8, 8)
    given = x.clone()
    with torch.no_grad():
        found = run(net, x)
    close(found, run(net, x), 1e-12)
    close(x, given, 0)


# Sizes


@pytest.mark.parametrize("options", [{}, ADM], ids=["ddpm", "adm"])
@pytest.mark.parametrize("size", [(8, 8), (7, 12), (5, 9), (2, 1)])
def test_height_and_width_are_alike_at_any_size(size, options):
    """The transposed image with all kernels transposed gives the transposed result."""
    net, other = network(multipliers=(1, 2, 2), **options), network(multipliers=(1, 2, 2), **options)
    with torch.no_grad():
        for module in other.modules():
            if isinstance(module, torch.nn.Conv2d):
                module.weight.copy_(module.weight.mT.clone())
            elif isinstance(module, (Convolution, Doubling)) and module.in_features % 9 == 0:
                side = getattr(module, "side", 3)
                kernel = module.weight.unflatten(1, (side, side, -1))
                module.weight.copy_(kernel.transpose(1, 2).flatten(1).clone())
    x = data(2, 3, *size)
    found = run(net, x)
    assert found.shape == x.shape
    close(run(other, x.mT).mT, found)


def test_a_result_of_an_odd_side_is_that_of_a_larger_image_near_the_other_border():
    """Rows far from the border that was cut do not know where it is."""
    net = network(multipliers=(1, 1), attention=())
    for module in net.encoder.middle:
        if isinstance(module, SelfAttention):
            torch.nn.init.zeros_(module.outward.weight)
            torch.nn.init.zeros_(module.outward.bias)
    for module in net.modules():
        if isinstance(module, torch.nn.GroupNorm):  # its statistics know the whole image
            module.forward = lambda h: h
    x = 0.1 * data(1, 3, 64, 4)
    whole, cut = run(net, x), run(net, x[:, :, :61])
    torch.testing.assert_close(cut[:, :, :30], whole[:, :, :30], rtol=1e-12, atol=0)
    assert whole[:, :, :30].abs().max() > 0.1


def test_samples_know_nothing_of_each_other():
    conditions = {"class": 3, "image": {"grid": 1}, "text": {"tokens": 5}}
    net = network(conditions=conditions, **ADM)
    x, level = {"pixel": data(3, 3, 8, 8)}, data(3, 1)
    condition = {"class": torch.tensor([2, -1, 0]), "image": data(3, 1, 8, 8), "text": data(3, 4, 5)}
    condition["image"][0], condition["text"][1], condition["text"][2, 2:] = math.nan, math.nan, math.nan
    together = net(x, level, None, condition)
    for i in range(3):
        alone = net(
            {"pixel": x["pixel"][i : i + 1]}, level[i : i + 1], None, {k: v[i : i + 1] for k, v in condition.items()}
        )
        for name, value in together.items():
            close(alone[name], value[i : i + 1])


# Conditions


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (3, torch.tensor([1, 2])),
        ("float", torch.tensor([0.5, -2.0])),
        ({"grid": 1}, data(2, 1, 8, 8, seed=5).float()),
        ({"tokens": 5}, data(2, 4, 5, seed=5).float()),
    ],
    ids=["class", "float", "image", "tokens"],
)
def test_an_absent_condition_is_one_that_is_nowhere(kind, value):
    net, x = network(conditions={"c": kind}), data(2, 3, 8, 8)
    missing = torch.full_like(value, math.nan if value.is_floating_point() else -1)
    nothing = run(net, x)
    close(run(net, x, c=missing), nothing)
    told = run(net, x, c=value)
    assert ((told - nothing).flatten(1).abs().amax(1) > 1e-3).all()
    half = value.clone()
    half[1] = missing[1]
    close(run(net, x, c=half), torch.cat((told[:1], nothing[1:])))


def test_an_image_may_be_known_in_part():
    net, x, image = network(conditions={"image": {"grid": 2}}), data(2, 3, 8, 8), data(2, 2, 8, 8, seed=5)
    known = torch.rand(2, 8, 8) < 0.5
    one, other = image.clone(), image.clone()
    one[:, 0][~known], other[:, 1][~known] = math.nan, math.nan  # of a pixel all channels are known or none
    close(run(net, x, image=one), run(net, x, image=other), 0)
    black = torch.where(known[:, None], image, 0.0)
    assert (run(net, x, image=one) - run(net, x, image=black)).abs().max() > 1e-3


def test_tokens_are_a_set_without_padding():
    net, x, text = network(conditions={"text": {"tokens": 5}}), data(2, 3, 8, 8), data(2, 4, 5, seed=5)
    found = run(net, x, text=text)
    close(run(net, x, text=text[:, [2, 0, 3, 1]]), found)
    close(run(net, x, text=F.pad(text, (0, 0, 1, 2), value=math.nan)), found)
    close(run(net, x, text=text.repeat(1, 2, 1)), found)  # each twice changes no mean
    assert (run(net, x, text=text[:, :3]) - found).abs().max() > 1e-3


def test_conditions_of_other_names_and_shapes_are_refused():
    net, x = network(conditions={"image": {"grid": 1}, "text": {"tokens": 5}}), data(2, 3, 8, 8)
    with pytest.raises(UserError, match=r"'class' is unknown to this model; it knows \['image', 'text'\]"):
        run(net, x, **{"class": torch.tensor([1, 2])})
    with pytest.raises(UserError, match=r"'image': this model takes \(2, 1, 8, 8\) here, got \(2, 1, 4, 4\)"):
        run(net, x, image=data(2, 1, 4, 4))
    with pytest.raises(UserError, match=r"'text': this model takes \(2, K, 5\), got \(2, 4, 6\)"):
        run(net, x, text=data(2, 4, 6))
    with pytest.raises(UserError, match="knows no condition, so 'class' cannot be given"):
        run(network(), x, **{"class": torch.tensor([1, 2])})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 0}, "width = 0 must be positive"),
        ({"patch": 0}, "patch = 0 must be positive"),
        ({"patch": 3}, "size 8 must be a multiple of the patch, 3"),
        ({"groups": 3}, "3 groups do not divide 8 channels"),
        ({"heads": 3}, "3 heads do not divide 16 channels"),
        ({"head_channels": 5}, "heads of 5 do not divide 16 channels"),
        ({"attention": (16,)}, r"attention at 16 pixels, but the sides are \[8, 4\]"),
        ({"attention": (3,), "size": (9, 10, 11)}, r"a height and a width, got \(9, 10, 11\)"),
        ({"multipliers": ()}, "multipliers must be positive"),
        ({"dropout": 1.0}, "dropout = 1.0"),
        ({"levels": 0}, "levels must be positive"),
        ({"periods": (1.0,)}, "two positive numbers"),
        ({"width": 9, "groups": 1}, "even"),
        ({"conditions": {"image": {"grid": 0}}}, "'image': grid must be a positive number of features, got 0"),
        ({"conditions": {"a": {"tokens": 1}, "b": {"tokens": 1}}}, "one sequence of tokens, got a and b"),
        ({"conditions": {"a": {"pixels": 1}}}, "'a'"),
    ],
)
def test_mistakes_are_one_line(options, message):
    with pytest.raises(UserError, match=message) as caught:
        UNet({"pixel": 3}, **{**SMALL, **options})
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="at least one grid"):
        UNet({}, **SMALL)


# Around it


@pytest.mark.parametrize(
    "net",
    [
        network({"pixel": 1, "depth": 2}, size=(8, 12), levels=2, self_condition=True, **ADM),
        network(conditions={"class": 3, "image": {"grid": 1}, "text": {"tokens": 5}}, multipliers=(0.5, 1), patch=2),
        shaken(NoisyClassifier({"pixel": 3}, 4, 8, 8, (1, 2), 1, (4,), head_channels=4, groups=4).double()),
    ],
    ids=["fields", "conditions", "classifier"],
)
def test_configurations_rebuild_it(net):
    again = build(json.loads(json.dumps(describe(net))))
    again.double().eval().load_state_dict(net.state_dict())
    x = {name: data(2, channels, 8, 8 if isinstance(net.size, int) else 12) for name, channels in net.fields.items()}
    level = torch.zeros(2, getattr(net, "levels", 1)).double()
    found, expected = again(x, level), net(x, level)
    for name in expected if isinstance(expected, dict) else [slice(None)]:
        close(found[name], expected[name], 0)


def test_a_denoiser_takes_it():
    """At the start the estimate is the part of the Karras row that skips the network, the fraction one half."""
    process = JointProcess({"pixel": GaussianProcess(Cosine(), Euclidean(3, "grid", [8, 8]))})
    denoiser = Denoiser(UNet({"pixel": 3}, **SMALL, **ADM), process)
    x, t = {"pixel": torch.randn(2, 3, 8, 8)}, torch.tensor([0.3, 0.8])
    estimate = denoiser(x, t)
    alpha = process["pixel"].schedule.alpha(t)
    torch.testing.assert_close(estimate.data["pixel"], alpha[:, None, None, None] * x["pixel"])
    assert (estimate.fraction["pixel"] == 0.5).all()


@pytest.mark.parametrize("options", [{}, ADM], ids=["ddpm", "adm"])
def test_mixed_precision_is_near(options):
    net = network(conditions={"text": {"tokens": 5}}, dropout=0.1, **options).float()
    x, text = data(2, 3, 8, 8).float(), data(2, 4, 5).float()
    with torch.no_grad():
        expected = run(net, x, text=text)
    net.train()
    with torch.autocast("cpu", torch.bfloat16):
        run(net, x, text=text).square().mean().backward()
        net.eval()
        found = run(net, x, text=text)
    assert all(p.grad.isfinite().all() for p in net.parameters() if p.grad is not None)
    assert ((found - expected).std() / expected.std()) < 0.05


def test_a_compiler_sees_one_graph():
    net, x = network(conditions={"text": {"tokens": 5}}, dropout=0.1, **ADM), data(2, 3, 8, 8)
    close(run(torch.compile(net, backend="eager", fullgraph=True), x), run(net, x), 1e-12)


@pytest.mark.gpu
@pytest.mark.parametrize("options", [{}, ADM], ids=["ddpm", "adm"])
def test_a_gpu_agrees_with_the_cpu(options):
    net, x = network(conditions={"class": 3}, **options).float(), data(4, 3, 8, 8).float()
    expected = run(net, x, **{"class": torch.tensor([0, 1, 2, -1])})
    net, x = net.cuda(), x.cuda()
    found = run(net, x, **{"class": torch.tensor([0, 1, 2, -1]).cuda()})
    torch.testing.assert_close(found.cpu(), expected, rtol=0, atol=1e-2 * float(expected.abs().max()))
    with torch.autocast("cuda", torch.bfloat16):
        run(net.train(), x).square().mean().backward()
    assert all(p.grad.isfinite().all() for p in net.parameters() if p.grad is not None)


# The classifier


def test_the_pool_is_attention_of_the_mean():
    torch.manual_seed(0)
    pool, h = AttentionPool(6, 8, 4, 5).double(), data(2, 6, 8)
    whole = torch.cat((h.mean(1, keepdim=True), h), 1) + pool.place
    oracle = torch.nn.MultiheadAttention(8, 2, batch_first=True).double()
    with torch.no_grad():
        oracle.in_proj_weight.copy_(torch.cat((pool.query.weight, pool.pairs.weight)))
        oracle.in_proj_bias.copy_(torch.cat((pool.query.bias, pool.pairs.bias)))
        oracle.out_proj.weight.copy_(torch.eye(8))
        oracle.out_proj.bias.zero_()
    mixed, _ = oracle(whole[:, :1], whole, whole)
    close(pool(h), pool.outward(mixed[:, 0]), 1e-12)


def test_the_classifier_guides():
    """As the guidance calls it: with times, whose noise levels it is told; log-probabilities of the classes add up."""
    torch.manual_seed(0)
    net = NoisyClassifier({"pixel": 1}, 4, (8, 6), 8, (1, 2), 1, (3,), head_channels=4, groups=4)
    x, t = {"pixel": torch.randn(3, 1, 8, 6, requires_grad=True)}, torch.tensor([0.1, 0.5, 0.9])
    torch.testing.assert_close(net(x, t), net(x, t[:, None]))
    given = [classifier(net, torch.full((3,), label))(x, t, None) for label in range(4)]
    torch.testing.assert_close(torch.stack(given).exp().sum(0), torch.ones(3))
    (gradient,) = torch.autograd.grad(given[0][1], x["pixel"])
    assert gradient[1].abs().max() > 0
    assert (gradient[[0, 2]] == 0).all()
    with pytest.raises(UserError, match=r"images of \(8, 6\) pixels, got \(8, 8\)"):
        net({"pixel": torch.randn(1, 1, 8, 8)}, t[:1])
    with pytest.raises(UserError, match="classes = 0"):
        NoisyClassifier({"pixel": 1}, 0)


def test_the_classifier_learns():
    """Which half of a noisy image is brighter."""
    torch.manual_seed(0)
    net = NoisyClassifier({"pixel": 1}, 2, 8, 8, (1, 2), 1, (4,), head_channels=8, groups=4)
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)

    def batch(number):
        label, level = torch.randint(2, (number,)), torch.rand(number)
        bright = torch.ones(number, 1, 8, 8)
        bright[:, :, :, :4] = -1
        bright = bright * (2 * label - 1)[:, None, None, None]
        return {"pixel": bright + level[:, None, None, None] * torch.randn(number, 1, 8, 8)}, level, label

    for _ in range(30):
        x, level, label = batch(32)
        optimizer.zero_grad()
        F.cross_entropy(net(x, level), label).backward()
        optimizer.step()
    x, level, label = batch(200)
    assert (net(x, level).argmax(1) == label).double().mean() > 0.98


def test_random_features_of_the_level_are_saved_with_the_weights():
    options = {"fields": {"pixel": 1}, "width": 8, "multipliers": (1,), "blocks": 1, "attention": (), "groups": 4}
    first, second = (UNet(**options, random_features=64.0) for _ in range(2))
    assert not torch.equal(first.level[0].frequencies, second.level[0].frequencies)
    second.load_state_dict(first.state_dict())
    assert torch.equal(first.level[0].frequencies, second.level[0].frequencies)
    level = torch.tensor([[0.1], [0.4]])
    angle = 2 * torch.pi * level * first.level[0].frequencies
    assert torch.allclose(first.level[:2](level), torch.cat((angle.cos(), angle.sin()), 1), atol=1e-5)
    assert describe(first)["random_features"] == 64.0
    assert len(first.state_dict()) == len(UNet(**options).state_dict()) + 1
