"""Runs that start from a trained model: what stays of it, to the digit, what is new, and what is refused."""

import json
import math
import signal
from importlib.metadata import EntryPoint, entry_points

import pytest
import torch
from pytorch_lightning.callbacks import Callback
from rdkit import Chem
from rdkit.Chem import rdDistGeom
from scribbles import scribbles

import examples
from gendiff import config, load, modality
from gendiff.cli import main
from gendiff.config import describe
from gendiff.files import UserError, sha256
from gendiff.modalities.images.modality import Images
from gendiff.modalities.images.records import Image, ImageArrays
from gendiff.modalities.molecules.modality import Molecules
from gendiff.modalities.sketches.modality import Sketches
from gendiff.model import Model
from gendiff.nn.embed import Conditioning
from gendiff.ops import Random, size_mask
from gendiff.train import train
from gendiff.train.parent import Parent, adapted, merged

SHORT = {"batch_size": 8, "previews": 0, "say": None}


def model_of(adapter, network=None):
    """A model of random weights, those that begin at zero included."""
    denoiser = adapter.denoiser("tiny", network)
    for weight in denoiser.parameters():
        weight.data += 0.1 * torch.randn_like(weight)
    return Model(adapter, denoiser.eval())


def kept(parent, adapter):
    """The denoiser of another adapter, and the share that stays."""
    denoiser, share = adapted(parent, adapter)
    return denoiser.eval(), share


def channels(words, known):
    return [words.index(word) for word in known]


# Molecules


OLD = {"elements": [6, 8], "sizes": {3: 1, 5: 1}, "charges": [0]}
NEW = {"elements": [1, 6, 7, 8, 9], "sizes": {3: 1, 5: 1}, "charges": [-1, 0, 1]}
MASK = size_mask(torch.tensor([5, 3]))


@pytest.mark.parametrize("network", ["egnn", "transformer", "chiral-steerable"])
@pytest.mark.parametrize("before", [OLD, {**OLD, "charges": [0, 1]}], ids=["no charges", "charges"])
@pytest.mark.parametrize("self_condition", [False, True], ids=["", "self-condition"])
def test_molecules_of_known_elements_are_answered_as_before_among_more_elements(network, before, self_condition):
    """Whatever is in the channels of elements and charges that the old model did not have."""
    parent = model_of(Molecules(**before, self_condition=self_condition), network)
    adapter = Molecules(**NEW, self_condition=self_condition)
    denoiser, share = kept(parent, adapter)
    assert 0.9 < share < 1
    t, x, last = torch.tensor([0.3, 0.9]), {}, {}
    noise = denoiser.process.noise(MASK, Random(0, 2))
    for name, value in noise.items():
        x[name], last[name] = value, 0.5 * value
    old = {"position": slice(None), "element": channels(adapter.elements, before["elements"])}
    if len(before["charges"]) > 1:
        old["charge"] = channels(adapter.charges, before["charges"])
    theirs = ({name: state[name][..., rows] for name, rows in old.items()} for state in (x, last))
    expected = parent.denoiser(next(theirs), t, MASK, None, next(theirs))
    found = denoiser(x, t, MASK, None, last)
    assert expected.data["position"].abs().max() > 0.1
    torch.testing.assert_close(found.data["position"], expected.data["position"], rtol=0, atol=1e-6)
    for name in old.keys() - {"position"}:
        torch.testing.assert_close(found.logits[name][..., old[name]], expected.logits[name], rtol=0, atol=1e-5)


def test_what_is_new_of_molecules_starts_fresh_and_inputs_at_zero():
    parent = model_of(Molecules(**OLD))
    denoiser, _ = kept(parent, Molecules(**NEW))
    columns = denoiser.network.embedding.weight
    charge, element = columns[:, :3], columns[:, 3:8]  # in alphabetical order
    assert torch.equal(charge, torch.zeros_like(charge))
    assert element.any(0).tolist() == [False, True, False, True, False]
    new = [3, 5, 7]  # the rows of hydrogen, nitrogen and fluorine
    assert torch.unique(denoiser.network.output.weight[new], dim=0).shape[0] == 3
    assert denoiser.network.output.weight[new].abs().max() <= 1 / math.sqrt(denoiser.network.width)
    assert torch.equal(denoiser.network.output.weight[4], parent.denoiser.network.output.weight[0])


