"""The model that users hold: a modality, a denoiser and the way to sample it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from gendiff.config import build, describe
from gendiff.data import Batch, Grids, Ragged
from gendiff.decoder import byte_bound
from gendiff.denoise import AnyDenoiser, Denoiser
from gendiff.files import UserError
from gendiff.guide import ClassifierFree, Skip
from gendiff.likelihood import log_density, variational_bound
from gendiff.modality import Modality, Table
from gendiff.model.batches import affordable, cut_batches
from gendiff.model.drawn import Drawn, collect
from gendiff.model.folder import card, config, read, write
from gendiff.ops import Random, State, size_mask
from gendiff.process import GivenProcess
from gendiff.sample import Heun, Sampler, named
from gendiff.wording import many

Guide = Callable[[AnyDenoiser], AnyDenoiser]
"""Guidance: a denoiser in, a denoiser out."""


class Model:
    """A trained model.

    Arguments:
        modality: The adapter, fitted to the training data.
        denoiser: The network with its forward process.
        sampler: The default sampler; by default the modality's.
        info: Facts for the model card and the configuration: what it was trained on and how, measured metrics.
        guidance: Default scale of classifier-free guidance, where something is asked for (1: the denoiser as it is).
        skip: Skip guidance of all that is drawn (none); set to None, the denoiser draws as it is.
    """

    def __init__(
        self,
        modality: Modality,
        denoiser: Denoiser,
        sampler: Sampler | None = None,
        info: dict[str, Any] | None = None,
        guidance: float = 1.0,
        skip: Skip | None = None,
    ):
        self.modality, self.denoiser, self.guidance, self.skip = modality, denoiser, float(guidance), skip
        self.sampler = sampler or modality.sampler()
        self.info = dict(info or {})

    def __repr__(self) -> str:
        number, steps = sum(p.numel() for p in self.denoiser.parameters()), getattr(self.sampler, "steps", None)
        network = getattr(self.denoiser, "network", self.denoiser)
        return (
            f"<Model of {self.modality.name}: {type(network).__name__} of {many(number, 'parameter')},"
            f" {type(self.sampler).__name__}{f' in {steps:,} steps' if steps else ''}>"
        )

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.denoiser.parameters()).device

    def to(self, device: torch.device | str) -> Model:
        """Move the weights; returns the model."""
        self.denoiser.to(device)
        return self

    def tuned(
        self, steps: int | None = None, temperature: float | None = None, sampler: Sampler | str | None = None
    ) -> Sampler:
        """Return the default sampler with another number of steps or, if it has one, another temperature.

        What a temperature does to samples of a sampler without one, :func:`prior_scale` says.

        Arguments:
            steps: Number of steps (its own).
            temperature: Temperature (its own).
            sampler: Name of one to take the place of the default, on its grid of times and in as many steps
                (:func:`gendiff.sample.named`); a sampler is returned as it is.

        Raises:
            UserError: for steps < 1, a temperature outside [0, 1], or a name that there is not or whose sampler cannot
                take the fields of the model.
        """
        if steps is not None and steps < 1:
            raise UserError(f"--steps must be at least 1, got {steps}")
        if temperature is not None and not 0 <= temperature <= 1:
            raise UserError(f"--temperature must lie in [0, 1], got {temperature:g}")
        if sampler is not None and not isinstance(sampler, str):
            return sampler
        chosen = self.sampler if sampler is None else self._named(sampler)
        changes: dict[str, Any] = {} if steps is None else {"steps": steps}
        if temperature is not None and hasattr(chosen, "temperature"):
            changes["temperature"] = temperature
        return build({**describe(chosen), **changes}, "sampler") if changes else chosen

    def _named(self, name: str) -> Sampler:
        try:
            sampler = named(name, self.sampler)
            sampler.check(self.denoiser.process)
        except ValueError as error:
            raise UserError(f"--sampler: {error}") from None
        return sampler

    def sample(self, n: int, **options: Any) -> list[Any]:
        """Return `n` new records of the modality (here RDKit molecules); options as :meth:`draw`."""
        return self.draw(n, **options).records

    @torch.no_grad()
    def draw(
        self,
        n: int,
        steps: int | None = None,
        seed: int = 0,
        temperature: float | None = None,
        sampler: Sampler | str | None = None,
        sizes: tuple[int | None, int | None] = (None, None),
        only: Sequence[str] | str = (),
        known: set[str] | None = None,
        condition: Mapping[str, Any] | None = None,
        guidance: float | None = None,
        guide: Guide | None = None,
        batch_size: int = 256,
        max_draws: int | None = None,
        progress: Callable[[int, int], Any] | None = None,
    ) -> Drawn:
        """Draw records until `n` are there.

        Sample i depends on `seed` and i alone, not on the batch size or on which others are drawn.

        Arguments:
            n: How many records to return.
            steps: Steps of the sampler (its default).
            seed: Seed.
            temperature: Scale of the noise that the sampler takes in on its way or, if it takes none, of the noise that
                it starts from (:func:`prior_scale`), 0 to 1 (its default); less is safer and more alike.
            sampler: Another sampler, or the name of one, as :meth:`tuned`.
            sizes: Smallest and largest number of elements (None: as in the training data).
            only: Keep only records that meet these words of the modality ("valid", "connected", "new").
            known: Identities of examples, against which "new" is judged.
            condition: What is asked for, in the units of the data: by name one value, or a list of which sample i
                takes number i modulo its length. See :meth:`gendiff.modality.Modality.condition`.
            guidance: Scale of classifier-free guidance, 1 for the conditional model as it is (the model's own).
            guide: Guidance of your own, a denoiser to a denoiser, put around all other; for example
                `lambda denoiser: Gradient(denoiser, log_prob, at="data")`.
            batch_size: Samples computed together.
            max_draws: Give up after this many draws (100 n with `only`).
            progress: Called with (steps done, steps in all) in each round of draws.

        Raises:
            UserError: for n < 1, steps < 1, a temperature that cannot be had, sizes that the training data lacks, or
                when `only` keeps (nearly) nothing.
        """
        only = only.replace(",", " ").split() if isinstance(only, str) else only
        if "new" in only and known is None:
            raise UserError("'new' needs to know the training examples; name them with --reference FILE")
        self.modality.check_filters(only)
        chosen = self.tuned(steps, temperature, sampler)
        scale = prior_scale(chosen, temperature)

        def draw(indices: torch.Tensor) -> list[Any]:
            return self.draw_at(indices, seed, chosen, sizes, condition, guidance, guide, batch_size, progress, scale)

        def keep(records: list[Any]) -> list[bool]:
            return self.modality.keep(records, only, known or set()) if only else [True] * len(records)

        return collect(n, draw, keep, only, batch_size, max_draws)

    @torch.no_grad()
    def draw_at(
        self,
        indices: torch.Tensor,
        seed: int = 0,
        sampler: Sampler | None = None,
        sizes: tuple[int | None, int | None] = (None, None),
        condition: Mapping[str, Any] | None = None,
        guidance: float | None = None,
        guide: Guide | None = None,
        batch_size: int = 256,
        progress: Callable[[int, int], Any] | None = None,
        prior_scale: float = 1.0,
    ) -> list[Any]:
        """Return the samples of these numbers, (M,), in the stream of `seed`; arguments as :meth:`draw`.

        The noise of Gaussian fields that samples start from is scaled by `prior_scale` (1); see :func:`prior_scale`.
        """
        sampler, device = sampler or self.sampler, self.device
        random = Random(seed, indices)
        asked = self.modality.condition(condition or {})
        asked = {name: value[indices % len(value)] for name, value in asked.items()}
        asked = self.modality.complete(asked, random)
        denoiser = guided(self, guidance, asked)
        if guide is not None:
            denoiser = guide(denoiser)
        numbers = self.modality.draw_sizes(random, *sizes, asked or None)
        batches = cut_batches(numbers, affordable(batch_size, denoiser.process), self.device)
        records: list[Any] = [None] * len(indices)
        with self.evaluating():
            for k, rows in enumerate(batches):
                mask = size_mask(numbers[rows]).to(device)
                stream = random.select(rows)
                stream = Random(seed, stream.indices, device, stream.draws)
                process, noise = denoiser.process, denoiser.process.noise(mask, stream)
                noise = {name: z if process[name].categorical else prior_scale * z for name, z in noise.items()}
                x = process.prior(noise, mask)
                given = {name: value[rows].to(device) for name, value in asked.items()} or None
                tick = None if progress is None else (lambda i, m, k=k: progress(k * m + i, m * len(batches)))
                x = sampler(denoiser, x, mask, given, stream, progress=tick)
                for row, record in zip(rows.tolist(), self.modality.decode(x, mask, given), strict=True):
                    records[row] = record
        return records

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Put the denoiser into evaluation mode inside the block."""
        training = self.denoiser.training
        self.denoiser.eval()
        try:
            yield
        finally:
            self.denoiser.train(training)

    def film(self, n: int, frames: int = 12, **options: Any) -> list[list[Any]]:
        """Return how samples come out of noise, as :func:`gendiff.model.film.film`."""
        from gendiff.model.film import film

        return film(self, n, frames, **options)

    def edit(self, records: Any, task: str | None = None, n: int | None = None, **options: Any) -> Drawn:
        """Return new records made from given ones; options and tasks as :func:`gendiff.model.edit.edit`."""
        from gendiff.model.edit import edit

        return edit(self, records, task, n, **options)

    @torch.no_grad()
    def log_prob(
        self,
        records: Any,
        method: str = "bound",
        steps: int = 200,
        seed: int = 0,
        batch_size: int = 256,
        progress: Callable[[int, int], Any] | None = None,
    ) -> dict[str, torch.Tensor]:
        r"""Return log p(x, N) of records in nats, in the units of the data (molecules: Å, centred).

        .. math:: \log p(x, N) = \log p(N) + \log p(z | N) - \log |dx / dz|, \qquad z = \mathrm{encode}(x)

        Fields of one-hot categories with logits count with the probability of their categories under "bound", and with
        the density of their one-hot numbers under "flow"; the two compare only in models without such fields. Bytes are
        judged at a random place of their bin of width 1, p + u, u from -1/2 to 1/2: the mean log-density there is never
        above the log-probability of the byte, which "bytes" bounds as the papers of images do. A model with conditions
        is asked without any.

        Arguments:
            records: What the modality's `read` returned, or a list of samples.
            method: "bound", a lower bound of log p (:func:`gendiff.likelihood.variational_bound`), "flow", the
                density of the probability flow (:func:`gendiff.likelihood.log_density`), or, of data that are bytes,
                "bytes", a lower bound of their log-probability by DDPM's decoder (:mod:`gendiff.decoder`).
            steps: Steps of the bounds, on a grid of log-SNR (200).
            seed: Seed of the noise.
            batch_size: Samples computed together.
            progress: Called with (batches done, batches in all).

        Returns:
            By name, each (M,), in the order of the records: "log_prob", "dim" (degrees of freedom of the state), "size"
            (log p(N)), "volume" (log |dx/dz|; 0 of bytes) and, of bounds, "prior", "diffusion", "reconstruction".

        Raises:
            UserError: for another method, steps < 1, or records that the model does not know.
        """
        if method not in ("bound", "flow", "bytes"):
            raise UserError(f"--method must be bound, flow or bytes, got {method!r}")
        if steps < 1:
            raise UserError(f"--steps must be at least 1, got {steps}")
        modality, process = self.modality, self.denoiser.process
        categorical = [n for n, field in process.items() if field.categorical and not isinstance(field, GivenProcess)]
        if method == "flow" and categorical:
            raise UserError(f"--method flow needs Gaussian fields, and {categorical[0]!r} is categorical; take bound")

        if always_told(self):
            raise UserError("this model always knew the class in training, and has no likelihood without one")
        data = modality.encode(modality.gather(records))
        discrete = [name for name, value in data.fields.items() if value.dtype == torch.uint8]
        if method == "bytes" and list(data.fields) != discrete:
            raise UserError(f"--method bytes is for data that are bytes, as images are, and not for {modality.name}")

        def evaluate(batch: Batch, random: Random) -> State:
            state, mask = batch.state, batch.mask
            if method != "bytes":
                state = state | {name: spread(state[name], random) for name in discrete}
            if method == "bound":
                parts = variational_bound(self.denoiser, state, mask, random=random, steps=steps, grid="log_snr")
            elif method == "flow":
                parts = {"total": -log_density(self.denoiser, state, mask, random=random, directions="gaussian")}
            else:
                parts = byte_bound(self.denoiser, state, random=random, steps=steps, grid="log_snr")
            parts["log_prob"] = -parts.pop("total")
            free = [field.space.dim(mask, state[name]) for name, field in process.items()]
            return {**parts, "dim": torch.stack(free).sum(0)}

        found = self._over(data, evaluate, seed, batch_size, progress)
        found["size"], found["volume"] = modality.log_size(data.sizes), modality.log_volume(data.sizes)
        if method == "bytes":  # no density
            found["volume"].zero_()
        found["log_prob"] = found["log_prob"].double() + found["size"] - found["volume"]
        return found

    @torch.no_grad()
    def encode(
        self,
        records: Any,
        sampler: Sampler | None = None,
        steps: int = 50,
        batch_size: int = 256,
        progress: Callable[[int, int], Any] | None = None,
    ) -> Ragged:
        """Return the latent codes of records: the states at t = 1 from which :meth:`decode` draws them again.

        Arguments:
            records: What the modality's `read` returned, or a list of samples.
            sampler: A deterministic sampler (Heun).
            steps: Steps of the default sampler (50).
            batch_size: Samples computed together.
            progress: Called with (batches done, batches in all).

        Raises:
            UserError: for steps < 1, a sampler that cannot encode, or records that the model does not know.
        """
        walker = sampler or _heun(steps)
        data = self.modality.encode(self.modality.gather(records))

        def evaluate(batch: Batch, random: Random) -> State:
            try:
                return walker.encode(self.denoiser, batch.state, batch.mask)
            except ValueError as error:
                raise UserError(str(error)) from None

        codes = self._over(data, evaluate, 0, batch_size, progress)
        return Grids(codes) if isinstance(data, Grids) else Ragged(data.sizes, codes)

    @torch.no_grad()
    def decode(
        self, codes: Ragged, sampler: Sampler | None = None, steps: int = 50, batch_size: int = 256
    ) -> list[Any]:
        """Return the records of latent codes; arguments as :meth:`encode`."""
        walker = sampler or _heun(steps)
        records: list[Any] = [None] * len(codes)
        with self.evaluating():
            for rows in cut_batches(codes.sizes, affordable(batch_size, self.denoiser.process), self.device):
                batch = codes.batch(rows).to(self.device)
                mask = batch.mask if batch.mask is not None else size_mask(codes.sizes[rows]).to(self.device)
                x = walker(self.denoiser, batch.state, mask)
                for row, record in zip(rows.tolist(), self.modality.decode(x, mask), strict=True):
                    records[row] = record
        return records

    def _over(
        self,
        data: Ragged,
        evaluate: Callable[[Batch, Random], State],
        seed: int,
        batch_size: int,
        progress: Callable[[int, int], Any] | None,
    ) -> State:
        """Gather what `evaluate` says of every sample, in batches of nearly one size, in the order of `data`.

        A result with an axis of elements comes back without padding, one sample after another; grids have none.
        """
        if batch_size < 1:
            raise UserError(f"--batch-size must be at least 1, got {batch_size}")
        parts: dict[str, list[torch.Tensor]] = {}
        batches = cut_batches(data.sizes, affordable(batch_size, self.denoiser.process), self.device)
        with self.evaluating():
            for k, rows in enumerate(batches):
                batch = data.batch(rows).to(self.device)
                for name, value in evaluate(batch, Random(seed, rows, self.device)).items():
                    ragged = value.dim() > 1 and not isinstance(data, Grids)
                    pieces = [value[i, : int(n)] if ragged else value[i] for i, n in enumerate(data.sizes[rows])]
                    parts.setdefault(name, [torch.empty(0)] * len(data))
                    for row, piece in zip(rows.tolist(), pieces, strict=True):
                        parts[name][row] = piece.cpu()
                if progress is not None:
                    progress(k + 1, len(batches))
        whole = isinstance(data, Grids)
        return {n: torch.cat(v) if v[0].dim() and not whole else torch.stack(v) for n, v in parts.items()}

    def write(self, records: list[Any], path: str | Path) -> None:
        """Write records in the format of the file's ending, with what the modality says of each."""
        self.modality.annotate(records)
        self.modality.write(records, path)

    def evaluate(self, records: Any, reference: Any, **options: Any) -> Table:
        """Return the metrics of samples beside those of real records, by the protocol of this model.

        Arguments:
            records: What :meth:`sample` returned, or what the modality's `read_samples` did.
            reference: Real records, as the modality's `read` returns them.
            options: What `gendiff evaluate` takes, by name (`seed`, `training`, …).

        Raises:
            UserError: if there are too few records, or they do not compare.
        """
        gather, rules = self.modality.gather, self.modality.protocol() | options
        if rules.get("training") is not None:
            rules["training"] = gather(rules["training"])
        return self.modality.evaluate(gather(records), gather(reference), **rules)

    def save(self, folder: str | Path) -> None:
        """Write the model folder, atomically; an older one of the same name is replaced.

        Raises:
            UserError: for a network, sampler or other part whose class is neither gendiff's nor an installed adapter's:
                :func:`load` would refuse it.
        """
        write(self, folder)

    def config(self) -> dict[str, Any]:
        """Return everything needed to rebuild the model, but its weights."""
        return config(self)

    def card(self) -> str:
        """Return the model card."""
        return card(self)


def guided(model: Model, guidance: float | None, asked: State, skip: bool = True) -> Any:
    """Return the denoiser of a model under its skip guidance and classifier-free guidance, or itself without any.

    Arguments:
        model: The model.
        guidance: Scale; None for the model's own where something is asked for.
        asked: What is asked for.
        skip: False for the model without skip guidance.

    Raises:
        UserError: for a scale that is no number, or one without anything to strengthen; for blocks that there are not.
    """
    if guidance is None:
        guidance = model.guidance if asked else 1.0
    if not math.isfinite(guidance):
        raise UserError(f"--guidance must be a finite number, got {guidance}")
    if guidance != 1 and not asked:
        hint = f"add {'--class' if model.modality.classes else '--condition'}"
        if getattr(getattr(model.denoiser, "network", None), "conditions", None) == {}:
            hint = "this model was trained without any; leave it out"
        raise UserError(f"--guidance {guidance:g} strengthens a condition, and none is given; {hint}")
    if always_told(model) and (guidance != 1 or "class" not in asked or bool((asked["class"] < 0).any())):
        what = "--guidance" if guidance != 1 else "--class"
        raise UserError(
            f"{what}: in training this model always knew the class, and without one it knows nothing; "
            + ("a classifier can lead it further (gendiff classifier, --classifier)" if guidance != 1 else "name one")
        )
    denoiser: AnyDenoiser = model.denoiser
    if model.skip is not None and skip:
        try:
            denoiser = model.skip(denoiser)
        except ValueError as error:
            raise UserError(f"--skip: {error}") from None
    return denoiser if guidance == 1 else ClassifierFree(denoiser, guidance)


def always_told(model: Model) -> bool:
    """Return whether the network of a model was told a class in all of its training, so that it means nothing without.

    Classifier-free guidance trains without, now and then; ADM does not, and is led by a classifier.
    """
    return bool(model.modality.classes) and getattr(model.modality.objective(), "condition_dropout", None) == 0


def prior_scale(sampler: Sampler, temperature: float | None) -> float:
    r"""Return by how much a temperature scales the noise of Gaussian fields that samples start from.

    A temperature :math:`\tau` scales the noise that a sampler takes in. One that takes some in on its way has a
    temperature of its own (:class:`gendiff.sample.DDIM`), and starts from the prior as it is. One that takes none in
    has only its start,

    .. math:: x_1 = \tau \sqrt{\alpha_1^2 + \sigma_1^2}\, \epsilon

    Of normal data around 0 the probability flow is linear, and the samples have :math:`\tau` times their deviation.

    Arguments:
        sampler: Draws the samples.
        temperature: tau, 0 to 1; None for 1.

    Raises:
        UserError: for a temperature outside [0, 1], or a sampler that takes noise in and has no temperature.
    """
    if temperature is None:
        return 1.0
    if not 0 <= temperature <= 1:
        raise UserError(f"--temperature must lie in [0, 1], got {temperature:g}")
    if not takes_noise(sampler):
        return float(temperature)
    if not hasattr(sampler, "temperature"):
        raise UserError(
            f"--temperature: the sampler {type(sampler).__name__} of this model takes noise in and has no temperature"
        )
    return 1.0


def takes_noise(sampler: Sampler) -> bool:
    """Return whether a sampler takes noise in on its way from noise to data."""
    random = any(getattr(sampler, name, 0) for name in ("eta", "churn", "noise", "corrections", "predictor"))
    return random or getattr(sampler, "variance", "") == "analytic"


def spread(x: torch.Tensor, random: Random) -> torch.Tensor:
    """Return bytes, (B, ...) as numbers from -1 to 1, each at a random place of its bin of width 1 / 127.5."""
    return x + (random.uniform(tuple(x.shape)) - 0.5) / 127.5


def _heun(steps: int) -> Sampler:
    if steps < 1:
        raise UserError(f"--steps must be at least 1, got {steps}")
    return Heun(steps)


def load(source: str | Path, device: torch.device | str = "cpu") -> Model:
    """Load a model from a model folder or a run folder, or one that comes with gendiff. Never executes code from it.

    Arguments:
        source: Folder, or the name of a shipped model ("sketches-digits"; :func:`gendiff.model.shipped` lists them).
        device: Where to put the weights.

    Raises:
        UserError: if there is no model, or it is damaged, of another version, or names classes that are not allowed.
    """
    return Model(*read(source)).to(device)
