"""Build `small-molecules.npz`: every step from bare graphs to minimised conformers.

1. Skeletons: connected graphs of 4 to 7 vertices, at most four neighbours each, at most two rings, rings of 3 to 6.
2. Bond orders: all placements of double and triple bonds, one per atom, none in small rings, none at bridgeheads.
3. Elements: all placements of N, O and F on carbons with enough valence, at most half of the atoms.
4. Filters: the patterns of `UNWANTED` (peroxides, N-halides, enols, hemiacetals, …). What is left is the space.
5. A sample of less than a quarter of that space, drawn with a fixed seed (`KEPT`, `SHARES`).
6. Conformers: ETKDGv3, MMFF94s to convergence, the lowest of a few; kept if distances tell bonded from other pairs.

Run `python datasets/small-molecules/build.py`: about a minute on one core. It prints the checksum of the file it wrote;
the same RDKit and zlib write the same bytes.
"""

from __future__ import annotations

import argparse
import collections
import hashlib
import io
import itertools
import random
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import networkx
import numpy as np
import rdkit
from networkx.generators.atlas import graph_atlas_g
from rdkit import Chem, rdBase
from rdkit.Chem import rdDistGeom, rdForceFieldHelpers

from gendiff.modalities.molecules.bonds import lookup_orders

HERE = Path(__file__).resolve().parent
SEED = 7
BONDS = {1: Chem.BondType.SINGLE, 2: Chem.BondType.DOUBLE, 3: Chem.BondType.TRIPLE}
KEPT = {4: 20, 5: 160, 6: 1200, 7: 2640}  # heavy atoms: molecules
SHARES = {"aromatic": 0.1, "cyclic": 0.55, "acyclic": 0.35}
VALENCE = {"C": 4, "N": 3, "O": 2, "F": 1}

UNWANTED = {
    "oxygen or fluorine on oxygen, fluorine on nitrogen": "[O,F]~[O,F]",
    "fluorine on nitrogen": "[#7]~F",
    "three heteroatoms in a row outside an aromatic ring": "[#7,#8]~;!:[#7,#8]~[#7,#8]",
    "four nitrogens in a ring": "n:n:n:n",
    "enol or imidic acid": "[OX2H][CX3]=[C,N]",
    "enamine with hydrogen, unless push-pull": "[NX3;!H0][CX3]=[CX3;!$(C-[CX3]=[O,N])]",
    "heteroatom on a triple bond": "[#7,#8,#9]C#[C,N]",
    "hemiacetal, hemiaminal, aminal with hydrogen": "[CX4]([OX2H,NX3;!H0])[OX2,NX3,F]",
    "three heteroatoms on a saturated carbon": "[CX4]([#7,#8])([#7,#8,#9])[#7,#8,#9]",
    "fluorine beside oxygen or nitrogen on one carbon": "[CX4;!$(C(F)F)](F)[#7,#8]",
    "acyl or imidoyl fluoride": "[CX3](F)=[O,N]",
    "nitroso": "[NX2]=O",
    "azo compound outside an aromatic ring": "[NX2]=[NX2]",
    "imine with hydrogen on nitrogen, unless amidine or imidate": "[NX2H]=[CX3;!$(C[#7,#8])]",
    "methylene imine": "[CH2]=[NX2;!$(N[#7,#8])]",
    "acyl imine": "[CX3]=[NX2;!R]-C=O",
    "hydroxylamine outside a ring, unless oxime": "[NX3;!R]-[OX2;!R]",
    "carbamic or carbonic acid": "[OX2H]C(=O)[#7,#8]",
    "anhydride": "[CX3](=O)[OX2][CX3]=O",
    "acyl cyanide": "O=CC#N",
    "neighbouring triple bonds": "C#CC#[C,N]",
    "two heteroatoms side by side in a small ring": "[#7,#8;r3,r4]~[#7,#8;r3,r4]",
    "exocyclic carbon or nitrogen double bond at an aromatic ring": "[#6,#7;!a]=a",
    "aromatic four-ring": "[a;r4]",
    "exomethylene beside a heteroatom in a four-ring": "[#7,#8;r4][C;r4]=[CX3]",
    "nitrogen that joins a three-ring to another ring": "[#7;R2;r3]",
}


