"""The model: what it saves is what it loads, sample i is sample i, and a hostile folder does nothing."""

from __future__ import annotations

import errno
import json
import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from dots import Dots
from rdkit import Chem

import examples
import gendiff
from gendiff import DDIM, Ancestral, DPMSolver, Heun, UserError, load
from gendiff.config import describe
from gendiff.denoise import AnalyticDenoiser
from gendiff.modalities.molecules.encode import from_state
from gendiff.model import FORMAT, Model
from gendiff.model.batches import ALIKE, PAIRS_PER_BATCH, cut, cut_batches
from gendiff.model.drawn import collect
from gendiff.model.model import prior_scale, takes_noise
from gendiff.ops import Random
from gendiff.process import GaussianProcess, JointProcess
from gendiff.sample import RK45, Langevin, PredictorCorrector, ReverseSDE, UniPC
from gendiff.schedule import Linear
from gendiff.space import Euclidean


@pytest.fixture
def model():
    return examples.model()


@pytest.fixture
def folder(model, tmp_path):
    """A saved model."""
    model.save(tmp_path / "model")
    return tmp_path / "model"


def test_what_is_written_from_python_says_what_it_is(model, tmp_path):
    """Words of `only` may come as the command line has them; the file states each molecule's validity and SMILES."""
    model.write(model.sample(4, seed=1, only="valid,connected"), tmp_path / "new.sdf")
    mols = list(Chem.SDMolSupplier(str(tmp_path / "new.sdf")))
    assert [mol.GetProp("valid") for mol in mols] == ["true"] * 4
    assert all(Chem.MolFromSmiles(mol.GetProp("SMILES")) is not None for mol in mols)


def raw(model):
    """The same model, whose records are (numbers, positions, charges) with no chemistry."""
    a = model.modality
    a.decode = lambda x, mask, condition=None: from_state(x, mask, a.elements, a.charges, a.position_scale)
    return model


def repr_of(sampler):
    """A name for a test."""
    return "-".join(str(value).rpartition(".")[2] for value in describe(sampler).values())


class Exact(AnalyticDenoiser):
    """The exact denoiser; a model asks its weights where they are."""

    def __init__(self, *args):
        super().__init__(*args)
        self.place = torch.nn.Parameter(torch.zeros(1))


def normal_dots(sampler):
    """The exact model of four dots, each N(0, 0.8^2 I) around their centre, in units of 1.5."""
    modality = Dots({4: 1}, scale=1.5)
    return Model(modality, Exact(modality.process(), [1.0], {"position": (0.0, 0.8)}), sampler)


def block(mol):
    return Chem.MolToMolBlock(mol, includeStereo=False, kekulize=False)


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


# Saving and loading


def test_a_loaded_model_draws_the_same_samples(model, folder):
    again = load(folder)
    mine, theirs = model.draw(20, steps=6, seed=3), again.draw(20, steps=6, seed=3)
    assert list(map(block, mine.records)) == list(map(block, theirs.records))
    assert again.config() == model.config()
    assert not again.denoiser.training
    state = model.denoiser.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in again.denoiser.state_dict().items())


def test_a_model_folder_holds_three_files_and_no_pickle(folder):
    assert set(tree(folder)) == {"README.md", "config.json", "model.safetensors"}
    assert json.loads((folder / "config.json").read_text())["format"] == FORMAT
    assert set(safetensors.torch.load_file(folder / "model.safetensors")) == set(load(folder).denoiser.state_dict())


def test_a_model_says_what_it_is():
    text = "<Model of molecules: EquivariantTransformer of 1,027,460 parameters, Ancestral in 50 steps>"
    assert repr(load("molecules-qm9-heavy")) == text
    assert repr(normal_dots(Ancestral(5))) == "<Model of dots: Exact of 1 parameter, Ancestral in 5 steps>"


def test_a_run_folder_is_a_model_too(folder, tmp_path):
    assert load(tmp_path).config() == load(folder).config()


