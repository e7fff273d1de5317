"""Ten things to draw, each with several ways of doing it.

A thing is a function from random numbers to strokes on a page about one unit wide, y down. Parts may be left out, and
come in more than one order; what a hand does to them is in `build.py`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
from numpy.random import Generator
from numpy.typing import ArrayLike, NDArray

Stroke = NDArray[np.float64]
"""Points of a polyline, (L, 2)."""


# Lines and curves


def line(*points: ArrayLike) -> Stroke:
    """A polyline."""
    return np.array(points, float)


def curve(*points: ArrayLike) -> Stroke:
    """A smooth curve from the first to the last of a few points, by cutting corners (Chaikin)."""
    path = np.array(points, float)
    for _ in range(4):
        a, b = path[:-1], path[1:]
        cut = np.stack([0.75 * a + 0.25 * b, 0.25 * a + 0.75 * b], 1).reshape(-1, 2)
        path = np.concatenate([path[:1], cut[1:-1], path[-1:]])
    return path


def arc(x: float, y: float, width: float, height: float, start: float, stop: float) -> Stroke:
    """Part of an ellipse with these radii, between two angles in turns (0 is to the right, 0.25 down)."""
    angle = 2 * np.pi * np.linspace(start, stop, 64)
    return np.stack([x + width * np.cos(angle), y + height * np.sin(angle)], 1)


def loop(r: Generator, x: float, y: float, width: float, height: float | None = None) -> Stroke:
    """A round thing drawn by hand: it starts somewhere near the top, and ends short of or beyond its beginning."""
    height = width if height is None else height
    way = 1 if r.random() < 0.35 else -1
    start = r.normal(0.75, 0.1)
    path = arc(0, 0, 1, 1, start, start + way * r.normal(1.0, 0.04))
    angle = 2 * np.pi * np.linspace(0, 1, len(path))
    radius = 1 + r.normal(0, 0.05) * np.cos(2 * angle + r.uniform(0, 6)) + r.normal(0, 0.025) * np.cos(3 * angle)
    radius += r.normal(0, 0.1) * np.linspace(-0.5, 0.5, len(path))
    return line((x, y)) + path * radius[:, None] * [width, height]


def ring(r: Generator, *points: ArrayLike, loose: float = 0.03) -> Stroke:
    """A closed polygon in one stroke: from any corner, either way round, never quite back where it began."""
    corners = np.roll(np.array(points, float), r.integers(len(points)), 0)[:: 1 if r.random() < 0.5 else -1]
    size = np.ptp(corners, 0).max()
    end = corners[0] + r.normal(0, loose * size, 2)
    if r.random() < 0.3:  # a little too far
        end += r.uniform(0, 0.08) * (corners[1] - corners[0])
    return np.concatenate([corners, end[None]])


def box(r: Generator, x: float, y: float, width: float, height: float) -> Stroke:
    """A rectangle in one stroke, centred at (x, y)."""
    w, h = width / 2, height / 2
    return ring(r, (x - w, y - h), (x + w, y - h), (x + w, y + h), (x - w, y + h))


def dot(r: Generator, x: float, y: float, size: float = 0.05) -> Stroke:
    """A mark as for an eye: a small loop, a short line, or hardly anything."""
    kind = r.random()
    if kind < 0.25:
        return loop(r, x, y, size * r.uniform(0.7, 1.2))
    reach = size * (r.uniform(0.6, 1.4) if kind < 0.8 else 0.25)
    return line((x, y - reach), (x + r.normal(0, 0.2) * reach, y + reach))


def flip(r: Generator, strokes: list[Stroke], chance: float = 0.5) -> list[Stroke]:
    """The same, or its mirror image from left to right."""
    return [stroke * [-1, 1] for stroke in strokes] if r.random() < chance else strokes


# Things


def cup(r: Generator) -> list[Stroke]:
    """A mug, a glass with a handle, or a tea cup, sometimes with steam."""
    top, bottom, height = r.uniform(0.3, 0.45), r.uniform(0.22, 0.4), r.uniform(0.6, 0.95)
    rim = r.uniform(0.05, 0.12)
    strokes = []
    style = r.random()
    if style < 0.45:  # sides and bottom in one, an ellipse for the rim
        strokes += [loop(r, 0, 0, top, rim)]
        strokes += [line((-top, 0), (-bottom, height), (bottom, height), (top, 0))]
    elif style < 0.7:
        strokes += [ring(r, (-top, 0), (top, 0), (bottom, height), (-bottom, height))]
        if r.random() < 0.4:
            y = r.uniform(0.1, 0.25)
            strokes += [line((-0.9 * top, y), (0.9 * top, y))]
    else:  # a bowl
        height *= 0.75
        strokes += [line((-top, 0), (top, 0)), arc(0, 0, top, height, 0.5, 0.0)]
        if r.random() < 0.6:
            strokes += [curve((-1.1 * top, height * 1.02), (0, height * 1.12), (1.1 * top, height * 1.02))]
    y, reach, tall = height * r.uniform(0.35, 0.5), r.uniform(0.18, 0.3), height * r.uniform(0.2, 0.3)
    x = top + (bottom - top) * (0.4 if style < 0.7 else 0.1)
    handle = [curve((x, y - tall), (x + reach, y - tall), (x + reach, y + tall), (x - 0.02, y + tall))]
    if r.random() < 0.3:
        handle += [
            curve((x, y - tall / 2), (x + reach / 2, y - tall / 2), (x + reach / 2, y + tall / 2), (x, y + tall / 2))
        ]
    strokes = flip(r, strokes + handle, 0.2)
    if r.random() < 0.25:
        for x in np.linspace(-0.15, 0.15, r.integers(1, 4)):
            strokes += [curve((x, -0.12), (x + 0.07, -0.2), (x - 0.07, -0.3), (x + 0.03, -0.4))]
    return strokes


def envelope(r: Generator) -> list[Stroke]:
    """A rectangle and its flap; the back with all four folds, or a stamp, now and then."""
    w, h = 0.5, r.uniform(0.25, 0.38)
    deep = r.uniform(-0.05, 0.15)
    flap = line((-w, -h), (r.normal(0, 0.04), deep), (w, -h))
    style = r.random()
    if style < 0.15:  # all in one stroke
        strokes = [line((-w, -h), (-w, h), (w, h), (w, -h), (-w, -h), (0, deep), (w, -h))]
    elif style < 0.25:
        strokes = [box(r, 0, 0, 2 * w, 2 * h), line((-w, -h), (w, h)), line((w, -h), (-w, h))]
    elif style < 0.35:
        strokes = [box(r, 0, 0, 2 * w, 2 * h), curve((-w, -h), (-0.2, deep), (0.2, deep), (w, -h))]
    else:
        strokes = [box(r, 0, 0, 2 * w, 2 * h), flap]
    if style > 0.35 and r.random() < 0.25:
        strokes += [line((-w, h), (-0.12, deep - 0.02)), line((w, h), (0.12, deep - 0.02))]
    if r.random() < 0.12:
        strokes += [dot(r, 0, deep, 0.06)]
    if style > 0.35 and r.random() < 0.06:
        strokes = [strokes[1], strokes[0], *strokes[2:]]
    return strokes


def face(r: Generator) -> list[Stroke]:
    """A head with eyes and a mouth; now and then a nose, ears, some hair."""
    tall = r.uniform(0.42, 0.56)
    head = [loop(r, 0, 0, 0.45, tall)]
    x, y = r.uniform(0.13, 0.2), -r.uniform(0.08, 0.2)
    eyes = [dot(r, -x, y), dot(r, x, y + r.normal(0, 0.02))]
    kind = r.random()
    if kind < 0.12:  # closed
        eyes = [arc(side * x, y, 0.07, 0.05, 0.5, 1.0) for side in (-1, 1)]
    elif kind < 0.15:
        eyes = eyes[:1]
    w, m = r.uniform(0.13, 0.26), r.uniform(0.16, 0.25)
    kind = r.random()
    if kind < 0.75:
        mouth = [curve((-w, m - 0.03), (-0.5 * w, m + 0.12), (0.5 * w, m + 0.12), (w, m - 0.03))]
    elif kind < 0.85:
        mouth = [line((-w, m + 0.05), (w, m + 0.05))]
    elif kind < 0.93:
        mouth = [curve((-w, m + 0.1), (0, m - 0.06), (w, m + 0.1))]
    else:
        mouth = [ring(r, (-w, m), (w, m), (0.4 * w, m + 0.13), (-0.4 * w, m + 0.13))]
    middle = [eyes, mouth]
    if r.random() < 0.4:
        nose = [
            line((0, -0.05), (0, 0.08)),
            line((0, -0.06), (-0.06, 0.08), (0.03, 0.08)),
            curve((-0.04, 0.05), (0, 0.12), (0.04, 0.05)),
        ]
        middle.insert(1, [nose[r.integers(3)]])
    if r.random() < 0.15:
        middle = middle[::-1]
    parts = [head, *middle] if r.random() < 0.88 else [*middle, head]
    if r.random() < 0.2:
        parts += [[line((x, -tall * 0.95), (x * 1.6 + 0.02, -tall - r.uniform(0.08, 0.16)))
                   for x in np.linspace(-0.2, 0.2, r.integers(3, 6))]]  # fmt: skip
    elif r.random() < 0.12:
        parts += [[arc(-0.45, -0.02, 0.09, 0.1, 0.85, 0.15), arc(0.45, -0.02, 0.09, 0.1, 0.65, 1.35)]]
    return [stroke for part in parts for stroke in part]


def fish(r: Generator) -> list[Stroke]:
    """A ribbon in one stroke, or an oval with a tail; an eye, and perhaps fins, gills and a mouth. It may look left."""
    h, t = r.uniform(0.18, 0.32), r.uniform(0.12, 0.22)
    nose, neck, end = 0.5, -0.22, -0.5
    style = r.random()
    if style < 0.5:  # from the tail's tip round the nose to the other tip
        cross = 0.3 * t
        path = [(end, -t), (neck, cross), (0.0, 1.35 * h), (nose, 0.8 * h), (nose + 0.05, 0.0)]
        back = [(nose, -0.8 * h), (0.0, -1.35 * h), (neck, -cross), (end, t)]
        body = curve(*path, *back)
        if r.random() < 0.5:
            strokes = [np.concatenate([body, line((end + r.normal(0, 0.02), -t))])]
        else:
            strokes = [body]
            if r.random() < 0.8:
                notch = r.uniform(0, 0.1)
                strokes += [line((end, -t), (end + notch, 0), (end, t))]
    else:
        strokes = [loop(r, 0.12, 0, 0.38, h)]
        root = -0.24
        notch = end + r.uniform(0, 0.1)
        if r.random() < 0.5:
            strokes += [line((root, -0.02), (end, -t), (notch, 0), (end, t), (root, 0.02))]
        else:
            strokes += [ring(r, (root, 0), (end, -t), (end, t))]
    if r.random() < 0.88:
        strokes += [dot(r, 0.33, -0.3 * h, 0.035)]
    if r.random() < 0.3:
        strokes += [curve((0.2, -0.6 * h), (0.12, 0), (0.2, 0.6 * h))]
    if r.random() < 0.3:
        strokes += [line((nose - 0.02, 0.3 * h), (nose - 0.12, 0.32 * h))]
    if r.random() < 0.3:
        strokes += [curve((-0.05, -0.9 * h), (0.05, -1.6 * h), (0.18, -1.5 * h), (0.2, -0.9 * h))]
    if r.random() < 0.15:
        strokes += [line((0.0, 0.1 * h), (-0.1, 0.5 * h), (0.05, 0.45 * h))]
    return flip(r, strokes, 0.5)


def flower(r: Generator) -> list[Stroke]:
    """Petals round a middle on a stem with leaves; or a tulip."""
    stem = r.uniform(0.5, 0.8)
    bend = r.normal(0, 0.08)
    if r.random() < 0.3:  # a tulip
        w, h = r.uniform(0.18, 0.25), r.uniform(0.3, 0.42)
        zigzag = [(-w, -h), (-0.5 * w, -0.6 * h), (0, -h), (0.5 * w, -0.6 * h), (w, -h)]
        strokes = [np.concatenate([line(*zigzag), curve((w, -h), (1.1 * w, 0), (-1.1 * w, 0), (-w, -h))[1:]])]
        foot = 0.0
    else:
        middle = r.uniform(0.09, 0.13)
        reach, count = r.uniform(0.18, 0.25), int(r.integers(4, 6))
        turn, way = r.uniform(0, 1), 1 if r.random() < 0.7 else -1
        petals = []
        style = r.random()
        angles = turn + way * (np.arange(count) + r.normal(0, 0.06, count)) / count
        if style < 0.5:  # one petal after the other
            for angle in angles:
                d = middle + np.array([0.0, 0.8, 1.7, 0.8, 0.0]) * reach * r.uniform(0.85, 1.15)
                q = 2 * np.pi * (angle + way * np.array([-0.25, -0.4, 0.0, 0.4, 0.25]) * r.uniform(0.8, 1.2) / count)
                petals += [curve(*np.stack([d * np.cos(q), d * np.sin(q)], 1))]
        else:  # round and round in one stroke
            parts = []
            for angle in angles:
                d = middle + np.array([0.05, 1.3, 1.3, 0.05]) * reach * r.uniform(0.85, 1.15)
                q = 2 * np.pi * (angle + way * np.array([-0.5, -0.42, 0.42, 0.5]) / count)
                parts.append(curve(*np.stack([d * np.cos(q), d * np.sin(q)], 1)))
            petals = [np.concatenate(parts)]
        strokes = [loop(r, 0, 0, middle), *petals] if r.random() < 0.8 else [*petals, loop(r, 0, 0, middle)]
        foot = middle + reach * 0.9
    if r.random() < 0.9:
        strokes += [curve((0, foot), (bend, foot + 0.5 * stem), (bend / 2, foot + stem))]
        for side in (-1, 1):
            if r.random() < 0.25:
                x, y = 0.7 * bend, foot + r.uniform(0.45, 0.75) * stem
                tip = (x + side * r.uniform(0.18, 0.28), y - r.uniform(0.08, 0.2))
                strokes += [np.concatenate([curve((x, y), (x + side * 0.05, y - 0.17), tip),
                                            curve(tip, (x + side * 0.2, y), (x, y))[1:]])]  # fmt: skip
    return strokes


def house(r: Generator) -> list[Stroke]:
    """Walls and a roof in one, two or three strokes; mostly a door, some windows, a chimney now and then."""
    w, h, tall = r.uniform(0.3, 0.42), r.uniform(0.4, 0.6), r.uniform(0.28, 0.48)
    eaves = w + (r.uniform(0.03, 0.12) if r.random() < 0.4 else 0.0)
    top = (r.normal(0, 0.04), -tall)
    style = r.random()
    if style < 0.35:
        walls = [box(r, 0, h / 2, 2 * w, h)]
        roof = [line((-eaves, 0), top, (eaves, 0)) if eaves == w else ring(r, (-eaves, 0), top, (eaves, 0))]
    elif style < 0.6:
        walls = [line((-w, 0), (-w, h), (w, h), (w, 0))]
        roof = [ring(r, (-eaves, 0), top, (eaves, 0))]
    elif style < 0.8:  # the outline in one stroke, then the line between
        walls = [ring(r, (-w, 0), top, (w, 0), (w, h), (-w, h))]
        roof = [line((-w, 0), (w, 0))] if r.random() < 0.85 else []
    else:
        walls = [line((-w, 0), (-w, h)), line((w, 0), (w, h)), line((-w, h), (w, h))]
        roof = [line((-eaves, 0), top, (eaves, 0)), line((-eaves, 0), (eaves, 0))]
    strokes = walls + roof if r.random() < 0.7 else roof + walls
    x, half, high = r.uniform(-0.5, 0.5) * w, r.uniform(0.05, 0.09), h * r.uniform(0.4, 0.6)
    door = r.random() < 0.75
    if door:
        strokes += [line((x - half, h), (x - half, h - high), (x + half, h - high), (x + half, h))]
    if r.random() < 0.4:
        side = -np.sign(x)
        size = r.uniform(0.07, 0.11)
        at = side * w * 0.5 if door else 0.0
        strokes += [box(r, at, h * 0.35, 2 * size, 2 * size)]
        if r.random() < 0.4:
            strokes += [
                line((at, h * 0.35 - size), (at, h * 0.35 + size)),
                line((at - size, h * 0.35), (at + size, h * 0.35)),
            ]
    if r.random() < 0.2:
        side = 1 if r.random() < 0.7 else -1
        a, b = side * 0.35 * w, side * 0.6 * w
        strokes += [line((a, -tall * 0.7), (a, -tall * 1.05), (b, -tall * 1.05), (b, -tall * 0.42))]
    return strokes


def snail(r: Generator) -> list[Stroke]:
    """A spiral for the shell, from the inside or the outside, on a body with two feelers. It may look left."""
    turns, size = r.uniform(1.3, 2.2), r.uniform(0.26, 0.33)
    t = np.linspace(0, 1, 160)
    angle = 2 * np.pi * (0.3 - turns * (1 - t))
    spread = r.uniform(0.8, 1.1)
    shell = (size * (0.08 + 0.92 * t**spread))[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1)
    if r.random() < 0.35:
        shell = shell[::-1]
    low = size * r.uniform(0.95, 1.1)
    neck, up = size + r.uniform(0.05, 0.15), r.uniform(0.15, 0.35)
    head = (neck + 0.12, low - up - 0.08)
    if r.random() < 0.5:  # one line for the body
        body = [curve((-size - r.uniform(0.1, 0.25), low + 0.03), (0, low + 0.04), (neck, low + 0.04), head)]
    else:  # a body with a back
        lower = curve(
            (-size - 0.2, low + 0.06), (0, low + 0.1), (neck + 0.05, low + 0.08), (head[0] + 0.08, head[1] + 0.12)
        )
        upper = curve(
            (head[0] + 0.08, head[1] + 0.12),
            (head[0] + 0.06, head[1] - 0.08),
            (neck - 0.02, head[1]),
            (size * 0.9, low - 0.1),
        )
        body = [np.concatenate([lower, upper[1:]])]
    feelers = []
    for spread in (-0.06, 0.07):
        tip = (head[0] + spread + r.normal(0, 0.02), head[1] - r.uniform(0.12, 0.22))
        feelers += [line((head[0] + spread / 3, head[1]), tip)]
    if r.random() < 0.12:
        feelers = feelers[:1]
    strokes = [shell, *body, *feelers] if r.random() < 0.75 else [*body, *feelers, shell]
    if r.random() < 0.2:
        strokes += [dot(r, head[0] + 0.01, head[1] + 0.07, 0.025)]
    return flip(r, strokes, 0.4)


def star(r: Generator) -> list[Stroke]:
    """Five points: the outline, or all in one stroke through the middle; six of two triangles are rare."""
    style = r.random()
    angle = 2 * np.pi * (np.arange(10) / 10 - 0.25)
    circle = np.stack([np.cos(angle), np.sin(angle)], 1) * (1 + r.normal(0, 0.06, (10, 1))) * 0.5
    if style < 0.45:
        corners = circle[::2][[0, 2, 4, 1, 3]]
        start = r.choice([0, 3, 2, 1, 4], p=[0.35, 0.4, 0.1, 0.1, 0.05])
        path = np.roll(corners, -start, 0)[:: 1 if r.random() < 0.6 else -1]
        return [np.concatenate([path, path[:1] + r.normal(0, 0.02, (1, 2))])]
    if style < 0.95:
        inner = np.where(np.arange(10) % 2 == 1, r.uniform(0.36, 0.52), 1.0)[:, None]
        return [ring(r, *(circle * inner), loose=0.02)]
    six = 2 * np.pi * (np.arange(6) / 6 - 0.25)
    points = 0.5 * np.stack([np.cos(six), np.sin(six)], 1)
    return [ring(r, *points[::2]), ring(r, *points[1::2])]


def sun(r: Generator) -> list[Stroke]:
    """A disc and its rays, drawn round about; or one crown of rays. A few rays are forgotten."""
    size = r.uniform(0.2, 0.28)
    strokes = [loop(r, 0, 0, size)]
    start, way = r.normal(0.75, 0.1), 1 if r.random() < 0.75 else -1
    if r.random() < 0.1:
        count = int(r.integers(8, 12))
        turns = start + way * np.arange(2 * count) / (2 * count)
        radius = np.where(np.arange(2 * count) % 2 == 0, size * 1.15, 0.5)
        points = radius[:, None] * np.stack([np.cos(2 * np.pi * turns), np.sin(2 * np.pi * turns)], 1)
        return [*strokes, ring(r, *points)]
    count = int(r.integers(6, 11))
    gap, reach = r.uniform(0.0, 0.08), r.uniform(0.14, 0.26)
    turns = start + way * (np.arange(count) + r.normal(0, 0.1, count)) / count
    if r.random() < 0.3:  # up, down, right, left, then those between
        turns = turns[np.argsort(np.arange(count) % 2, kind="stable")]
    inward = r.random() < 0.15
    for turn in turns:
        if r.random() < 0.04:
            continue
        along = np.array([np.cos(2 * np.pi * turn), np.sin(2 * np.pi * turn)])
        ends = size + gap + r.normal(0, 0.02), size + gap + reach * r.uniform(0.7, 1.2)
        strokes += [line(ends[0] * along, ends[1] * along)[:: -1 if inward else 1]]
    return strokes


def tree(r: Generator) -> list[Stroke]:
    """A cloud on a trunk, a ball on a stick, or a fir."""
    style = r.random()
    trunk, wide = r.uniform(0.3, 0.5), r.uniform(0.05, 0.09)
    if style < 0.45:  # a cloud
        count = int(r.integers(5, 8))
        start, way = r.normal(0.25, 0.06), 1 if r.random() < 0.6 else -1
        parts, ends = [], np.arange(count + 1) + r.normal(0, 0.1, count + 1)
        for first, last in itertools.pairwise(ends):
            q = 2 * np.pi * (start + way * np.interp([0.0, 0.1, 0.9, 1.0], [0, 1], [first, last]) / count)
            d = np.array([0.33, 0.5, 0.5, 0.33]) * (1 + r.normal(0, 0.08))
            parts.append(curve(*np.stack([1.1 * d * np.cos(q), d * np.sin(q)], 1)))
        crown, base = [np.concatenate(parts)], 0.3
    elif style < 0.65:
        crown, base = [loop(r, 0, 0, r.uniform(0.3, 0.42), r.uniform(0.32, 0.48))], 0.33
    else:
        layers = int(r.integers(1, 4))
        crown, base = [], 0.3
        if layers == 1:
            crown = [ring(r, (0, -0.55), (0.36, 0.3), (-0.36, 0.3))]
        elif r.random() < 0.5:  # jagged, in one stroke
            side = []
            for k in range(layers):
                out, y = 0.2 + 0.2 * (k + 1) / layers, -0.5 + 0.8 * (k + 1) / layers
                side += [(out, y)] + ([(0.45 * out, y - 0.02)] if k < layers - 1 else [])
            left = [(-x, y) for x, y in side[::-1]]
            crown = [line((0, -0.55), *side, *left, (r.normal(0, 0.02), -0.55))]
        else:
            for k in range(layers):
                out, y = 0.2 + 0.2 * (k + 1) / layers, -0.5 + 0.8 * (k + 1) / layers
                crown += [ring(r, (0, y - 0.42), (out, y), (-out, y))]
    kind = r.random()
    if kind < 0.5:
        stem = [
            line((-wide, base), (-wide * r.uniform(1, 1.6), base + trunk)),
            line((wide, base), (wide * r.uniform(1, 1.6), base + trunk)),
        ]
    elif kind < 0.85:
        stem = [line((-wide, base), (-wide, base + trunk), (wide, base + trunk), (wide, base))]
    else:
        stem = [line((0, base), (0, base + trunk))]
    strokes = crown + stem if r.random() < 0.75 else stem + crown
    if r.random() < 0.12:
        strokes += [line((-0.4, base + trunk), (0.4, base + trunk))]
    return strokes


THINGS: dict[str, Callable[[Generator], list[Stroke]]] = {
    thing.__name__: thing for thing in (cup, envelope, face, fish, flower, house, snail, star, sun, tree)
}