def skeletons() -> Iterator[networkx.Graph]:
    """Graphs of 4 to 7 vertices that can be carbon skeletons without extreme strain."""
    for graph in graph_atlas_g():
        n, rings = graph.number_of_nodes(), graph.number_of_edges() - graph.number_of_nodes() + 1
        if n < 4 or not networkx.is_connected(graph) or max(d for _, d in graph.degree()) > 4 or rings > 2:
            continue
        cycles = [set(cycle) for cycle in networkx.minimum_cycle_basis(graph)]
        if any(len(cycle) > 6 for cycle in cycles):
            continue
        if len(cycles) == 2:
            shared, sizes = len(cycles[0] & cycles[1]), list(map(len, cycles))
            if {0: False, 1: sum(sizes) < 7, 2: sum(sizes) < 8}.get(shared, min(sizes) < 5):
                continue  # spiropentane, small cages
        yield graph


def hydrocarbons(graph: networkx.Graph) -> list[Chem.Mol]:
    """All placements of double and triple bonds on one skeleton, without duplicates."""
    edges = list(graph.edges())
    cycles = [set(cycle) for cycle in networkx.minimum_cycle_basis(graph)]
    allowed = []
    for i, j in edges:
        around = [cycle for cycle in cycles if i in cycle and j in cycle]
        tight = any(len(cycle) == 3 and (i in cycle or j in cycle) for cycle in cycles)
        small = any(len(cycle) == 4 for cycle in around)
        bridgehead = len(cycles) == 2 and len(cycles[0] & cycles[1]) > 1 and {i, j} & cycles[0] & cycles[1]
        allowed.append((1,) if tight or small or bridgehead else (1, 2) if around else (1, 2, 3))
    found: dict[str, Chem.Mol] = {}
    for orders in itertools.product(*allowed):
        valence: collections.Counter[int] = collections.Counter()
        multiple: collections.Counter[int] = collections.Counter()
        for (i, j), order in zip(edges, orders, strict=True):
            valence.update({i: order, j: order})
            multiple.update({i: order > 1, j: order > 1})
        if max(valence.values()) > 4 or max(multiple.values()) > 1:
            continue
        mol = Chem.RWMol()
        for _ in graph:
            mol.AddAtom(Chem.Atom(6))
        for (i, j), order in zip(edges, orders, strict=True):
            mol.AddBond(i, j, BONDS[order])
        kekule = mol.GetMol()
        Chem.SanitizeMol(mol)
        found.setdefault(Chem.MolToSmiles(mol), kekule)
    return list(found.values())


def substitutions(mol: Chem.Mol, unwanted: list[Chem.Mol]) -> Iterator[str]:
    """SMILES of all allowed placements of N, O and F on a hydrocarbon."""
    atoms = range(mol.GetNumAtoms())
    bonds = [(b.GetBeginAtomIdx(), b.GetEndAtomIdx()) for b in mol.GetBonds()]
    used = [sum(int(b.GetBondTypeAsDouble()) for b in mol.GetAtomWithIdx(i).GetBonds()) for i in atoms]
    choices = ["".join(e for e in "CNOF" if VALENCE[e] >= used[i]) for i in atoms]
    for elements in itertools.product(*choices):
        hetero = len(elements) - elements.count("C")
        if 2 * hetero > len(elements) or elements.count("F") > 3:
            continue
        pairs = {elements[i] + elements[j] for i, j in bonds}
        if pairs & {"OO", "FF", "OF", "FO", "NF", "FN"}:
            continue
        candidate = Chem.RWMol(mol)
        for i, element in enumerate(elements):
            if element != "C":
                candidate.ReplaceAtom(i, Chem.Atom(element))
        Chem.SanitizeMol(candidate)
        if not any(candidate.HasSubstructMatch(pattern) for pattern in unwanted):
            yield Chem.MolToSmiles(candidate)


def space() -> list[str]:
    """Canonical SMILES of all allowed molecules, sorted."""
    unwanted = [Chem.MolFromSmarts(pattern) for pattern in UNWANTED.values()]
    return sorted({s for graph in skeletons() for mol in hydrocarbons(graph) for s in substitutions(mol, unwanted)})


def conformer(smiles: str, tries: int = 6) -> Chem.Mol | None:
    """The molecule with hydrogens and its lowest MMFF94s minimum out of a few embeddings; None if there is none."""
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    parameters = rdDistGeom.ETKDGv3()
    parameters.randomSeed = SEED
    conformers = list(rdDistGeom.EmbedMultipleConfs(mol, tries, parameters))
    settings = rdForceFieldHelpers.MMFFGetMoleculeProperties(mol, mmffVariant="MMFF94s")
    if not conformers or settings is None:
        return None
    energies = {}
    for index in conformers:
        field = rdForceFieldHelpers.MMFFGetMoleculeForceField(mol, settings, confId=index)
        if field.Minimize(maxIts=5000, forceTol=1e-5, energyTol=1e-8) == 0:
            energies[index] = round(field.CalcEnergy(), 4)
    if not energies:
        return None
    positions = mol.GetConformer(min(energies, key=lambda index: (energies[index], index))).GetPositions()
    mol.RemoveAllConformers()
    lowest = Chem.Conformer(mol.GetNumAtoms())
    lowest.SetPositions(np.round(positions - positions.mean(0), 4))
    mol.AddConformer(lowest)
    return mol