def test_saving_keeps_info_sampler_and_statistics(tmp_path):
    model = examples.model("explicit")
    model.sampler, model.info = Heun(9, "log_snr"), {"licence": "CC0", "training": {"steps": 3}, "odd": float("nan")}
    model.save(tmp_path / "m")
    again = load(tmp_path / "m")
    assert (again.sampler.steps, again.sampler.grid, type(again.sampler)) == (9, "log_snr", Heun)
    assert again.info == {"licence": "CC0", "training": {"steps": 3}, "odd": None}
    for name in ("elements", "sizes", "hydrogens", "charges", "position_scale", "element_scale", "rule"):
        assert getattr(again.modality, name) == getattr(model.modality, name)
    assert "CC0" in (tmp_path / "m" / "README.md").read_text()


class Foreign(DDIM):
    """A sampler of a script."""


def test_what_could_not_be_loaded_again_is_not_saved(model, tmp_path):
    other = Model(model.modality, model.denoiser, Foreign(3))
    with pytest.raises(UserError, match=r"mine: cannot be loaded again: its sampler: names '.*test_model\.Foreign'"):
        other.save(tmp_path / "mine")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "broken", ["safetensors.torch.save", "gendiff.model.folder.json_text", "os.fsync", "gendiff.model.Model.card"]
)
def test_a_failed_save_leaves_the_old_model(model, folder, broken, monkeypatch):
    before = tree(folder.parent)

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(broken, full)
    with pytest.raises(UserError, match="no space left on device"):
        examples.model(seed=1).save(folder)
    monkeypatch.undo()
    assert tree(folder.parent) == before
    assert [path.name for path in folder.parent.iterdir()] == ["model"]
    examples.model(seed=1).save(folder)
    assert tree(folder.parent) != before


@pytest.mark.parametrize("name", ["molecules-qm9-heavy", "sketches-digits", "images-mnist"])
def test_samples_are_judged_and_taken_in_as_they_are(name):
    """Lists, as `sample` returns them; the table is that of the arrays that a file of them is read as."""
    model = load(name)
    drawn = model.sample(60, steps=4)
    arrays = model.modality.gather(drawn)
    assert len(arrays) == 60
    assert model.modality.gather(arrays) is arrays
    options = {"no_strain": True} if model.modality.name == "molecules" else {}
    table = model.evaluate(drawn[:30], drawn[30:], **options)
    rules = model.modality.protocol() | options
    same = model.modality.evaluate(model.modality.gather(drawn[:30]), model.modality.gather(drawn[30:]), **rules)
    assert table.to_json() == same.to_json()
    known = [i for i, reason in enumerate(model.modality.unknown(arrays)) if not reason][:3]
    mine = [drawn[i] for i in known]
    lists, taken = model.log_prob(mine, steps=2), model.log_prob(arrays.select(np.array(known)), steps=2)
    assert torch.equal(lists["log_prob"], taken["log_prob"])


def test_the_model_card_says_what_strangers_must_know(model):
    model.info = {"data": ["read 40 molecules"], "metrics": ["| valid | 61 % |"]}
    card = model.card()
    for words in ("read 40 molecules", "| valid | 61 % |", "Licence: not stated", "Use and limits", "parameters"):
        assert words in card


# Drawing


STREAMS = [
    (DDIM(6), "implicit"),
    (Ancestral(6), "implicit"),
    (Heun(4), "implicit"),
    (DDIM(4, eta=0.7), "explicit"),
    (DPMSolver(4), "explicit"),
]


@pytest.mark.parametrize(
    ("sampler", "hydrogens"), STREAMS, ids=lambda value: getattr(value, "__class__", value).__name__
)
def test_sample_i_does_not_depend_on_the_others(sampler, hydrogens):
    model = raw(examples.model(hydrogens))
    whole = model.sample(20, sampler=sampler, seed=5)
    for n, batch_size in ((20, 7), (9, 256), (3, 1)):
        for mine, theirs in zip(model.sample(n, sampler=sampler, seed=5, batch_size=batch_size), whole, strict=False):
            np.testing.assert_array_equal(mine[0], theirs[0])
            np.testing.assert_allclose(mine[1], theirs[1], rtol=0, atol=1e-4)
    assert len({len(numbers) for numbers, _, _ in whole}) > 1  # or padding and order were never tried
    assert not np.allclose(whole[0][1].std(), whole[1][1].std())


def test_another_seed_gives_other_samples(model):
    first, second = (raw(model).sample(5, steps=4, seed=seed) for seed in (0, 1))
    assert all(
        len(a[1]) != len(b[1]) or not np.allclose(a[1], b[1], atol=1e-2) for a, b in zip(first, second, strict=True)
    )


