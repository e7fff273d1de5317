"""From files of examples to a run folder with a model."""

from __future__ import annotations

import copy
import math
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from inspect import signature
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

import torch
import yaml
from pytorch_lightning.loggers import CSVLogger, Logger, TensorBoardLogger

from gendiff.catalog import resolve
from gendiff.data import Ragged, batch_stream
from gendiff.denoise import compiled
from gendiff.files import UserError, atomic_write, check_file, read_text
from gendiff.modality import PRESETS, Modality, check_network, find_modality
from gendiff.model import Model, load
from gendiff.model.digest import digest
from gendiff.ops import Random
from gendiff.train.callbacks import AveragedWeights, Keeper, NonFinite, Previews, Progress
from gendiff.train.lightning import end_others, make_trainer, silence
from gendiff.train.loader import Stream
from gendiff.train.parent import Parent
from gendiff.train.processes import first
from gendiff.train.task import DiffusionTask
from gendiff.wording import many

STEPS = 10_000
"""Length of a run that nothing else bounds."""


def train(
    modality: str,
    files: str | Path | Sequence[str | Path],
    out: str | Path,
    *,
    parent: str | Path | None = None,
    steps: int | None = None,
    max_time: str | None = None,
    seed: int = 0,
    preset: str | None = None,
    network: str | None = None,
    conditions: Sequence[str] = (),
    batch_size: int = 64,
    learning_rate: float = 5e-3,
    average: float = 0.999,
    previews: int = 3,
    checkpoint_every: int = 1000,
    compile: bool = False,
    resume: bool = False,
    on_error: str = "stop",
    reading: dict[str, Any] | None = None,
    fitting: dict[str, Any] | None = None,
    trainer: dict[str, Any] | None = None,
    distill: int | None = None,
    say: Callable[[str], Any] | None = print,
) -> Model:
    """Train a model on files of examples.

    With `parent` a trained model goes on with these examples. Its network, its units and its words stay: of molecules
    elements and charges, to which new ones are added; of sketches and images the classes that the examples have, by
    word; conditions by name. Optimizer and schedule are new.

    `trainer={"devices": 2}` trains in two processes, each on its share of every batch: the result is that of one, but
    for rounding. Lightning starts the others by running the same program again; they say and write nothing.

    Arguments:
        modality: "molecules", or another installed adapter.
        files: Examples, or names of data sets ("qm9", "small-molecules"); one, or several in a list.
        out: Run folder to make: config.yaml, checkpoints/, model/, logs/, samples/.
        parent: Model to start from: run folder, model folder, or the name of a shipped one, of the same modality.
        steps: Training steps (batches); by default from `trainer["max_epochs"]`, or 10,000.
        max_time: Bound in time: "90s", "10m", "2h" or "DD:HH:MM:SS". Such a run cannot be repeated exactly.
        seed: Seed of initial weights, order, noise and times.
        preset: Size of the network: "tiny", "small" or "base"; by default "tiny" on a CPU and "base" on a GPU.
        network: Another network than the modality's default (molecules: "egnn", "transformer", "steerable",
            "chiral-transformer" or "chiral-steerable").
        conditions: Properties that will be asked for when sampling, columns of the files (molecules: also logP, TPSA,
            QED and MW, which RDKit computes).
        batch_size: Samples of a batch (64); small batches and many steps are best on a CPU.
        learning_rate: Peak rate (5e-3), reached after 100 steps, then falling to zero by half a cosine.
        average: Decay of the averaged weights (0.999).
        previews: How many times to draw samples on the way (3).
        checkpoint_every: Steps between checkpoints (1000); a minute without one brings one too.
        compile: Run the network through torch's compiler (:func:`gendiff.denoise.compiled`): worth its minutes
            in long runs.
        resume: Go on with the run in `out`; other arguments but `say` are then taken from it.
        on_error: "stop" at a bad record, or "skip" it.
        reading: Further options of the modality's reader.
        fitting: Further options of the modality's :meth:`~gendiff.modality.Modality.fit`.
        trainer: Options of Lightning's Trainer by name.
        distill: Learn from the parent instead of from the data: to do in so many steps of DDIM what it does in twice as
            many (:class:`gendiff.distill.Distill`; :func:`gendiff.train.distill` does that again and again).
        say: Told what goes on, line by line; None for silence.

    Returns:
        The model, with averaged weights; in every process, if there are several.

    Raises:
        UserError: for bad files or options; then no run folder is left behind.
        KeyboardInterrupt: on Ctrl-C, after the step in hand is done and saved; `resume` goes on from there.
    """
    settings = {key: value for key, value in locals().items() if key not in ("say", "resume")}
    settings["files"] = [str(file.resolve()) for file in resolve(files)]
    if parent is not None and Path(parent).exists():
        settings["parent"] = str(Path(parent).resolve())
    settings["out"] = str(Path(out).resolve())
    settings["conditions"] = [conditions] if isinstance(conditions, str) else list(conditions)
    if reading:
        settings["reading"] = {**reading, **{name: str(path.resolve()) for name, path in _tables(modality, reading)}}
    folder = Path(settings["out"])
    if first():
        _sweep(folder)
    if resume:
        return _resume(folder, say)
    _check_types(settings)
    if first() and folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{out}: already exists; add --resume to go on with it, or choose another --out")
    return _run(settings, folder, None, say)


