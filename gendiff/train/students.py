"""Progressive distillation from the first teacher to the last student: one training run for every halving."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml

from gendiff.catalog import resolve
from gendiff.files import UserError, atomic_write
from gendiff.model import Model, load
from gendiff.train.run import began, train

UPDATES = 2000
"""Training steps of a student."""


def distill(
    model: str | Path,
    files: str | Path | Sequence[str | Path],
    out: str | Path,
    *,
    steps: tuple[int, int] = (64, 8),
    updates: int = UPDATES,
    seed: int = 0,
    batch_size: int = 64,
    learning_rate: float = 1e-3,
    average: float = 0.999,
    compile: bool = False,
    on_error: str = "stop",
    reading: dict[str, Any] | None = None,
    trainer: dict[str, Any] | None = None,
    resume: bool = False,
    say: Callable[[str], Any] | None = print,
) -> Model:
    """Make a model of many steps into one of few.

    A student learns to do in one step of DDIM what its teacher does in two (:class:`gendiff.distill.Distill`), begins
    with the weights of its teacher, and is the next teacher: 64, 32, 16, 8 steps. Every student is a run of its own in
    the folder, and can be loaded from there.

    Arguments:
        model: The first teacher: run folder, model folder, or the name of a shipped model.
        files: Examples of what it was trained on, or others of their kind.
        out: Folder to make: config.yaml, one run folder for each student (`32-steps`, ...), and model/, the last one.
        steps: DDIM steps of the first teacher, and of the last student: a power of two times fewer.
        updates: Training steps of each student (2000; the paper has 50,000 for images).
        seed: Seed of order, noise and times.
        batch_size: Samples of a batch (64).
        learning_rate: Peak rate of each student (1e-3).
        average: Decay of the averaged weights (0.999).
        compile: Run the network of each student through torch's compiler.
        on_error: "stop" at a bad record, or "skip" it.
        reading: Further options of the modality's reader.
        trainer: Options of Lightning's Trainer by name; one device.
        resume: Go on with the run in `out`; other arguments but `say` are then taken from it.
        say: Told what goes on, line by line; None for silence.

    Returns:
        The last student; its sampler is DDIM in its steps.

    Raises:
        UserError: for bad files or options, or a model that cannot be distilled; then no folder is left behind.
        KeyboardInterrupt: on Ctrl-C; `resume` goes on from there.

    References: | Progressive distillation for fast sampling (Salimans, Ho, 2022) | https://arxiv.org/abs/2202.00512
    """
    settings = {key: value for key, value in locals().items() if key not in ("out", "resume", "say")}
    folder, tell = Path(out).resolve(), say or (lambda line: None)
    if resume:
        settings = _settings(folder, settings.keys())
    else:
        settings |= {"model": str(Path(model).resolve()) if Path(model).exists() else str(model), "steps": list(steps)}
        settings["files"] = [str(file.resolve()) for file in resolve(files)]
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise UserError(f"{out}: already exists; add --resume to go on with it, or choose another --out")
    halvings = students(*settings["steps"])
    if (settings["trainer"] or {}).get("devices", 1) not in (1, "1", "auto"):
        raise UserError("--trainer.devices: a student is trained on one device")
    source = settings["model"]
    kind = load(source).modality.name
    common = ("seed", "batch_size", "learning_rate", "average", "compile", "on_error", "reading", "trainer")
    options: dict[str, Any] = {name: settings[name] for name in common} | {"steps": settings["updates"], "previews": 0}
    if not resume:
        plain = {name: value for name, value in (settings["trainer"] or {}).items() if name != "callbacks"}
        with atomic_write(folder / "config.yaml") as file:
            yaml.safe_dump({**settings, "trainer": plain}, file, sort_keys=False)
    runs = [folder / f"{count}-steps" for count in halvings]
    begun = [(run / "config.yaml").is_file() for run in runs]
    try:
        for k, count in enumerate(halvings):
            if any(begun[k + 1 :]):
                continue  # what it teaches has begun, so it is finished
            tell(f"{2 * count} steps to {count}:")
            teacher = runs[k - 1] if k else source
            train(kind, settings["files"], runs[k], parent=teacher, distill=count, resume=begun[k], say=say, **options)
    except Exception:
        if not resume and not (runs[0] / "config.yaml").is_file():
            shutil.rmtree(folder, ignore_errors=True)  # nothing in it that anyone could use
        raise
    first, last = load(runs[0]), load(runs[-1])
    way = (f"distilled to {halvings[0]} steps", f"distilled to {halvings[-1]} steps, halving from {2 * halvings[0]},")
    last.info["data"] = [line.replace(*way) for line in first.info["data"]]
    last.info["training"] |= {"parent": first.info["training"]["parent"], "distill": halvings}
    last.info["limits"] = [
        *last.modality.limits,
        f"Made to be sampled by DDIM in {halvings[-1]} steps; with other steps and samplers it is worse.",
    ]
    last.save(folder / "model")
    tell(f"made a model of {halvings[-1]} steps: {folder / 'model'}")
    return load(folder / "model")


def students(first: int, last: int) -> list[int]:
    """Return the steps of each student of a teacher of `first` steps, down to `last`: (64, 8) to [32, 16, 8].

    Raises:
        UserError: if halving does not lead there.
    """
    counts = [first >> k for k in range(1, first.bit_length()) if first >> k >= max(last, 1)]
    if not counts or counts[-1] << len(counts) != first or counts[-1] != last:
        raise UserError(
            f"--start {first} halved again and again is never --steps {last}; start with 2, 4, 8, … times it"
        )
    return counts


def _settings(folder: Path, names: Any) -> dict[str, Any]:
    """Return how a run in a folder began."""
    path, settings = began(folder, "distillation")
    settings = {"compile": False, **settings} if isinstance(settings, dict) else settings
    # training looks at the rest
    kinds: dict[str, Any] = {"model": str, "files": list, "steps": list, "trainer": (dict, type(None))}
    sound = isinstance(settings, dict) and settings.keys() == set(names)
    sound = sound and all(isinstance(settings[name], kind) for name, kind in kinds.items())
    if not sound or [type(value) for value in settings["steps"]] != [int, int]:
        raise UserError(f"{path}: is not the configuration of a distillation of this version")
    return settings