def test_drawing_leaves_no_trace(model):
    model.denoiser.train()
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    model.sample(3, steps=3)
    assert torch.equal(torch.rand(3), expected)  # the global generator is not touched
    assert model.denoiser.training
    assert all(p.grad is None and p.requires_grad for p in model.denoiser.parameters())


def test_sizes_follow_the_training_data_and_its_bounds(model):
    sizes = [len(numbers) for numbers, _, _ in raw(model).sample(300, steps=1)]
    for size, count in model.modality.sizes.items():
        share = count / sum(model.modality.sizes.values())
        assert sizes.count(size) / 300 == pytest.approx(share, abs=4.5 * (share * (1 - share) / 300) ** 0.5)
    assert set(sizes) <= set(model.modality.sizes)
    for low, high, wanted in ((3, 3, {3}), (4, None, {4}), (None, 3, {2, 3})):
        drawn = raw(model).sample(60, steps=1, sizes=(low, high))
        assert {len(numbers) for numbers, _, _ in drawn} == wanted
    with pytest.raises(UserError, match="no size between 9 and"):
        model.sample(1, sizes=(9, None))


WORDS = [("valid",), ("valid", "connected"), ("connected",), ("new", "valid", "connected"), ("new",)]


@pytest.mark.parametrize("only", WORDS, ids=" ".join)
def test_only_keeps_the_right_ones_in_order_and_counts_right(model, only):
    known = set(examples.SMILES)
    drawn = model.draw(25, steps=8, seed=2, only=only, known=known, batch_size=64)
    every = model.sample(drawn.drawn, steps=8, seed=2)  # the same stream of samples, all of them
    good = [i for i, kept in enumerate(model.modality.keep(every, only, known)) if kept]
    assert len(good) == 25
    assert drawn.indices == good
    assert drawn.drawn == good[-1] + 1
    assert drawn.rate == pytest.approx(25 / drawn.drawn)
    assert list(map(block, drawn.records)) == [block(every[i]) for i in good]
    for mol in drawn.records:
        assert Chem.SanitizeMol(Chem.Mol(mol), catchErrors=True) == Chem.SanitizeFlags.SANITIZE_NONE
        assert "connected" not in only or len(Chem.GetMolFrags(mol)) == 1
        assert "new" not in only or Chem.MolToSmiles(Chem.RemoveHs(mol), isomericSmiles=False) not in known


def test_only_new_excludes_what_is_known(model):
    some = model.sample(10, steps=8, seed=2, only=("valid",))
    known = {Chem.MolToSmiles(Chem.RemoveHs(mol), isomericSmiles=False) for mol in some}
    fresh = model.sample(10, steps=8, seed=2, only=("new",), known=known)
    assert known.isdisjoint(Chem.MolToSmiles(Chem.RemoveHs(mol), isomericSmiles=False) for mol in fresh)


def test_only_gives_up_when_it_keeps_too_little(model):
    with pytest.raises(UserError, match=r"only \d of 20 samples are valid, connected; 10 were asked for"):
        model.draw(10, steps=2, only=("valid", "connected"), max_draws=20)
    model.modality.keep = lambda records, wanted, known: [False] * len(records)
    with pytest.raises(UserError, match="only 0 of 200 samples are valid; 2 were asked for"):
        model.draw(2, steps=1, only=("valid",))


def test_what_cannot_be_drawn_is_refused_before_the_work(model, monkeypatch):
    monkeypatch.setattr(Model, "draw_at", lambda *args: pytest.fail("it began to draw"))
    for options, words in (
        ({"n": 0}, "-n must be at least 1, got 0"),
        ({"n": -3}, "-n must be at least 1, got -3"),
        ({"n": 2, "steps": 0}, "--steps must be at least 1, got 0"),
        ({"n": 2, "sampler": "best"}, "--sampler: there is no sampler 'best'; choose from ddim, ancestral, heun"),
        ({"n": 2, "batch_size": 0}, "--batch-size must be at least 1, got 0"),
        ({"n": 2, "only": ["vaild"]}, "--only knows valid, connected, stable and new, not 'vaild'"),
        ({"n": 2, "only": ["new"]}, "--reference FILE"),
    ):
        with pytest.raises(UserError, match=words):
            model.draw(**options)


