"""`gendiff doctor`."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

from gendiff import __version__
from gendiff.cli.parsing import parse, parser, say

NEEDED = (
    "torch numpy scipy pytorch-lightning torch-geometric rdkit e3nn safetensors jsonargparse matplotlib scikit-learn"
    " pillow jinja2 tqdm defusedxml networkx pyyaml"
).split()
OPTIONAL = {
    "msgpack": "reading GEOM",
    "py3Dmol": "3-D views in notebooks",
    "tensorboard": "curves in TensorBoard",
    "wandb": "logging to Weights & Biases",
}


def main(argv: Sequence[str]) -> int:
    """Say what is here; status 1 if something needed is missing."""
    parse(
        parser("doctor", "Say which versions and devices are here, what is missing and how to get it.", config=False),
        argv,
    )
    import torch

    from gendiff.catalog import builtin, manifest
    from gendiff.files import UserError, sha256
    from gendiff.modality import modalities

    problems = []
    say(f"gendiff {__version__}, Python {platform.python_version()}, {platform.platform()}")
    for name in NEEDED:
        try:
            say(f"  {name:<18} {version(name)}")
        except PackageNotFoundError:
            say(f"  {name:<18} missing")
            problems.append(f"{name} is missing: pip install {name}")
    for name, use in OPTIONAL.items():
        try:
            say(f"  {name:<18} {version(name)}")
        except PackageNotFoundError:
            say(f"  {name:<18} not installed; for {use}: pip install {name}")
    say(f"CPU: {os.cpu_count()} cores, torch uses {torch.get_num_threads()} threads")
    if torch.cuda.is_available():
        for i in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(i)
            say(f"GPU {i}: {properties.name}, {properties.total_memory / 2**30:.0f} GiB")
    else:
        say("GPU: none that torch can use; training runs on the CPU")
    try:
        say(f"modalities: {', '.join(sorted(modalities()))}")
    except Exception as error:
        problems.append(f"a modality does not load: {error}")
    for name, entry in manifest().items():
        if not entry.get("file"):
            continue
        try:
            good = sha256(builtin(name)) == entry["sha256"]
        except (UserError, OSError):
            good = False
        say(f"data {name}: {'in order' if good else 'damaged'}")
        if not good:
            problems.append(f"the built-in data set {name} is missing or damaged: reinstall gendiff")
    for problem in problems:
        print(f"gendiff: error: {problem}", file=sys.stderr)
    if not problems:
        say("all is well")
    return 1 if problems else 0
