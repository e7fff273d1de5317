r"""Pictures of molecules: structural formulas of valid ones, balls and sticks of the others.

A valid molecule is drawn flat, as chemists do; atoms that an edit has kept lie on green. One that is not valid has no
formula; it is shown as it stands in space, in a red frame: the axes of largest and second largest spread span the page,
and what lies behind is paler. Its bonds are those drawn by the bond rule or, where there are none at all, pairs closer
than 1.25 times the sum of covalent radii.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from xml.sax.saxutils import escape

import numpy as np
from numpy.typing import NDArray
from rdkit import Chem, rdBase

from gendiff.files import atomic_write
from gendiff.modalities.molecules.write import is_valid

if TYPE_CHECKING:
    from PIL import Image

COLORS = {
    1: (228, 231, 235),
    5: (231, 160, 150),
    6: (84, 91, 101),
    7: (58, 104, 214),
    8: (222, 63, 55),
    9: (98, 187, 84),
    14: (205, 165, 115),
    15: (236, 140, 48),
    16: (231, 187, 38),
    17: (60, 170, 72),
    35: (152, 62, 42),
    53: (126, 64, 158),
}
OTHER = (190, 110, 170)
RED, AMBER, GREY, TEXT = (203, 45, 45), (201, 122, 10), (222, 226, 230), (73, 80, 87)

KEPT = (0.78, 0.9, 0.79)
"""Behind the atoms that an edit has kept."""

CELL, CAPTION, GAP = 190, 24, 8  # pixels of a cell of the grid, of the line below it, and between cells


class Ball(NamedTuple):
    """An atom on the page: centre and radius in units of the picture, colour, and paleness 0 (near) to 1 (far)."""

    x: float
    y: float
    radius: float
    color: tuple[int, int, int]
    pale: float


class Stick(NamedTuple):
    """Half a bond on the page: from (x1, y1) to (x2, y2)."""

    x1: float
    y1: float
    x2: float
    y2: float
    width: float
    color: tuple[int, int, int]
    pale: float


def grid_png(
    mols: Sequence[Chem.Mol], path: str | Path, columns: int = 8, legends: Sequence[str] | None = None, scale: int = 2
) -> None:
    """Write a picture grid of molecules as PNG.

    Arguments:
        mols: What to draw, row by row.
        path: Where; written atomically.
        columns: Molecules in a row.
        legends: A line below each; by default QED, or why the molecule is not valid.
        scale: Pixels per unit; a cell is 190 units wide.

    Raises:
        ValueError: if `columns` or `scale` is not positive or the number of legends is not that of the molecules.
        UserError: if the file cannot be written.
    """
    from PIL import Image, ImageDraw

    if columns < 1 or scale < 1:
        raise ValueError(f"`columns` and `scale` must be at least 1, got {columns} and {scale}")
    if legends is not None and len(legends) != len(mols):
        raise ValueError(f"`legends` must have one line per molecule: {len(mols)}, got {len(legends)}")
    columns = max(1, min(columns, len(mols)))
    rows = max(1, -(-len(mols) // columns))
    pitch_x, pitch_y = CELL + GAP, CELL + CAPTION + GAP
    page = Image.new("RGB", ((columns * pitch_x + GAP) * scale, (rows * pitch_y + GAP) * scale), "white")
    pen, font = ImageDraw.Draw(page), _font(11 * scale)
    for index, mol in enumerate(mols):
        x, y = (GAP + index % columns * pitch_x) * scale, (GAP + index // columns * pitch_y) * scale
        side = CELL * scale
        valid = is_valid(mol)
        page.paste(_formula_image(mol, side) if valid else _ball_image(mol, side), (x, y))
        text, color = _caption(mol, valid) if legends is None else (legends[index], TEXT if valid else RED)
        frame = (x, y, x + side - 1, y + side + CAPTION * scale - 1)
        pen.rounded_rectangle(
            frame, 6 * scale, None, GREY if valid else RED, max(1, scale if valid else 3 * scale // 2)
        )
        text = _fit(text, lambda part: pen.textlength(part, font=font), side - 16 * scale)
        pen.text((x + side / 2, y + side + (CAPTION / 2 - 2) * scale), text, color, font, anchor="mm")
    with atomic_write(path, "wb") as file:
        page.save(file, "PNG", optimize=False, compress_level=6)


def svg(mol: Chem.Mol, legend: str = "", width: int = CELL, height: int = CELL) -> str:
    """A molecule as SVG element for HTML: formula if valid, else balls and sticks in a red frame; text is escaped."""
    if not is_valid(mol):
        return ball_and_stick_svg(mol, legend or _caption(mol, False)[0], width, height, frame=True)
    from rdkit.Chem.Draw import rdMolDraw2D

    drawing = rdMolDraw2D.MolDraw2DSVG(width, height)
    picture = _draw_formula(drawing, mol)
    body = picture[picture.index(">", picture.index("<svg")) + 1 : picture.rindex("</svg>")]
    return _svg_element(body, legend, width, height, TEXT)


def ball_and_stick_svg(
    mol: Chem.Mol, legend: str = "", width: int = CELL, height: int = CELL, frame: bool = False
) -> str:
    """A molecule in space as SVG element: shaded balls and sticks seen along the axis of least spread."""
    parts = []
    for shape in _scene(mol, width, height):
        color = _hex(_mix(shape.color, shape.pale))
        if isinstance(shape, Ball):
            circle = f'cx="{shape.x:.1f}" cy="{shape.y:.1f}" r="{shape.radius:.1f}"'
            rim = _hex(_mix(_darker(shape.color), shape.pale))
            parts.append(f'<circle {circle} fill="{color}" stroke="{rim}" stroke-width=".7"/>')
            parts.append(f'<circle {circle} fill="url(#gendiff-shine)"/>')
        else:
            ends = f'x1="{shape.x1:.1f}" y1="{shape.y1:.1f}" x2="{shape.x2:.1f}" y2="{shape.y2:.1f}"'
            parts.append(f'<line {ends} stroke="{color}" stroke-width="{shape.width:.1f}" stroke-linecap="round"/>')
    shine = (
        '<defs><radialGradient id="gendiff-shine" cx=".36" cy=".32" r=".75">'
        '<stop offset="0" stop-color="#fff" stop-opacity=".75"/>'
        '<stop offset=".35" stop-color="#fff" stop-opacity=".12"/>'
        '<stop offset=".7" stop-color="#000" stop-opacity="0"/><stop offset="1" stop-color="#000" stop-opacity=".3"/>'
        "</radialGradient></defs>"
    )
    if frame:
        edge = f'x="1" y="1" width="{width - 2}" height="{height - 2}" rx="6"'
        parts.append(f'<rect {edge} fill="none" stroke="{_hex(RED)}" stroke-width="1.5"/>')
    return _svg_element(shine + "".join(parts), legend, width, height, RED if frame else TEXT)


def _svg_element(body: str, legend: str, width: int, height: int, color: tuple[int, int, int]) -> str:
    """An inline SVG element with a line of text below the picture, which is also its description for screen readers."""
    total = height + (CAPTION if legend else 0)
    short = escape(_fit(legend, lambda part: 6.0 * len(part), width - 8))
    style = f'text-anchor="middle" font-family="sans-serif" font-size="11" fill="{_hex(color)}"'
    text = f'<text x="{width / 2:g}" y="{height + 0.62 * CAPTION:g}" {style}>{short}</text>' if legend else ""
    size = f'viewBox="0 0 {width} {total}" width="{width}" height="{total}"'
    title = f"<title>{escape(legend or 'molecule')}</title>"
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">{title}{body}{text}</svg>'


def _draw_formula(drawing: Any, mol: Chem.Mol) -> Any:
    """Draw the structural formula with RDKit and return the finished picture."""
    from rdkit.Chem import rdDepictor
    from rdkit.Chem.Draw import rdMolDraw2D

    options = drawing.drawOptions()
    unit = min(drawing.Width(), drawing.Height()) / CELL
    options.clearBackground = False
    options.padding = 0.09
    options.fixedBondLength = 30 * unit  # the same for all molecules that are small enough
    options.bondLineWidth = max(1, round(1.5 * unit))
    options.minFontSize = round(10 * unit)
    options.setHighlightColour(KEPT)
    with rdBase.BlockLogs():
        marked = Chem.Mol(mol)
        for index in _kept(mol):
            marked.GetAtomWithIdx(index).SetBoolProp("kept", True)
        flat = Chem.RemoveHs(marked)
        flat.RemoveAllConformers()
        rdDepictor.Compute2DCoords(flat)
        flat = rdMolDraw2D.PrepareMolForDrawing(flat, addChiralHs=False)
        kept = {atom.GetIdx() for atom in flat.GetAtoms() if atom.HasProp("kept")}
        bonds = [b.GetIdx() for b in flat.GetBonds() if {b.GetBeginAtomIdx(), b.GetEndAtomIdx()} <= kept]
        drawing.DrawMolecule(flat, highlightAtoms=sorted(kept), highlightBonds=bonds)
        drawing.FinishDrawing()
    return drawing.GetDrawingText()


def _kept(mol: Chem.Mol) -> list[int]:
    """Return the atoms that an edit has kept, as its property `kept` names them: 1,3-5."""
    text = mol.GetProp("kept") if mol.HasProp("kept") else ""
    runs = [(int(low), int(high or low)) for low, high in re.findall(r"(\d+)(?:-(\d+))?", text)]
    return [index - 1 for low, high in runs for index in range(low, min(high, mol.GetNumAtoms()) + 1) if index > 0]


def _formula_image(mol: Chem.Mol, side: int) -> Image.Image:
    from PIL import Image
    from rdkit.Chem.Draw import rdMolDraw2D

    picture = Image.open(BytesIO(_draw_formula(rdMolDraw2D.MolDraw2DCairo(side, side), mol))).convert("RGBA")
    page = Image.new("RGBA", picture.size, "white")
    page.alpha_composite(picture)
    return page.convert("RGB")


def _ball_image(mol: Chem.Mol, side: int) -> Image.Image:
    """The scene of :func:`ball_and_stick_svg` as pixels, drawn three times as large and scaled down."""
    from PIL import Image, ImageDraw

    page = Image.new("RGB", (3 * side, 3 * side), "white")
    pen = ImageDraw.Draw(page)
    for shape in _scene(mol, 3 * side, 3 * side):
        color = _mix(shape.color, shape.pale)
        if isinstance(shape, Ball):
            ball, mask = _sphere(max(2, round(shape.radius)), color)
            page.paste(ball, (round(shape.x) - ball.width // 2, round(shape.y) - ball.height // 2), mask)
        else:
            pen.line((shape.x1, shape.y1, shape.x2, shape.y2), color, round(shape.width))
            for x, y in ((shape.x1, shape.y1), (shape.x2, shape.y2)):
                pen.circle((x, y), shape.width / 2, color)
    return page.resize((side, side), Image.Resampling.LANCZOS)


def _sphere(radius: int, color: tuple[int, int, int]) -> tuple[Image.Image, Image.Image]:
    """A lit sphere and its mask."""
    from PIL import Image

    y, x = (np.mgrid[: 2 * radius + 1, : 2 * radius + 1] - radius) / radius
    z = np.sqrt(np.clip(1 - x**2 - y**2, 0, None))
    light = np.array([-0.45, -0.55, 0.7]) / np.linalg.norm([-0.45, -0.55, 0.7])
    facing = np.clip(x * light[0] + y * light[1] + z * light[2], 0, 1)[..., None]
    pixels = np.array(color) * (0.62 + 0.42 * facing) + 150 * facing**14
    inside = (x**2 + y**2 <= 1).astype(np.uint8) * 255
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)), Image.fromarray(inside)


def _scene(mol: Chem.Mol, width: int, height: int) -> list[Ball | Stick]:
    """The shapes of a molecule, far ones first."""
    numbers = np.array([atom.GetAtomicNum() for atom in mol.GetAtoms()], int)
    if not len(numbers) or not mol.GetNumConformers():
        return []
    x = _principal(mol.GetConformer().GetPositions())
    if not np.isfinite(x).all():
        return []
    x = np.clip(x, -1e6, 1e6)
    table = Chem.GetPeriodicTable()
    radius = np.array([0.24 if number == 1 else 0.2 + 0.24 * table.GetRcovalent(int(number)) for number in numbers])
    low, high = (x[:, :2] - radius[:, None]).min(0), (x[:, :2] + radius[:, None]).max(0)
    unit = min(0.88 * width / max(high[0] - low[0], 3.5), 0.88 * height / max(high[1] - low[1], 3.5))
    page = (x[:, :2] - (low + high) / 2) * unit * [1, -1] + [width / 2, height / 2]
    depth = x[:, 2]
    pale = 0.55 * (depth.max() - depth) / max(float(np.ptp(depth)), 2.0)
    colors = [COLORS.get(int(number), OTHER) for number in numbers]
    shapes: list[tuple[float, Ball | Stick]] = [
        (depth[i], Ball(page[i, 0], page[i, 1], radius[i] * unit, colors[i], pale[i])) for i in range(len(numbers))
    ]
    for i, j, order in _bonds(mol, x, numbers):
        along = page[j] - page[i]
        across = np.array([-along[1], along[0]]) / max(float(np.hypot(*along)), 1e-9)
        middle = (page[i] + page[j]) / 2
        for shift in (np.arange(order) - (order - 1) / 2) * 0.2 * unit:
            for end, other in ((i, j), (j, i)):
                (x1, y1), (x2, y2) = page[end] + across * shift, middle + across * shift
                color = _darker(colors[end]) if numbers[end] == 1 else colors[end]
                shade, far = (3 * pale[end] + pale[other]) / 4, (3 * depth[end] + depth[other]) / 4 - 0.01
                shapes.append((far, Stick(x1, y1, x2, y2, (0.2 if order == 1 else 0.12) * unit, color, shade)))
    return [shape for _, shape in sorted(shapes, key=lambda item: item[0])]


def _bonds(mol: Chem.Mol, x: NDArray[np.float64], numbers: NDArray[np.int64]) -> list[tuple[int, int, int]]:
    drawn = [
        (bond.GetBeginAtomIdx(), bond.GetEndAtomIdx(), min(3, max(1, int(bond.GetBondTypeAsDouble()))))
        for bond in mol.GetBonds()
    ]
    if drawn or len(numbers) > 500:
        return drawn
    radius = np.array([Chem.GetPeriodicTable().GetRcovalent(int(number)) for number in numbers])
    distance = np.linalg.norm(x[:, None] - x, axis=-1)
    near = np.triu(distance < 1.25 * (radius[:, None] + radius), 1)
    return [(int(i), int(j), 1) for i, j in np.argwhere(near)]


def _principal(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rotate centred positions so that their spread falls from the first axis to the third; skewness decides signs."""
    x = x - x.mean(0)
    if not np.isfinite(x).all():
        return x
    axes = np.linalg.svd(x, full_matrices=True)[2]
    y = x @ axes.T
    y *= np.where((y**3).sum(0) < 0, -1, 1)
    return y * [1, 1, np.sign(np.linalg.det(axes)) or 1]