def test_steps_and_temperature_change_the_sampler_and_nothing_else_of_it(model):
    model.sampler = DDIM(30, "log_snr", eta=0.25)
    chosen = model.tuned(7)
    assert (chosen.steps, chosen.grid, chosen.eta, chosen.temperature) == (7, "log_snr", 0.25, 1.0)
    chosen = model.tuned(temperature=0.5)
    assert (chosen.steps, chosen.grid, chosen.eta, chosen.temperature) == (30, "log_snr", 0.25, 0.5)
    assert model.tuned() is model.sampler
    cold, warm = (raw(examples.model()).sample(3, steps=4, temperature=t) for t in (0.0, 1.0))
    assert not np.allclose(cold[0][1], warm[0][1], atol=1e-2)
    for options, words in (
        ({"steps": 0}, "--steps must be at least 1"),
        ({"temperature": 1.5}, r"must lie in \[0, 1\]"),
    ):
        with pytest.raises(UserError, match=words):
            model.tuned(**options)


def test_a_sampler_may_be_named_and_is_then_as_if_it_were_the_models(model):
    model.sampler = Ancestral(8, "quadratic", temperature=0.5)
    assert describe(model.tuned(sampler="heun")) == describe(Heun(8, "quadratic"))
    assert describe(model.tuned(3, 0.5, "ddim")) == describe(DDIM(3, "quadratic", temperature=0.5))
    assert model.tuned(sampler="ancestral") is model.sampler
    mine = Heun(5)
    assert model.tuned(7, sampler=mine) is mine
    by_name, by_hand = (
        raw(examples.model()).sample(4, **options)
        for options in ({"sampler": "heun", "steps": 3}, {"sampler": Heun(3)})
    )
    for (_, a, _), (_, b, _) in zip(by_name, by_hand, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_named_sampler_scales_its_start_by_the_temperature_and_only_by_that():
    """That of the model is its sampler's own: noise taken in by ancestral steps is no noise to start from."""
    model = normal_dots(Ancestral(6, temperature=0.3))
    warm, cold = (torch.stack(model.sample(50, sampler="heun", temperature=tau)) for tau in (None, 0.5))
    torch.testing.assert_close(warm, torch.stack(model.sample(50, sampler=Heun(6))), rtol=0, atol=0)
    torch.testing.assert_close(cold, 0.5 * warm, rtol=1e-4, atol=1e-5)
    film = model.film(50, frames=3, sampler="heun", temperature=0.5)
    torch.testing.assert_close(torch.stack(film[-1]), cold, rtol=0, atol=0)


@pytest.mark.parametrize("sampler", [DPMSolver(20), Heun(10), UniPC(10), DDIM(20)], ids=repr_of)
def test_a_temperature_scales_normal_data_drawn_without_noise_on_the_way(sampler):
    """The flow of N(0, s^2) is linear: at tau every sample is tau times that at 1, and so are the deviations."""
    model = normal_dots(sampler)
    warm, *cold = (torch.stack(model.sample(400, seed=2, temperature=tau)) for tau in (1.0, 0.7, 0.25, 0.0))
    for x, tau in zip(cold, (0.7, 0.25, 0.0), strict=True):
        torch.testing.assert_close(x, tau * warm, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(warm, torch.stack(model.sample(400, seed=2)), rtol=0, atol=0)


@pytest.mark.parametrize("tau", [1.0, 0.7, 0.25])
def test_the_deviation_is_that_of_the_data_times_the_temperature(tau):
    """The flow takes every number of the noise to s times itself; 0.8 * 1.5 is s in the units of the dots."""
    model = normal_dots(RK45(2))
    drawn = torch.stack(model.sample(400, seed=2, temperature=tau))
    noise = torch.stack(model.film(400, frames=2, seed=2)[0])  # of unit deviation, times 1.5
    torch.testing.assert_close(drawn, tau * 0.8 * noise, rtol=1e-3, atol=1e-3)


def test_all_ways_of_sampling_take_the_temperature():
    model = normal_dots(DPMSolver(6))
    cold = torch.stack(model.draw(5, seed=1, temperature=0.5).records)
    torch.testing.assert_close(torch.stack(model.film(5, frames=3, seed=1, temperature=0.5)[-1]), cold, rtol=0, atol=0)
    noise, *_ = model.film(5, frames=3, seed=1, temperature=0.5)
    warm, *_ = model.film(5, frames=3, seed=1)
    torch.testing.assert_close(torch.stack(noise), 0.5 * torch.stack(warm), rtol=0, atol=0)


def test_a_sampler_that_takes_noise_in_starts_from_the_prior_as_it_is():
    for sampler in (Ancestral(4), DDIM(4, eta=0.5), DDIM(4, variance="analytic")):
        assert prior_scale(sampler, 0.5) == 1.0
    model = normal_dots(ReverseSDE(5))
    with pytest.raises(UserError, match="the sampler ReverseSDE of this model takes noise in and has no temp"):
        model.draw(2, temperature=0.5)
    model.sampler = Heun(5)
    with pytest.raises(UserError, match=r"--temperature must lie in \[0, 1\], got 1.5"):
        model.draw(2, temperature=1.5)


SAMPLERS = [
    *(DDIM(4), DDIM(4, eta=0.3), Ancestral(4), Heun(4), Heun(4, churn=1.0), DPMSolver(4), DPMSolver(4, eta=1.0)),
    *(UniPC(4), RK45(2), ReverseSDE(4), ReverseSDE(4, noise=0.0), Langevin(4, corrections=1), PredictorCorrector(4)),
]


@pytest.mark.parametrize("sampler", SAMPLERS, ids=repr_of)
def test_who_takes_noise_in_draws_random_numbers(sampler):
    process = JointProcess({"x": GaussianProcess(Linear(), Euclidean(1))})
    denoiser, random = AnalyticDenoiser(process, [1.0], {"x": (0.0, 0.5)}), Random(0, 2)
    sampler(denoiser, {"x": torch.ones(2, 1, 1)}, torch.ones(2, 1, dtype=torch.bool), random=random)
    assert (random.draws > 0) == takes_noise(sampler)


def test_progress_counts_every_step_of_every_batch(model):
    seen = []
    model.draw(20, steps=3, batch_size=6, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(i + 1, len(seen)) for i in range(len(seen))]
    assert len(seen) >= 3 * 4


def test_progress_is_told_in_every_round(model):
    """A search for rare samples, round after round, is no silence."""
    seen = []
    with pytest.raises(UserError, match="only 0 of 40 samples"):
        model.modality.keep = lambda records, only, known: [False] * len(records)
        model.draw(2, steps=2, only="valid", max_draws=40, progress=lambda done, total: seen.append((done, total)))
    rounds = [total for done, total in seen if done == total]
    assert len(rounds) >= 2
    assert [done for done, _ in seen] == [k + 1 for total in rounds for k in range(total)]


def test_rounds_in_vain_grow():
    """Few samples a round would waste the batch."""
    rounds = []

    def draw(indices):
        rounds.append(len(indices))
        return indices.tolist()

    found = collect(2, draw, lambda records: [record in (70, 75) for record in records], ["rare"], 256)
    assert rounds == [2, 2, 4, 8, 16, 32, 64]
    assert (found.records, found.indices, found.drawn) == ([70, 75], [70, 75], 76)


def test_samples_of_one_size_are_drawn_together(model):
    masks = []

    def spy(denoiser, x, mask, *args, **options):
        masks.append(mask)
        return DDIM(1)(denoiser, x, mask, *args, **options)

    model.draw(60, sampler=spy, batch_size=10)
    assert [len(mask) for mask in masks] == [10] * 6
    mixed = [mask for mask in masks if not mask.all()]
    assert len(mixed) <= len(model.modality.sizes) - 1


def test_batches_are_bounded_in_samples_and_in_pairs():
    sizes = torch.randint(1, 200, (500,)).sort().values
    cuts = cut(sizes, 64, 64)
    assert [start for start, _ in cuts] == [0, *(stop for _, stop in cuts[:-1])]
    assert cuts[-1][1] == 500
    for start, stop in cuts:
        assert stop - start <= 64
        assert stop - start == 1 or (stop - start) * int(sizes[stop - 1]) ** 2 <= PAIRS_PER_BATCH
    assert cut(torch.tensor([10_000, 10_000]), 64, 64) == [(0, 1), (1, 2)]


def test_on_a_cpu_a_batch_of_some_samples_takes_none_of_another_size():
    sizes = torch.tensor([5] * 3 + [6] * ALIKE + [7] * 2 * ALIKE + [9])
    batches = cut_batches(sizes.flip(0), 256, torch.device("cpu"))
    assert [sizes.flip(0)[rows].tolist() for rows in batches] == [[5] * 3 + [6] * ALIKE, [7] * 2 * ALIKE, [9]]
    assert len(cut_batches(sizes, 256, torch.device("cuda"))) == 1


# Folders that are not models, or not ours


def rewrite(folder, change):
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))


