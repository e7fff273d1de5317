r"""Drawings in SVG as strokes of points: paths, lines, polygons, rectangles, circles, ellipses, under any transform.

A file is a sketch or, if it has groups `<g class="sketch" data-word="cat">` as gendiff writes them, holds one in each,
in the coordinates of the group and so to the last digit. Each subpath is a stroke. Text, scripts, definitions, what is
hidden, and rectangles without an outline (backgrounds) are left aside. A film (`<g class="film">`) is no drawing.

Curves become points on them, evenly in their parameter. Cut into n pieces, a cubic Bézier curve with control points
:math:`p_0 \dots p_3` is at most

.. math:: \varepsilon \le \frac{6}{8 n^2} \max(|p_0 - 2 p_1 + p_2|, |p_1 - 2 p_2 + p_3|)

away from its chords (the second derivative bounds the error of linear interpolation); n is the smallest that keeps this
below the tolerance, a share of the larger side of the box around all control points of the sketch. Quadratic curves and
arcs are cubic ones first, the arcs in pieces of at most a quarter (off by less than 0.03 % of the radius).

The parser expands no entity and opens no other file; a document that defines an entity is refused. The attribute lists
that KanjiVG has in its head are fine.
"""

from __future__ import annotations

import cmath
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gendiff.files import read_bytes
from gendiff.modalities.sketches.read.raw import FAR, MAX_COORDINATE, NOT_FINITE, Bad, Raw, Unusable, clean

MAX_BYTES = 64 << 20  # of a file
MAX_DEPTH = 256  # of nested elements
MAX_DEFAULTS = 4096  # characters of all default values of attributes, which every element gets

MOST = 1e100
"""Arcs of which a number, or its inverse, is larger are straight: their squares and quotients are finite below."""

TOLERANCE = 0.002
"""How far points may lie off a curve, as a share of the larger side of the box."""

_ASIDE = {"defs", "symbol", "clipPath", "mask", "marker", "pattern", "metadata", "text", "foreignObject", "style"}
_ASIDE |= {"script", "title", "desc"}
_NUMBER = re.compile(r"[\s,]*([-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?)")
_FLAG = re.compile(r"[\s,]*([01])")
_COMMAND = re.compile(r"[\s,]*([MmZzLlHhVvCcSsQqTtAa])")
_REST = re.compile(r"[\s,]*")
_TRANSFORM = re.compile(r"[\s,]*(\w+)\s*\(([^()]*)\)")

Affine = tuple[float, float, float, float, float, float]
"""x' = a x + c y + e, y' = b x + d y + f."""

IDENTITY: Affine = (1.0, 0.0, 0.0, 1.0, 0.0, 0.0)

Piece = tuple[complex, ...]
"""The next point of a line, or the next two control points and the end of a cubic curve; x + iy."""


def parse_svg(path: Path, tolerance: float, max_points: int) -> Iterator[Raw | Bad]:
    """Sketches of a file; what cannot be parsed is one record."""
    from defusedxml import DefusedXmlException
    from defusedxml.ElementTree import DefusedXMLParser, ParseError

    content = read_bytes(path, MAX_BYTES)
    drawing = _Drawing(tolerance, max_points)
    parser = DefusedXMLParser(target=drawing, forbid_dtd=False, forbid_entities=True, forbid_external=True)
    parser.parser.AttlistDeclHandler = drawing.default
    broken = ""
    try:
        parser.feed(content)
        parser.close()
    except DefusedXmlException:
        broken = "an XML entity is defined: files with entities are refused"
    except Unusable as error:
        broken = str(error)
    except (ParseError, ValueError, LookupError) as error:
        broken = f"not XML: {error}"
    yield from drawing.records(broken)


class _Open(NamedTuple):
    """What is known inside an open element: its transform, whether it is a sketch, has lines, and is hidden."""

    affine: Affine
    is_sketch: bool
    outlined: bool
    hidden: bool


class _Sketch:
    """A sketch on its way: its strokes, or why it cannot be used."""

    def __init__(self, attributes: Mapping[str, str]) -> None:
        self.word = attributes.get("data-word", "")
        self.has_pen = attributes.get("data-pen") != "false"
        self.strokes: list[list[Piece]] = []
        self.count = 0  # of points so far, if every curve is one
        self.reason = ""


