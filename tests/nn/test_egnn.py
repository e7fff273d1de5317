"""EGNN: equal to a plain transcription of EDM's equations, equivariant, blind to padding, batch and order."""

import importlib.util
import json
import math
import warnings
from pathlib import Path

import pytest
import torch

from gendiff.files import UserError
from gendiff.nn import egnn
from gendiff.nn.egnn import EGNN


def load(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


oracle = load(Path(__file__).with_name("egnn_oracle.py"))

FEATURES = {"element": 5, "charge": 1}


def data(batch, size, dtype=torch.float64, sizes=None, seed=0):
    """A random state, noise levels, and the mask if `sizes` are given; padding is zero."""
    random = torch.Generator().manual_seed(seed)
    make = lambda *shape: torch.randn(shape, generator=random, dtype=torch.float64).to(dtype)  # noqa: E731
    x = {"position": 2 * make(batch, size, 3), "element": make(batch, size, 5), "charge": make(batch, size, 1)}
    mask = None if sizes is None else torch.arange(size) < torch.tensor(sizes).unsqueeze(1)
    if mask is not None:
        x = {name: value * mask.unsqueeze(-1) for name, value in x.items()}
    return x, make(batch, 2), mask


VECTORS = {"distance_features": 8, "distance_range": 4.0, "vector_channels": 3}


def network(dtype=torch.float64, seed=0, gain=10.0, **options):
    """A small network whose coordinates move visibly: the scalar layer starts `gain` times larger than EDM's."""
    torch.manual_seed(seed)
    options = {"width": 16, "layers": 3, "normalization": 4.0, **options}
    net = EGNN(FEATURES, levels=2, **options)
    with torch.no_grad():
        for block in net.blocks:
            block.coordinate.scalar.weight.mul_(gain)
        for parameter in net.parameters():
            parameter.copy_(parameter.double().to(dtype))
    return net.to(dtype)


def both(dtype, **options):
    """A plain network and gendiff's with its weights."""
    torch.manual_seed(1)
    names = ("width", "layers", "sublayers", "attention", "tanh", "coordinate_range", "normalization")
    extras = {
        "previous": options.get("self_condition", False),
        "gaussians": options.get("distance_features", 0),
        "largest": options.get("distance_range", 5.0),
        "channels": options.get("vector_channels", 0),
    }
    plain = oracle.PlainEGNN(6, 2, **extras, **{n: options[n] for n in names})
    for block in plain.blocks:
        block.coordinates.scalar.weight.data.mul_(10)
    ours = EGNN(FEATURES, levels=2, **options)
    oracle.copy_weights(plain, ours)
    return plain.to(dtype), ours.to(dtype)


def run_both(plain, ours, x, level, mask):
    """Results and all gradients of both networks for one random loss, as pairs."""
    names = ["charge", "element"]
    loss_weight = [torch.randn_like(x["position"]), torch.randn_like(torch.cat([x[n] for n in names], -1))]

    def leaves():
        return {name: v.clone().requires_grad_() for name, v in x.items()}, level.clone().requires_grad_()

    theirs, their_level = leaves()
    every = torch.ones(x["position"].shape[:2], dtype=torch.bool) if mask is None else mask
    previous = None
    if "position_previous" in x:
        previous = (theirs["position_previous"], torch.cat([theirs[f"{n}_previous"] for n in names], -1))
    scalars = torch.cat([theirs[n] for n in names], -1)
    expected = plain(theirs["position"], scalars, their_level, every, previous)
    mine, my_level = leaves()
    out = ours(mine, my_level, mask)
    found = (out["position"], torch.cat([out[n] for n in names], -1))
    torch.autograd.backward(expected, loss_weight)
    torch.autograd.backward(found, loss_weight)
    pairs = list(zip(expected, found, strict=True))
    pairs += [(theirs[name].grad, mine[name].grad) for name in x] + [(their_level.grad, my_level.grad)]
    return pairs + oracle.weight_pairs(plain, ours, gradient=True)


EDM = {
    "width": 24,
    "layers": 2,
    "sublayers": 1,
    "attention": True,
    "tanh": True,
    "coordinate_range": 15.0,
    "normalization": 1.0,
}
VARIANTS = {
    "edm": {},
    "wide": {"width": 64, "layers": 5, "normalization": 8.0},
    "no-attention": {"attention": False},
    "no-tanh": {"tanh": False, "coordinate_range": 1.5},
    "sublayers": {"sublayers": 2},
    "self-condition": {"self_condition": True},
    "gaussians": {"distance_features": 8, "distance_range": 4.0},
    "vectors": VECTORS,
}
SIZES = {"full": (5, 6, None), "padded": (4, 7, [7, 3, 1, 5]), "pairs": (3, 2, None), "single": (2, 1, None)}


@pytest.mark.parametrize("chunk", [2**8, 2**18], ids=["pieces", "whole"])
@pytest.mark.parametrize("shape", SIZES)
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(
    ("dtype", "tolerance", "floor"), [(torch.float64, 1e-10, 1e-6), (torch.float32, 1e-5, 0.1)], ids=["f64", "f32"]
)
def test_equals_the_plain_transcription(variant, shape, dtype, tolerance, floor, chunk, monkeypatch):
    """Outputs, and gradients by every input and every weight, relative to the largest entry of each or to `floor`.

    The floor matters in float32 only: a displacement is a difference of positions of size 1 and keeps their rounding.
    """
    monkeypatch.setitem(egnn.CHUNK, "cpu", chunk)
    plain, ours = both(dtype, **{**EDM, **VARIANTS[variant]})
    batch, size, sizes = SIZES[shape]
    x, level, mask = data(batch, size, dtype, sizes)
    if VARIANTS[variant].get("self_condition"):
        x |= {f"{name}_previous": v for name, v in data(batch, size, dtype, sizes, seed=5)[0].items()}
    for index, (expected, found) in enumerate(run_both(plain, ours, x, level, mask)):
        if expected is not None and found is not None:
            error = ((expected - found).abs().max() / expected.abs().max().clamp(min=floor)).item()
            assert error < tolerance, (index, error)
        else:
            assert expected is found


def test_edm_at_full_size_equals_the_plain_transcription():
    """9 layers of 256, as EDM starts them, on molecules of QM9's sizes."""
    torch.manual_seed(0)
    plain, ours = oracle.PlainEGNN(6), EGNN(FEATURES)
    oracle.copy_weights(plain, ours)
    x, level, mask = data(3, 19, torch.float32, [19, 17, 9])
    for expected, found in run_both(plain, ours, x, level[:, :1], mask)[:2]:
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5 * expected.abs().max().item())


