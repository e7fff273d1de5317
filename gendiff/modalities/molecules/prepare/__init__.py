"""From publishers' files to files that the reader takes, with a split: what each `loader` of the manifest does.

Every preparation takes the publisher's files by name and an empty folder, and returns the files of each part and how
many records they hold. Nothing of an archive touches the disk before it has been checked.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from gendiff.modalities.molecules.prepare.geom import prepare_geom
from gendiff.modalities.molecules.prepare.qm9 import edm_split, prepare_qm9
from gendiff.modalities.molecules.prepare.sdf import prepare_sdf

__all__ = ["LOADERS", "edm_split", "prepare_geom", "prepare_qm9", "prepare_sdf"]

LOADERS: dict[str, Callable[[Mapping[str, Path], Path], dict[str, Any]]] = {
    "qm9": prepare_qm9,
    "geom": prepare_geom,
    "sdf": prepare_sdf,
}
