"""The steerable network: its products are e3nn's, it is equivariant, blind to padding, batch and order."""

import copy
import functools
import json
import math

import pytest
import safetensors.torch
import torch

import gendiff
from gendiff.config import build, describe
from gendiff.files import UserError
from gendiff.modalities.molecules.modality import Molecules
from gendiff.model import Model
from gendiff.nn.steerable import Convolution, SteerableDenoiser, tensor_paths
from gendiff.train.optimizer import MuonAdamW

FEATURES = {"element": 5, "charge": 1}
EVERYTHING = {"self_condition": True, "conditions": {"gap": "float", "kind": 3}}
PRECISIONS = pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-13), (torch.float32, 1e-5)], ids=["f64", "f32"]
)


def data(batch, size, dtype=torch.float64, sizes=None, seed=0, previous=False):
    """A random state, noise levels, and the mask if `sizes` are given; padding is zero."""
    random = torch.Generator().manual_seed(seed)
    make = lambda *shape: torch.randn(shape, generator=random, dtype=torch.float64).to(dtype)  # noqa: E731
    x = {"position": 2 * make(batch, size, 3), "element": make(batch, size, 5), "charge": make(batch, size, 1)}
    level = make(batch, 2)
    if previous:
        x |= {f"{name}_previous": make(*value.shape) for name, value in x.items()}
    mask = None if sizes is None else torch.arange(size) < torch.tensor(sizes).unsqueeze(1)
    if mask is not None:
        x = {name: value * mask.unsqueeze(-1) for name, value in x.items()}
    return x, level, mask


def conditions(batch):
    """Values, some of them missing."""
    return {
        "gap": torch.tensor([0.3, math.nan, 2.0, -1.0])[:batch],
        "kind": torch.tensor([0, 2, -1, 1])[:batch],
    }


def network(dtype=torch.float64, **options):
    """A small network whose nodes move visibly: the heads of the steps start 300 times larger."""
    net = SteerableDenoiser(FEATURES, **{"levels": 2, "width": 16, "layers": 3, **options})
    with torch.no_grad():
        for block in net.blocks:
            block.move.weight.mul_(300)
    return net.to(dtype)


def orthogonal(reflect=False):
    q = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64))[0]
    return -q if (q.det() < 0) != reflect else q


def turned(x, q):
    """The state rotated, its positions moved by one vector and the earlier ones by another."""
    moves = {"position": 3.0, "position_previous": -1.0}
    return {name: value @ q.to(value.dtype) + moves[name] if name in moves else value for name, value in x.items()}


@functools.cache
def e3nn_product(channels, degree, outputs, chirality):
    """e3nn's own tensor product along the same paths; made in float64, where it keeps its constants."""
    from e3nn import o3

    parity = lambda k: 1 if chirality or k % 2 == 0 else -1  # noqa: E731
    paths = tensor_paths(len(channels) - 1, outputs, degree, chirality)
    features = o3.Irreps([(c, (k, parity(k))) for k, c in enumerate(channels)])
    harmonics = o3.Irreps([(1, (k, parity(k))) for k in range(degree + 1)])
    results = o3.Irreps([(channels[a], (c, parity(c))) for a, _, c in paths])
    instructions = [(a, b, n, "uvu", True) for n, (a, b, _) in enumerate(paths)]
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        return paths, o3.TensorProduct(
            features, harmonics, results, instructions, shared_weights=False, internal_weights=False,
            irrep_normalization="component", path_normalization="none",
        )  # fmt: skip
    finally:
        torch.set_default_dtype(default)