class _Drawing:
    """What the parser calls: gathers the strokes of each sketch."""

    def __init__(self, tolerance: float, max_points: int) -> None:
        self.tolerance, self.max_points = tolerance, max_points
        self.stack: list[_Open] = []
        self.aside = 0  # depth inside an element that is left aside
        self.defaults = 0
        self.whole = _Sketch({})  # what is outside of groups
        self.groups: list[_Sketch] = []
        self.inside = False  # of a group

    def default(self, element: str, name: str, kind: str, value: str | None, required: bool) -> None:
        """Meet the declaration of an attribute."""
        self.defaults += len(value or "")
        if self.defaults > MAX_DEFAULTS:
            raise Unusable(f"attributes with defaults of over {MAX_DEFAULTS:,} characters")

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        """Meet the beginning of an element."""
        if len(self.stack) + self.aside >= MAX_DEPTH:
            raise Unusable(f"nested over {MAX_DEPTH} deep")
        tag = tag.rpartition("}")[2]
        if not self.stack:
            if tag != "svg" and not self.aside:
                raise Unusable(f"not SVG: the document is <{clean(tag, 40)}>")
            self.whole.word = self.whole.word or attributes.get("data-word", "")
        kinds = attributes.get("class", "").split() if tag == "g" else []
        style = dict(part.split(":", 1) for part in attributes.get("style", "").split(";") if ":" in part)
        shown = {name.strip(): value.strip() for name, value in (attributes | style).items()}
        above = self.stack[-1] if self.stack else _Open(IDENTITY, False, False, False)
        visibility = shown.get("visibility", "inherit")
        hidden = above.hidden if visibility == "inherit" else visibility != "visible"
        unseen = "plot" in kinds or (hidden and "sketch" in kinds) or shown.get("display") == "none"
        if self.aside or tag in _ASIDE or unseen:
            self.aside += 1
            return
        outlined = shown["stroke"] != "none" if "stroke" in shown else above.outlined
        if "sketch" in kinds and not self.inside:
            self.groups.append(_Sketch(attributes))
            self.inside = True
            self.stack.append(_Open(IDENTITY, True, outlined, hidden))
            return
        sketch = self.groups[-1] if self.inside else self.whole
        affine = above.affine
        try:
            if "film" in kinds:
                raise Unusable("a film of how sketches come about: read the file of the samples instead")
            affine = _times(affine, _transform(attributes.get("transform", "")))
            drawn = not hidden and (outlined or tag != "rect")
            if drawn and not sketch.reason and (self.inside or not self.groups):
                for stroke in _shape(tag, attributes, self.max_points):
                    sketch.count += len(stroke)
                    if sketch.count > self.max_points:
                        raise Unusable(_too_many(self.max_points))
                    sketch.strokes.append([tuple(_apply(affine, point) for point in piece) for piece in stroke])
        except Unusable as error:
            sketch.reason = sketch.reason or str(error)
        self.stack.append(_Open(affine, False, outlined, hidden))

    def end(self, tag: str) -> None:
        """Meet the end of an element."""
        if self.aside:
            self.aside -= 1
        elif self.stack.pop().is_sketch:
            self.inside = False

    def data(self, text: str) -> None:
        """Meet text, which is no part of a drawing."""

    def close(self) -> None:
        """Meet the end of the document."""

    def records(self, broken: str) -> Iterator[Raw | Bad]:
        """The sketches; the last one is `broken` for a reason, if any."""
        sketches = self.groups or [self.whole]
        if broken and (self.groups and not self.inside):
            sketches.append(_Sketch({}))
        sketches[-1].reason = broken or sketches[-1].reason
        for number, sketch in enumerate(sketches, 1):
            if sketch.reason:
                yield Bad(number, clean(sketch.word, 40), sketch.reason)
            else:
                yield _flatten(number, sketch, self.tolerance)


def _too_many(max_points: int) -> str:
    return f"too many points: over the bound of {max_points:,} (max_points)"


