"""Records of tables with a column of SMILES: `.csv` and `.tsv`."""

from __future__ import annotations

import csv
from collections.abc import Iterator

import numpy as np

from gendiff.files import UserError
from gendiff.modalities.molecules.read.text import HEADERS, MAX_FIELDS, Lines, Record, one_line, smiles_record, to_float
from gendiff.modalities.molecules.records import clean_name

NAMES = ("name", "title", "id", "molecule_name", "compound_name", "molecule", "compound", "mol_id", "chembl_id")
"""What a column of names is called, the likeliest first."""


def parse_table(lines: Lines, smiles_column: str | None, fields: set[str]) -> Iterator[Record]:
    """Records of a table, one per row. Its other numeric columns become properties.

    Where semicolons are between the columns, commas are decimal points: so write the spreadsheets that need semicolons.

    Arguments:
        lines: Of the file; the first one names the columns, apart by commas, semicolons or tabs.
        smiles_column: Name of the column of SMILES; by default one of `HEADERS` in any case.
        fields: Names of the numeric columns taken so far; grows up to `MAX_FIELDS`.

    Raises:
        UserError: if there is no such column, or a row is no row of a table.
    """
    stream = (line for line in lines if line.strip())
    header = next(stream, "")
    delimiter = max(",;\t", key=header.count)
    (names,) = csv.reader([header], delimiter=delimiter) if header else ([""],)
    names = [clean_name(name) for name in names]
    smiles = _find(names, HEADERS if smiles_column is None else (smiles_column,))
    if smiles is None:
        wanted = "no column of SMILES (smiles, canonical_smiles, ...)" if smiles_column is None else "none of that name"
        raise UserError(
            f"{lines.path}: its columns are {', '.join(names[:20]) or 'not named'}: {wanted};"
            " rename the column, or train with --smiles-column NAME"
        )
    name = _find(names, NAMES)
    columns = [(place, label) for place, label in enumerate(names) if label and place not in (smiles, name)]
    rows, number = csv.reader(stream, delimiter=delimiter), 0
    while True:
        number += 1
        try:
            row = next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            raise UserError(f"{lines.path}, record {number:,}: is no row of a table: {one_line(error)}") from None
        text = row[smiles].strip() if smiles < len(row) else ""
        title = row[name] if name is not None and name < len(row) else ""
        if not text:
            yield Record(number, clean_name(title), reason="no SMILES: the field is empty")
            continue
        record = smiles_record(number, text, title)
        for place, label in columns:
            cell = row[place] if place < len(row) else ""
            value = to_float(cell.replace(",", ".") if delimiter == ";" else cell)
            if value is not None and np.isfinite(value) and (label in fields or len(fields) < MAX_FIELDS):
                fields.add(label)
                record.properties[label] = value
        yield record


def _find(names: list[str], wanted: tuple[str, ...]) -> int | None:
    """The place of the first of the wanted columns that is there: as written or, failing that, in any case."""
    low = [name.lower() for name in names]
    for name in wanted:
        if name in names:
            return names.index(name)
        if name.lower() in low:
            return low.index(name.lower())
    return None