@pytest.mark.parametrize(
    "shape",
    [((6, 4, 2), 2, 2, False), ((6, 4, 2), 2, 1, True), ((4,), 2, 2, True), ((4, 3, 2, 2), 3, 3, False)],
    ids=["parity", "chirality", "scalars", "degree-3"],
)
def test_the_convolution_is_the_sum_of_e3nns_tensor_products(shape):
    """All paths that e3nn allows between these irreps, with its weights, summed over neighbours."""
    channels, degree, outputs, chirality = shape
    paths, tensor_product = e3nn_product(*shape)
    convolution = Convolution(list(channels), degree, outputs, chirality).double()
    make = functools.partial(torch.randn, dtype=torch.float64)
    features = [make(2, 3, 2 * k + 1, c) for k, c in enumerate(channels)]
    harmonics, weights = make(2, 3, 3, (degree + 1) ** 2), make(2, 3, 3, tensor_product.weight_numel)
    found = convolution(features, harmonics, weights)
    sent = torch.cat([f.transpose(2, 3).flatten(2) for f in features], -1).unsqueeze(1).expand(2, 3, 3, -1)
    expected = tensor_product(sent, harmonics, weights).sum(2).split([ir.dim for ir in tensor_product.irreps_out], -1)
    for k, value in enumerate(found):
        parts = [
            part.unflatten(-1, (-1, 2 * k + 1)).transpose(2, 3)
            for (_, _, c), part in zip(paths, expected, strict=True)
            if c == k
        ]
        torch.testing.assert_close(value, torch.cat(parts, -1), rtol=0, atol=1e-13)


def test_paths_are_those_of_e3nns_irreps():
    from e3nn import o3

    for chirality in (False, True):
        parity = lambda k, even=chirality: 1 if even or k % 2 == 0 else -1  # noqa: E731
        expected = [
            (a, b, c)
            for a in range(3)
            for b in range(3)
            for c in range(3)
            if o3.Irrep(c, parity(c)) in list(o3.Irrep(a, parity(a)) * o3.Irrep(b, parity(b)))
        ]
        assert tensor_paths(2, 2, 2, chirality) == expected
    assert (1, 1, 1) in expected


@PRECISIONS
@pytest.mark.parametrize("options", [EVERYTHING, {"degree": 1}, {"degree": 3}], ids=["everything", "l1", "l3"])
def test_rotation_reflection_and_translation(dtype, tolerance, options):
    net = network(dtype, **options)
    x, level, mask = data(3, 6, dtype, [6, 4, 2], previous="self_condition" in options)
    given = conditions(3) if "conditions" in options else None
    out = net(x, level, mask, given)
    assert out["position"].abs().max() > 0.1
    for reflect in (False, True):
        q = orthogonal(reflect)
        moved = net(turned(x, q), level, mask, given)
        torch.testing.assert_close(moved["position"], out["position"] @ q.to(dtype), rtol=0, atol=tolerance)
        for name in FEATURES:
            torch.testing.assert_close(moved[name], out[name], rtol=0, atol=tolerance)


@PRECISIONS
def test_chirality_keeps_rotations_and_gives_up_reflections(dtype, tolerance):
    net = network(dtype, chirality=True, **EVERYTHING)
    x, level, _ = data(3, 6, dtype, previous=True)
    out = net(x, level)
    rotation, reflection = orthogonal(), orthogonal(reflect=True)
    moved = net(turned(x, rotation), level)
    torch.testing.assert_close(moved["position"], out["position"] @ rotation.to(dtype), rtol=0, atol=tolerance)
    for name in FEATURES:
        torch.testing.assert_close(moved[name], out[name], rtol=0, atol=tolerance)
    mirror = net(turned(x, reflection), level)
    assert (mirror["position"] - out["position"] @ reflection.to(dtype)).abs().max() > 1e-3
    assert (mirror["element"] - out["element"]).abs().max() > 1e-5


@PRECISIONS
def test_permutation(dtype, tolerance):
    net, (x, level, _) = network(dtype, **EVERYTHING), data(3, 6, dtype, previous=True)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    out, permuted = net(x, level), net({name: v[:, order] for name, v in x.items()}, level)
    for name, value in out.items():
        torch.testing.assert_close(permuted[name], value[:, order], rtol=0, atol=tolerance)