def test_other_molecules_keep_the_units_the_words_and_the_scales_of_conditions():
    arrays = examples.arrays()
    old = Molecules.fit(arrays.select([1, 6, 15]), hydrogens="explicit", conditions=["logP", "TPSA"])
    mine = Molecules.fit(arrays, hydrogens="explicit")
    adapter = old.refit(arrays, hydrogens="explicit")
    assert adapter.elements == sorted({*old.elements, *mine.elements}) != old.elements
    assert (adapter.position_scale, adapter.element_scale) == (old.position_scale, old.element_scale)
    assert adapter.sizes == mine.sizes
    assert adapter.conditions == old.conditions
    assert adapter.property_sizes.counts == mine.sizes
    only = old.refit(arrays, hydrogens="explicit", conditions=["MW", "logP"])
    assert list(only.conditions) == ["MW", "logP"]
    assert only.conditions["logP"] == old.conditions["logP"]
    shared = Molecules(**{**OLD, "conditions": {"gap": [0.0, 1.0]}}).refit(arrays)
    assert shared.conditions == {}  # these molecules have no such column
    with pytest.raises(UserError, match="no numeric column 'gap'"):
        Molecules(**{**OLD, "conditions": {"gap": [0.0, 1.0]}}).refit(arrays, conditions=["gap"])


def test_how_bonds_are_read_is_for_the_new_run_to_say():
    parent = Parent("old", model_of(Molecules(**OLD, hydrogens="explicit", rule="lookup")), None, {})
    for asked in ("kekule", "rdkit"):
        options = parent.options("fit", {"hydrogens": "auto", "rule": asked})
        assert (options["hydrogens"], options["rule"]) == ("explicit", asked)


def test_frequencies_of_categories_are_those_of_the_new_molecules():
    old = Molecules(**{**OLD, "elements": [6, 53], "charges": [0, 1]}, atom_types="categorical")
    adapter = old.refit(examples.arrays(), atom_types="categorical")
    mine = Molecules.fit(examples.arrays(), atom_types="categorical")
    assert adapter.elements == [6, 7, 8, 9, 53]
    assert adapter.frequencies["element"] == [*mine.frequencies["element"], 0.0]
    assert adapter.frequencies["charge"] == [1.0, 0.0]
    kept(model_of(old), adapter)


@pytest.mark.parametrize("network", ["egnn", "transformer"])
def test_a_new_condition_adds_nothing_at_first_and_a_lost_one_is_missing(network):
    one, two = {"conditions": {"logP": [0.0, 1.0]}}, {"conditions": {"MW": [0.0, 1.0]}}
    parent = model_of(Molecules(**OLD, **one), network)
    denoiser, _ = kept(parent, Molecules(**OLD, **two))
    x, t = parent.denoiser.process.noise(MASK, Random(0, 2)), torch.tensor([0.3, 0.9])
    expected = parent.denoiser(x, t, MASK, {"logP": torch.full((2,), math.nan)})
    for told in (None, {"MW": torch.tensor([0.5, -2.0])}, {"MW": torch.tensor([math.nan, 1.0])}):
        found = denoiser(x, t, MASK, told)
        for name, value in expected.data.items():
            torch.testing.assert_close(found.data[name], value, rtol=0, atol=1e-6)
    losses, _ = Molecules(**OLD).objective()(denoiser.train(), x, MASK, {"MW": torch.ones(2)}, Random(0, 2))
    losses.sum().backward()
    (part,) = (module for module in denoiser.modules() if isinstance(module, Conditioning))
    assert part.embeddings["MW"][-1].weight.grad.any()  # and yet it learns


# Classes


def lengths(*words):
    return {word: {4: 1, 6: 1} for word in words or [""]}


def sketches(*words, **options):
    return Sketches(lengths(*words), words, **options)


def images(*words):
    return Images([8, 8], 1, dict.fromkeys(words, 3) or None)