def test_qm9_parameter_count():
    count = sum(p.numel() for p in EGNN(FEATURES).parameters())
    assert count == sum(p.numel() for p in oracle.PlainEGNN(6).parameters()) == 5_339_920


def test_derivatives_by_hand_agree_with_finite_differences():
    """First and second derivatives of the three written-out functions, against numerical ones."""
    random = torch.Generator().manual_seed(0)
    make = lambda *s: torch.randn(s, generator=random, dtype=torch.float64).requires_grad_()  # noqa: E731
    width, batch, size = 4, 2, 3
    pairs = torch.rand(batch, size, size, generator=random, dtype=torch.float64)
    weights = [make(3, width), make(width, width), make(width), make(width), make(1)]
    edge = (make(batch, size, 2 * width), make(batch, size, size, 3))
    x, scalar = make(batch, size, 3), make(batch, size, size)
    squared = (make(batch, size, size).detach().square() + 0.5).requires_grad_()
    calls = [
        (egnn.EdgeNetwork.apply, (*edge, pairs, *weights)),
        (egnn.EdgeNetwork.apply, (*edge, pairs, *weights[:3], None, None)),
        (egnn.EdgeNetwork.apply, (*edge, None, *weights[:4], None)),
        (egnn.SquaredDistances.apply, (x,)),
        (egnn.Move.apply, (x, scalar, squared, pairs, True)),
        (egnn.Move.apply, (x, scalar, squared, pairs, False)),
    ]
    for function, inputs in calls:
        assert torch.autograd.gradcheck(function, inputs)
        assert torch.autograd.gradgradcheck(function, inputs)


def test_functional_transforms_see_through():
    """Forward-mode derivatives, which likelihoods need, agree with reverse mode."""
    net, (x, level, _) = network(), data(2, 4)

    def displacement(position):
        return net({**x, "position": position}, level)["position"]

    tangent = torch.randn_like(x["position"])
    value, forward = torch.func.jvp(displacement, (x["position"],), (tangent,))
    torch.testing.assert_close(value, displacement(x["position"]))
    jacobian = torch.autograd.functional.jacobian(displacement, x["position"])
    torch.testing.assert_close(forward, torch.einsum("aibcjd,cjd->aib", jacobian.unflatten(0, (2,)), tangent))


