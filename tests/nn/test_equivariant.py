"""EquivariantTransformer: equal to its equations atom by atom, equivariant, blind to padding, batch and order."""

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
from gendiff.nn.equivariant import EquivariantTransformer
from gendiff.objective import Objective, Power
from gendiff.ops import Random
from gendiff.process import GaussianProcess, JointProcess
from gendiff.schedule import Flow
from gendiff.space import Euclidean, ZeroCenterOfMass
from gendiff.train.optimizer import MuonAdamW

FEATURES = {"element": 5, "charge": 1}
SMALL = {"width": 16, "layers": 3, "message": 8, "heads": 2, "vectors": 6, "level_features": 8}
ALL = {"self_condition": True, "conditions": {"gap": "float", "kind": 3}}


def data(batch, size, dtype=torch.float64, sizes=None, seed=0):
    """A random state with an earlier estimate, noise levels, conditions, and the mask if `sizes` are given."""
    random = torch.Generator().manual_seed(seed)
    make = lambda *shape: torch.randn(shape, generator=random, dtype=torch.float64).to(dtype)  # noqa: E731
    x = {"position": 1.5 * make(batch, size, 3), "element": make(batch, size, 5), "charge": make(batch, size, 1)}
    x |= {f"{name}_previous": value + 0.5 * make(*value.shape) for name, value in x.items()}
    mask = None if sizes is None else torch.arange(size) < torch.tensor(sizes).unsqueeze(1)
    if mask is not None:
        x = {name: value * mask.unsqueeze(-1) for name, value in x.items()}
    condition = {"gap": make(batch), "kind": torch.arange(batch) % 3}
    condition["gap"][0], condition["kind"][-1] = math.nan, -1
    return x, make(batch, 2), mask, condition


def network(dtype=torch.float64, seed=0, **options):
    """A small network that is far from its start, where it neither moves much nor heeds conditions."""
    torch.manual_seed(seed)
    net = EquivariantTransformer(FEATURES, levels=2, **{**SMALL, **options})
    with torch.no_grad():
        for block in net.blocks:
            block.modulation.weight.mul_(10)
            block.second.weight[16:].mul_(10)
        for parameter in net.parameters():
            parameter.copy_(parameter.double().to(dtype))
    return net.to(dtype)


def close(found, expected, tolerance):
    assert found.keys() == expected.keys()
    assert expected.get("position", torch.ones(1)).abs().max() > 0.1
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=tolerance, msg=lambda m, n=name: f"{n}: {m}")