def _tables(modality: str, reading: dict[str, Any] | None) -> Iterator[tuple[str, Path]]:
    """Yield the options of a reader that are files: what is read besides the examples."""
    given = reading or {}
    for option in find_modality(modality).options:
        if option.of == "read" and option.kind is Path and given.get(option.name) is not None:
            yield option.name, Path(given[option.name])


def _sweep(folder: Path) -> None:
    """Take away what a killed process has left half-written."""
    for pattern in (".config.yaml.*.part", ".model.*.part", ".model.*.old", "checkpoints/.last.ckpt.part"):
        for path in folder.glob(pattern):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def began(folder: Path, what: str) -> tuple[Path, Any]:
    """Return the configuration in a folder, its file and what it says: how what is to be resumed began.

    Raises:
        UserError: if there is none, or it is not YAML.
    """
    path = folder / "config.yaml"
    if not path.is_file():
        raise UserError(f"{folder}: holds no {what} to resume (no config.yaml); leave --resume out")
    try:
        return path, yaml.safe_load(read_text(path))
    except yaml.YAMLError as error:
        raise UserError(f"{path}: is not valid YAML: {str(error).splitlines()[0]}") from None


def _resume(folder: Path, say: Callable[[str], Any] | None) -> Model:
    path, settings = began(folder, "run")
    hashes = settings.pop("sha256", None) if isinstance(settings, dict) else None
    settings = {"parent": None, "distill": None, "compile": False, **settings} if isinstance(hashes, dict) else settings
    if not isinstance(hashes, dict) or settings.keys() != OPTIONS.keys() - {"say", "resume"}:
        raise UserError(f"{path}: is not the configuration of a run of this version")
    _check_types(settings, f"{path}: ")
    for file, known in hashes.items():
        if not Path(file).exists() or digest(file) != known:
            raise UserError(f"{file}: is gone or has changed since the run began; put it back, or start a new run")
    settings["out"] = str(folder)
    checkpoint = folder / "checkpoints" / "last.ckpt"
    return _run(settings, folder, checkpoint if checkpoint.is_file() else None, say, started=True)


