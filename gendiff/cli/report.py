"""`gendiff report`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser

from gendiff.catalog import resolve
from gendiff.cli.evaluate import say_measuring
from gendiff.cli.options import guessed, modality_of_file
from gendiff.cli.parsing import parse, parser, say
from gendiff.cli.sample import model_folder, protocol, read_sidecar
from gendiff.files import UserError, check_target, read_json
from gendiff.modality import find_modality


def build_parser() -> ArgumentParser:
    """Return the parser."""
    p = parser(
        "report",
        "Write one HTML page that stands alone: of a run folder, or of a file of generated samples.",
        config=False,
    )
    p.add_argument("source", type=str, help="run folder of gendiff train, or file or folder of samples")
    p.add_argument(
        "-o",
        "--output",
        type=str | None,
        default=None,
        help="page to write (default: index.html in the run folder, or beside the file)",
    )
    p.add_argument(
        "--reference", type=str, nargs="+", default=None, help="real examples, for a table of metrics of samples"
    )
    p.add_argument(
        "--modality",
        type=str | None,
        default=None,
        help="what the file holds (default: what the .json beside it, or the ending, says)",
    )
    return p


def main(argv: Sequence[str]) -> int:
    """Report."""
    args = parse(build_parser(), argv)
    from gendiff.report.pages import run_page, samples_page

    source = Path(args.source)
    if not source.exists():
        raise UserError(f"{source}: no such run folder or file of samples")
    run = source.is_dir() and not read_sidecar(source)  # samples may be a folder too
    output = Path(args.output) if args.output else source / "index.html" if run else source.with_suffix(".html")
    check_target(output, (".html", ".htm"))
    if run:
        config: Any = read_json(model_folder(source) / "config.json")
        photos = find_modality(config["modality"]["name"]).photos
        run_page(output, source, config.get("info", {}), f"gendiff run: {source.resolve().name}", photos)
    else:
        sidecar = read_sidecar(source)
        kind: Any = modality_of_file(source, args.modality, sidecar)
        with guessed(source, args.modality, sidecar):
            records, reading = kind.read_samples([source], on_error="skip")
        for line in reading.lines():
            say(line)
        rules = protocol(sidecar)
        modality = kind.fit(records, **rules)
        table = None
        if args.reference:
            reference, _ = kind.read(resolve(args.reference))
            say_measuring(reference)
            table = kind.evaluate(records, reference, **{**modality.protocol(), **rules})
        drawn = modality.redraw(records)
        modality.annotate(drawn)
        samples_page(
            output,
            modality,
            drawn,
            {
                **{key: value for key, value in sidecar.items() if value not in (None, [], [None, None])},
                "the file": "; ".join(reading.lines()),
            },
            table,
            source.name,
        )
    say(f"look at {output}")
    return 0
