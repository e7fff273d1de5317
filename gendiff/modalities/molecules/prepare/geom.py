"""GEOM: ensembles of conformers, read one molecule at a time from the publisher's MessagePack.

The archive holds one file, a sequence of maps, each from about a thousand SMILES to what is known of the molecule:

    {SMILES: {"charge": int, "conformers": [{"xyz": [[Z, x, y, z], …], "totalenergy": Hartree,
                                             "relativeenergy": kcal/mol, "boltzmannweight": at 298 K, …}, …], …}, …}

Of each molecule the 30 conformers of lowest energy are kept, all if there are fewer, as by Hoogeboom et al. [1].
Molecules go to train, valid and test 8:1:1 by a hash of their SMILES without stereochemistry, so all conformers and
stereoisomers of a molecule are in one part. (EDM splits by a file of its own, which this does not reproduce.) Memory
does not grow with the archive, and nothing is unpacked on the disk. The pickled RDKit molecules that the publisher
offers too are not used.

References:
    | [1] E. Hoogeboom et al., Equivariant Diffusion for Molecule Generation in 3D (2022), arXiv 2203.17003
    | [2] S. Axelrod, R. Gómez-Bombarelli, GEOM (2022), doi 10.1038/s41597-022-01288-4
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from gendiff.download import read_tar, unpacking
from gendiff.files import UserError
from gendiff.modalities.molecules.prepare.parts import PARTS, Arrays, only_member, part_of
from gendiff.modalities.molecules.records import canonical_text

CONFORMERS = 30
PROPERTIES = {"relative_energy": "kcal/mol", "boltzmann_weight": "1"}
LIMITS = {
    "max_buffer_size": 1 << 28,  # one molecule with all its conformers
    "max_str_len": 1 << 16,
    "max_bin_len": 0,
    "max_array_len": 1 << 20,
    "max_map_len": 1 << 20,
    "max_ext_len": 0,
}


def prepare_geom(sources: Mapping[str, Path], folder: Path) -> dict[str, Any]:
    """Write train-000.npz, … of bounded size; `index` is the number of the molecule, the same for its conformers.

    Raises:
        UserError: if the library `msgpack` is not installed, or the archive does not have this form.
    """
    archive = only_member(sources, ".msgpack.tar.gz")
    arrays = {part: Arrays(folder, part, PROPERTIES) for part in PARTS}
    molecules = dict.fromkeys(PARTS, 0)
    with unpacking(archive):
        members = 0
        for name, stream in read_tar(archive, max_members=10, max_bytes=1 << 40):
            if name.endswith(".msgpack"):
                members += 1
                for number, (smiles, facts) in enumerate(read_molecules(stream, f"{archive}, {name}")):
                    part = part_of(canonical_text(smiles) or smiles)
                    molecules[part] += 1
                    _add(arrays[part], smiles, facts, number, f"{archive}, {smiles}")
        if members != 1:
            raise UserError(f"{archive}: holds {members} MessagePack files; one is expected")
    for part in PARTS:
        arrays[part].flush()
    kept = {part: arrays[part] for part in PARTS if arrays[part].files}
    return {
        "parts": {part: item.files for part, item in kept.items()},
        "records": {part: item.records for part, item in kept.items()},
        "molecules": molecules,
    }


def read_molecules(stream: IO[bytes], where: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (SMILES, what is known) one by one, whatever the size of the maps around them.

    Raises:
        UserError: for another form, values larger than any molecule, or a missing library.
    """
    try:
        import msgpack  # type: ignore[import-untyped]
    except ImportError:
        raise UserError("GEOM comes as MessagePack; install the library: pip install msgpack") from None
    unpacker = msgpack.Unpacker(stream, raw=False, strict_map_key=True, **LIMITS)
    try:
        while True:
            try:
                size = unpacker.read_map_header()
            except msgpack.OutOfData:
                return
            for _ in range(size):
                smiles, facts = unpacker.unpack(), unpacker.unpack()
                if not isinstance(smiles, str) or not isinstance(facts, dict):
                    raise UserError(f"{where}: is not a map of molecules by SMILES")
                yield smiles, facts
    except msgpack.OutOfData:
        raise UserError(f"{where}: ends in the middle of a molecule") from None
    except (msgpack.UnpackException, ValueError) as error:
        raise UserError(f"{where}: is not MessagePack as GEOM has it ({error})") from None


def _add(arrays: Arrays, smiles: str, facts: dict[str, Any], number: int, where: str) -> None:
    """Take the conformers of lowest energy of one molecule."""
    try:
        conformers = facts["conformers"]
        energies = np.array([conformer["totalenergy"] for conformer in conformers], np.float64)
        for i in np.argsort(energies, kind="stable")[:CONFORMERS].tolist():
            atoms = np.array(conformers[i]["xyz"], np.float64)
            numbers = atoms[:, 0].astype(np.uint8)
            if atoms.shape[1] != 4 or (numbers != atoms[:, 0]).any() or not np.isfinite(atoms).all():
                raise ValueError
            values = [float(conformers[i]["relativeenergy"]), float(conformers[i]["boltzmannweight"])]
            arrays.add(numbers, atoms[:, 1:].astype(np.float32), smiles, number, values)
    except (KeyError, TypeError, ValueError, IndexError):
        raise UserError(f"{where}: is not a molecule as GEOM has it") from None
