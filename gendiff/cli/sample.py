"""`gendiff sample`."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentParser

from gendiff import __version__
from gendiff.cli.parsing import bounds, parse, parser, say, step_bar, words
from gendiff.config import describe
from gendiff.files import UserError, check_target, sha256, write_json


def build_parser() -> ArgumentParser:
    """Return the parser."""
    p = parser("sample", "Draw new samples. Beside the output a .json of the same name says how it was made.")
    p.add_argument("model", type=str, help="run folder of gendiff train, or model folder")
    p.add_argument("-n", "--number", type=int, default=100, help="how many to draw")
    p.add_argument("-o", "--output", type=str, required=True, help="file to write: .sdf, .xyz, .smi or .npz")
    p.add_argument("--seed", type=int, default=0, help="seed; sample i depends on it and i alone")
    p.add_argument("--steps", type=int | None, default=None, help="sampling steps (default: the model's)")
    p.add_argument(
        "--temperature",
        type=float | None,
        default=None,
        help="scale of the noise taken in, 0 to 1: less is safer and more alike (default: the model's)",
    )
    p.add_argument(
        "--atoms", type=str | None, default=None, help="bounds of the number of modelled atoms: 12-20, 12-, -20 or 12"
    )
    p.add_argument(
        "--only", type=str | None, default=None, help="draw until there are enough that are all of: valid,connected,new"
    )
    p.add_argument(
        "--reference",
        type=str,
        nargs="+",
        default=None,
        help='examples against which "new" is judged (default: those of the run)',
    )
    p.add_argument(
        "--batch-size", type=int, default=256, help="samples computed together; changes nothing but memory and speed"
    )
    p.add_argument("--device", type=str, default="auto", help="cpu, cuda, mps or auto")
    return p


def main(argv: Sequence[str]) -> int:
    """Sample."""
    args = parse(build_parser(), argv)
    sizes, only = bounds(args.atoms), words(args.only)
    from gendiff.model import load

    model = load(args.model, device=pick_device(args.device))
    output = Path(args.output)
    check_target(output, model.modality.extensions)
    protect(output, [*_examples(args.model), *(args.reference or [])])
    known = None
    if "new" in only:
        records, _ = model.modality.read(args.reference or run_files(args.model), on_error="skip")
        known = model.modality.known(records)
    begin = time.monotonic()
    drawn = model.draw(
        args.number,
        steps=args.steps,
        seed=args.seed,
        temperature=args.temperature,
        sizes=sizes,
        only=only,
        known=known,
        batch_size=args.batch_size,
        progress=step_bar("sampling"),
    )
    seconds = time.monotonic() - begin
    write_samples(
        model,
        drawn,
        output,
        args.model,
        seed=args.seed,
        sampler=model.tuned(args.steps, args.temperature),
        seconds=seconds,
        only=only,
        sizes=sizes,
    )
    rate = f", {100 * drawn.rate:.1f} % of {drawn.drawn:,} drawn are {' and '.join(only)}" if only else ""
    say(
        f"{len(drawn.records):,} {model.modality.name} in {seconds:.1f} s"
        f" ({drawn.drawn / seconds:,.0f}/s){rate}: {output}"
    )
    return 0


def write_samples(
    model: Any,
    drawn: Any,
    output: Path,
    source: str | Path,
    *,
    seed: int,
    sampler: Any,
    seconds: float,
    only: Sequence[str] = (),
    sizes: Any = (None, None),
) -> None:
    """Annotate and write samples with their sidecar."""
    name = Path(source).resolve().name
    for record, index in zip(drawn.records, drawn.indices, strict=True):
        model.modality.annotate([record], model=name, seed=seed, index=index)
    model.modality.write(drawn.records, output)
    weights = model_folder(source) / "model.safetensors"
    write_json(
        output.with_suffix(".json"),
        {
            "made": "samples",
            "gendiff": __version__,
            "modality": model.modality.name,
            "file": output.name,
            "sha256": sha256(output),
            "model": str(source),
            "weights_sha256": sha256(weights),
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "number": len(drawn.records),
            "drawn": drawn.drawn,
            "seed": seed,
            "sampler": describe(sampler),
            "only": list(only),
            "atoms": list(sizes),
            "seconds": round(seconds, 3),
            "device": str(model.device),
            **{key: getattr(model.modality, key) for key in ("hydrogens", "rule") if hasattr(model.modality, key)},
        },
    )


def model_folder(source: str | Path) -> Path:
    """Return the model folder of a run folder, or the folder itself."""
    folder = Path(source)
    return folder / "model" if (folder / "model" / "config.json").is_file() else folder


def protect(output: Path, examples: Sequence[str]) -> None:
    """Refuse to write over the user's own examples.

    Raises:
        UserError: if `output` is one of them.
    """
    if any(output.resolve() == Path(file).resolve() for file in examples):
        raise UserError(f"{output}: holds examples, which would be lost; choose another -o")


def _examples(source: str | Path) -> list[str]:
    """Return the files of examples that the run of a model names, or nothing."""
    for folder in (Path(source), Path(source).parent):
        config = folder / "config.yaml"
        if config.is_file():
            settings = yaml.safe_load(config.read_text(encoding="utf-8"))
            return [str(file) for file in (settings or {}).get("files", [])]
    return []


def run_files(source: str | Path) -> list[str]:
    """Return the examples a run was trained on.

    Raises:
        UserError: if the model is not in a run folder, or the files are gone.
    """
    files = _examples(source)
    if files and all(Path(file).is_file() for file in files):
        return files
    raise UserError(
        "the training examples of this model are not at hand; name them with --reference FILE to judge what is new"
    )


def pick_device(name: str) -> str:
    """Return a torch device name.

    Raises:
        UserError: if it is not there.
    """
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError, NotImplementedError):
        raise UserError(f"--device {name}: is not available here; gendiff doctor lists what is") from None
    return name


def read_sidecar(path: str | Path) -> dict[str, Any]:
    """Return what the .json beside a file of samples says, or nothing."""
    sidecar = Path(path).with_suffix(".json")
    try:
        facts = json.loads(sidecar.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return facts if isinstance(facts, dict) and facts.get("made") == "samples" else {}
