"""Small molecules as files of every format, and a small trained run: what the tests of the upper floors start from."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path

from rdkit import Chem
from rdkit.Chem import rdDistGeom, rdForceFieldHelpers

from gendiff.modalities.molecules.modality import Molecules
from gendiff.modalities.molecules.records import MoleculeArrays
from gendiff.model import Model
from gendiff.sample import Ancestral

SMILES = """
CO CN CF C=O C#N OO CCO CCN CCF CCC CC=O CC#N COC CNC C=C C#C NC=O OC=O C1CC1 C1CO1 C1CN1 CCCO CCCN CC(C)O CC(C)N
CC(C)C CC(=O)N CC(=O)O OCCO NCCO NCCN C1CCC1 C1COC1 CCOC C=CC CC#C C=CC=O N#CC#N FCF OCF
""".split()
"""Forty molecules of two to four heavy atoms."""

FORMATS = (".sdf", ".smi", ".xyz", ".npz")


@cache
def molecules() -> tuple[Chem.Mol, ...]:
    """The molecules with hydrogens, coordinates and their SMILES as names."""
    result = []
    for smiles in SMILES:
        mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
        rdDistGeom.EmbedMolecule(mol, randomSeed=1)
        rdForceFieldHelpers.MMFFOptimizeMolecule(mol)
        mol.SetProp("_Name", smiles)
        result.append(mol)
    return tuple(result)


@cache
def arrays() -> MoleculeArrays:
    """The molecules as arrays, with bonds."""
    return MoleculeArrays.from_mols(molecules())


def write(path: Path, count: int = len(SMILES)) -> Path:
    """Write the first molecules in the format of the file's ending, each by other means than gendiff's own writer."""
    if path.suffix == ".npz":
        arrays().select(slice(count)).save_npz(path)
        return path
    texts = {
        ".sdf": lambda mol: Chem.MolToMolBlock(mol) + "$$$$\n",
        ".xyz": Chem.MolToXYZBlock,
        ".smi": lambda mol: f"{mol.GetProp('_Name')} {mol.GetProp('_Name')}\n",
    }
    path.write_text("".join(map(texts[path.suffix], molecules()[:count])))
    return path


def model(hydrogens: str = "implicit", seed: int = 0) -> Model:
    """A model of the molecules with random weights: every fourth molecule that it draws happens to be valid."""
    import torch

    adapter = Molecules.fit(arrays(), hydrogens=hydrogens)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Model(adapter, adapter.denoiser("tiny"), Ancestral(8))


@cache
def run() -> Path:
    """A finished run of a few steps; nobody may write into it. `examples.sdf` lies beside it."""
    from gendiff.train import train

    FOLDERS.append(tempfile.TemporaryDirectory())
    folder = Path(FOLDERS[-1].name)
    write(folder / "examples.sdf")
    train("molecules", [folder / "examples.sdf"], folder / "run", steps=60, batch_size=16, previews=1, say=None)
    return folder / "run"


FOLDERS: list[tempfile.TemporaryDirectory] = []
"""Kept until the tests end."""