def _flatten(number: int, sketch: _Sketch, tolerance: float) -> Raw | Bad:
    """The points on the strokes of a sketch."""
    controls = np.array([point for stroke in sketch.strokes for piece in stroke for point in piece], complex)
    numbers = controls.view(float)
    if not (np.abs(numbers) <= MAX_COORDINATE).all():
        kind = FAR if np.isfinite(numbers).all() else NOT_FINITE
        return Bad(number, clean(sketch.word, 40), kind)
    side = max(np.ptp(controls.real), np.ptp(controls.imag)) if len(controls) else 0.0
    parts = [_points(stroke, tolerance * float(side)) for stroke in sketch.strokes]
    sizes = np.array([len(part) for part in parts], np.int64)
    points = np.concatenate([*parts, np.zeros(0, complex)])
    pen = np.zeros(len(points), bool)
    pen[np.cumsum(sizes) - 1] = True
    coordinates = np.stack([points.real, points.imag], 1)
    ends = pen if sketch.has_pen else None
    words, names = [sketch.word or None], [sketch.word]
    return Raw(np.array([number]), np.array([len(points)]), coordinates, ends, words, names=names)


def _points(stroke: Sequence[Piece], error: float) -> NDArray[np.complex128]:
    points = [stroke[0][0]]
    for piece in stroke[1:]:
        if len(piece) == 1:
            points.append(piece[0])
            continue
        p0, (p1, p2, p3) = points[-1], piece
        bend = max(abs(p0 - 2 * p1 + p2), abs(p1 - 2 * p2 + p3))
        pieces = max(1, math.ceil(math.sqrt(0.75 * bend / error))) if error > 0 else 1
        t = np.arange(1, pieces) / pieces
        s = 1 - t
        points += (s**3 * p0 + 3 * s * s * t * p1 + 3 * s * t * t * p2 + t**3 * p3).tolist()
        points.append(p3)
    return np.array(points, complex)


def _times(outer: Affine, inner: Affine) -> Affine:
    """The transform that applies `inner` and then `outer`."""
    a, b, c, d, e, f = outer
    u, v, w, z, x, y = inner
    return a * u + c * v, b * u + d * v, a * w + c * z, b * w + d * z, a * x + c * y + e, b * x + d * y + f


def _apply(affine: Affine, point: complex) -> complex:
    if affine == IDENTITY:
        return point  # what gendiff writes has no other
    a, b, c, d, e, f = affine
    return complex(a * point.real + c * point.imag + e, b * point.real + d * point.imag + f)


def _transform(text: str) -> Affine:
    """The transform of an attribute, the last one applied first."""
    total, place = IDENTITY, 0
    while match := _TRANSFORM.match(text, place):
        place = match.end()
        name, numbers = match[1], _Scanner(match[2]).numbers()
        if name == "matrix" and len(numbers) == 6:
            a, b, c, d, e, f = numbers
            step: Affine = (a, b, c, d, e, f)
        elif name == "translate" and len(numbers) in (1, 2):
            step = (1, 0, 0, 1, numbers[0], numbers[1] if len(numbers) > 1 else 0)
        elif name == "scale" and len(numbers) in (1, 2):
            step = (numbers[0], 0, 0, numbers[-1], 0, 0)
        elif name == "rotate" and len(numbers) in (1, 3):
            turn, about = cmath.rect(1, math.radians(numbers[0] % 360)), complex(*(numbers[1:] or (0, 0)))
            shift = about - turn * about
            step = (turn.real, turn.imag, -turn.imag, turn.real, shift.real, shift.imag)
        elif name == "skewX" and len(numbers) == 1:
            step = (1, 0, math.tan(math.radians(numbers[0] % 360)), 1, 0, 0)
        elif name == "skewY" and len(numbers) == 1:
            step = (1, math.tan(math.radians(numbers[0] % 360)), 0, 1, 0, 0)
        else:
            raise Unusable(f"an unknown transform: {clean(match[0].strip(), 60)}")
        total = _times(total, step)
    if text[place:].strip(" ,\t\r\n"):
        raise Unusable(f"an unknown transform: {clean(text[place:].strip(), 60)}")
    return total