def block_by_atom(b, h, v, x, m, sample, gaussians):
    """The equations of a block for one molecule, one pair at a time; h (N, D), v (N, C, 3), x (N, 3), m (N, N, M)."""
    atoms, width, message = range(len(h)), h.shape[1], m.shape[-1]
    shift, scale, gate, shift_2, scale_2, gate_2 = b.modulation(sample).chunk(6)
    norm = lambda value: (value - value.mean()) / (value.var(correction=0) + 1e-5).sqrt()  # noqa: E731
    a, s, source = b.nodes.weight.split((message, message, v.shape[1]))
    n = [norm(h[i]) * (1 + scale) + shift for i in atoms]
    u = [[(x[i] - x[j]) / ((x[i] - x[j]).square().sum() + 0.01).sqrt() for j in atoms] for i in atoms]
    near = [[gaussians((x[i] - x[j]).norm()) for j in atoms] for i in atoms]
    others = [[j for j in atoms if j != i] for i in atoms]
    v = [
        v[i] + sum(torch.outer((1 + source @ n[j]) * b.density(near[i][j]), u[i][j]) for j in others[i]) for i in atoms
    ]
    w = [b.look.weight @ v[i] for i in atoms]
    new_h, new_v, new_x, new_m = [], [], [], {}
    for i in atoms:
        logits = {}
        for j in others[i]:
            angles = (w[i] @ u[i][j], w[j] @ u[j][i], (w[i] * w[j]).sum(1))
            hidden = F.silu(a @ n[i] + s @ n[j] + b.pair(torch.cat((near[i][j], *angles, m[i, j]))))
            out = b.message.weight @ hidden
            new_m[i, j], logits[j] = F.silu(out[:message]), out[message:]
        total = sum(value.exp() for value in logits.values())
        length = sum((value.exp() / total).square() for value in logits.values()).sqrt()
        weight = {
            j: (value.exp() / total / length).repeat_interleave(message // b.heads) for j, value in logits.items()
        }
        new_h.append(h[i] + (1 + gate) * b.scalars(sum(weight[j] * new_m[i, j] for j in others[i])))
        first = sum(torch.outer(weight[j] * new_m[i, j], u[i][j]) for j in others[i])
        new_v.append(v[i] + b.directions.weight @ first)
    for i in atoms:
        y, z = (b.mix.weight @ new_v[i]).chunk(2)
        axial = torch.linalg.cross(y, z)
        seen = [norm(new_h[i]) * (1 + scale_2) + shift_2, (y * z).sum(1)]
        seen += [(axial * new_v[i]).sum(1)] if b.chirality else []
        change = b.second(F.silu(b.first(torch.cat(seen))))
        new_h[i] = new_h[i] + (1 + gate_2) * change[:width]
        gain, *turn, step = change[width:].unflatten(0, (2 + b.chirality, -1)).unsqueeze(-1)
        long = new_v[i] + gain * z + (turn[0] * axial if turn else 0)
        new_v[i] = long / (1 + long.square().sum(1).mean()).sqrt()
        new_x.append(x[i] + (step * new_v[i]).sum(0))
    stacked = torch.zeros_like(m)
    for pair, value in new_m.items():
        stacked[pair] = value
    return torch.stack(new_h), torch.stack(new_v), torch.stack(new_x), stacked


@pytest.mark.parametrize("chirality", [False, True])
def test_equals_its_equations_atom_by_atom(chirality):
    net = network(**ALL, chirality=chirality)
    x, level, _, condition = data(3, 5)
    out = net(x, level, None, condition)
    width = net.distance_range / (net.distance_features - 1)
    centers = width * torch.arange(net.distance_features, dtype=torch.float64)
    gaussians = lambda d: torch.exp(-0.5 * ((d - centers) / width).square())  # noqa: E731
    periods = torch.logspace(math.log10(20), math.log10(0.5), 4, dtype=torch.float64)
    for sample in range(3):
        angle = 2 * math.pi * level[sample].unsqueeze(-1) / periods
        context = net.level(torch.cat((angle.cos(), angle.sin()), -1).flatten())
        context = F.silu(context + net.conditioning({k: c[sample : sample + 1] for k, c in condition.items()}, 1)[0])
        names = ["charge", "element", "charge_previous", "element_previous"]
        h = net.embedding(torch.cat((*[x[name][sample] for name in names], torch.ones(5, 1, dtype=torch.float64)), -1))
        start, before = x["position"][sample], x["position_previous"][sample]
        pair = lambda i, j: torch.cat([gaussians((p[i] - p[j]).norm()) for p in (start, before)])  # noqa: E731, B023
        m = net.pairs(torch.stack([torch.stack([pair(i, j) for j in range(5)]) for i in range(5)]))
        v, end = torch.zeros(5, net.vectors, 3, dtype=torch.float64), start
        for block in net.blocks:
            h, v, end, m = block_by_atom(block, h, v, end, m, context, gaussians)
        move = end - start
        charge, element = net.output(h).split([1, 5], -1)
        expected = {"position": move - move.mean(0), "charge": charge, "element": element}
        close({name: value[sample] for name, value in out.items()}, expected, 1e-6)


def orthogonal(seed, reflect=False):
    q = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64))[0]
    return -q if (q.det() < 0) != reflect else q


def turned(x, q, shift=3.0):
    """The state with both positions turned and moved, each by an amount of its own."""
    places = {"position": x["position"] @ q + shift, "position_previous": x["position_previous"] @ q - 1.0}
    return {**x, **places}


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-11), (torch.float32, 5e-5)], ids=["f64", "f32"])
@pytest.mark.parametrize("sizes", [None, [6, 4, 2]], ids=["full", "padded"])
@pytest.mark.parametrize("chirality", [False, True])
def test_rotation_reflection_and_translation(dtype, tolerance, sizes, chirality):
    """With all options on; with chirality, mirror images of four atoms and more are told apart."""
    net = network(dtype, **ALL, chirality=chirality)
    x, level, mask, condition = data(3, 6, dtype, sizes)
    out = net(x, level, mask, condition)
    for seed, reflect in ((0, False), (1, True)):
        q = orthogonal(seed, reflect).to(dtype)
        found = net(turned(x, q), level, mask, condition)
        expected = {**out, "position": out["position"] @ q}
        if not (chirality and reflect):
            close(found, expected, tolerance)
            continue
        for sample, size in enumerate(sizes or [6] * 3):
            differs = {name: (found[name] - expected[name])[sample].abs().max().item() for name in out}
            if size > 3:
                assert min(differs.values()) > 1e-4
            else:
                assert max(differs.values()) < tolerance