@pytest.mark.parametrize("network", ["birnn", "transformer", "unet"])
def test_classes_of_sketches_are_found_by_their_words(network):
    parent = model_of(sketches("ant", "bee", "cat"), network)
    x, t = parent.denoiser.process.noise(MASK, Random(0, 2)), torch.tensor([0.3, 0.9])
    same_as_before(parent, sketches("bee", "cat", "dog"), x, t, [([1, 2], [0, 1]), ([2, -1], [1, -1])], MASK)
    nameless, _ = kept(parent, sketches())  # no classes: they are missing for good
    other, _ = kept(Model(sketches(), nameless), sketches("dog", "cow", "cat"))  # and what they meant is forgotten
    for denoiser in (nameless, other):
        found, expected = (d(x, t, MASK).data for d in (denoiser, parent.denoiser))
        for name in expected:
            torch.testing.assert_close(found[name], expected[name], rtol=0, atol=1e-6)
    tables = [d.network.frame.conditioning.embeddings["class"].weight for d in (other, parent.denoiser)]
    assert not torch.isclose(*tables).any()


def test_classes_of_images_are_found_by_their_words():
    parent = model_of(images("ant", "bee", "cat"))
    x, t = parent.denoiser.process.noise(None, Random(0, 2)), torch.tensor([0.3, 0.9])
    same_as_before(parent, images("bee", "cat", "dog"), x, t, [([1, 2], [0, 1]), ([2, -1], [1, -1])])


def same_as_before(parent, adapter, x, t, classes, mask=None):
    denoiser, _ = kept(parent, adapter)
    for old, new in classes:
        expected = parent.denoiser(x, t, mask, {"class": torch.tensor(old)}).data
        found = denoiser(x, t, mask, {"class": torch.tensor(new)}).data
        other = parent.denoiser(x, t, mask, {"class": torch.tensor(new)}).data
        for name in expected:
            torch.testing.assert_close(found[name], expected[name], rtol=0, atol=1e-6)
        assert any((other[name] - expected[name]).abs().max() > 1e-3 for name in expected)  # classes do matter


def test_classes_that_come_to_a_model_without_add_nothing_at_first():
    parent = model_of(sketches())
    x, t = parent.denoiser.process.noise(MASK, Random(0, 2)), torch.tensor([0.3, 0.9])
    denoiser, _ = kept(parent, sketches("ant", "bee"))
    expected = parent.denoiser(x, t, MASK).data
    for told in ([0, 1], [-1, 1]):
        found = denoiser(x, t, MASK, {"class": torch.tensor(told)}).data
        for name in expected:
            torch.testing.assert_close(found[name], expected[name], rtol=0, atol=1e-6)


def test_a_shipped_model_with_its_own_words_is_itself():
    parent = load("sketches-digits")
    denoiser, share = kept(parent, parent.modality)
    assert share == 1
    assert describe(denoiser) == describe(parent.denoiser)
    assert all(torch.equal(value, denoiser.state_dict()[name]) for name, value in parent.denoiser.state_dict().items())


# What stays of the options and units


def test_other_sketches_keep_units_and_representation():
    data = scribbles(30)
    old = Sketches.fit(
        scribbles(40, seed=1), representation="both", pen="gaussian", simplify=3.0, conditions=["points"]
    )
    parent = Parent("old", Model(old, old.denoiser("tiny")), None, {})
    options = parent.options("fit", {"representation": "offset", "pen": "auto", "simplify": None, "max_points": 40})
    wanted = {"representation": "both", "pen": "gaussian", "simplify": 3.0, "max_points": 40}
    assert {name: options[name] for name in wanted} == wanted
    adapter = parent.adapter(data, **options)
    for name in ("scale", "position_scale", "pen_share", "boxed", "representation", "pen", "simplify", "points"):
        assert getattr(adapter, name) == getattr(old, name), name
    assert adapter.max_points == 40
    assert adapter.lengths == Sketches.fit(data, simplify=3.0).lengths
    with pytest.raises(
        UserError, match=r"^--pen categorical: the model that --from names has gaussian; leave --pen out"
    ):
        parent.options("fit", {"pen": "categorical"})


def test_sketches_in_another_unit_have_their_own_scale():
    mine, old = Sketches.fit(scribbles(30)), Sketches.fit(scribbles(30))
    old.boxed, old.position_scale = False, old.position_scale / 3
    assert old.refit(scribbles(30)).position_scale == old.position_scale != mine.position_scale
    old.position_scale /= 3
    adapter = old.refit(scribbles(30))
    assert (adapter.scale, adapter.position_scale, adapter.boxed) == (mine.scale, mine.position_scale, mine.boxed)
    old.boxed = True
    assert old.refit(scribbles(30)).position_scale == old.position_scale