BOMB = {"class": "os.system", "command": "touch {sentinel}"}
BOMBS = [
    BOMB,
    {"class": "subprocess.Popen", "args": ["touch", "{sentinel}"]},
    {"class": "builtins.eval", "source": "open('{sentinel}', 'w')"},
    {"class": "gendiff.files.write_json", "path": "{sentinel}", "value": 1},
    {"class": "gendiff.config.importlib.import_module", "name": "antigravity"},
]


@pytest.mark.parametrize(
    "where",
    [("modality",), ("denoiser",), ("sampler",), ("denoiser", "network"), ("sampler", "steps"), ("modality", "rule")],
    ids=".".join,
)
@pytest.mark.parametrize("bomb", BOMBS, ids=lambda bomb: bomb["class"])
def test_a_hostile_config_executes_nothing(folder, tmp_path, where, bomb):
    sentinel = tmp_path / "sentinel"

    def plant(config):
        for name in where[:-1]:
            config = config[name]
        config[where[-1]] = json.loads(json.dumps(bomb).replace("{sentinel}", str(sentinel)))

    rewrite(folder, plant)
    with pytest.raises(UserError, match=r"config\.json: names") as error:
        load(folder)
    assert "\n" not in str(error.value)
    assert not sentinel.exists()


class Bomb:
    def __init__(self, sentinel):
        self.sentinel = sentinel

    def __reduce__(self):
        return open, (str(self.sentinel), "w")