def test_three_atoms_have_no_hand():
    """A plane of atoms is its own mirror image, so that a reflection is a rotation: scalars are the same."""
    net, (x, level, _, condition) = network(**ALL, chirality=True), data(2, 3)
    x["position_previous"] = 0.7 * x["position"]
    out = net(x, level, None, condition)
    mirror = net(turned(x, orthogonal(1, reflect=True)), level, None, condition)
    close({name: mirror[name] for name in FEATURES}, {name: out[name] for name in FEATURES}, 1e-11)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-11), (torch.float32, 5e-5)], ids=["f64", "f32"])
def test_permutation(dtype, tolerance):
    net, (x, level, _, condition) = network(dtype, **ALL, chirality=True), data(3, 6, dtype)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    permuted = net({name: v[:, order] for name, v in x.items()}, level, None, condition)
    close(permuted, {name: v[:, order] for name, v in net(x, level, None, condition).items()}, tolerance)


@pytest.mark.parametrize("chirality", [False, True])
def test_one_atom_stays_and_two_move_along_their_bond(chirality):
    net, (x, level, mask, condition) = network(**ALL, chirality=chirality), data(3, 2, sizes=[2, 2, 1])
    out = net(x, level, mask, condition)
    assert (out["position"][2] == 0).all()
    bond = x["position"][:2, 0] - x["position"][:2, 1]
    move = out["position"][:2, 0]
    assert move.norm(dim=1).min() > 1e-3
    assert torch.linalg.cross(move, bond).abs().max() < 1e-12
    alone = net({n: v[2:, :1] for n, v in x.items()}, level[2:], None, {n: c[2:] for n, c in condition.items()})
    torch.testing.assert_close(alone["element"][0], out["element"][2, :1], rtol=0, atol=1e-12)


@pytest.mark.parametrize("chirality", [False, True])
def test_padding_and_batch_change_nothing(chirality):
    """A molecule alone gives the results and gradients that it gives in a padded batch, whatever the padding holds."""
    net, sizes = network(**ALL, chirality=chirality), [6, 4, 1, 2]
    x, level, mask, condition = data(4, 6, sizes=sizes)
    noise = {name: torch.randn_like(v) * ~mask.unsqueeze(-1) for name, v in x.items()}
    weight = {name: torch.randn_like(x[name]) for name in ("position", *FEATURES)}

    def gradients(out, weight):
        net.zero_grad()
        sum((out[name] * weight[name]).sum() for name in out).backward()
        return [p.grad.clone() for p in net.parameters()]

    out = net(x, level, mask, condition)
    assert all((value[~mask] == 0).all() for value in out.values())
    assert out["position"].sum(1).abs().max() < 1e-12
    total = gradients(out, weight)
    dirty = net({name: v + noise[name] for name, v in x.items()}, level, mask, condition)
    parts = []
    for i, size in enumerate(sizes):
        one = slice(i, i + 1)
        alone = net(
            {n: v[one, :size] for n, v in x.items()}, level[one], None, {n: c[one] for n, c in condition.items()}
        )
        parts.append(gradients(alone, {name: v[one, :size] for name, v in weight.items()}))
        for name in out:
            torch.testing.assert_close(out[name][one, :size], alone[name], rtol=0, atol=1e-11)
            torch.testing.assert_close(dirty[name][i, :size], out[name][i, :size], rtol=0, atol=1e-11)
    for whole, *pieces in zip(total, *parts, strict=True):
        torch.testing.assert_close(whole, torch.stack(pieces).sum(0), rtol=1e-9, atol=1e-10)