def _run(
    settings: dict[str, Any],
    folder: Path,
    checkpoint: Path | None,
    say: Callable[[str], Any] | None,
    started: bool = False,
) -> Model:
    quiet, say = say is None, say if say and first() else (lambda line: None)
    options = dict(settings["trainer"] or {})
    extra = options.pop("callbacks", None) or []
    _check(settings, options)
    accumulate = options.get("accumulate_grad_batches", 1)
    seconds = parse_time(settings["max_time"]) if settings["max_time"] else None
    kind = find_modality(settings["modality"])
    check_network(settings["preset"] or PRESETS[0], settings["network"], kind.networks)
    _check_options(kind, settings)
    if place := {name: options[name] for name in PLACE if name in options}:
        with silence():  # what Lightning refuses, it refuses before the examples are read
            make_trainer(logger=False, **place)
    parent = Parent.of(settings["parent"], kind.name, settings["distill"]) if settings["parent"] else None
    reading, fitting = settings["reading"] or {}, settings["fitting"] or {}
    if parent is not None:
        reading, fitting = parent.options("read", reading), parent.options("fit", fitting)
        reading |= {name: fitting[name] for name in reading.keys() & fitting.keys()}
    records, report = kind.read(settings["files"], on_error=settings["on_error"], **reading)
    for line in report.lines():
        say(line)
    told = {"conditions": settings["conditions"], "reading": reading}
    adapter = (kind.fit if parent is None else parent.adapter)(records, **fitting, **told)
    data = adapter.encode(records)
    if unknown := [name for name in settings["conditions"] if name not in data.condition]:  # where `fit` let it pass
        known = ", ".join(data.condition)
        hint = f"only for {known}" if known else "for nothing; leave --condition out"
        raise UserError(f"--condition {unknown[0]}: {kind.name} of these files can be asked {hint}")
    for name, value in data.condition.items():
        missing = (value.isnan() if value.is_floating_point() else value < 0).reshape(len(value), -1).all(1)
        say(f"{name} can be asked for: {int((~missing).sum()):,} of {len(data):,} {kind.name} have it")
    per_epoch = -(-len(data) // settings["batch_size"])
    steps = _steps(settings, options, per_epoch // accumulate or 1, None if seconds else STEPS)
    device = _device(options)
    precision = str(options.get("precision") or ("bf16-mixed" if device == "cuda" else "32-true"))
    preset = settings["preset"] or ("tiny" if device == "cpu" else "base")
    tables = [str(path) for _, path in _tables(settings["modality"], settings["reading"])]
    hashes = {file: digest(file) for file in [*settings["files"], *tables]}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings["seed"])
        if parent is None:
            denoiser = adapter.denoiser(preset, settings["network"])
        else:
            preset = parent.preset
            denoiser, stay = parent.denoiser(adapter)
            say(f"from {parent.name}: {stay:.1%} of the weights stay")
            hashes |= parent.hashes
    info = {
        "data": report.lines(),
        "training": {
            **{key: settings[key] for key in ("seed", "batch_size", "learning_rate", "average")},
            "preset": preset, "network": type(denoiser.network).__name__, "conditions": settings["conditions"],
            "steps": steps, "seconds": seconds, "device": device, "threads": torch.get_num_threads(),
            "precision": precision,
            "files": {Path(file).name: hashes[file] for file in [*settings["files"], *tables]},
        },
    }  # fmt: skip
    objective = adapter.objective()
    model = Model(adapter, denoiser, info=info)
    if parent is not None:
        objective = parent.objective(objective, denoiser)
        parent.succeed(model, objective)
    task = DiffusionTask(
        denoiser,
        objective,
        settings["seed"],
        settings["learning_rate"],
        steps=None if steps is None else steps * accumulate,
        seconds=seconds,
        augment=adapter.augmented,
    )
    averages = AveragedWeights(settings["average"])
    keeper = Keeper(folder, model, averages, settings["checkpoint_every"])
    callbacks: list[Any] = [averages, NonFinite(), Progress(kind.name, quiet=quiet), keeper, *extra]
    if settings["previews"] and (steps or 0) >= 4 * settings["previews"]:
        every = -(-(steps or 0) // (settings["previews"] + 1))
        callbacks.append(Previews(folder / "samples", model, averages, every))
    defaults: dict[str, Any] = {
        "accelerator": "auto",
        "devices": 1,
        "gradient_clip_val": 1.0,
        "precision": precision,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
        "use_distributed_sampler": False,
        "num_sanity_val_steps": 0,
        "logger": _loggers(folder),
    }
    ours: dict[str, Any] = {"max_steps": steps or -1, "max_epochs": -1, "default_root_dir": str(folder)}
    if seconds is not None:
        ours["max_time"] = {"seconds": seconds}
    with silence():
        trainer = make_trainer(**{**defaults, **options, **ours, "callbacks": callbacks})
        writes, world = trainer.is_global_zero, trainer.world_size
        if writes:
            parameters = sum(p.numel() for p in denoiser.parameters())
            each = _seconds_per_step(task, data, -(-settings["batch_size"] // world), device) * accumulate
            expected = min(steps * each if steps else math.inf, seconds or math.inf)
            bounds = (many(steps, "step") if steps else "", f"{seconds:,.0f} s" if seconds else "")
            say(
                f"training {type(denoiser.network).__name__} ({preset}, {parameters:,} parameters)"
                f" for {' or '.join(filter(None, bounds))} of {settings['batch_size']} on"
                f" {f'{world} x ' if world > 1 else ''}{device}: about {_human(expected)}"
                f"{' without --compile' if settings['compile'] else ''}"
            )
        if trainer.precision == "64-true":  # Lightning widens weights only after it has copied averages and read a file
            task.double()
        begin = time.monotonic()
        if not started and writes:
            with atomic_write(folder / "config.yaml") as file:
                yaml.safe_dump({**settings, "trainer": options, "sha256": hashes}, file, sort_keys=False)
        elif checkpoint is not None:
            _check_checkpoint(checkpoint, task)
        else:
            say("no checkpoint was written yet: starting over")
        batches = Stream(data, settings["batch_size"], settings["seed"], task).loader()
        try:
            with keeper.interruptible(), compiled(denoiser, settings["compile"]):
                trainer.fit(task, batches, ckpt_path=checkpoint, weights_only=True)
        except KeyboardInterrupt:
            if not writes:
                raise SystemExit from None  # the first process tells the user
            say(f"interrupted at step {trainer.global_step:,}; go on with --resume")
            raise
        except Exception as error:
            if not writes and isinstance(error, UserError):
                raise SystemExit from None
            end_others(trainer)
            if writes and not (started or keeper.saved):
                shutil.rmtree(folder, ignore_errors=True)  # nothing in it that anyone could use
            raise
    say(f"trained {many(trainer.global_step, 'step')} in {_human(time.monotonic() - begin)}: {folder / 'model'}")
    return load(folder / "model") if writes else model


PLACE = ("accelerator", "devices", "num_nodes", "strategy", "precision")
"""Options of Lightning's Trainer that depend on the machine."""

OPTIONS = get_type_hints(train)
"""Type of each argument of :func:`train`."""
OPTIONS.pop("return")


def _check_types(settings: dict[str, Any], where: str = "") -> None:
    for name, value in settings.items():
        kinds = get_args(OPTIONS[name]) if isinstance(OPTIONS[name], UnionType) else (OPTIONS[name],)
        if not isinstance(value, (*(get_origin(kind) or kind for kind in kinds), *((int,) if float in kinds else ()))):
            raise UserError(f"{where}`{name}` is {value!r}, which is no {' or '.join(kind.__name__ for kind in kinds)}")


def _check_checkpoint(path: Path, task: DiffusionTask) -> None:
    """Look at a checkpoint before Lightning does; nothing in it is executed."""
    check_file(path)
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        shapes = {name: value.shape for name, value in task.state_dict().items()}
        parts = (checkpoint["state_dict"], checkpoint["current_model_state"])
        sound = all({name: value.shape for name, value in part.items()} == shapes for part in parts)
    except Exception:  # torch and zipfile raise many kinds at damaged or hostile bytes
        sound = False
    if not sound:
        raise UserError(f"{path}: is damaged, or no checkpoint of this run; remove it to start over")


def _check(settings: dict[str, Any], options: dict[str, Any]) -> None:
    for name, low in (("steps", 1), ("batch_size", 1), ("previews", 0), ("checkpoint_every", 1)):
        value = settings[name]
        if value is not None and value < low:
            raise UserError(f"--{name.replace('_', '-')} must be at least {low}, got {value}")
    for name in ("max_steps", "max_epochs", "accumulate_grad_batches"):
        value = options.get(name)
        if value is not None and value != -1 and value < 1:
            raise UserError(f"--trainer.{name} must be at least 1, got {value}")
    if not -(1 << 63) <= settings["seed"] < 1 << 63:
        raise UserError(f"--seed must be a number of 64 bits, got {settings['seed']}")
    if not settings["learning_rate"] > 0:
        raise UserError(f"--learning-rate must be positive, got {settings['learning_rate']}")
    if not 0 <= settings["average"] < 1:
        raise UserError(f"--average must lie in [0, 1), got {settings['average']}")
    if settings["on_error"] not in ("stop", "skip"):
        raise UserError(f"--on-error must be stop or skip, got {settings['on_error']!r}")
    if not settings["files"]:
        raise UserError("no file of examples was given")
    if settings["parent"] and (settings["preset"] or settings["network"]):
        raise UserError("--preset and --network are those of the model that --from names; leave them out")
    if settings["distill"] is not None and not (settings["parent"] and settings["distill"] >= 1):
        raise UserError("`distill` is a number of steps, at least 1, and needs a parent")


def _check_options(kind: type[Modality], settings: dict[str, Any]) -> None:
    """Refuse options of fitting that the modality does not have: they would be ignored in silence."""
    options = {option.name for option in kind.options if option.of in ("read", "fit")}
    for name in settings["fitting"] or {}:
        if name not in options | signature(kind.fit).parameters.keys():
            raise UserError(f"`fitting`: {kind.name} have no option {name!r}; there are: {', '.join(sorted(options))}")


def _steps(settings: dict[str, Any], options: dict[str, Any], per_epoch: int, default: int | None) -> int | None:
    """Bounds by epochs become bounds in steps, so that a run is one stream of batches and resumes anywhere."""
    epochs, most = options.get("max_epochs") or -1, options.get("max_steps") or -1
    bounds = [bound for bound in (settings["steps"] or -1, most, epochs * per_epoch) if bound > 0]
    return min(bounds, default=default)


def parse_time(text: str) -> float:
    """Return seconds from "90s", "10m", "2h", "1.5d" or Lightning's "DD:HH:MM:SS".

    Raises:
        UserError: for another form, or no time at all.
    """
    units = {"s": 1, "m": 60, "h": 3600, "d": 86400}
    try:
        if ":" in text:
            days, hours, minutes, seconds = (int(part) for part in text.split(":"))
            total = float(((days * 24 + hours) * 60 + minutes) * 60 + seconds)
        else:
            total = float(text[:-1]) * units[text[-1]] if text[-1:] in units else float(text)
    except (ValueError, KeyError):
        raise UserError(f"--max-time {text!r} is no time; write 90s, 10m, 2h or DD:HH:MM:SS") from None
    if not 0 < total < float("inf"):
        raise UserError(f"--max-time must be positive, got {text!r}")
    return total


def _device(options: dict[str, Any]) -> str:
    accelerator = options.get("accelerator", "auto")
    if accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        return "cuda"
    return "mps" if accelerator == "mps" else "cpu"


def _seconds_per_step(task: DiffusionTask, data: Ragged, batch_size: int, device: str, steps: int = 4) -> float:
    """Time a few steps on a copy; what they draw depends on nothing else, and nothing else on them."""
    trial, objective = (copy.deepcopy(part).to(device) for part in (task.denoiser, task.objective))
    stream = batch_stream(data.sizes, batch_size, 0)
    begin = time.monotonic()
    for k in range(steps):
        if k == 1:
            begin = time.monotonic()
        batch = data.batch(next(stream)).to(device)
        losses, _ = objective(trial, batch.state, batch.mask, batch.condition or None, Random(k, batch.index, device))
        losses.mean().backward()
    return (time.monotonic() - begin) / (steps - 1)


def _human(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _loggers(folder: Path) -> list[Logger]:
    loggers: list[Logger] = [CSVLogger(folder, "logs", flush_logs_every_n_steps=1)]
    if find_spec("tensorboard") is not None:
        loggers.append(TensorBoardLogger(folder, "logs", version=Path(loggers[0].log_dir or "").name))
    return loggers
