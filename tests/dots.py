"""A modality of another package: sets of points in the plane, a line of JSON each. The smallest adapter there can
be."""

from __future__ import annotations

import json
from collections import Counter

import torch

from gendiff.data import Ragged
from gendiff.denoise import Denoiser
from gendiff.files import UserError, atomic_write, read_text
from gendiff.modality import Modality
from gendiff.nn.egnn import EGNN
from gendiff.objective import Objective
from gendiff.process import GaussianProcess, JointProcess
from gendiff.sample import DDIM
from gendiff.schedule import Cosine
from gendiff.sizes import SizeModel
from gendiff.space import ZeroCenterOfMass


class Report:
    def __init__(self, count):
        self.count = count

    def lines(self):
        return [f"read {self.count} sets of dots"]

    def to_json(self):
        return {"count": self.count}


class Dots(Modality):
    name, extensions = "dots", (".dots",)

    def __init__(self, sizes, scale=1.0):
        self.size_model, self.scale = SizeModel(dict(sizes)), scale
        self.sizes = self.size_model.counts

    @classmethod
    def read(cls, paths, on_error="stop", **options):
        records = []
        for path in paths:
            for number, line in enumerate(read_text(path).splitlines(), 1):
                try:
                    records.append(torch.tensor(json.loads(line)).float().reshape(-1, 2))
                except (ValueError, TypeError):
                    if on_error == "stop":
                        raise UserError(f"{path}, record {number}: no dots") from None
        return records, Report(len(records))

    @classmethod
    def fit(cls, records, **options):
        return cls(Counter(map(len, records)), round(float(torch.cat(records).std()), 6))

    def encode(self, records):
        return Ragged(
            torch.tensor([len(r) for r in records]),
            {"position": torch.cat([r - r.mean(0) for r in records]) / self.scale},
        )

    def decode(self, state, mask, condition=None):
        return [x[m] * self.scale for x, m in zip(state["position"].cpu(), mask.cpu(), strict=True)]

    def redraw(self, records):
        return records

    def process(self):
        return JointProcess({"position": GaussianProcess(Cosine(), ZeroCenterOfMass(2))})

    def network(self, preset="small", kind=None):
        return EGNN({}, width=8, layers=1)

    def denoiser(self, preset="small", network=None):
        return Denoiser(self.network(preset, network), self.process(), {"position": "v"})

    def objective(self):
        return Objective()

    def sampler(self):
        return DDIM(5)

    def draw_sizes(self, random, low=None, high=None, condition=None):
        return self.size_model.sample(random, low, high)

    def annotate(self, records, **facts):
        pass

    def keep(self, records, wanted, known):
        return [str(record.tolist()) not in known for record in records]

    def known(self, records):
        return {str(record.tolist()) for record in records}

    def write(self, records, path):
        with atomic_write(path) as file:
            file.writelines(json.dumps(record.tolist()) + "\n" for record in records)

    @classmethod
    def write_examples(cls, records, path):
        cls({1: 1}).write(records, path)

    @classmethod
    def evaluate(cls, generated, reference, **options):
        return Report(len(generated))

    def draw(self, records, path, **options):
        self.write(records, path)

    def picture(self, record):
        return "<svg/>", "dots", ""