def orthogonal(seed, reflect=False):
    q = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64))[0]
    return -q if (q.det() < 0) != reflect else q


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("vectors", [{}, VECTORS], ids=["distances", "vectors"])
def test_rotation_reflection_and_translation(dtype, tolerance, masked, vectors):
    net = network(dtype, self_condition=True, **vectors)
    x, level, mask = data(3, 6, dtype, [6, 4, 2] if masked else None)
    x["position_previous"] = 0.5 * x["position"] + 0.1
    out = net(x, level, mask)
    assert out["position"].abs().max() > 0.1
    for seed, reflect in ((0, False), (1, True)):
        q = orthogonal(seed, reflect).to(dtype)
        moved = {**x, "position": x["position"] @ q + 3.0, "position_previous": x["position_previous"] @ q - 1.0}
        turned = net(moved, level, mask)
        torch.testing.assert_close(turned["position"], out["position"] @ q, rtol=0, atol=tolerance * 30)
        for name in FEATURES:
            torch.testing.assert_close(turned[name], out[name], rtol=0, atol=tolerance * 30)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
@pytest.mark.parametrize("vectors", [{}, VECTORS], ids=["distances", "vectors"])
def test_permutation(dtype, tolerance, vectors):
    net, (x, level, _) = network(dtype, **vectors), data(3, 6, dtype)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    out, permuted = net(x, level), net({name: v[:, order] for name, v in x.items()}, level)
    for name, value in out.items():
        torch.testing.assert_close(permuted[name], value[:, order], rtol=0, atol=tolerance * 10)


@pytest.mark.parametrize("vectors", [{}, VECTORS], ids=["distances", "vectors"])
def test_e3nn_agrees_that_it_is_equivariant(vectors):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", (DeprecationWarning, FutureWarning))  # of e3nn's own import
        from e3nn.util.test import assert_equivariant
    net, (x, level, _) = network(torch.float32, **vectors), data(1, 7, torch.float32)

    def call(position, element):
        out = net({"position": position[None], "element": element[None], "charge": x["charge"]}, level)
        return out["position"][0], out["element"][0]

    arguments = [x["position"][0], x["element"][0]]
    irreps = {"irreps_in": ["cartesian_points", "5x0e"], "irreps_out": ["1x1o", "5x0e"]}
    assert_equivariant(call, args_in=arguments, tolerance=1e-4, ntrials=3, **irreps)
    with pytest.raises(AssertionError):  # the check itself can fail
        assert_equivariant(lambda p, e: (call(p, e)[0] + p, e), args_in=arguments, tolerance=1e-4, **irreps)


def test_results_have_no_mean():
    net, (x, level, mask) = network(), data(3, 6, sizes=[6, 4, 2])
    out = net(x, level, mask)
    torch.testing.assert_close(out["position"].sum(1), torch.zeros(3, 3, dtype=torch.float64), rtol=0, atol=1e-12)
    for value in out.values():
        assert (value[~mask] == 0).all()


@pytest.mark.parametrize(
    "options", [{}, VECTORS, {"attention": False, "self_condition": True, "conditions": {"gap": "float"}}]
)
def test_padding_and_batch_change_nothing(options):
    """A molecule alone gives the results and gradients that it gives in a padded batch, whatever the padding holds."""
    net, sizes = network(**options), [6, 4, 1, 2]
    x, level, mask = data(4, 6, sizes=sizes)
    gap = {"gap": torch.tensor([0.3, math.nan, 2.0, -1.0])} if "conditions" in options else None
    noise = {name: torch.randn_like(v) * ~mask.unsqueeze(-1) for name, v in x.items()}

    def gradients(out, weight):
        net.zero_grad()
        loss = sum((out[name] * weight[name]).sum() for name in out)
        loss.backward()
        return [p.grad.clone() for p in net.parameters()]

    weight = {name: torch.randn_like(v) for name, v in x.items()}
    out = net(x, level, mask, gap)
    total = gradients(out, weight)
    dirty = net({name: v + noise[name] for name, v in x.items()}, level, mask, gap)
    parts = []
    for i, size in enumerate(sizes):
        alone = net(
            {name: v[i : i + 1, :size] for name, v in x.items()},
            level[i : i + 1],
            None,
            {"gap": gap["gap"][i : i + 1]} if gap else None,
        )
        parts.append(gradients(alone, {name: v[i : i + 1, :size] for name, v in weight.items()}))
        for name in out:
            torch.testing.assert_close(out[name][i : i + 1, :size], alone[name], rtol=0, atol=1e-12)
            torch.testing.assert_close(dirty[name][i, :size], out[name][i, :size], rtol=0, atol=1e-12)
    for whole, *pieces in zip(total, *parts, strict=True):
        torch.testing.assert_close(whole, torch.stack(pieces).sum(0), rtol=1e-10, atol=1e-11)


