"""`gendiff sample`."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import reduce
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentParser, Namespace

from gendiff.cli.parsing import (
    UsageError,
    add_guidance,
    add_size,
    add_trainer,
    asked_of_trainer,
    bounds,
    parse,
    parser,
    say,
    step_bar,
    wants_help,
    wishes,
    words,
)
from gendiff.files import UserError, check_target, ending, read_json, write_json
from gendiff.wording import some

SHARDED = {"shard_size": 10_000, "format": None, "resume": False}
"""Options of folders of shards, and their defaults."""

FOLDER = "/"
"""Stands among the endings of a modality whose records can be files of a folder."""

FILMED = 24
"""Most samples that a film shows."""

FAR = 4.0
"""Standard deviations of the training data beyond which a wish is remarked upon."""


def build_parser(argv: Sequence[str] = ()) -> ArgumentParser:
    """Return the parser."""
    files, films = _formats(argv)
    p = parser(
        "sample",
        "Draw new samples into a file, beside which a .json of the same name says how it was made (new.svg.json where"
        " new.json is about another file); or, with -o FOLDER/, any number of them into a folder of shards, on any"
        " number of devices, to go on with after an interruption."
        " Images go into FOLDER/ as PNGs, a folder for each class, unless an option of shards is given.",
    )
    p.add_argument(
        "model", type=str, help="run folder of gendiff train, model folder, or name of a shipped model (gendiff models)"
    )
    p.add_argument("-n", "--number", type=int, default=100, help="how many to draw")
    p.add_argument(
        "-o",
        "--output",
        type=str,
        required=True,
        help=f"file to write: {files} (* one record); or FOLDER/",
    )
    p.add_argument("--seed", type=int, default=0, help="seed; sample i depends on it and i alone")
    p.add_argument("--steps", type=int | None, default=None, help="sampling steps (default: the model's)")
    p.add_argument(
        "--sampler",
        type=str | None,
        default=None,
        help="another sampler, on the grid of times of the model's and in as many steps: ddim, ancestral, heun, "
        "dpm-solver++ or unipc; heun evaluates the network twice a step, the others once (default: the model's)",
    )
    p.add_argument(
        "--temperature",
        type=float | None,
        default=None,
        help="scale of the noise taken in or, by a sampler that takes none in, started from, 0 to 1: less is safer and "
        "more alike (default: the model's, 1 with another --sampler)",
    )
    add_size(p, "bounds of the number of elements, as modelled atoms or points: 12-20, 12-, -20 or 12")
    p.add_argument(
        "--only",
        type=str | None,
        default=None,
        help="draw until there are enough that are all of: valid,connected,stable,new (stable: no radicals)",
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
    p.add_argument(
        "--condition",
        type=str | None,
        default=None,
        help="properties to ask for, of a model trained with them: logP=2.5",
    )
    p.add_argument(
        "--class",
        dest="word",
        type=str | None,
        default=None,
        help="classes to ask for, in turn, of a model that knows some: cat or cat,dog (default: as often as in the "
        "training data)",
    )
    add_guidance(p)
    p.add_argument(
        "--classifier",
        type=str | None,
        default=None,
        help="folder of gendiff classifier: lead samples to the class asked for, also of a model that knows none",
    )
    p.add_argument("--classifier-scale", type=float, default=1.0, help="how strongly: 1 is what Bayes' rule says")
    p.add_argument(
        "--weaker",
        type=str | None,
        default=None,
        help="a model that learned the same for a shorter time: lead samples away from its mistakes (autoguidance)",
    )
    p.add_argument("--weaker-scale", type=float, default=1.5, help="how strongly: 1 is the model as it is")
    p.add_argument(
        "--film",
        type=str | None,
        default=None,
        help=f"also write how the first {FILMED} come out of noise: {films}; .png is side by side",
    )
    p.add_argument(
        "--compile",
        action="store_true",
        help="run the network through torch's compiler, which takes minutes at the start: for many samples",
    )
    p.add_argument("--device", type=str, default="auto", help="cpu, cuda, mps or auto")
    p.add_argument("--shard-size", type=int, default=SHARDED["shard_size"], help="of FOLDER/: draws of a shard")
    p.add_argument(
        "--format",
        type=str | None,
        default=None,
        help="of FOLDER/: a format as above without the dot (default: the first of the modality); of images npz",
    )
    p.add_argument("--resume", action="store_true", help="go on with the shards in FOLDER/")
    add_trainer(p, argv)
    return p


def _formats(argv: Sequence[str]) -> tuple[str, str]:
    """Return the endings of the files and of the films of all adapters, which take seconds to load: for help alone."""
    if not wants_help(argv):
        return "", ""
    from gendiff.cli.options import explained, formats, listed

    kinds = explained(argv)
    return listed(kinds, formats), listed(kinds, lambda kind: kind.films)


def main(argv: Sequence[str]) -> int:
    """Sample."""
    p = build_parser(argv)
    args = parse(p, argv)
    options = asked_of_trainer(args, p)
    ours = [f"--{name.replace('_', '-')}" for name, default in SHARDED.items() if args[name] != default]
    folder = args.output.endswith(("/", os.sep)) or (Path(args.output).is_dir() and not Path(args.output).suffix)
    if folder and (ours or options or not _writes_folders(args.model)):
        return _shards(args, options)
    if ours or options:
        raise UsageError(f"{(ours or ['--trainer'])[0]} is about a folder of shards; write -o {args.output}/")
    sizes, only = bounds(args.size), words(args.only)
    classes = classes_of(args.model)
    led = args.word if args.classifier and not classes else None
    condition = wishes(args.condition, None if led else args.word, classes)
    from gendiff.denoise import compiled
    from gendiff.model import load
    from gendiff.model.model import prior_scale
    from gendiff.model.weaker import skip_of

    model = load(args.model, device=pick_device(args.device))
    model.skip = skip_of(model, args.skip, args.skip_scale)
    sampler = model.tuned(args.steps, args.temperature, args.sampler)
    guide, guiding = _guides(args, model, led)
    output = Path(args.output)
    check_output(output, model.modality, args.number)
    if args.film:
        if not model.modality.films:
            raise UserError(f"--film: {model.modality.name} cannot be filmed yet")
        check_target(args.film, model.modality.films)
        if Path(args.film).resolve() == output.resolve():
            raise UserError(f"{args.film}: is the output; choose another file for --film")
    protect(output, [*_examples(args.model), *(args.reference or [])])
    for name, value in model.modality.condition(condition).items():
        if value.is_floating_point() and float(value.abs().max()) > FAR:
            say(f"note: {name} = {condition[name]:g} lies far outside the training data; do not expect it")
    known = None
    if "new" in only:
        from gendiff.catalog import resolve

        files, reading = (args.reference, {}) if args.reference else (run_files(args.model), run_reading(args.model))
        records, _ = model.modality.read(resolve(files), on_error="skip", **reading)
        known = model.modality.known(records)
    begin = time.monotonic()
    with compiled(model.denoiser, args.compile):
        drawn = model.draw(
            args.number,
            seed=args.seed,
            temperature=args.temperature,
            sampler=sampler,
            sizes=sizes,
            only=only,
            known=known,
            condition=condition,
            guidance=args.guidance,
            guide=guide,
            batch_size=args.batch_size,
            progress=step_bar("sampling"),
        )
    seconds = time.monotonic() - begin
    written = write_samples(
        model,
        drawn,
        output,
        args.model,
        seed=args.seed,
        sampler=sampler,
        seconds=seconds,
        only=only,
        sizes=sizes,
        condition=condition,
        guidance=args.guidance,
        prior_scale=prior_scale(sampler, args.temperature),
    )
    if guiding:
        write_json(sidecar_of(output), read_sidecar(output) | guiding)
    if args.film:
        options = {"condition": condition, "guidance": args.guidance, "guide": guide}
        options |= {"sizes": sizes, "batch_size": args.batch_size}
        frames = model.film(
            min(args.number, FILMED), seed=args.seed, temperature=args.temperature, sampler=sampler, **options
        )
        model.modality.film(frames, args.film)
        say(f"how the first {len(frames[0])} came out of noise: {args.film}")
    rate = f", {100 * drawn.rate:.1f} % of {drawn.drawn:,} drawn are {' and '.join(only)}" if only else ""
    number = some(len(drawn.records), model.modality.name)
    if written < len(drawn.records):
        number = f"{written:,} of {number} fit {ending(output)}, drawn"
    say(f"{number} in {seconds:.1f} s ({drawn.drawn / seconds:,.0f}/s){rate}: {output}")
    return 0


def _guides(args: Namespace, model: Any, word: str | None) -> tuple[Any, dict[str, Any]]:
    """Return guidance by the weaker model and the classifier that were named, and what there is to remember of them."""
    from gendiff.model.digest import digest

    guides, facts = [], {}
    if args.weaker is not None:
        from gendiff.model.weaker import away_from

        scale = args.weaker_scale
        guides.append(away_from(model, args.weaker, scale))
        weights = digest(model_folder(args.weaker) / "model.safetensors")
        facts["weaker"] = {"folder": args.weaker, "sha256": weights, "scale": scale}
    if args.classifier is not None:
        if word is None and not model.modality.classes:
            raise UsageError("--classifier leads to a class; say which with --class")
        scale = args.classifier_scale
        guides.append(model.modality.classifier_guide(args.classifier, scale, word, model.device))
        weights = digest(Path(args.classifier) / "model.safetensors")
        facts["classifier"] = {"folder": args.classifier, "sha256": weights, "scale": scale, "class": word}
    return (lambda denoiser: reduce(lambda d, guide: guide(d), guides, denoiser)) if guides else None, facts


def check_output(output: Path, modality: Any, number: int) -> None:
    """Check, before the work, that so many records can be written to a file, or to a new folder, which has no ending.

    Raises:
        UserError: if not.
    """
    if FOLDER in modality.extensions and not ending(output):
        if output.exists():
            raise UserError(f"{output}: already exists; choose another -o, or remove it")
        check_target(output, ("",))
    else:
        check_target(output, modality.extensions)
    if ending(output) in modality.single and number > 1:
        raise UserError(
            f"{output}: {ending(output)} holds one record, and {number:,} are asked for; take another format, or -n 1"
        )


def _writes_folders(source: str) -> bool:
    """Return whether the records of a model can be files of a folder; not, if it does not say what it draws."""
    from gendiff.modality import find_modality

    try:
        return FOLDER in find_modality(_adapter(source)["name"]).extensions
    except (UserError, KeyError, TypeError):
        return False  # loading it says what is wrong


def classes_of(source: str) -> list[str]:
    """Return the classes that a model knows, if it knows some."""
    from gendiff.config import build

    arguments = {name: value for name, value in _adapter(source).items() if name != "name"}
    try:
        return list(build(arguments).classes) if arguments else []
    except UserError:
        return []  # loading it says what is wrong


def _adapter(source: str) -> dict[str, Any]:
    """Return the description of the adapter of a model; nothing where loading it says what is wrong."""
    try:
        found = read_json(model_folder(source) / "config.json")["modality"]
    except (UserError, KeyError, TypeError):
        return {}
    return found if isinstance(found, dict) else {}


def _shards(args: Namespace, trainer: dict[str, Any]) -> int:
    if args.film:
        raise UsageError(f"--film goes with a file of samples, and {args.output} is a folder of shards")
    for name in ("classifier", "weaker"):
        if args[name]:
            raise UsageError(f"--{name} goes with a file of samples, and {args.output} is a folder of shards")
    only, reference = words(args.only), args.reference or []
    sizes, condition = bounds(args.size), wishes(args.condition, args.word, classes_of(args.model))
    device = args.device if args.device == "auto" else pick_device(args.device)
    from gendiff.train.generate import generate

    generate(
        args.model,
        args.number,
        args.output,
        seed=args.seed,
        steps=args.steps,
        temperature=args.temperature,
        sampler=args.sampler,
        sizes=sizes,
        only=only,
        reference=reference or (run_files(args.model) if "new" in only else []),
        reading={} if reference else run_reading(args.model),
        condition=condition,
        guidance=args.guidance,
        skip=args.skip,
        skip_scale=args.skip_scale,
        batch_size=args.batch_size,
        compile=args.compile,
        shard_size=args.shard_size,
        ending=args.format and f".{args.format.lstrip('.')}",
        device=device,
        resume=args.resume,
        trainer=trainer,
        say=say,
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
    condition: dict[str, Any] | None = None,
    guidance: float | None = None,
    prior_scale: float = 1.0,
) -> int:
    """Annotate and write samples with their sidecar; return how many of them fit the format."""
    from gendiff.model.digest import digest
    from gendiff.model.origin import origin

    name = Path(source).resolve().name
    asked = {"targets": condition} if condition else {}
    for record, index in zip(drawn.records, drawn.indices, strict=True):
        model.modality.annotate([record], model=name, seed=seed, index=index, **asked)
    count = model.modality.write(drawn.records, output)
    written = len(drawn.records) if count is None else count
    facts = {
        "made": "samples",
        "file": output.name,
        "sha256": digest(output),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "number": len(drawn.records),
        "written": written,
        "drawn": drawn.drawn,
        "seconds": round(seconds, 3),
        "device": str(model.device),
    }
    how = origin(
        model,
        source,
        seed=seed,
        sampler=sampler,
        only=only,
        sizes=sizes,
        condition=condition,
        guidance=guidance,
        prior_scale=prior_scale,
    )
    write_json(sidecar_of(output), {**facts, **how})
    return written


def model_folder(source: str | Path) -> Path:
    """Return the model folder of a run folder, or the folder itself."""
    from gendiff.model import folder

    return folder.model_folder(source)


def protect(output: Path, examples: Sequence[str]) -> None:
    """Refuse to write over the user's own files; samples take the place of older samples of the same file.

    Raises:
        UserError: if `output` is one of the examples, or there and without a sidecar of samples, or if something else
            is in the place of its sidecar.
    """
    if any(output.resolve() == Path(file).resolve() for file in examples):
        raise UserError(f"{output}: holds examples, which would be lost; choose another -o")
    if output.exists() and not read_sidecar(output):
        raise UserError(f"{output}: already exists and holds no samples of gendiff; choose another -o, or remove it")
    if sidecar_of(output).exists() and not read_sidecar(output):
        raise UserError(
            f"{sidecar_of(output)}: already exists and says nothing of {output.name}; choose another -o, or remove it"
        )


def run_settings(source: str | Path) -> dict[str, Any]:
    """Return the settings of the run of a model, or nothing."""
    for folder in (Path(source), Path(source).parent):
        config = folder / "config.yaml"
        if config.is_file():
            try:
                settings = yaml.safe_load(config.read_text(encoding="utf-8"))
            except (OSError, ValueError, yaml.YAMLError):
                settings = None
            return settings if isinstance(settings, dict) else {}
    return {}


def _examples(source: str | Path) -> list[str]:
    """Return the files of examples that the run of a model names, or nothing."""
    files = run_settings(source).get("files")
    return [str(file) for file in files] if isinstance(files, list) else []


def run_files(source: str | Path) -> list[str]:
    """Return the examples a run was trained on.

    Raises:
        UserError: if the model is not in a run folder, or the files are gone.
    """
    files = _examples(source)
    if files and all(Path(file).exists() for file in files):
        return files
    raise UserError(
        "the training examples of this model are not at hand; name them with --reference FILE to judge what is new"
    )


def run_reading(source: str | Path) -> dict[str, Any]:
    """Return how the run of a model read its examples: further options of the modality's reader."""
    reading = run_settings(source).get("reading")
    return reading if isinstance(reading, dict) else {}


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


