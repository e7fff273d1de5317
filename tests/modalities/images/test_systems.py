"""The systems of the field: each is what its paper says, and each trains, samples, is saved and comes back."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from gendiff import load
from gendiff.config import build, describe
from gendiff.denoise import AnalyticDenoiser
from gendiff.files import UserError
from gendiff.guide import ClassifierFree
from gendiff.modalities.images.classifier import Classifier, accuracy, load_classifier, train_classifier
from gendiff.modalities.images.modality import Images
from gendiff.modalities.images.records import ImageArrays
from gendiff.modalities.images.restore import Restoration, hide
from gendiff.modalities.images.systems import SYSTEMS, Dequantized, farthest, ladder
from gendiff.model import Model
from gendiff.objective import Bound, Hybrid
from gendiff.ops import Random
from gendiff.process import GaussianProcess, JointProcess
from gendiff.sample import Ancestral
from gendiff.schedule import Cosine, time_grid
from gendiff.space import Euclidean

CIFAR = 3 * 32 * 32


def digits(count=24, channels=1, size=8):
    """Bright and dark squares on noise, of two classes."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 60, (count, size, size, channels), dtype=np.uint8)
    pixels[::2, 2:6, 2:6] += 150
    return ImageArrays(pixels, np.array(["bright", "dark"] * (count // 2)))


def process_of(name, channels=3, size=(32, 32)):
    return SYSTEMS[name].process(channels, size)["pixel"]


class Perfect(nn.Module):
    """The network that knows of N(0, v) data: from the level that it is told, by the formulas of the paper."""

    def __init__(self, system, v):
        super().__init__()
        self.system, self.v, self.weight = system, v, nn.Parameter(torch.zeros(()))

    def levels(self, told):
        """alpha and sigma from what the network is told."""
        if self.system.noise_level == "log_sigma":  # variance exploding
            return torch.ones_like(told), (4 * told).exp()
        if self.system.noise_level == "alpha":
            return told, (1 - told**2).sqrt()
        if self.system.noise_level == "log_snr":
            return (4 * told).sigmoid().sqrt(), (-4 * told).sigmoid().sqrt()
        schedule = self.system.schedule(64)
        return schedule.alpha(told), schedule.sigma(told)

    def forward(self, x, noise_level, mask=None, condition=None):
        alpha, sigma = (part[:, :, None, None] for part in self.levels(noise_level.double()))
        scale = math.sqrt(self.v) if self.system.scaled else 1.0
        x_t = x["pixel"] * (alpha**2 * scale**2 + sigma**2).sqrt()  # what c_in has divided by
        data = alpha * self.v / (alpha**2 * self.v + sigma**2) * x_t
        noise = (x_t - alpha * data) / sigma
        if self.system.parameterization == "noise":
            output = noise
        elif self.system.parameterization == "v":
            output = alpha * noise - sigma * data
        else:  # EDM: D = c_skip x + c_out F
            skip, out = scale**2 / (sigma**2 + scale**2), sigma * scale / (sigma**2 + scale**2).sqrt()
            output = (data - skip * x_t) / out
        both = {"pixel": output + self.weight}
        return {**both, "pixel_fraction": torch.zeros_like(output)} if self.system.learn_variance else both


@pytest.mark.parametrize("name", SYSTEMS)
def test_the_network_of_the_paper_gives_the_exact_estimate(name):
    """What it is told, at which scale it sees the image, and what its output means: all have to be right."""
    system, v = SYSTEMS[name], 0.09
    process = system.process(1, (8, 8))
    denoiser = system.denoiser(Perfect(system, v), process, math.sqrt(v)).double()
    exact = AnalyticDenoiser(process, [1.0], {"pixel": (0.0, math.sqrt(v))})
    t = torch.tensor([0.02, 0.3, 0.6, 0.9], dtype=torch.float64)
    x_0 = {
        "pixel": math.sqrt(v) * torch.randn(4, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    }
    x_t = process.corrupt(x_0, t, {"pixel": x_0["pixel"].flip(0) / math.sqrt(v)})
    found, wanted = denoiser(x_t, t), exact(x_t, t)
    torch.testing.assert_close(found.data["pixel"], wanted.data["pixel"], rtol=1e-5, atol=1e-7)


def test_ddpm_has_the_chain_of_its_paper():
    schedule, t = process_of("ddpm").schedule, torch.tensor([0.5, 1.0], dtype=torch.float64)
    torch.testing.assert_close(
        schedule.alpha(t) ** 2, torch.tensor([0.07858724288177824, 4.0358297653756754e-05], dtype=torch.float64)
    )
    sampler = SYSTEMS["ddpm"].sampler(CIFAR)
    assert (sampler.steps, sampler.eta, sampler.variance) == (1000, 1.0, "large")
    with torch.device("meta"):
        network = Images([32, 32], 3, system="ddpm").network("base")
    assert sum(p.numel() for p in network.parameters()) == 35_746_307  # that of diffusers, of the same configuration
    assert network.conditions == {}
    network = Images([8, 8], 1, system="ddpm").network("tiny")
    assert float(network.level[0].frequencies[0]) == pytest.approx(0.1, rel=1e-4)  # of a time from 0 to 1000 it is 1e-4


def test_improved_ddpm_learns_the_variance_between_its_ends():
    system = SYSTEMS["iddpm"]
    process = system.process(1, (8, 8))
    schedule, t = process["pixel"].schedule, torch.tensor([0.25, 0.5], dtype=torch.float64)
    f = torch.cos((torch.tensor([0, 0.25, 0.5], dtype=torch.float64) + 0.008) / 1.008 * math.pi / 2) ** 2
    torch.testing.assert_close(schedule.alpha(t) ** 2, f[1:] / f[0])
    assert isinstance(schedule, Cosine)
    assert schedule.steps == 4000
    loss = system.loss(1, 4)
    assert isinstance(loss, Hybrid)
    assert (loss.bound, loss.steps, loss.weighting) == (0.001, 4000, "noise")
    network = Perfect(system, 0.09)
    denoiser = system.denoiser(network, process, 1.0).double()
    x_t, t, s = (
        {"pixel": torch.zeros(1, 1, 8, 8, dtype=torch.float64)},
        torch.tensor([0.5], dtype=torch.float64),
        torch.tensor([0.49975], dtype=torch.float64),
    )
    between = [schedule.alpha(time) ** 2 for time in (t, s)]
    beta = 1 - between[0] / between[1]
    clipped = beta * (1 - between[1]) / (1 - between[0])
    for output, log_variance in ((-1.0, clipped.log()), (1.0, beta.log()), (0.0, (clipped.log() + beta.log()) / 2)):
        network.forward = lambda x, *_, output=output: {
            "pixel": x["pixel"],
            "pixel_fraction": torch.full_like(x["pixel"], output),
        }
        std = denoiser(x_t, t).reverse("pixel", s).std
        torch.testing.assert_close(2 * std.log().flatten(), log_variance.expand(64), rtol=1e-9, atol=1e-9)


def test_adm_has_its_own_network_and_no_dropped_classes():
    adapter = Images([32, 32], 3, {"a": 1, "b": 1}, system="adm")
    with torch.device("meta"):
        network, loss = adapter.network("base"), adapter.objective()
    assert network.scale_shift
    assert network.residual_resampling
    assert network.learned_variance
    assert network.attention == [32, 16, 8]
    assert network.head_channels == 64
    assert network.conditions == {"class": 2}
    assert isinstance(loss, Hybrid)
    assert loss.condition_dropout == 0
    assert loss.steps == 1000
    assert (adapter.sampler().steps, adapter.sampler().variance) == (250, "learned")


def test_edm_has_the_levels_weights_and_noise_of_its_paper():
    system, process = SYSTEMS["edm"], SYSTEMS["edm"].process(1, (8, 8))
    times = torch.tensor(time_grid(18, "karras", process.schedule), dtype=torch.float64)
    sigma = process.schedule.sigma(times)
    wanted = torch.tensor([80, 57.58598472, 3.25682152, 0.00752802, 0.002], dtype=torch.float64)
    torch.testing.assert_close(sigma[[0, 1, 8, 16, 17]], wanted, rtol=1e-6, atol=1e-8)
    assert (times[18], system.sampler(64).steps, system.sampler(64).coordinate) == (0, 18, "karras")
    # A network that puts out zero has a loss of exactly 1 for each level, whatever the data of that deviation is.
    network = Perfect(system, 0.25)
    network.forward = lambda x, *_: {"pixel": torch.zeros_like(x["pixel"])}
    denoiser = system.denoiser(network, process, 0.5)
    coin = 0.5 * (2.0 * torch.randint(2, (4000, 1, 8, 8), generator=torch.Generator().manual_seed(0)) - 1)
    loss = system.loss(1, 4)(denoiser, {"pixel": coin}, None, None, Random(0, 4000))[0]
    assert float(loss.mean()) == pytest.approx(1, abs=5 * float(loss.std()) / math.sqrt(4000))
    law = system.loss(1, 4).times
    log_sigma = process.schedule.sigma(law(Random(0, 20000), process)[0]).log()
    assert float(log_sigma.mean()) == pytest.approx(-1.2, abs=0.05)
    assert float(log_sigma.std()) == pytest.approx(1.2, abs=0.05)


def test_ncsn_and_the_sde_begin_as_far_out_as_two_images_lie_apart():
    black, white = -torch.ones(3, 32, 32), torch.ones(3, 32, 32)
    assert farthest(CIFAR) == pytest.approx(float((white - black).norm()), rel=1e-6)
    for name in ("ncsn", "score-sde"):
        sigma = process_of(name).schedule.sigma(torch.tensor([0.0, 1.0]))
        assert sigma.tolist() == pytest.approx([0.02, farthest(CIFAR)])


@pytest.mark.parametrize(("dimensions", "ratio"), [(64, 1.3608), (784, 1.0820), (CIFAR, 1.0398)])
def test_the_ladder_of_langevin_dynamics_follows_the_techniques_of_ncsnv2(dimensions, ratio):
    sampler = ladder(dimensions)
    process = JointProcess(
        {"pixel": GaussianProcess(SYSTEMS["ncsn"].schedule(dimensions), Euclidean(1, "grid", [1, dimensions]))}
    )
    sigma = process.schedule.sigma(torch.tensor([t for t, _ in sampler.plan(process)], dtype=torch.float64))
    steps = sigma[:-1] / sigma[1:]
    assert float(steps.max() / steps.min()) == pytest.approx(1, abs=1e-6)
    assert float(steps[0]) <= ratio
    assert float(steps[0]) == pytest.approx(ratio, rel=0.02)
    # Technique 2: half of the noise of the smaller level is as long as that of the larger one may be.
    normal, shift = torch.distributions.Normal(0.0, 1.0), math.sqrt(2 * dimensions) * (ratio - 1)
    overlap = normal.cdf(torch.tensor(shift + 3 * ratio)) - normal.cdf(torch.tensor(shift - 3 * ratio))
    assert float(overlap) == pytest.approx(0.5, abs=2e-3)

    # Technique 4: no other step leaves the variance of pure noise closer to that of the level.
    def left(rho):
        variance = ratio**2
        for _ in range(5):  # x <- x + h score + sqrt(2 h) z, h = rho sigma^2
            variance = (1 - rho) ** 2 * variance + 2 * rho
        return abs(variance - 1)

    assert left(sampler.step_size) <= min(left(k / 200) for k in range(1, 200)) + 1e-3
    if dimensions == CIFAR:
        assert 0.055 < sampler.step_size < 0.075
        assert sampler.corrections == 5


def test_vdm_learns_its_ends_by_the_bound_of_data_that_fill_their_bins():
    system, process = SYSTEMS["vdm"], SYSTEMS["vdm"].process(1, (4, 4))
    ends = process.schedule.log_snr(torch.tensor([0.0, 1.0]))
    assert ends.tolist() == pytest.approx([13.3, -5.0], abs=1e-4)
    loss = system.loss(1, 4)
    denoiser = system.denoiser(Perfect(system, 0.25), process, 1.0)
    x = {"pixel": torch.full((6, 1, 4, 4), 64 / 127.5 - 1)}
    assert isinstance(loss, Dequantized)
    assert loss.steps is None
    value, _ = loss(denoiser, x, None, None, Random(0, 6))
    again = Random(0, 6)
    bins = (again.uniform((6, 1, 4, 4)) - 0.5) / 127.5
    wanted, _ = Bound(None, 0.0, loss.times)(denoiser, {"pixel": x["pixel"] + bins}, None, None, again)
    torch.testing.assert_close(value, wanted)
    assert bins.abs().max() <= 0.5 / 127.5
    assert bins.abs().max() > 0.4 / 127.5
    value.mean().backward()
    assert process.schedule.low.grad.abs() > 0
    assert process.schedule.log_span.grad.abs() > 0


@pytest.mark.parametrize("name", ["sr3", "palette"])
def test_restoration_has_the_chain_and_the_times_of_sr3(name):
    schedule = process_of(name).schedule
    betas = np.linspace(1e-6, 0.01, 2000)
    wanted = [np.exp(np.log1p(-betas[:count]).sum()) for count in (1000, 2000)]
    assert (schedule.alpha(torch.tensor([0.5, 1.0], dtype=torch.float64)) ** 2).tolist() == pytest.approx(
        wanted, rel=1e-9
    )
    system = SYSTEMS[name]
    losses = {channels: system.loss(channels, 2) for channels in (1, 3)}
    assert all(isinstance(loss, Restoration) and loss.times.steps == 2000 for loss in losses.values())
    assert losses[1].power == (1 if name == "sr3" else 2)
    assert system.noise_level == "alpha"
    wanted = {"sr3": ["enlarge"], "palette": ["inpaint", "uncrop", "repair", "colourise"]}[name]
    assert losses[3].tasks == wanted
    assert losses[1].tasks == [task for task in wanted if task != "colourise"]
    assert system.conditions(3).keys() == ({"image"} if name == "sr3" else {"image", "known"})


@pytest.mark.parametrize("name", SYSTEMS)
def test_a_system_trains_samples_is_saved_and_comes_back(name, tmp_path):
    records = digits(channels=3 if name == "palette" else 1)
    adapter = Images.fit(records, system=name, factor=2)
    assert describe(build(describe(adapter))) == describe(adapter)
    assert adapter.classes == (["bright", "dark"] if name in ("cfg", "adm", "edm") else [])
    torch.manual_seed(0)
    denoiser, loss = adapter.denoiser("tiny").train(), adapter.objective()
    optimizer = torch.optim.Adam([*denoiser.parameters(), *loss.parameters()], 1e-3)
    before = {key: value.clone() for key, value in denoiser.state_dict().items()}
    data = adapter.encode(records)
    for step in range(2):
        batch = data.batch(torch.arange(12) + 12 * step)
        optimizer.zero_grad()
        value = loss(denoiser, batch.state, None, batch.condition or None, Random(step, batch.index))[0].mean()
        value.backward()
        optimizer.step()
    assert any(
        not torch.equal(before[key], value) for key, value in denoiser.state_dict().items() if "network.last" in key
    )
    model = Model(adapter, denoiser)
    model.save(tmp_path / "model")
    other = load(tmp_path / "model")
    assert other.config() == model.config()
    assert other.modality.system == name
    first, again = (m.sample(3, steps=2, seed=1) for m in (model, other))
    assert all(
        np.array_equal(a.pixels, b.pixels) and a.facts.get("valid", True) for a, b in zip(first, again, strict=True)
    )
    if SYSTEMS[name].tasks:
        x = data.batch(torch.arange(3)).state["pixel"]
        told = {"known": hide(x, x > 0)} if "known" in SYSTEMS[name].conditions(1) else {"image": x}
        noise = torch.randn_like(x)
        drawn = {
            key: model.tuned(2)(other.denoiser, {"pixel": noise}, None, value, Random(0, 3))["pixel"]
            for key, value in (("told", told), ("nothing", None))
        }
        assert not torch.equal(drawn["told"], drawn["nothing"])  # it looks at what it is told


@pytest.mark.parametrize(("system", "options", "message"), [
    ("gan", {}, "--system must be one of cfg, ddpm"),
    ("sr3", {"factor": 3}, "--factor 3 does not divide images of 8 x 8 pixels"),
    ("sr3", {"factor": 1}, "2 or more"),
    ("ddpm", {"learn_variance": True}, "--learn-variance belongs to cfg"),
    ("ddpm", {"conditions": ["class"]}, "a --system that has classes"),
])  # fmt: skip
def test_what_does_not_go_together_is_refused_in_one_line(system, options, message):
    with pytest.raises(UserError, match=message):
        Images.fit(digits(), system=system, **options)
    if "conditions" not in options:
        with pytest.raises(ValueError, match=message):
            Images([8, 8], 1, system=system, **options)


# -- the classifier of ADM --------------------------------------------------------------------------------------------


class Deaf(AnalyticDenoiser):
    """An exact denoiser that no condition reaches."""

    def forward(self, x_t, t, mask=None, condition=None, previous=None, noise=None):
        return super().forward(x_t, t, mask)


def test_a_classifier_learns_to_see_through_noise_and_leads_a_model(tmp_path):
    records = digits(200)
    adapter = Images.fit(records, system="adm")
    process = adapter.process()
    said = []
    classifier = train_classifier(process, records, 40, batch_size=32, say=said.append)
    assert accuracy(classifier, process, records, 0.1) > 0.98 > 0.8 > accuracy(classifier, process, records, 1.0)
    assert len(said) == 10
    assert classifier.classes == ["bright", "dark"]
    classifier.save(tmp_path / "classifier")
    other = load_classifier(tmp_path / "classifier")
    x, t = {"pixel": torch.randn(5, 1, 8, 8)}, torch.linspace(0.1, 0.9, 5)
    assert torch.equal(other(x, t, process), classifier(x, t, process))
    # An exact model of both classes goes where it is led.
    x_0 = adapter.encode(records).batch(torch.arange(200)).state["pixel"]
    centres = torch.stack([x_0[::2].mean(0), x_0[1::2].mean(0)])
    exact = Deaf(process, [0.5, 0.5], {"pixel": (centres, 0.15)})
    noise = process.prior(process.noise(None, Random(0, 20)))

    def drawn(guide, condition=None):
        x = Ancestral(15)(guide(exact), noise, None, condition, Random(1, 20))["pixel"]
        return torch.stack([(x - centre).square().sum((1, 2, 3)) for centre in centres]).argmin(0)

    assert 4 < drawn(lambda denoiser: denoiser).sum() < 16
    assert (drawn(classifier.guide("bright", scale=3.0)) == 0).sum() >= 17
    assert (drawn(classifier.guide("dark", scale=3.0)) == 1).sum() >= 17
    label = torch.tensor([0, 1] * 10)
    asked = classifier.guide(classes=["dark", "bright"], scale=3.0)  # the same words, in the order of another model
    assert (drawn(asked, {"class": label}) == 1 - label).sum() >= 17


def test_guidance_by_a_classifier_is_its_gradient():
    process = SYSTEMS["adm"].process(1, (8, 8))
    records = digits(8)
    classifier = train_classifier(process, records, 1, batch_size=8)
    exact = Deaf(process, [1.0], {"pixel": (0.0, 1.0)})
    x_t, t = {"pixel": torch.randn(2, 1, 8, 8)}, torch.full((2,), 0.5)
    plain, led = exact(x_t, t), classifier.guide("dark", scale=2.0)(exact)(x_t, t)
    x = x_t["pixel"].clone().requires_grad_()
    classifier({"pixel": x}, t, process).log_softmax(1)[:, 1].sum().backward()
    schedule = process.schedule
    factor = float(schedule.sigma(t)[0] ** 2 / schedule.alpha(t)[0])
    torch.testing.assert_close(led.data["pixel"] - plain.data["pixel"], 2 * factor * x.grad, rtol=1e-3, atol=1e-5)
    free = classifier.guide(classes=["bright", "dark"])(exact)(x_t, t, None, {"class": torch.tensor([-1, -1])})
    assert torch.equal(free.data["pixel"], plain.data["pixel"])
    with pytest.raises(ValueError, match="put Gradient around"):
        ClassifierFree(classifier.guide("dark")(exact), 2.0)


def test_a_classifier_refuses_what_it_does_not_know(tmp_path):
    process = SYSTEMS["adm"].process(1, (8, 8))
    with pytest.raises(UserError, match="at least two classes"):
        train_classifier(process, digits(8).select(np.arange(0, 8, 2)), 1)
    classifier = train_classifier(process, digits(8), 1, batch_size=8)
    with pytest.raises(UserError, match="does not know 'red'; it knows bright, dark"):
        classifier.guide("red")
    with pytest.raises(UserError, match="must be told where to"):
        classifier.guide()
    with pytest.raises(ValueError, match="2 classes, and there are 1"):
        Classifier(classifier.network, ["a"])
    classifier.save(tmp_path / "c")
    (tmp_path / "c" / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(UserError, match="does not hold the weights"):
        load_classifier(tmp_path / "c")
    (tmp_path / "c" / "config.json").write_text("{}")
    with pytest.raises(UserError, match="is not the configuration of a classifier"):
        load_classifier(tmp_path / "c")


def test_what_was_always_told_its_class_knows_nothing_without():
    """The vector of a missing class never was trained: a random one."""
    records = digits(8)
    model = Model(adapter := Images.fit(records, system="adm"), adapter.denoiser("tiny"), Ancestral(2))
    assert len(model.sample(2)) == 2  # of a class as often as it occurs
    (labelled,) = model.sample(1)
    assert len(model.edit([labelled], "vary", 1).records) == 1
    unlabelled = replace(labelled, word="")
    for act, message in (
        (lambda: model.sample(1, guidance=3.0), r"--guidance: in training .* \(gendiff classifier"),
        (lambda: model.sample(1, guidance=3.0, condition={"class": "dark"}), "--guidance: in training"),
        (lambda: model.edit([unlabelled], "vary", 1), "--class: in training .* name one"),
        (lambda: model.log_prob(records, steps=2), "has no likelihood without one"),
    ):
        with pytest.raises(UserError, match=message):
            act()
    free = Model(adapter := Images.fit(records, system="cfg"), adapter.denoiser("tiny"))
    assert len(free.edit([unlabelled], "vary", 1, steps=2).records) == 1