def _caption(mol: Chem.Mol, valid: bool) -> tuple[str, tuple[int, int, int]]:
    """The default line below a molecule and its colour."""
    if not valid:
        reason = next((mol.GetProp(name) for name in ("invalid", "reason") if mol.HasProp(name)), "")
        reason = re.sub(r"Explicit valence for atom # \d+ (\w+), (\d+).*", r"\1 with \2 bonds", reason)
        return ("invalid: " + reason if reason else "invalid"), RED
    if mol.HasProp("connected") and mol.GetProp("connected") == "false":
        return "several fragments", AMBER
    return (f"QED {mol.GetProp('QED')}" if mol.HasProp("QED") else ""), TEXT


def _fit(text: str, measure: Callable[[str], float], width: float) -> str:
    """Shorten one line of text to a width, with an ellipsis."""
    text = " ".join(text.split())
    if measure(text) <= width:
        return text
    while text and measure(text + "…") > width:
        text = text[:-1]
    return text + "…"


def _font(size: int) -> Any:
    from PIL import ImageFont

    return ImageFont.load_default(size)


def _mix(color: tuple[int, int, int], pale: float) -> tuple[int, int, int]:
    """Blend a colour with white."""
    r, g, b = (round(c + (255 - c) * float(pale)) for c in color)
    return r, g, b


def _darker(color: tuple[int, int, int]) -> tuple[int, int, int]:
    r, g, b = (round(0.72 * c) for c in color)
    return r, g, b


def _hex(color: tuple[int, int, int]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*color)