def test_batch_composition_changes_nothing():
    net, (x, level, _) = network(), data(6, 5)
    out, chosen = net(x, level), torch.tensor([4, 1])
    some = net({name: v[chosen] for name, v in x.items()}, level[chosen])
    for name in out:
        torch.testing.assert_close(some[name], out[name][chosen], rtol=0, atol=1e-12)


@pytest.mark.parametrize("vectors", [{}, VECTORS], ids=["distances", "vectors"])
def test_atoms_at_one_place_have_finite_gradients(vectors):
    net, (x, level, _) = network(**vectors), data(2, 4)
    x["position"][:, 1] = x["position"][:, 0]
    x["position"].requires_grad_()
    sum(v.square().sum() for v in net(x, level).values()).backward()
    assert x["position"].grad.isfinite().all()
    assert all(p.grad.isfinite().all() for p in net.parameters())


def test_vectors_see_the_angle_at_an_atom():
    """Atom 0 with neighbours at distances 1 and 2 under an angle: v_0 . u_01 is |u_01|^2 + |u_01| |u_02| cos(angle)."""
    angles = egnn.Angles(4, 2, 1).double()
    torch.nn.init.zeros_(angles.sender.weight)
    torch.nn.init.ones_(angles.radial.weight)
    near = torch.full((1, 3, 3, 2), 0.5, dtype=torch.float64)  # every neighbour weighs 1
    pairs = torch.tensor([[[0, 1, 1], [1, 0, 0], [1, 0, 0]]])  # 1 and 2 do not see each other
    one, two = 1 / 1.01**0.5, 2 / 4.01**0.5
    for degrees in (60, 109.5, 180):
        a = math.radians(degrees)
        x = torch.tensor([[[0, 0, 0], [1, 0, 0], [2 * math.cos(a), 2 * math.sin(a), 0]]], dtype=torch.float64)
        found = angles(torch.randn(1, 3, 4, dtype=torch.float64), x, egnn.squared_distances(x), near, pairs)[0, 0, 1]
        inside = one**2 + one * two * math.cos(a)
        expected = torch.tensor(
            [inside, one**2, -inside], dtype=torch.float64
        )  # v_1 = u_10, so v_0 . v_1 = -v_0 . u_01
        torch.testing.assert_close(found, expected)


def test_every_parameter_learns():
    net = network(conditions={"gap": "float", "kind": 3}, self_condition=True, level_features=8, **VECTORS)
    x, level, _ = data(3, 5)
    condition = {"gap": torch.tensor([1.0, math.nan, 0.5]), "kind": torch.tensor([0, 2, -1])}
    sum(v.square().sum() for v in net(x, level, None, condition).values()).backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad.abs().sum() > 0, name


def test_conditions_act_and_a_missing_one_is_the_null():
    net, (x, level, _) = network(conditions={"gap": "float"}), data(2, 5)
    given = net(x, level, None, {"gap": torch.tensor([1.0, math.nan])})
    without = net(x, level)
    assert not torch.allclose(given["element"][0], without["element"][0])
    torch.testing.assert_close(given["element"][1], without["element"][1])
    with pytest.raises(UserError, match="gapp"):
        net(x, level, None, {"gapp": torch.zeros(2)})
    with pytest.raises(UserError, match="knows no condition"):
        network()(x, level, None, {"gap": torch.zeros(2)})


def test_self_conditioning_without_an_estimate_reads_zeros():
    net, (x, level, _) = network(self_condition=True), data(2, 5)
    zeros = {f"{name}_previous": torch.zeros_like(v) for name, v in x.items()}
    earlier = {f"{name}_previous": v for name, v in data(2, 5, seed=3)[0].items()}
    out, zero, other = net(x, level), net({**x, **zeros}, level), net({**x, **earlier}, level)
    for name in out:
        torch.testing.assert_close(out[name], zero[name])
        assert not torch.allclose(out[name], other[name])