def test_conditions_act_in_every_block_and_a_missing_one_is_the_null():
    net, (x, level, _, _) = network(conditions={"gap": "float", "kind": 3}), data(2, 5)
    without = net(x, level)
    missing = net(x, level, None, {"gap": torch.full((2,), math.nan), "kind": torch.tensor([-1, -1])})
    close(missing, without, 1e-12)
    for condition in ({"gap": torch.tensor([1.0, math.nan])}, {"kind": torch.tensor([2, -1])}):
        given = net(x, level, None, condition)
        for name in without:
            assert (given[name] - without[name])[0].abs().max() > 1e-3
            torch.testing.assert_close(given[name][1], without[name][1])
    for block in net.blocks:  # each reads the embedding of the sample for itself
        before = block.modulation.weight.detach().clone()
        block.modulation.weight.data.zero_()
        assert (net(x, level)["element"] - without["element"]).abs().max() > 1e-3
        block.modulation.weight.data.copy_(before)
    with pytest.raises(UserError, match="gapp"):
        net(x, level, None, {"gapp": torch.zeros(2)})
    with pytest.raises(UserError, match="knows no condition"):
        network()(x, level, None, {"gap": torch.zeros(2)})


def test_levels_act():
    net, (x, level, _, _) = network(), data(2, 5)
    out = net(x, level)
    for column in (0, 1):
        other = level.clone()
        other[0, column] += 0.5
        changed = net(x, other)
        for name in out:
            assert (changed[name] - out[name])[0].abs().max() > 1e-3
            assert torch.equal(changed[name][1], out[name][1])


def test_self_conditioning_without_an_estimate_reads_zeros():
    net, (x, level, _, _) = network(self_condition=True), data(2, 5)
    plain = {name: x[name] for name in ("position", *FEATURES)}
    out = net(plain, level)
    close(net({**plain, **{f"{n}_previous": torch.zeros_like(v) for n, v in plain.items()}}, level), out, 1e-12)
    for name in plain:
        given = net({**plain, f"{name}_previous": x[f"{name}_previous"]}, level)
        assert min((given[n] - out[n]).abs().max() for n in out) > 1e-4
    close(network()(x, level), network()(plain, level), 0)


@pytest.mark.parametrize("chirality", [False, True])
def test_every_number_learns(chirality):
    """Not only every parameter: each entry of each has a gradient, so none is idle."""
    torch.manual_seed(0)
    net = EquivariantTransformer(FEATURES, levels=2, **SMALL, **ALL, chirality=chirality, distance_features=8).double()
    x, level, _, condition = data(5, 6)
    out = net(x, level, None, condition)
    sum((v * torch.randn_like(v)).sum() for v in out.values()).backward()
    for name, parameter in net.named_parameters():
        assert (parameter.grad != 0).all(), name


def test_functional_transforms_see_through():
    """Forward-mode derivatives, which likelihoods need, agree with reverse mode."""
    net, (x, level, _, condition) = network(**ALL, chirality=True), data(2, 4)

    def displacement(position):
        return net({**x, "position": position}, level, None, condition)["position"]

    tangent = torch.randn_like(x["position"])
    value, forward = torch.func.jvp(displacement, (x["position"],), (tangent,))
    torch.testing.assert_close(value, displacement(x["position"]))
    jacobian = torch.autograd.functional.jacobian(displacement, x["position"])
    torch.testing.assert_close(forward, torch.einsum("aibcjd,cjd->aib", jacobian.unflatten(0, (2,)), tangent))


def test_atoms_at_one_place_have_finite_gradients():
    net, (x, level, _, condition) = network(**ALL, chirality=True), data(2, 4)
    x["position"][:, 1] = x["position"][:, 0]
    x["position"].requires_grad_()
    sum(v.square().sum() for v in net(x, level, None, condition).values()).backward()
    assert x["position"].grad.isfinite().all()
    assert all(p.grad.isfinite().all() for p in net.parameters())