def protocol(sidecar: Mapping[str, Any]) -> dict[str, Any]:
    """Return by which rules the samples of a sidecar became records."""
    rules = sidecar.get("protocol", {})
    return dict(rules) if isinstance(rules, dict) else {}


def sidecar_of(path: str | Path) -> Path:
    """Return the file that says how a file of samples was made: x.json beside x.svg, x.ndjson.gz, or the folder x.

    Where x.json is about another file, as x.sdf beside x.svg, it is x.svg.json.
    """
    path = Path(path)
    own, near = path.parent / f"{path.name}.json", path.parent / f"{path.name.removesuffix(_suffix(path))}.json"
    return own if own.exists() or near == path or (near.exists() and not _about(near, path)) else near


def read_sidecar(path: str | Path) -> dict[str, Any]:
    """Return what the .json beside a file of samples says of it, or nothing."""
    return _about(sidecar_of(path), Path(path))


def samples_facts(sidecar: str | Path) -> dict[str, Any]:
    """Return what a .json says of samples, whatever their file, or nothing."""
    try:
        facts = json.loads(Path(sidecar).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return facts if isinstance(facts, dict) and facts.get("made") == "samples" else {}


def _suffix(path: Path) -> str:
    return path.name[len(path.name) - len(ending(path)) :]


def _about(sidecar: Path, path: Path) -> dict[str, Any]:
    """Return what a .json says of a file of samples, or nothing.

    It may name another file, if that is gone or this one is equal to what it was: both were given another name.
    """
    facts = samples_facts(sidecar)
    named = str(facts.get("file", path.name))
    if named == path.name or not os.path.exists(sidecar.parent / named):
        return facts
    from gendiff.model.digest import digest

    return facts if path.exists() and digest(path) == facts.get("sha256") else {}