@pytest.mark.parametrize(
    "dump", [lambda x, path: path.write_bytes(pickle.dumps(x)), lambda x, path: torch.save({"state": x}, path)]
)
def test_a_pickle_in_the_place_of_weights_is_not_loaded(folder, tmp_path, dump):
    dump(Bomb(tmp_path / "sentinel"), folder / "model.safetensors")
    with pytest.raises(UserError, match=r"model\.safetensors: does not hold the weights"):
        load(folder)
    assert not (tmp_path / "sentinel").exists()


def test_other_files_in_the_folder_are_not_touched(folder, tmp_path):
    for name in ("model.py", "modality.py", "__init__.py", "sitecustomize.py"):
        (folder / name).write_text(f"open({str(tmp_path / 'sentinel')!r}, 'w')")
    (folder / "model.pt").write_bytes(pickle.dumps(Bomb(tmp_path / "sentinel")))
    load(folder).sample(1, steps=1)
    assert not (tmp_path / "sentinel").exists()


def deep(depth):
    return lambda folder: (folder / "config.json").write_text(
        '{"format": 1, "modality": ' + "[" * depth + "]" * depth + "}"
    )


def nested(depth):
    text = '{"class": "gendiff.schedule.Flow", "a": ' * depth + "1" + "}" * depth
    return lambda folder: (folder / "config.json").write_text(f'{{"format": 1, "modality": {text}}}')


def text(value):
    return lambda folder: (folder / "config.json").write_text(value)


def part(name, value):
    return lambda folder: rewrite(folder, lambda config: config.update({name: value}))


def cut_short(share):
    def do(folder):
        content = (folder / "model.safetensors").read_bytes()
        (folder / "model.safetensors").write_bytes(content[: int(len(content) * share)])

    return do


def weights(change):
    def do(folder):
        tensors = safetensors.torch.load_file(folder / "model.safetensors")
        change(tensors)
        safetensors.torch.save_file(tensors, folder / "model.safetensors")

    return do


def first(tensors):
    return next(iter(tensors))


SKIP = {"class": "gendiff.guide.skip.Skip", "scale": 1.5}

