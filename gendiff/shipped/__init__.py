"""Trained models that come with gendiff, a folder each; `benchmarks/shipped.py` makes them."""

from __future__ import annotations

from pathlib import Path


def shipped() -> dict[str, Path]:
    """Return the folders of the models that come with gendiff, by name."""
    room = Path(__file__).resolve().parent
    return {folder.name: folder for folder in sorted(room.glob("*")) if (folder / "config.json").is_file()}
