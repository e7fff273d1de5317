"""Guidance by a classifier of noisy images, which is trained on its own and leads any model of such images to a class.

    classifier = train_classifier(model.denoiser.process, records)
    threes = model.sample(64, guide=classifier.guide("3", scale=2.0))
    any_digit = model.sample(64, guide=classifier.guide(classes=model.modality.classes))  # to what each is asked for

References: | Diffusion models beat GANs on image synthesis (Dhariwal, Nichol, 2021) | https://arxiv.org/abs/2105.05233
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gendiff import __version__
from gendiff.config import build, describe
from gendiff.data import batch_stream
from gendiff.denoise import AnyDenoiser, Estimate
from gendiff.files import UserError, check_file, json_text, new_folder, read_json
from gendiff.guide import Gradient
from gendiff.guide.log_prob import classifier as log_prob
from gendiff.modalities.images.encode import to_grids
from gendiff.modalities.images.networks import classifier_network
from gendiff.modalities.images.records import ImageArrays
from gendiff.nn.unet import NoisyClassifier
from gendiff.ops import Random, State, expand
from gendiff.process import JointProcess

FORMAT = 1
"""Version of the folder of a classifier."""


class Classifier(nn.Module):
    """Logits of the classes of noisy images.

    The network sees an image at unit variance and is told a quarter of the log signal-to-noise ratio, so that the
    classifier fits every process, also one that it was not trained with.

    Arguments:
        network: Logits (B, K) of noisy images and a noise level.
        classes: Words of the K classes.
    """

    def __init__(self, network: NoisyClassifier, classes: Sequence[str]):
        super().__init__()
        self.network, self.classes = network, [str(word) for word in classes]
        if len(self.classes) != network.classes:
            raise ValueError(f"the network has {network.classes} classes, and there are {len(self.classes)} words")

    def forward(self, x_t: State, t: Tensor, process: JointProcess) -> Tensor:
        """Return the logits, (B, K), of noisy images at times (B,) of a process."""
        schedule, x = process["pixel"].schedule, x_t["pixel"]
        scale = expand((schedule.alpha(t) ** 2 + schedule.sigma(t) ** 2).sqrt(), x)
        return self.network({"pixel": x / scale}, schedule.log_snr(t).clamp(-20, 20) / 4)

    def guide(
        self, word: str | None = None, scale: float = 1.0, classes: Sequence[str] = ()
    ) -> Callable[[AnyDenoiser], AnyDenoiser]:
        """Return guidance for :meth:`gendiff.model.Model.draw`, a denoiser to a denoiser.

        Arguments:
            word: The class to lead to; by default that which each sample is asked for, of a model that is told classes.
            scale: Power of the classifier (1, what Bayes' rule says).
            classes: Words of the classes of that model.

        Raises:
            UserError: for a word that the classifier does not know, or neither a word nor classes.
        """
        if unknown := [str(w) for w in ([word] if word is not None else classes) if str(w) not in self.classes]:
            raise UserError(f"this classifier does not know {unknown[0]!r}; it knows {', '.join(self.classes)}")
        if word is None and not classes:
            raise UserError("a model without classes must be told where to: guide(word)")
        numbers = [self.classes.index(str(w)) for w in ([word] if word is not None else classes)]
        return lambda denoiser: _Guided(denoiser, self.eval(), scale, numbers, word is None)

    def save(self, folder: str | Path) -> None:
        """Write a folder with config.json and model.safetensors, atomically."""
        weights = {name: value.detach().cpu().contiguous() for name, value in self.state_dict().items()}
        config = {"format": FORMAT, "gendiff": __version__, "classifier": describe(self)}
        with new_folder(folder, replace=True) as temporary:
            (temporary / "config.json").write_text(json_text(config), encoding="utf-8")
            (temporary / "model.safetensors").write_bytes(safetensors.torch.save(weights, {"format": "gendiff"}))


def load_classifier(folder: str | Path, device: torch.device | str = "cpu") -> Classifier:
    """Load what :meth:`Classifier.save` wrote; nothing in it is executed.

    Raises:
        UserError: if the folder holds no classifier, or is damaged, or of another version.
    """
    where = Path(folder) / "config.json"
    config = read_json(where)
    if not isinstance(config, dict) or not isinstance(config.get("classifier"), dict):
        raise UserError(f"{where}: is not the configuration of a classifier")
    if config.get("format") != FORMAT:
        raise UserError(f"{where}: written in format {config.get('format')}; this version reads format {FORMAT}")
    classifier = build(config["classifier"], str(where))
    if not isinstance(classifier, Classifier):
        raise UserError(f"{where}: is not the configuration of a classifier")
    path = check_file(Path(folder) / "model.safetensors")
    try:
        classifier.load_state_dict(safetensors.torch.load_file(path))
    except (safetensors.SafetensorError, RuntimeError, ValueError, OSError) as error:
        raise UserError(
            f"{path}: does not hold the weights that config.json describes ({str(error).splitlines()[0]})"
        ) from None
    return classifier.eval().to(device)


def train_classifier(
    process: JointProcess,
    records: ImageArrays,
    steps: int = 1000,
    *,
    preset: str = "tiny",
    batch_size: int = 64,
    learning_rate: float = 1e-3,
    weight_decay: float = 0.05,
    seed: int = 0,
    device: torch.device | str = "cpu",
    say: Callable[[str], Any] | None = None,
) -> Classifier:
    """Train a classifier on images with the noise of a process, at times that are uniform.

    Arguments:
        process: The forward process of the model that is to be guided.
        records: Images; those without a word are left out.
        steps: Batches.
        preset: Size of the network: "tiny", "small" or "base".
        batch_size: Images of a batch.
        learning_rate: Of AdamW at its peak (1e-3), after a twentieth of the steps; it falls by half a cosine.
        weight_decay: Of AdamW (0.05, that of the paper at 64 pixels).
        seed: Seed of weights, order, times and noise.
        device: Where to train.
        say: Told the accuracy at each tenth of the steps.

    Raises:
        UserError: for images of fewer than two classes.
    """
    records = records.select((records.words != "").nonzero()[0])
    classes = sorted(set(records.words.tolist()))
    if len(classes) < 2:
        raise UserError("a classifier needs images of at least two classes")
    data = to_grids(records)
    labels = torch.tensor([classes.index(word) for word in records.words.tolist()])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = classifier_network(preset, records.size, {"pixel": records.channels}, len(classes))
    classifier = Classifier(network, classes).to(device).train()
    optimizer = torch.optim.AdamW(classifier.parameters(), learning_rate, weight_decay=weight_decay)
    right = 0.0
    for step, index in zip(range(steps), batch_stream(data.sizes, batch_size, seed), strict=False):
        rate = min(1.0, 20 * (step + 1) / steps) * 0.5 * (1 + math.cos(math.pi * step / steps))
        optimizer.param_groups[0]["lr"] = learning_rate * rate
        batch, label = data.batch(index).to(device), labels[index].to(device)
        random = Random(seed * 1_000_003 + step, batch.index, device)
        t = random.uniform((len(index),))
        logits = classifier(process.corrupt(batch.state, t, process.noise(None, random)), t, process)
        optimizer.zero_grad()
        F.cross_entropy(logits, label).backward()
        optimizer.step()
        right = 0.98 * right + 0.02 * float((logits.argmax(1) == label).float().mean())
        if say is not None and (step + 1) % max(1, steps // 10) == 0:
            say(f"classifier: {step + 1:,} of {steps:,} steps, right about {right / (1 - 0.98 ** (step + 1)):.0%}")
    return classifier.eval()


@torch.no_grad()
def accuracy(classifier: Classifier, process: JointProcess, records: ImageArrays, t: float, seed: int = 0) -> float:
    """Return the share of images whose class the classifier says, with noise of the time t."""
    x_0 = to_grids(records).batch(torch.arange(len(records))).state
    random, times = Random(seed, len(records)), torch.full((len(records),), t)
    logits = classifier(process.corrupt(x_0, times, process.noise(None, random)), times, process)
    found = [classifier.classes[number] for number in logits.argmax(1).tolist()]
    return sum(a == b for a, b in zip(found, records.words.tolist(), strict=True)) / len(records)


class _Guided(Gradient):
    """A denoiser that is led to a class: always one, or that which the condition has.

    Arguments:
        denoiser: What is guided.
        classifier: Of noisy images.
        scale: Its power.
        numbers: The number that the classifier has for the class, or for each class of the denoiser.
        asked: Whether the condition says the class.
    """

    def __init__(
        self, denoiser: AnyDenoiser, classifier: Classifier, scale: float, numbers: Sequence[int], asked: bool
    ):
        super().__init__(denoiser, self._log_prob, scale)
        self.classifier, self.asked = classifier, asked
        self.numbers = torch.tensor([*numbers, -1])  # a sample without a class, -1, takes the last one

    def __call__(
        self,
        x_t: State,
        t: Tensor,
        mask: Tensor | None = None,
        condition: State | None = None,
        previous: State | None = None,
        noise: Tensor | None = None,
    ) -> Estimate:
        """Return the guided estimate; arguments as :meth:`gendiff.denoise.Denoiser.forward`."""
        numbers = self.numbers.to(t.device)
        self._label = numbers[(condition or {})["class"]] if self.asked else numbers[:1].expand(len(t))
        return super().__call__(x_t, t, mask, condition, previous, noise)

    def _log_prob(self, x_t: State, t: Tensor, mask: Tensor | None) -> Tensor:
        return log_prob(lambda x, time, _: self.classifier(x, time, self.process), self._label)(x_t, t, mask)