def test_other_images_are_read_as_the_models_were_and_have_its_size():
    arrays = ImageArrays.from_images([Image(torch.full((8, 8, 1), 9 * i).numpy().astype("uint8")) for i in range(4)])
    old = Images([4, 4], 1, scale=0.5, reading={"resize": "4"})
    parent = Parent("old", Model(old, old.denoiser("tiny")), None, {})
    assert parent.options("read", {"resize": None, "labels": None})["resize"] == "4"
    with pytest.raises(UserError, match=r"^the images have 8 x 8 gray pixels .* --resize 4x4"):
        old.refit(arrays)
    adapter = Images([8, 8], 1, scale=0.5).refit(arrays, reading={"resize": "8"})
    assert (adapter.scale, adapter.reading) == (0.5, {"resize": "8"})


def test_changes_of_a_description_are_merged_and_nothing_is_taken_away():
    mine = {"class": "a.B", "width": 9, "told": {"x": 1, "y": 2}, "list": [1]}
    before = {"width": 3, "told": {"x": 1, "z": 5}, "list": [1], "theirs": 2}
    after = {"width": 3, "told": {"x": 4}, "list": [1, 2], "theirs": 2}
    assert merged(mine, before, after) == {"class": "a.B", "width": 9, "told": {"x": 4, "y": 2}, "list": [1, 2]}


def test_an_adapter_of_another_package_writes_nothing_for_it(monkeypatch, tmp_path):
    mine = EntryPoint("dots", "dots:Dots", config.GROUP)
    for place in (config, modality):
        monkeypatch.setattr(place, "entry_points", lambda group: [*entry_points(group=group), mine])
    config.trusted_packages.cache_clear()
    try:
        for name, scale in (("a", 1), ("b", 3)):
            sets = [(scale * torch.rand(2 + k % 3, 2)).tolist() for k in range(20)]
            (tmp_path / f"{name}.dots").write_text("\n".join(map(json.dumps, sets)))
        parent = train("dots", [tmp_path / "a.dots"], tmp_path / "a", steps=2, **SHORT)
        child = train(
            "dots", [tmp_path / "b.dots"], tmp_path / "b", steps=1, parent=tmp_path / "a", learning_rate=1e-9, **SHORT
        )
        assert child.modality.scale > 2 * parent.modality.scale  # of its own examples: states are in its units
        theirs = child.denoiser.state_dict()
        assert all(torch.allclose(v, theirs[n], atol=1e-6) for n, v in parent.denoiser.state_dict().items())
    finally:
        config.trusted_packages.cache_clear()


# Whole runs