def test_it_overfits_a_batch_at_the_projects_rate():
    """The project's optimizer at 5e-3 learns to undo one noise on eight molecules, from the start of the recipe."""
    torch.manual_seed(0)
    process = JointProcess(
        {"position": GaussianProcess(Flow(), ZeroCenterOfMass(3)), "element": GaussianProcess(Flow(), Euclidean(5))}
    )
    net = EquivariantTransformer({"element": 5}, levels=2, **{**SMALL, "width": 32, "message": 16})
    denoiser = Denoiser(net, process, {"position": "residual", "element": "logits"})
    objective = Objective("velocity", {"element": 0.5}, times=Power(1.5), max_weight=2500.0)
    x, _, _, _ = data(8, 5, torch.float32)
    position = x["position"] - x["position"].mean(1, keepdim=True)
    state = {"position": position, "element": F.one_hot(x["element"].argmax(-1), 5).float()}
    mask, optimizer, losses = torch.ones(8, 5, dtype=torch.bool), MuonAdamW(denoiser.parameters(), lr=5e-3), []
    for _ in range(70):
        loss = objective(denoiser, state, mask, None, Random(0, torch.arange(8)))[0].mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(denoiser.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.15 * losses[0], losses[::10]


def test_it_is_rebuilt_from_its_configuration():
    net = network(torch.float32, **ALL, chirality=True, distance_features=9, distance_range=3.0, level_range=1.0)
    again = build(json.loads(json.dumps(describe(net))))
    again.load_state_dict(net.state_dict())
    x, level, _, condition = data(2, 3, torch.float32)
    close(again(x, level, None, condition), net(x, level, None, condition), 0)


@pytest.mark.parametrize("wrong", [{"width": 0}, {"layers": 0}, {"message": -8}, {"heads": 3}, {"vectors": 0}])
def test_senseless_sizes_are_refused(wrong):
    with pytest.raises(UserError, match=f"{next(iter(wrong))} = {next(iter(wrong.values()))}"):
        EquivariantTransformer(FEATURES, **{**SMALL, **wrong})


def test_position_is_no_scalar():
    with pytest.raises(UserError, match="position"):
        EquivariantTransformer({"position": 3})


def test_positions_alone_are_enough():
    net, (x, level, _, _) = EquivariantTransformer({}, **SMALL), data(2, 4, torch.float32)
    assert net({"position": x["position"]}, level[:, :1]).keys() == {"position"}


def check_bfloat16(device):
    """Mixed precision rounds the network, not the distances, and trains."""
    net = network(torch.float32, **ALL, chirality=True).to(device)
    x, level, mask, condition = data(4, 6, torch.float32, [6, 5, 3, 6])
    x, condition = ({name: v.to(device) for name, v in part.items()} for part in (x, condition))
    level, mask = level.to(device), mask.to(device)
    exact = net(x, level, mask, condition)
    with torch.autocast(device, dtype=torch.bfloat16):
        rough = net(x, level, mask, condition)
    assert rough["position"].dtype == torch.float32
    for name, value in exact.items():
        error = (rough[name].float() - value).norm() / value.norm()
        assert error < 0.05, (name, error)
    sum(v.float().square().sum() for v in rough.values()).backward()
    assert all(p.grad.isfinite().all() and p.grad.dtype == torch.float32 for p in net.parameters())


def test_bfloat16_autocast():
    check_bfloat16("cpu")


def test_float16_autocast_has_no_number_out_of_range():
    net, (x, level, mask, condition) = network(torch.float32, **ALL), data(4, 6, torch.float32, [6, 5, 3, 6])
    with torch.autocast("cpu", torch.float16):
        found = net(x, level, mask, condition)
    for name, value in net(x, level, mask, condition).items():
        torch.testing.assert_close(found[name].float(), value, rtol=0.1, atol=0.1 * value.abs().max().item())


@pytest.mark.gpu
def test_gpu_agrees_with_the_cpu():
    net, (x, level, mask, condition) = network(torch.float32, **ALL), data(4, 6, torch.float32, [6, 5, 3, 6])
    expected = net(x, level, mask, condition)
    x, condition = ({name: v.to("cuda") for name, v in part.items()} for part in (x, condition))
    found = net.to("cuda")(x, level.to("cuda"), mask.to("cuda"), condition)
    for name, value in expected.items():
        torch.testing.assert_close(found[name].cpu(), value, rtol=1e-3, atol=1e-3 * value.abs().max().item())
    check_bfloat16("cuda")


@pytest.mark.slow
def test_the_benchmark_runs(capsys):
    path = Path(__file__).parents[2] / "benchmarks" / "denoisers.py"
    spec = importlib.util.spec_from_file_location("denoisers", path)
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    found = benchmark.main("--minutes 0.01 --samples 2 --seeds 0 1 --threads 1".split())
    assert found.keys() == set(benchmark.NETWORKS)
    shown = capsys.readouterr().out
    for words in ("parameters", "ms a step", "ms a molecule", "valid %", "strain", "sha256", *benchmark.NETWORKS):
        assert words in shown
