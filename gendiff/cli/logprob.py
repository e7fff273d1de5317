"""`gendiff logprob`."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser

from gendiff.cli.parsing import parse, parser, say, step_bar
from gendiff.cli.sample import pick_device
from gendiff.files import UserError, atomic_write, check_target


def build_parser() -> ArgumentParser:
    """Return the parser."""
    p = parser(
        "logprob",
        "Say how likely a model finds the records of files: log p in nats (molecules: of coordinates in Å), and the "
        "parts it is made of, a line of .csv for each: log_prob = size - volume - (prior + diffusion + reconstruction) "
        "with size = log p(number of elements) and volume = log of the unit of the model's states; dim counts the "
        "degrees of freedom of the state. The mean is given with its standard error.",
    )
    p.add_argument("model", type=str, help="run folder of gendiff train, or model folder")
    p.add_argument("files", type=str, nargs="+", help="records to judge, in the formats that training reads")
    p.add_argument("-o", "--output", type=str, required=True, help="table to write: .csv")
    p.add_argument(
        "--method",
        choices=("bound", "flow", "bytes"),
        default="bound",
        help="bound (variational, never above log p; elements count with their probabilities), flow (density of the "
        "probability flow, elements with the density of their one-hot numbers: compare flow with flow only) or bytes "
        "(of images: the bound of the probability of their bytes, the bits/dim of papers)",
    )
    p.add_argument("--steps", type=int, default=200, help="steps of the bound; more are tighter and take longer")
    p.add_argument("--seed", type=int, default=0, help="seed of the noise")
    add_reading(p)
    return p


def add_reading(p: ArgumentParser, batch_size: int = 256) -> None:
    """Add the options of a command that runs a model over the records of files."""
    p.add_argument(
        "--on-error", choices=("stop", "skip"), default="stop", help="at a bad record: stop, or skip it and count it"
    )
    p.add_argument("--batch-size", type=int, default=batch_size, help="samples computed together")
    p.add_argument("--device", type=str, default="auto", help="cpu, cuda, mps or auto")


def read_known(model: Any, files: Sequence[str], on_error: str) -> Any:
    """Read files and say what was read; records that the model does not know stop the command, or are left out.

    Raises:
        UserError: at the first bad record, or if none is left.
    """
    from gendiff.catalog import resolve

    records, report = model.modality.read(resolve(files), on_error=on_error)
    for line in report.lines():
        say(line)
    reasons = model.modality.unknown(records)
    bad = [i for i, reason in enumerate(reasons) if reason]
    if bad:
        first = f"record {bad[0] + 1:,} ({model.modality.labels(records)[bad[0]]}) has {reasons[bad[0]]}"
        where = files[0] if len(files) == 1 else f"{len(files)} files"
        if on_error == "stop":
            raise UserError(f"{where}, {first}; leave such records out with --on-error skip")
        if len(bad) == len(reasons):
            raise UserError(f"{where}: the model knows none of the {len(reasons):,} records: {first}")
        say(f"left out {len(bad):,} that the model does not know: {first}")
        records = records.select([i for i, reason in enumerate(reasons) if not reason])
    return records


def main(argv: Sequence[str]) -> int:
    """Judge."""
    args = parse(build_parser(), argv)
    from gendiff.likelihood import bits_per_dim
    from gendiff.model import load

    output = Path(args.output)
    check_target(output, (".csv",))
    model = load(args.model, device=pick_device(args.device))
    records = read_known(model, args.files, args.on_error)
    found = model.log_prob(records, args.method, args.steps, args.seed, args.batch_size, progress=step_bar("judging"))
    names = ["log_prob", "bits_per_dim", *(name for name in found if name != "log_prob")]
    found["bits_per_dim"] = bits_per_dim(-found["log_prob"], found["dim"])
    columns: list[list[Any]] = [found[name].tolist() for name in names]
    with atomic_write(output) as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["record", "label", *names])
        for k, (label, *row) in enumerate(zip(model.modality.labels(records), *columns, strict=True)):
            table.writerow([k + 1, label, *(f"{value:.6g}" for value in row)])
    finite = found["log_prob"][found["log_prob"].isfinite()]
    sizes = int((~found["size"].isfinite()).sum())
    if sizes:
        say(f"{sizes:,} of a size that the model never saw: log p is -inf")
    if others := len(records) - len(finite) - sizes:
        say(f"{others:,} that the model never draws (molecules of formulas that it never saw): log p is -inf")
    if len(finite):
        error = f" ± {float(finite.std() / len(finite) ** 0.5):.3g}" if len(finite) > 1 else ""
        bits = f", {float(found['bits_per_dim'].mean()):.4g} bits/dim" if args.method == "bytes" else ""
        say(f"mean log p {float(finite.mean()):.4g}{error} nats{bits} over {len(finite):,} records: {output}")
    return 0
