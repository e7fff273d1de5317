"""The molecule adapter: what it takes from examples, and what becomes of them on the way to a state and back."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from rdkit import Chem

import examples
from gendiff.files import UserError
from gendiff.modalities.molecules.modality import Molecules, modelled_atoms
from gendiff.modalities.molecules.records import MoleculeArrays
from gendiff.ops import Random
from gendiff.process import JointProcess


def read(path, **options):
    return Molecules.read([path], **options)[0]


def smiles(mol):
    return Chem.MolToSmiles(Chem.RemoveHs(mol), isomericSmiles=False)


def nitro(count=6):
    """Molecules with formal charges."""
    mols = []
    for text in ["C[N+](=O)[O-]", "CC[N+](=O)[O-]", "C[NH+](C)C", "CO", "CC(=O)[O-]", "N#N"][:count]:
        mol = Chem.AddHs(Chem.MolFromSmiles(text))
        Chem.rdDistGeom.EmbedMolecule(mol, randomSeed=1)
        mols.append(mol)
    return MoleculeArrays.from_mols(mols)


@pytest.mark.parametrize(
    ("suffix", "hydrogens"), [(".sdf", "implicit"), (".smi", "implicit"), (".xyz", "explicit"), (".npz", "implicit")]
)
def test_each_format_finds_its_mode(tmp_path, suffix, hydrogens):
    records = read(examples.write(tmp_path / f"a{suffix}"))
    adapter = Molecules.fit(records)
    assert adapter.hydrogens == hydrogens
    assert adapter.elements == ([1, 6, 7, 8, 9] if hydrogens == "explicit" else [6, 7, 8, 9])
    assert Molecules.fit(records, hydrogens="explicit").elements == [1, 6, 7, 8, 9]
    assert Molecules.fit(records, hydrogens="implicit").elements == [6, 7, 8, 9]


def test_geometries_without_hydrogens_are_modelled_as_they_are():
    bare = examples.arrays().remove_hydrogens()
    bare = MoleculeArrays(bare.num_atoms, bare.atomic_numbers, bare.positions)
    assert Molecules.fit(bare).hydrogens == "implicit"


@pytest.mark.parametrize("hydrogens", ["explicit", "implicit"])
def test_statistics_are_those_of_the_modelled_atoms(hydrogens):
    arrays = examples.arrays()
    adapter = Molecules.fit(arrays, hydrogens=hydrogens)
    mols = [mol if hydrogens == "explicit" else Chem.RemoveHs(mol) for mol in examples.molecules()]
    sizes = [mol.GetNumAtoms() for mol in mols]
    assert adapter.sizes == {n: sizes.count(n) for n in sorted(set(sizes))}
    samples = adapter.encode(arrays)
    assert samples.sizes.tolist() == sizes
    assert samples.fields["position"].std().item() == pytest.approx(1, abs=0.01)
    element = samples.fields["element"]
    spread = ((element - element.mean(0)) ** 2).mean().sqrt().item()
    assert adapter.element_scale == pytest.approx(spread, abs=1e-5)
    assert adapter.charges == [0]


@pytest.mark.parametrize(
    ("change", "options", "words"),
    [
        (lambda a: a.remove_hydrogens(), {"hydrogens": "explicit"}, "no molecule has hydrogens"),
        (lambda a: a, {"hydrogens": "implicit", "rule": "rdkit"}, "needs explicit hydrogens"),
        (lambda a: a, {"rule": "rdkit"}, "needs explicit hydrogens"),
    ],
)
def test_examples_that_do_not_fit_are_one_line(change, options, words):
    with pytest.raises(UserError, match=words):
        Molecules.fit(change(examples.arrays()), **options)


def test_hydrogen_alone_needs_explicit_hydrogens():
    gas = MoleculeArrays(np.array([2, 2]), np.ones(4, np.uint8), np.eye(4, 3, dtype=np.float32))
    with pytest.raises(UserError, match="no molecule has a heavy atom"):
        Molecules.fit(gas, hydrogens="implicit")
    assert Molecules.fit(gas, hydrogens="explicit").elements == [1]


@pytest.mark.parametrize("hydrogens", ["explicit", "implicit"])
def test_examples_survive_the_way_to_a_state_and_back(hydrogens):
    arrays = examples.arrays()
    adapter = Molecules.fit(arrays, hydrogens=hydrogens)
    batch = adapter.encode(arrays).batch(torch.arange(len(arrays)))
    decoded = adapter.decode(batch.state, batch.mask)
    assert len(decoded) == len(arrays)
    assert [mol.GetNumAtoms() for mol in decoded] == arrays.num_atoms.tolist()  # implicit hydrogens are back
    right = [smiles(mol) == smiles(example) for mol, example in zip(decoded, examples.molecules(), strict=True)]
    assert np.mean(right) >= 0.9  # what is missing is the bond rule's own
    for mol, example in zip(decoded, examples.molecules(), strict=True):
        heavy = [atom.GetIdx() for atom in example.GetAtoms() if hydrogens == "explicit" or atom.GetAtomicNum() > 1]
        theirs = example.GetConformer().GetPositions()[heavy]
        mine = mol.GetConformer().GetPositions()[: len(heavy)]
        np.testing.assert_allclose(mine - mine.mean(0), theirs - theirs.mean(0), atol=1e-4)


def test_what_is_not_valid_is_flagged_and_not_left_out():
    adapter = examples.model().modality
    state = {"position": torch.randn(40, 4, 3) * 0.2, "element": torch.randn(40, 4, 4)}
    state["position"][0] = float("nan")
    decoded = adapter.decode(state, torch.ones(40, 4, dtype=torch.bool))
    assert len(decoded) == 40
    reasons = [mol.GetProp("invalid") if mol.HasProp("invalid") else "" for mol in decoded]
    assert "finite" in reasons[0]
    assert sum(map(bool, reasons)) > 20
    assert adapter.keep(decoded, ["valid"], set()) == [not reason for reason in reasons]


def test_formal_charges_are_a_field_of_their_own():
    arrays = nitro()
    adapter = Molecules.fit(arrays, hydrogens="explicit")
    assert adapter.charges == [-1, 0, 1]
    assert {name for name, _ in adapter.process().items()} == {"position", "element", "charge"}
    batch = adapter.encode(arrays).batch(torch.arange(len(arrays)))
    for mol, molecule in zip(adapter.decode(batch.state, batch.mask), arrays, strict=True):
        assert [atom.GetFormalCharge() for atom in mol.GetAtoms()] == molecule.charges.tolist()
    denoiser = adapter.denoiser("tiny")
    losses, parts = adapter.objective()(denoiser, batch.state, batch.mask, None, Random(0, batch.index))
    assert set(parts) == {"position", "element", "charge"}
    assert torch.isfinite(losses).all()


def test_presets_are_of_the_documented_sizes():
    adapter = examples.model("explicit").modality
    millions = {
        name: sum(p.numel() for p in adapter.network(name).parameters()) / 1e6 for name in ("tiny", "small", "base")
    }
    assert millions == pytest.approx({"tiny": 0.14, "small": 1.0, "base": 5.6}, rel=0.02)
    with pytest.raises(UserError, match="unknown preset 'huge'; choose from tiny, small, base"):
        adapter.network("huge")


@pytest.mark.parametrize("hydrogens", ["explicit", "implicit"])
def test_the_loss_of_a_molecule_is_its_own(hydrogens):
    """Padding and the other molecules of a batch change nothing; nor does a rotation, with the noise rotated too."""
    model = examples.model(hydrogens)
    data = model.modality.encode(examples.arrays())
    index = torch.tensor([3, 39, 0, 20, 11])

    def loss(rows):
        batch = data.batch(rows)
        return model.modality.objective()(model.denoiser, batch.state, batch.mask, None, Random(4, batch.index))[0]

    together = loss(index)
    alone = torch.cat([loss(index[k : k + 1]) for k in range(5)])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)
    assert len(set(data.sizes[index].tolist())) > 1

    batch, process = data.batch(index), model.denoiser.process
    rotation = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64))[0].float()
    turned = {**batch.state, "position": batch.state["position"] @ rotation}
    noise = JointProcess.noise

    def rotated(self, mask, random):
        z = noise(self, mask, random)
        return {**z, "position": z["position"] @ rotation}

    process.__class__ = type("Rotated", (JointProcess,), {"noise": rotated})
    theirs = model.modality.objective()(model.denoiser, turned, batch.mask, None, Random(4, batch.index))[0]
    torch.testing.assert_close(together, theirs, rtol=1e-4, atol=1e-5)


def test_every_parameter_learns():
    model = examples.model()
    batch = model.modality.encode(examples.arrays()).batch(torch.arange(40))
    losses, _ = model.modality.objective()(model.denoiser, batch.state, batch.mask, None, Random(0, batch.index))
    losses.mean().backward()
    dead = [name for name, p in model.denoiser.named_parameters() if p.grad is None or not p.grad.any()]
    assert not dead


def test_known_molecules_are_known_however_they_are_stated(tmp_path):
    adapter = examples.model().modality
    for suffix in examples.FORMATS:
        known = adapter.known(read(examples.write(tmp_path / f"a{suffix}")))
        decoded = adapter.redraw(examples.arrays())
        assert not any(adapter.keep(decoded, ["valid", "new"], known)), suffix
    stated = adapter.known(examples.arrays())
    assert {smiles(mol) for mol in examples.molecules()} <= stated


def test_keep_knows_its_words():
    adapter = examples.model().modality
    valid, broken = Chem.MolFromSmiles("CCO"), Chem.MolFromSmiles("CCO")
    broken.SetProp("invalid", "atoms 1 and 2 overlap")
    pieces = Chem.MolFromSmiles("CO.CN")
    mols = [valid, broken, pieces]
    assert adapter.keep(mols, [], set()) == [True, True, True]
    assert adapter.keep(mols, ["valid"], set()) == [True, False, True]
    assert adapter.keep(mols, ["valid", "connected"], set()) == [True, False, False]
    assert adapter.keep(mols, ["new"], {"CCO"}) == [False, False, True]
    assert adapter.keep(mols, ["new", "connected"], {"CN.CO"}) == [True, False, False]
    with pytest.raises(UserError, match="--only knows valid, connected, stable and new, not 'nice'"):
        adapter.keep(mols, ["valid", "nice"], set())


def test_annotations_number_the_records():
    adapter = examples.model().modality
    mols = [Chem.Mol(mol) for mol in examples.molecules()[:3]]
    adapter.annotate(mols, model="mine", seed=4, index=7)
    assert [mol.GetProp("index") for mol in mols] == ["7", "8", "9"]
    assert {mol.GetProp("seed") for mol in mols} == {"4"}
    assert [mol.GetProp("SMILES") for mol in mols] == examples.SMILES[:3]


def test_a_model_reads_what_it_wrote(tmp_path):
    model = examples.model()
    drawn = model.draw(40, steps=8)
    for suffix in (".sdf", ".xyz", ".npz"):
        model.write(drawn.records, tmp_path / f"new{suffix}")
        arrays = read(tmp_path / f"new{suffix}", on_error="skip", strict=False, embed=False, fragments="keep")
        assert len(arrays) == 40, suffix
        for mol, molecule in zip(drawn.records, arrays, strict=True):
            assert [atom.GetAtomicNum() for atom in mol.GetAtoms()] == molecule.atomic_numbers.tolist()
            np.testing.assert_allclose(mol.GetConformer().GetPositions(), molecule.positions, atol=1e-3)


def test_modelled_atoms():
    arrays = examples.arrays()
    assert modelled_atoms(arrays, "explicit") is arrays
    assert (modelled_atoms(arrays, "implicit").atomic_numbers > 1).all()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_on_a_gpu(tmp_path, precision):
    """Twenty steps, samples, and agreement with the CPU."""
    from gendiff import DDIM, load
    from gendiff.train import train

    examples.write(tmp_path / "a.sdf")
    trainer = {"accelerator": "cuda", "precision": precision}
    train("molecules", [tmp_path / "a.sdf"], tmp_path / "run", steps=20, preset="tiny", trainer=trainer, say=None)
    on_cpu, on_gpu = load(tmp_path / "run"), load(tmp_path / "run", device="cuda")
    mine, theirs = (model.sample(20, sampler=DDIM(10), seed=1) for model in (on_cpu, on_gpu))
    for a, b in zip(mine, theirs, strict=True):
        heavy = [[atom.GetAtomicNum() for atom in mol.GetAtoms() if atom.GetAtomicNum() > 1] for mol in (a, b)]
        assert heavy[0] == heavy[1]
        places = [mol.GetConformer().GetPositions()[: len(heavy[0])] for mol in (a, b)]
        np.testing.assert_allclose(places[0], places[1], atol=1e-2)


def test_stable_molecules_are_no_radicals():
    mols = [Chem.AddHs(Chem.MolFromSmiles(smiles)) for smiles in ("CO", "C[CH2]", "[O][O]", "c1ccncc1")]
    adapter = Molecules.fit(examples.arrays(), hydrogens="explicit")
    assert adapter.keep(mols, ["stable"], set()) == [True, False, False, True]
    assert adapter.keep(mols, ["valid"], set()) == [True] * 4


@pytest.mark.parametrize("hydrogens", ["implicit", "explicit"])
def test_molecules_of_rdkit_are_judged_and_encoded_like_those_of_files(hydrogens):
    model, mols = examples.model(hydrogens), list(examples.molecules()[:3])
    arrays = examples.arrays().select(slice(3))
    for ours, theirs in zip(
        model.log_prob(mols, steps=2).values(), model.log_prob(arrays, steps=2).values(), strict=True
    ):
        assert torch.equal(ours, theirs)
    codes = [model.encode(records, steps=2).fields["position"] for records in (mols, arrays)]
    assert torch.equal(*codes)