def test_results_have_no_mean_and_padding_is_zero():
    net, (x, level, mask) = network(), data(3, 6, sizes=[6, 4, 2])
    out = net(x, level, mask)
    torch.testing.assert_close(out["position"].sum(1), torch.zeros(3, 3, dtype=torch.float64), rtol=0, atol=1e-13)
    for value in out.values():
        assert (value[~mask] == 0).all()


@pytest.mark.parametrize("options", [{}, EVERYTHING, {"chirality": True}], ids=["plain", "everything", "chirality"])
def test_padding_and_batch_change_nothing(options):
    """A molecule alone gives the results and gradients that it gives in a padded batch, whatever the padding holds."""
    net, sizes = network(**options), [6, 4, 1, 2]
    x, level, mask = data(4, 6, sizes=sizes, previous="self_condition" in options)
    given = conditions(4) if "conditions" in options else None
    weight = {name: torch.randn_like(x[name]) for name in ("position", *FEATURES)}

    def gradients(out, weight):
        net.zero_grad()
        sum((out[name] * weight[name]).sum() for name in out).backward()
        return [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in net.parameters()]

    out = net(x, level, mask, given)
    total = gradients(out, weight)
    dirty = net({n: v + torch.randn_like(v) * ~mask.unsqueeze(-1) for n, v in x.items()}, level, mask, given)
    parts = []
    for i, size in enumerate(sizes):
        one = lambda state, i=i, size=size: {name: v[i : i + 1, :size] for name, v in state.items()}  # noqa: E731
        condition = given and {name: value[i : i + 1] for name, value in given.items()}
        alone = net(one(x), level[i : i + 1], None, condition)
        parts.append(gradients(alone, one(weight)))
        for name in out:
            torch.testing.assert_close(out[name][i : i + 1, :size], alone[name], rtol=0, atol=1e-13)
            torch.testing.assert_close(dirty[name], out[name], rtol=0, atol=1e-13)
    for whole, *pieces in zip(total, *parts, strict=True):
        torch.testing.assert_close(whole, torch.stack(pieces).sum(0), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("size", [1, 2])
def test_one_or_two_nodes(size):
    """One node hears nothing and stays where it is; two move along their axis."""
    net, (x, level, _) = network(**EVERYTHING), data(2, size)
    sums: list = []
    for block in net.blocks:
        block.convolution.register_forward_hook(lambda module, arguments, result: sums.extend(result))
    x["position"].requires_grad_()
    out = net(x, level)
    sum(v.square().sum() for v in out.values()).backward()
    assert x["position"].grad.isfinite().all()
    assert all(p.grad is None or p.grad.isfinite().all() for p in net.parameters())
    if size == 1:
        assert len(sums) == 8
        assert all((heard == 0).all() for heard in sums)
        torch.testing.assert_close(out["position"], torch.zeros_like(out["position"]), rtol=0, atol=1e-15)
    else:
        along = x["position"][:, 0] - x["position"][:, 1]
        off_axis = torch.linalg.cross(out["position"][:, 0], along)
        assert out["position"].abs().max() > 0.01
        torch.testing.assert_close(off_axis, torch.zeros_like(off_axis), rtol=0, atol=1e-13)


@pytest.mark.parametrize("everywhere", [False, True], ids=["pair", "all"])
def test_nodes_at_one_place_have_finite_values_and_gradients(everywhere):
    net, (x, level, _) = network(), data(2, 4)
    x["position"][:, 1] = x["position"][:, 0]
    if everywhere:
        x["position"].zero_()
    x["position"].requires_grad_()
    sum(v.square().sum() for v in net(x, level).values()).backward()
    assert x["position"].grad.isfinite().all()
    assert all(p.grad.isfinite().all() for p in net.parameters())


def test_it_is_smooth_where_nodes_meet():
    """Through a meeting of two nodes the results change no faster than elsewhere: no direction is ever undefined."""
    net, (x, level, _) = network(), data(1, 4)
    results = []
    for offset in (-1e-5, 0.0, 1e-5):
        x["position"][:, 1] = x["position"][:, 0] + torch.tensor([offset, 0.0, 0.0])
        results.append(torch.cat([v.flatten() for v in net(x, level).values()]))
    before, middle, after = results
    assert (after - before).abs().max() > 1e-8
    torch.testing.assert_close((before + after) / 2, middle, rtol=0, atol=1e-8)


def test_every_parameter_learns():
    net, (x, level, _) = network(chirality=True, **EVERYTHING), data(4, 5, previous=True)
    out = net(x, level, None, conditions(4))
    sum((v * torch.randn_like(v)).sum() for v in out.values()).backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad.abs().sum() > 0, name


def test_every_path_matters():
    """Results change with the weights of each path alone, but for the first block's, which starts from scalars."""
    net, (x, level, _) = network(layers=2), data(2, 4)
    out = net(x, level)["element"]
    convolution = net.blocks[1].convolution
    assert convolution.paths == tensor_paths(2, 1, 2, False)
    for rows in torch.arange(sum(convolution.weights)).split(convolution.weights):
        other = copy.deepcopy(net)
        other.blocks[1].weights.weight.data[rows] = 0
        other.blocks[1].weights.bias.data[rows] = 0
        moved = other(x, level)
        assert (
            max((moved["element"] - out).abs().max(), (moved["position"] - net(x, level)["position"]).abs().max())
            > 1e-6
        )


@pytest.mark.parametrize("kind", ["gap", "kind"])
def test_conditions_act_and_a_missing_one_is_the_null(kind):
    net, (x, level, _) = network(conditions=EVERYTHING["conditions"]), data(2, 5)
    value = {"gap": torch.tensor([1.0, math.nan]), "kind": torch.tensor([1, -1])}[kind]
    given, without = net(x, level, None, {kind: value}), net(x, level)
    for name in without:
        assert not torch.allclose(given[name][0], without[name][0])
        assert torch.equal(given[name][1], without[name][1])
    with pytest.raises(UserError, match="gapp"):
        net(x, level, None, {"gapp": torch.zeros(2)})
    with pytest.raises(UserError, match="knows no condition"):
        network()(x, level, None, {"gap": torch.zeros(2)})


def test_noise_levels_and_conditions_act_in_every_block():
    """Told only inside one block, another level still changes the results."""
    net, (x, level, _) = network(), data(2, 5)
    out = net(x, level)
    for block in net.blocks:
        handle = block.norm.register_forward_pre_hook(lambda module, arguments: (arguments[0], arguments[1] + 1))
        other = net(x, level)
        handle.remove()
        for name in out:
            assert not torch.allclose(other[name], out[name], atol=1e-6)


def test_self_conditioning_without_an_estimate_reads_zeros():
    net, (x, level, _) = network(self_condition=True), data(2, 5)
    zeros = {f"{name}_previous": torch.zeros_like(v) for name, v in x.items()}
    earlier = {f"{name}_previous": v for name, v in data(2, 5, seed=3)[0].items()}
    out, zero, other = net(x, level), net({**x, **zeros}, level), net({**x, **earlier}, level)
    for name in out:
        assert torch.equal(out[name], zero[name])
        assert not torch.allclose(out[name], other[name])


@pytest.mark.parametrize("kept", ["ways", "distances"])
def test_an_earlier_estimate_is_read_in_two_ways(kept):
    net, (x, level, _) = network(self_condition=True), data(2, 5)
    with torch.no_grad():
        if kept == "distances":
            net.way.zero_()
        else:
            for block in net.blocks:
                block.pair.weight[:, 33:66] = 0  # those of the earlier distances
    out, other = net(x, level), net({**x, "position_previous": x["position"].flip(1)}, level)
    for name in out:
        assert not torch.allclose(out[name], other[name], atol=1e-6)


def test_degree_two_tells_a_square_from_a_tetrahedron():
    """Four neighbours alike at one distance, in a plane or not: only the centre's sum of degree 2 differs."""
    square = torch.tensor([[1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0]]).double()
    tetrahedron = torch.tensor([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]).double() / 3**0.5
    for degree in (1, 2):
        net, sizes = network(layers=2, degree=degree), []
        for shape in (square, tetrahedron):
            position = torch.cat((torch.zeros(1, 3), shape)).double().unsqueeze(0)
            x = {"position": position, **{name: torch.ones(1, 5, c).double() for name, c in FEATURES.items()}}
            sums: list = []
            handle = net.blocks[0].convolution.register_forward_hook(lambda *call, sums=sums: sums.extend(call[2]))
            net(x, torch.zeros(1, 2).double())
            handle.remove()
            sizes.append(torch.stack([s[0, 0].square().mean() for s in sums]))
        alike = torch.isclose(*sizes, rtol=0, atol=1e-12).tolist()
        assert alike == [True, True, False][: degree + 1]


def test_functional_transforms_see_through():
    """Forward-mode derivatives, which likelihoods need, agree with reverse mode, also under vmap."""
    net, (x, level, _) = network(layers=2, width=8), data(2, 3)

    def displacement(position):
        return net({**x, "position": position}, level)["position"]

    tangents = torch.randn(2, *x["position"].shape, dtype=torch.float64)
    value, forward = torch.func.jvp(displacement, (x["position"],), (tangents[0],))
    torch.testing.assert_close(value, displacement(x["position"]))
    jacobian = torch.autograd.functional.jacobian(displacement, x["position"])
    expected = torch.einsum("aibcjd,ncjd->naib", jacobian.unflatten(0, (2,)), tangents)
    torch.testing.assert_close(forward, expected[0])
    many = torch.func.vmap(lambda tangent: torch.func.jvp(displacement, (x["position"],), (tangent,))[1])
    torch.testing.assert_close(many(tangents), expected)


def test_second_derivatives():
    net, (x, level, _) = network(layers=2, width=8, degree=2), data(1, 3)

    def loss(position):
        return sum(v.square().sum() for v in net({**x, "position": position}, level).values())

    position = x["position"].requires_grad_()
    assert torch.autograd.gradcheck(loss, (position,))
    assert torch.autograd.gradgradcheck(loss, (position,))


def test_it_is_copied_described_and_stored():
    options = {"width": 8, "layers": 2, "degree": 1, "chirality": True, "normalization": 5.0, "level_features": 4}
    options |= {"level_range": 1.0, "distance_features": 6, "distance_range": 3.0, **EVERYTHING}
    net = network(torch.float32, **options)
    again = build(json.loads(json.dumps(describe(net))))
    assert type(again) is SteerableDenoiser
    assert describe(again) == describe(net)
    again.load_state_dict(safetensors.torch.load(safetensors.torch.save(net.state_dict())))
    assert net.state_dict().keys() == dict(net.named_parameters()).keys()
    x, level, _ = data(2, 4, torch.float32, previous=True)
    for name, value in net(x, level, None, conditions(2)).items():
        assert torch.equal(value, again(x, level, None, conditions(2))[name])
        assert torch.equal(value, copy.deepcopy(net)(x, level, None, conditions(2))[name])


def test_a_network_made_in_single_precision_has_all_digits_in_double():
    """Clebsch-Gordan coefficients are not rounded to float32 on the way: e3nn's wigner_3j to 1e-14."""
    from e3nn import o3

    convolution = Convolution([4, 2, 1], 2, 2, True).double()
    table = convolution.high + convolution.low
    for (a, b, c), part in zip(convolution.paths, table.split(convolution.columns, 1), strict=True):
        expected = (2 * c + 1) ** 0.5 * o3.wigner_3j(a, b, c, dtype=torch.float64).transpose(0, 1).flatten(1)
        torch.testing.assert_close(part[b**2 : (b + 1) ** 2], expected, rtol=0, atol=1e-14)
        assert part.count_nonzero() == expected.count_nonzero() > 0


def test_a_model_with_it_is_saved_and_loaded(tmp_path):
    molecules = Molecules([6, 7, 8], {4: 1, 6: 1})
    denoiser = molecules.denoiser("tiny")
    denoiser.network = SteerableDenoiser({"element": 3}, levels=2, width=8, layers=2)
    model = Model(molecules, denoiser)
    model.save(tmp_path / "model")
    again = gendiff.load(tmp_path / "model")
    assert type(again.denoiser.network) is SteerableDenoiser
    x, t = {"position": torch.randn(2, 4, 3), "element": torch.randn(2, 4, 3)}, torch.tensor([0.2, 0.9])
    first, second = model.denoiser(x, t), again.denoiser(x, t)
    for name in x:
        assert torch.equal(first.data[name], second.data[name])
    assert len(again.sample(2, steps=2, seed=1)) == 2


def test_it_learns_at_the_rate_of_training():
    """The forces of springs between all nodes, to a tenth of their variance in 100 steps at gendiff's own rate."""
    net = SteerableDenoiser({}, width=16, layers=2)
    optimizer, errors = MuonAdamW(net.parameters(), lr=5e-3), []
    for step in range(100):
        x = torch.randn(16, 4, 3, generator=torch.Generator().manual_seed(step)).requires_grad_()
        distances = (x.unsqueeze(1) - x.unsqueeze(2)).square().sum(-1).add(1e-6).sqrt()
        (forces,) = torch.autograd.grad(-(distances - 1).square().sum() / 8, x)
        found = net({"position": x.detach()}, torch.zeros(16, 1))["position"]
        error = (found - forces).square().mean() / forces.square().mean()
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
        errors.append(error.item())
    assert sum(errors[-10:]) / 10 < 0.1 < 0.9 < errors[0]


def check_bfloat16(device):
    """Mixed precision rounds the networks, not the geometry, and trains."""
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


def test_bfloat16_still_turns_with_the_molecule():
    """Rounded harmonics or tensors would depend on the orientation by some 5e-3; rounded invariants hardly do."""
    net, (x, level, _) = network(torch.float32, **EVERYTHING), data(4, 6, torch.float32, previous=True)
    q = orthogonal()
    other = turned(x, q)
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
        out, moved = net(x, level)["position"], net(other, level)["position"]
    error = (moved - out @ q.float()).norm() / out.norm()
    assert error < 1e-3


@pytest.mark.gpu
def test_gpu_agrees_with_the_cpu():
    net, (x, level, mask) = network(torch.float32), data(4, 6, torch.float32, [6, 5, 3, 6])
    expected = net(x, level, mask)
    found = net.to("cuda")({name: v.to("cuda") for name, v in x.items()}, level.to("cuda"), mask.to("cuda"))
    for name, value in expected.items():
        torch.testing.assert_close(found[name].cpu(), value, rtol=1e-3, atol=1e-3 * value.abs().max().item())
    check_bfloat16("cuda")


@pytest.mark.parametrize(
    "wrong", [{"levels": 0}, {"layers": 0}, {"degree": 0}, {"normalization": 0.0}, {"width": 3}, {"width": 0}]
)
def test_senseless_sizes_are_refused(wrong):
    with pytest.raises(UserError, match=next(iter(wrong))):
        SteerableDenoiser(FEATURES, **wrong)


def test_position_is_no_scalar():
    with pytest.raises(UserError, match="position"):
        SteerableDenoiser({"position": 3})


def test_positions_alone_are_enough():
    net = SteerableDenoiser({}, width=8, layers=2, self_condition=True)
    x, level, _ = data(2, 4, torch.float32)
    assert net({"position": x["position"]}, level[:, :1]).keys() == {"position"}
