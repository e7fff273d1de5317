"""`gendiff encode`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser

from gendiff.cli.logprob import add_reading, read_known
from gendiff.cli.parsing import parse, parser, say, step_bar
from gendiff.cli.sample import pick_device
from gendiff.files import atomic_write, check_target


def build_parser() -> ArgumentParser:
    """Return the parser."""
    p = parser(
        "encode",
        "Write the latent codes of the records of files, the noise from which the model's probability flow draws them "
        "again: an .npz with `sizes` (M) and, for each field, the numbers of all samples one after another.",
    )
    p.add_argument("model", type=str, help="run folder of gendiff train, or model folder")
    p.add_argument("files", type=str, nargs="+", help="records to encode, in the formats that training reads")
    p.add_argument("-o", "--output", type=str, required=True, help="codes to write: .npz")
    p.add_argument("--steps", type=int, default=50, help="steps of Heun's method, two evaluations each")
    add_reading(p)
    return p


def main(argv: Sequence[str]) -> int:
    """Encode."""
    args = parse(build_parser(), argv)
    import numpy as np

    from gendiff.model import load

    output = Path(args.output)
    check_target(output, (".npz",))
    model = load(args.model, device=pick_device(args.device))
    records = read_known(model, args.files, args.on_error)
    codes = model.encode(records, steps=args.steps, batch_size=args.batch_size, progress=step_bar("encoding"))
    arrays: dict[str, Any] = {name: value.numpy() for name, value in codes.fields.items()}
    with atomic_write(output, "wb") as file:
        np.savez(file, sizes=codes.sizes.numpy(), **arrays)
    say(f"{len(codes):,} codes: {output}")
    return 0
