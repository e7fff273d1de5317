"""Point clouds for gendiff: sets of points in space, which come in no order."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gendiff import Cosine, GaussianProcess, JointProcess, Modality, ZeroCenterOfMass
from gendiff.data import Ragged
from gendiff.files import atomic_write, check_target, load_npz
from gendiff.modality import Tally, class_counts
from gendiff.nn.embed import Fourier
from gendiff.nn.frame import SequenceFrame
from gendiff.ops import State
from gendiff.sizes import ClassSizes
from scipy.spatial.distance import pdist
from torch import Tensor, nn

VIEW = np.array([[0.87, 0.5, 0.0], [-0.25, 0.43, 0.87], [0.43, -0.75, 0.5]])  # right, up, near
SHAPES = {  # from an angle, a height and a proportion to the radius, angle and height of points
    "cone": lambda a, h, p: ((1 - h) / 2, a, 2 * p * h),
    "helix": lambda a, h, p: (2 * p, 3 * np.pi * h + a[0], h),
    "sphere": lambda a, h, p: (np.sqrt(1 - h**2), a, h),
    "torus": lambda a, h, p: (1 + p * np.cos(np.pi * h), a, p * np.sin(np.pi * h)),
}
TRAITS = {"radius": lambda x: (x**2).sum(1) ** 0.5, "distance": pdist, "height": lambda x: x[:, 2]}


@dataclass
class Cloud:
    """Points (N, 3), the word for their shape ("" if none), and where they come from."""

    points: np.ndarray
    word: str = ""
    facts: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.centred = self.points - self.points.mean(0)


def make(output: str, count: int = 2000, seed: int = 0) -> None:
    """Write clouds of all shapes in turn, 64 to 96 points each, into an .npz file."""
    rng = np.random.default_rng(seed)
    clouds = []
    for k in range(count):
        word, n = list(SHAPES)[k % len(SHAPES)], rng.integers(64, 97)
        angle, height = rng.uniform(0, 2 * np.pi, n), rng.uniform(-1, 1, n)
        radius, angle, height = SHAPES[word](angle, height, rng.uniform(0.2, 0.4))
        points = np.stack([radius * np.cos(angle), radius * np.sin(angle), height], 1)
        clouds.append(Cloud(points + rng.normal(0, 0.02, points.shape), word))
    PointClouds.write_examples(clouds, output)


class SetTransformer(nn.Module):
    """Attention among all points; none is the first, so permuting them permutes the estimate."""

    def __init__(self, width: int, layers: int, classes: int):
        super().__init__()
        self.width, self.layers, self.classes = width, layers, classes
        told = {"class": classes} if classes else None
        self.frame = SequenceFrame({"position": 3}, width, conditions=told, complement=None)
        self.place = nn.Sequential(Fourier(12, 4.0, 0.25), nn.Flatten(2), nn.Linear(36, width))
        one = nn.TransformerEncoderLayer(width, 4, 4 * width, 0, batch_first=True, norm_first=True)
        self.blocks = nn.TransformerEncoder(one, layers, enable_nested_tensor=False)

    def forward(self, x: State, level: Tensor, mask: Tensor, condition: State | None) -> State:
        """Map positions (B, N, 3) at noise levels (B, 1) to positions."""
        h, told = self.frame.enter(x, level, mask, condition)
        h = h + self.place(x["position"]) + told[:, None]
        return self.frame.leave(self.blocks(h, src_key_padding_mask=~mask), told, mask)


class PointClouds(Modality):
    """Clouds around their centres: `counts` of their sizes by word, states in units of `scale`."""

    name, extensions, films = "pointclouds", (".npz",), (".gif",)

    def __init__(self, counts: Mapping[str, Mapping[Any, int]], scale: float = 1.0):
        self.class_sizes = ClassSizes(counts)
        self.counts, self.scale = self.class_sizes.counts, float(scale)
        self.classes = [word for word in self.counts if word]

    @classmethod
    def read(cls, paths: Sequence[str | Path], on_error: str = "stop", **_: Any) -> Any:
        """Read .npz files of arrays (N, 3), each named by its word and a number: torus-17."""
        clouds, tally = [], Tally("point clouds")
        for path in paths:
            for name, x in load_npz(path).items():
                shaped = x.dtype.kind in "fiu" and x.shape[1:] == (3,) and len(x) > 1
                if shaped and np.isfinite(x).all():
                    clouds.append(Cloud(x.astype(float), name.rpartition("-")[0]))
                else:
                    tally.refuse(f"{path}, {name}: is no (N, 3) of finite numbers, N > 1", on_error)
        return tally.of(clouds)

    @classmethod
    def fit(cls, records: list[Cloud], **_: Any) -> "PointClouds":
        """Count sizes by word and measure the spread."""
        counts = class_counts([c.word for c in records], [len(c.points) for c in records])
        spread = np.concatenate([c.centred for c in records]).std()
        return cls(counts, max(float(f"{spread:.6g}"), 1e-9))

    def encode(self, records: list[Cloud]) -> Ragged:
        x = torch.from_numpy(np.concatenate([c.centred for c in records]) / self.scale).float()
        sizes = torch.tensor([len(c.points) for c in records])
        return Ragged(sizes, {"position": x}, self.class_condition([c.word for c in records]))

    def decode(self, state: State, mask: Tensor, condition: State | None = None) -> list[Cloud]:
        points, real = self.scale * state["position"].cpu().double().numpy(), mask.cpu().numpy()
        words = self.class_words(condition, len(mask))
        return [Cloud(x[m], word) for x, m, word in zip(points, real, words, strict=True)]

    def process(self) -> JointProcess:
        return JointProcess({"position": GaussianProcess(Cosine(), ZeroCenterOfMass(3))})

    def network(self, preset: str = "small", kind: str | None = None) -> nn.Module:
        return SetTransformer({"tiny": 96, "small": 192, "base": 384}[preset], 3, len(self.classes))

    def log_volume(self, sizes: Tensor) -> Tensor:
        return 3 * (sizes.double() - 1) * np.log(self.scale)

    def write(self, records: list[Cloud], path: str | Path) -> int:
        arrays: dict[str, Any] = {f"{c.word}-{k}": c.points for k, c in enumerate(records, 1)}
        with atomic_write(check_target(path, self.extensions), "wb") as file:
            np.savez(file, **arrays)
        return len(records)

    @classmethod
    def features(cls, records: Sequence[Cloud]) -> dict[str, list[np.ndarray]]:
        """Return quantiles of what no order of the points changes."""
        q = np.linspace(0.02, 0.98, 25)
        return {k: [np.quantile(f(c.centred), q) for c in records] for k, f in TRAITS.items()}

    def draw(self, records: list[Cloud], path: str | Path, **_: Any) -> None:
        """Draw clouds side by side, seen from above at an angle, as .png or .svg."""
        from matplotlib.figure import Figure

        rows, columns = -(-len(records) // 8), min(8, len(records))
        figure = Figure((1.5 * columns, 1.5 * rows), layout="tight")
        for k, c in enumerate(records, 1):
            right, up, near = VIEW @ c.centred.T / self.scale
            axes = figure.add_subplot(rows, columns, k, xlim=(-3, 3), ylim=(-3, 3), aspect=1)
            axes.set_title(c.word, parse_math=False)
            axes.scatter(right, up, 5, near)
            axes.axis("off")
        with atomic_write(check_target(path, (".png", ".svg")), "wb") as file:
            figure.savefig(file, format=Path(path).suffix[1:])