def write(path, smiles):
    with Chem.SDWriter(str(path)) as writer:
        for text in smiles:
            mol = Chem.AddHs(Chem.MolFromSmiles(text))
            rdDistGeom.EmbedMolecule(mol, randomSeed=1)
            writer.write(mol)
    return path


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A parent that knows carbon, nitrogen and oxygen, and files of it and of molecules with fluorine."""
    folder = tmp_path_factory.mktemp("from")
    write(folder / "old.sdf", ["CO", "CN", "CCO", "CCN", "COC", "NCCO", "C=O", "CC=O"])
    write(folder / "new.sdf", ["FC(F)F", "FC(F)(F)F", "FCF", "FC(F)C(F)F", "FC(F)(F)CF", "FCC(F)F"])
    train("molecules", [folder / "old.sdf"], folder / "old", steps=8, **SHORT)
    return folder


def test_a_run_at_no_rate_is_its_parent(runs, tmp_path):
    out = tmp_path / "out"
    said = []
    train(
        "molecules",
        [runs / "new.sdf"],
        out,
        parent=runs / "old",
        steps=1,
        learning_rate=1e-9,
        **{**SHORT, "say": said.append},
    )
    parent, child = load(runs / "old"), load(out)
    assert child.modality.elements == [6, 7, 8, 9]
    assert (type(child.sampler), child.sampler.steps) == (type(parent.sampler), parent.sampler.steps)
    x = child.denoiser.process.noise(MASK, Random(0, 2))
    theirs, t = {"position": x["position"], "element": x["element"][..., :3]}, torch.tensor([0.2, 0.8])
    found, expected = child.denoiser(x, t, MASK), parent.denoiser(theirs, t, MASK)
    torch.testing.assert_close(found.data["position"], expected.data["position"], rtol=0, atol=1e-6)
    torch.testing.assert_close(found.logits["element"][..., :3], expected.logits["element"], rtol=0, atol=1e-5)
    assert any(line.startswith("from old: 99.9% of the weights stay") for line in said)


def test_new_elements_are_learned_and_drawn_and_the_card_says_where_it_comes_from(runs, tmp_path):
    model = train(
        "molecules",
        [runs / "new.sdf"],
        tmp_path / "out",
        parent=runs / "old",
        steps=30,
        learning_rate=5e-3,
        average=0.9,
        **SHORT,
    )
    drawn = [
        atom.GetSymbol() for mol in model.sample(20, steps=20) for atom in mol.GetAtoms() if atom.GetAtomicNum() > 1
    ]
    assert drawn.count("F") > len(drawn) / 3
    known = sha256(runs / "old" / "model" / "model.safetensors")
    parent = model.info["training"]["parent"]
    assert (parent["name"], parent["weights_sha256"]) == ("old", known)
    assert parent["training"] == load(runs / "old").info["training"]
    assert f"adapted from the model old (weights of SHA-256 {known})" in (tmp_path / "out/model/README.md").read_text()
    assert f"parent: {runs / 'old'}" in (tmp_path / "out" / "config.yaml").read_text()


class Interrupted(Callback):
    """Ctrl-C after the second batch."""

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.global_step == 2:
            signal.raise_signal(signal.SIGINT)


def test_it_resumes_exactly_from_the_same_parent_only(runs, tmp_path):
    options = {"files": [runs / "new.sdf"], "parent": runs / "old", "steps": 4, **SHORT}
    train("molecules", out=tmp_path / "whole", **options)
    with pytest.raises(KeyboardInterrupt):
        train("molecules", out=tmp_path / "out", trainer={"callbacks": [Interrupted()]}, **options)
    weights = runs / "old" / "model" / "model.safetensors"
    before = weights.read_bytes()
    weights.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
    try:
        with pytest.raises(UserError, match=rf"^{weights}: is gone or has changed since the run began"):
            train("molecules", [], tmp_path / "out", resume=True, say=None)
    finally:
        weights.write_bytes(before)
    train("molecules", [], tmp_path / "out", resume=True, say=None)
    for name in ("model.safetensors", "config.json", "README.md"):
        mine, theirs = ((tmp_path / folder / "model" / name).read_bytes() for folder in ("out", "whole"))
        assert mine == theirs, name


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"parent": "sketches-digits"}, "^--from sketches-digits: is a model of sketches, not of molecules"),
        ({"parent": "nowhere"}, "^nowhere: no such model"),
        ({"preset": "small"}, "^--preset and --network are those of the model that --from names"),
        ({"network": "transformer"}, "^--preset and --network are those of the model"),
        ({"fitting": {"hydrogens": "explicit"}}, "^--hydrogens explicit: the model that --from names has implicit"),
        ({"fitting": {"target": "v"}}, "^--target v: the model that --from names has residual; leave --target out"),
        ({"conditions": ["gap"]}, "^no numeric column 'gap'"),
        ({"parent": None, "distill": 4}, "^`distill` is a number of steps, at least 1, and needs a parent"),
    ],
)
def test_what_does_not_fit_is_one_line_and_leaves_no_folder(runs, tmp_path, change, message):
    options = {"files": [runs / "new.sdf"], "parent": runs / "old", "steps": 1, **SHORT, **change}
    with pytest.raises(UserError, match=message) as error:
        train("molecules", out=tmp_path / "out", **options)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_the_command(runs, tmp_path, capsys):
    words = ["train", "molecules", runs / "new.sdf", "--steps", 1, "--previews", 0, "--from"]
    assert main([*map(str, [*words, runs / "old", "--out", tmp_path / "out"])]) == 0
    assert "from old: 99.9% of the weights stay" in capsys.readouterr().out
    assert load(tmp_path / "out").modality.elements == [6, 7, 8, 9]
    assert main([*map(str, [*words, "sketches-digits", "--out", tmp_path / "no"])]) == 1
    assert (
        capsys.readouterr().err == "gendiff: error: --from sketches-digits: is a model of sketches, not of molecules\n"
    )
    assert not (tmp_path / "no").exists()