DAMAGES = {
    "no folder": (lambda folder: shutil.rmtree(folder), "no such model"),
    "empty folder": (lambda folder: [path.unlink() for path in folder.iterdir()], "has no config.json"),
    "a file": (lambda folder: [shutil.rmtree(folder), folder.write_text("x")], "no such model"),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "no such file"),
    "empty weights": (lambda folder: (folder / "model.safetensors").write_bytes(b""), "the file is empty"),
    "weights are a folder": (
        lambda folder: [(folder / "model.safetensors").unlink(), (folder / "model.safetensors").mkdir()],
        "is a directory",
    ),
    "weights cut in the head": (cut_short(0.001), "does not hold the weights"),
    "weights cut in half": (cut_short(0.5), "does not hold the weights"),
    "weights cut at the end": (cut_short(0.9999), "does not hold the weights"),
    "random weights": (
        lambda folder: (folder / "model.safetensors").write_bytes(bytes(range(256)) * 9),
        "does not hold",
    ),
    "a tensor too few": (weights(lambda t: t.pop(first(t))), "does not hold the weights"),
    "a tensor too many": (weights(lambda t: t.update(extra=torch.zeros(2))), "does not hold the weights"),
    "another shape": (weights(lambda t: t.update({first(t): torch.zeros(7, 3)})), "does not hold the weights"),
    "empty config": (text(""), "the file is empty"),
    "no JSON": (text("{'format': 1}"), "line 1: is not valid JSON"),
    "a list": (text("[1, 2]"), "is not the configuration of a gendiff model"),
    "a number": (text("17"), "is not the configuration of a gendiff model"),
    "null": (text("null"), "is not the configuration of a gendiff model"),
    "other JSON": (text('{"a": 1}'), "is not the configuration of a gendiff model"),
    "deep lists": (deep(400), "has no modality"),
    "deeper lists": (deep(100_000), "is not valid JSON"),
    "deep classes": (nested(40), "cannot be built"),
    "deeper classes": (nested(900), "nested too deeply"),
    "newer format": (part("format", FORMAT + 1), rf"written in model format {FORMAT + 1}; .* reads format {FORMAT}"),
    "older format": (part("format", 0), "written in model format 0"),
    "odd format": (part("format", [None]), "written in model format"),
    "no modality": (part("modality", None), "has no modality"),
    "modality is text": (part("modality", "molecules"), "has no modality"),
    "sampler is no sampler": (
        part("sampler", {"class": "gendiff.schedule.Flow"}),
        "not a modality, a denoiser and a sampler",
    ),
    "sampler of no steps": (part("sampler", {"class": "gendiff.sample.ddim.DDIM", "steps": 0}), "DDIM cannot be built"),
    "guidance is a word": (part("guidance", "strong"), "guidance is not a number"),
    "guidance is endless": (part("guidance", 1e999), "guidance is not a number"),
    "skip is a number": (part("skip", 2), "has no skip"),
    "skip of no blocks": (part("skip", SKIP | {"blocks": []}), "Skip cannot be built"),
    "skip of blocks that are not there": (part("skip", SKIP | {"blocks": [99]}), "its skip guidance: the network has"),
    "skip of words": (part("skip", SKIP | {"blocks": ["a"]}), "Skip cannot be built"),
    "skip is a sampler": (part("skip", {"class": "gendiff.sample.ddim.DDIM"}), "its skip guidance: is of another kind"),
    "denoiser is a class": (part("denoiser", {"class": "gendiff.denoise.Denoiser"}), "Denoiser cannot be built"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_model_is_one_line(folder, damage):
    do, words = DAMAGES[damage]
    do(folder)
    with pytest.raises(UserError, match=words) as error:
        load(folder)
    assert "\n" not in str(error.value)
    assert str(folder) in str(error.value)


def test_a_run_without_a_model_yet_says_so(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(UserError, match="its training has not written a model yet"):
        load(tmp_path)


def test_python_in_under_ten_lines(tmp_path):
    examples.write(tmp_path / "examples.sdf")
    for name in ("first", "run"):  # twice: Python binds the name of a room to the room once it is loaded
        model = gendiff.train("molecules", [tmp_path / "examples.sdf"], tmp_path / name, steps=2, say=None)
    molecules = gendiff.load(tmp_path / "run").sample(3, steps=2)
    model.write(molecules, tmp_path / "new.sdf")
    assert (tmp_path / "new.sdf").read_text().count("$$$$") == 3