def test_it_is_rebuilt_from_its_attributes():
    options = {"levels": 1, "width": 8, "layers": 2, "conditions": {"kind": 4}, "level_features": 4, "tanh": False}
    options |= VECTORS
    net = EGNN(FEATURES, **options)
    names = EGNN.__init__.__annotations__.keys() - {"return"}
    config = json.loads(json.dumps({name: getattr(net, name) for name in names}))
    again = EGNN(**config)
    again.load_state_dict(net.state_dict())
    x, level, _ = data(2, 3, torch.float32)
    for name, value in net(x, level[:, :1]).items():
        assert torch.equal(value, again(x, level[:, :1])[name])


@pytest.mark.parametrize("wrong", [{"width": 0}, {"layers": 0}, {"sublayers": -1}, {"normalization": 0.0}])
def test_senseless_sizes_are_refused(wrong):
    with pytest.raises(UserError, match=next(iter(wrong))):
        EGNN(FEATURES, **wrong)


def test_vectors_need_gaussians():
    with pytest.raises(UserError, match="vector_channels = 3 need distance_features"):
        EGNN(FEATURES, vector_channels=3)


def test_position_is_no_scalar():
    with pytest.raises(UserError, match="position"):
        EGNN({"position": 3})


def test_positions_alone_are_enough():
    net = EGNN({}, width=8, layers=2)
    x, level, _ = data(2, 4, torch.float32)
    assert net({"position": x["position"]}, level[:, :1]).keys() == {"position"}


def check_bfloat16(device):
    """Mixed precision rounds the network, not the distances, and trains."""
    net, (x, level, mask) = network(torch.float32).to(device), data(4, 6, torch.float32, [6, 5, 3, 6])
    x, level, mask = {name: v.to(device) for name, v in x.items()}, level.to(device), mask.to(device)
    exact = net(x, level, mask)
    with torch.autocast(device, dtype=torch.bfloat16):
        rough = net(x, level, mask)
    assert rough["position"].dtype == torch.float32
    for name, value in exact.items():
        error = (rough[name].float() - value).norm() / value.norm()
        assert error < 0.05, (name, error)
    sum(v.float().square().sum() for v in rough.values()).backward()
    assert all(p.grad.isfinite().all() and p.grad.dtype == torch.float32 for p in net.parameters())


def test_bfloat16_autocast():
    check_bfloat16("cpu")


def test_bfloat16_still_reads_distances_in_full():
    """9.00 and 9.02 are one bfloat16: rounded squared distances could not tell these molecules apart."""
    net, (x, level, _) = network(torch.float32, layers=1), data(1, 2, torch.float32)
    net.blocks[0].message[0].features.data[:-1] *= 30  # a network that has learned to look closely
    seen = []
    for squared in (9.0, 9.02):
        x["position"] = torch.tensor([[[0.0, 0.0, 0.0], [math.sqrt(squared), 0.0, 0.0]]])
        with torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
            seen.append(net(x, level)["element"])
    assert not torch.equal(*seen)


@pytest.mark.gpu
def test_gpu_agrees_with_the_cpu():
    net, (x, level, mask) = network(torch.float32), data(4, 6, torch.float32, [6, 5, 3, 6])
    expected = net(x, level, mask)
    found = net.to("cuda")({name: v.to("cuda") for name, v in x.items()}, level.to("cuda"), mask.to("cuda"))
    for name, value in expected.items():
        torch.testing.assert_close(found[name].cpu(), value, rtol=1e-3, atol=1e-3 * value.abs().max().item())
    check_bfloat16("cuda")


@pytest.mark.slow
def test_the_benchmark_runs(capsys, monkeypatch):
    monkeypatch.delenv("GENDIFF_DATA", raising=False)
    benchmark = load(Path(__file__).parents[2] / "benchmarks" / "egnn.py")
    size = "--width 8 --layers 1 --batch 4 --batches 1 --repeats 1 --threads 1"
    ratios = benchmark.main(size.split())
    assert ratios.keys() == {"training", "sampling", "memory"}
    shown = capsys.readouterr().out
    for words in (
        "no --data",
        "training step, ms",
        "sampling step, GFLOP/s",
        "peak of a training step",
        "matrix product",
    ):
        assert words in shown