def _shape(tag: str, attributes: dict[str, str], max_points: int) -> list[list[Piece]]:
    """The strokes of an element in its own coordinates; none if it is not a shape."""

    def length(name: str) -> float:
        text = attributes.get(name, "0").strip()
        match = _NUMBER.fullmatch(text.removesuffix("px"))
        if not match:
            raise Unusable(f"a length is no number: {name}={clean(text, 40)!r}")
        return float(match[1])

    if tag == "path":
        strokes = _Scanner(attributes.get("d", "")).path(max_points)
        # a point that gendiff wrote as a line to itself
        return [stroke[:1] for stroke in strokes] if attributes.get("class") == "dot" else strokes
    if tag in ("polyline", "polygon"):
        numbers = _Scanner(attributes.get("points", "")).numbers()
        if len(numbers) % 2:
            raise Unusable(f"bad points: a <{tag}> has an odd number of coordinates")
        points: list[Piece] = [(complex(x, y),) for x, y in zip(numbers[::2], numbers[1::2], strict=True)]
        return [points + points[:1] * (tag == "polygon")] if points else []
    if tag == "line":
        return [[(complex(length("x1"), length("y1")),), (complex(length("x2"), length("y2")),)]]
    if tag == "rect":
        x, y, w, h = map(length, ("x", "y", "width", "height"))
        corners = [(0, 0), (w, 0), (w, h), (0, h), (0, 0)]
        return [[(complex(x + right, y + down),) for right, down in corners]] if w > 0 and h > 0 else []
    if tag in ("circle", "ellipse"):
        middle = complex(length("cx"), length("cy"))
        rx, ry = (length("r"),) * 2 if tag == "circle" else (length("rx"), length("ry"))
        return [[(middle + rx,), *_turn(middle, rx, ry, 0.0, 0.0, 2 * math.pi)]] if rx > 0 and ry > 0 else []
    return []


def _turn(middle: complex, rx: float, ry: float, tilt: float, start: float, sweep: float) -> list[Piece]:
    """An arc of an ellipse as cubic curves of at most a quarter.

    The control points of an arc of the unit circle over the angle a lie on the tangents of its ends, 4/3 tan(a/4) away.
    """
    pieces = max(1, math.ceil(abs(sweep) / (math.pi / 2) - 1e-9))
    angle = sweep / pieces
    reach, turn = 4 / 3 * math.tan(angle / 4), cmath.rect(1, tilt)

    def place(unit: complex) -> complex:
        return middle + turn * complex(rx * unit.real, ry * unit.imag)

    arcs: list[Piece] = []
    for number in range(pieces):
        first, last = (cmath.rect(1, start + angle * (number + end)) for end in (0, 1))
        arcs.append((place(first * (1 + 1j * reach)), place(last * (1 - 1j * reach)), place(last)))
    return arcs


def _arc(start: complex, rx: float, ry: float, tilt: float, large: bool, clockwise: bool, end: complex) -> list[Piece]:
    """An arc from point to point, as paths have them.

    Turned by -tilt and with its axes scaled to 1, the ellipse is a unit circle through both points; its middle lies on
    the perpendicular bisector of the chord. Axes too short for the chord are made longer.
    """
    if start == end:
        return []
    rx, ry = abs(rx), abs(ry)
    numbers = (rx, ry, tilt, start.real, start.imag, end.real, end.imag)
    if not rx or not ry or not all(abs(x) < MOST for x in (*numbers, 1 / rx, 1 / ry)):
        return [(end,)]
    turn = cmath.rect(1, tilt)

    def unit(point: complex) -> complex:
        point /= turn
        return complex(point.real / rx, point.imag / ry)

    half = unit(end - start) / 2
    if not abs(half):
        return [(end,)]
    grow = max(1.0, abs(half))
    rx, ry, half = rx * grow, ry * grow, half / grow
    side = -1 if large == clockwise else 1
    offset = side * 1j * half / abs(half) * math.sqrt(max(0.0, 1 - abs(half) ** 2))  # from the middle of the chord
    first, last = cmath.phase(-half - offset), cmath.phase(half - offset)
    sweep = (last - first) % (2 * math.pi)
    if not clockwise:
        sweep -= 2 * math.pi
    shift = half + offset
    middle = start + turn * complex(rx * shift.real, ry * shift.imag)
    arcs = _turn(middle, rx, ry, tilt, first, sweep)
    return [*arcs[:-1], (*arcs[-1][:2], end)]