def sound(mol: Chem.Mol) -> bool:
    """Do distances alone tell bonded from other pairs (by the single-bond stage of the EDM rule)?"""
    numbers = np.array([atom.GetAtomicNum() for atom in mol.GetAtoms()])
    positions = mol.GetConformer().GetPositions()
    orders = lookup_orders(numbers[None], positions[None], np.ones((1, len(numbers)), bool))[0]
    return bool(((orders > 0) == (Chem.GetAdjacencyMatrix(mol) > 0)).all())


def archive(arrays: dict[str, np.ndarray]) -> bytes:
    """A compressed .npz whose bytes depend on the arrays alone (no clock in it)."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as file:
        for name, array in arrays.items():
            part = io.BytesIO()
            np.lib.format.write_array(part, array, allow_pickle=False)
            entry = zipfile.ZipInfo(f"{name}.npy", (1980, 1, 1, 0, 0, 0))
            entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
            file.writestr(entry, part.getvalue())
    return stream.getvalue()


def kind(smiles: str) -> str:
    """Aromatic, cyclic or acyclic."""
    mol = Chem.MolFromSmiles(smiles)
    if any(atom.GetIsAromatic() for atom in mol.GetAtoms()):
        return "aromatic"
    return "cyclic" if mol.GetRingInfo().NumRings() else "acyclic"


def sample(allowed: list[str], rng: random.Random) -> list[tuple[str, Chem.Mol]]:
    """`KEPT` molecules of each size, divided as in `SHARES` as far as there are enough, in random order."""
    pools: dict[tuple[int, str], list[str]] = collections.defaultdict(list)
    for smiles in allowed:
        pools[Chem.MolFromSmiles(smiles).GetNumAtoms(), kind(smiles)].append(smiles)
    found: list[tuple[str, Chem.Mol]] = []
    for (size, wanted), (name, share) in itertools.product(KEPT.items(), SHARES.items()):
        pool = pools[size, name]
        rng.shuffle(pool)
        good = ((smiles, mol) for smiles in pool if (mol := conformer(smiles)) is not None and sound(mol))
        found += itertools.islice(good, round(share * wanted))
    rng.shuffle(found)
    return found


def bond_table(mol: Chem.Mol) -> np.ndarray:
    """Rows of (begin, end, 2 x order) of a Kekule structure."""
    kekule = Chem.Mol(mol)
    Chem.Kekulize(kekule, clearAromaticFlags=True)
    rows = [(b.GetBeginAtomIdx(), b.GetEndAtomIdx(), round(2 * b.GetBondTypeAsDouble())) for b in kekule.GetBonds()]
    return np.array(rows, np.int16)


def main() -> None:
    """Enumerate, filter, sample, embed, minimise, write."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--out", type=Path, default=HERE / "small-molecules.npz", help="file to write")
    out = parser.parse_args().out
    start = time.perf_counter()
    with rdBase.BlockLogs():
        allowed = space()
        print(f"{len(allowed)} molecules allowed, {time.perf_counter() - start:.0f} s")
        molecules = sample(allowed, random.Random(SEED))
    numbers = [np.array([atom.GetAtomicNum() for atom in mol.GetAtoms()], np.uint8) for _, mol in molecules]
    positions = [mol.GetConformer().GetPositions() for _, mol in molecules]
    bonds = [bond_table(mol) for _, mol in molecules]
    data = archive(
        {
            "num_atoms": np.array([len(z) for z in numbers], np.uint8),
            "atomic_numbers": np.concatenate(numbers),
            "positions": np.concatenate(positions).astype(np.float32),
            "num_bonds": np.array([len(table) for table in bonds], np.uint8),
            "bonds": np.concatenate(bonds),
            "smiles": np.array([s.encode() for s, _ in molecules]),
            "name": np.array([f"small-{index:05d}".encode() for index in range(1, len(molecules) + 1)]),
        }
    )
    out.write_bytes(data)
    heavy = collections.Counter(int((z > 1).sum()) for z in numbers)
    print(f"{len(molecules)} molecules kept, heavy atoms {dict(sorted(heavy.items()))}, RDKit {rdkit.__version__}")
    print(f"{out}: {len(data)} bytes, sha256 {hashlib.sha256(data).hexdigest()}, {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