class _Scanner:
    """Reads the numbers and commands of an attribute."""

    def __init__(self, text: str) -> None:
        self.text, self.place = text, 0

    def take(self, pattern: re.Pattern[str]) -> str:
        """The next word of a pattern, "" if there is none."""
        match = pattern.match(self.text, self.place)
        if not match:
            return ""
        self.place = match.end()
        return match[1]

    def number(self, pattern: re.Pattern[str] = _NUMBER) -> float:
        """The next number."""
        word = self.take(pattern)
        if not word:
            raise self.error()
        return float(word)

    def point(self) -> complex:
        """The next two numbers."""
        return complex(self.number(), self.number())

    def numbers(self) -> list[float]:
        """All numbers, and nothing else."""
        numbers = []
        while word := self.take(_NUMBER):
            numbers.append(float(word))
        self.finish()
        return numbers

    def finish(self) -> None:
        """Refuse anything that is left."""
        match = _REST.match(self.text, self.place)
        if match and match.end() < len(self.text):
            raise self.error()

    def error(self) -> Unusable:
        rest = clean(self.text[self.place : self.place + 20].strip(), 20)
        return Unusable(
            f"bad path data: at character {self.place + 1:,}, {rest!r}" if rest else "bad path data: cut short"
        )

    def path(self, max_points: int) -> list[list[Piece]]:
        """The strokes of a path."""
        strokes: list[list[Piece]] = []
        here = first = 0j
        curve = ""  # the command before, in capitals
        control = 0j  # its last control point
        command, count = "", 0
        open_stroke = False
        while True:
            word = self.take(_COMMAND)
            if word:
                command = word
            elif not command or command in "Zz" or not _NUMBER.match(self.text, self.place):
                break
            elif command in "Mm":
                command = "L" if command == "M" else "l"  # more points after a move are lines
            if not strokes and command not in "Mm":
                raise Unusable("bad path data: a path begins with M")
            kind = command.upper()
            origin = 0j if command.isupper() else here
            count += 1
            if count > max_points:
                raise Unusable(_too_many(max_points))
            if kind == "M":
                here = first = origin + self.point()
                strokes.append([(here,)])
                open_stroke, curve = True, kind
                continue
            if not open_stroke:  # after Z, a stroke goes on from where the last one began
                strokes.append([(first,)])
                open_stroke = True
            pieces: list[Piece]
            if kind == "Z":
                pieces = [(first,)] if here != first or len(strokes[-1]) == 1 else []
                open_stroke = False
            elif kind == "L":
                pieces = [(origin + self.point(),)]
            elif kind == "H":
                pieces = [(complex(origin.real + self.number(), here.imag),)]
            elif kind == "V":
                pieces = [(complex(here.real, origin.imag + self.number()),)]
            elif kind in "CS":
                mirrored = 2 * here - control if curve in ("C", "S") else here
                one = origin + self.point() if kind == "C" else mirrored
                control, end = origin + self.point(), origin + self.point()
                pieces = [(one, control, end)]
            elif kind in "QT":
                mirrored = 2 * here - control if curve in ("Q", "T") else here
                control = origin + self.point() if kind == "Q" else mirrored
                end = origin + self.point()
                pieces = [(here + 2 / 3 * (control - here), end + 2 / 3 * (control - end), end)]
            else:
                rx, ry, tilt = self.number(), self.number(), math.radians(self.number())
                large, clockwise = self.number(_FLAG) == 1, self.number(_FLAG) == 1
                pieces = _arc(here, rx, ry, tilt, large, clockwise, origin + self.point())
            strokes[-1] += pieces
            if pieces:
                here = pieces[-1][-1]
            curve = kind
        self.finish()
        # a move without anything after it draws nothing, unless it is all there is: a dot
        drawn = [stroke for stroke in strokes if len(stroke) > 1]
        return drawn or strokes[:1]
