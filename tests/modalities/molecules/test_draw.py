"""Pictures of molecules: valid ones as formulas, others as they stand, and no text that could break a page."""

import math
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image
from rdkit import Chem

from gendiff.files import UserError
from gendiff.modalities.molecules.draw import CAPTION, CELL, GAP, RED, ball_and_stick_svg, grid_png, svg
from gendiff.modalities.molecules.read import embed_3d
from gendiff.modalities.molecules.write import annotate

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def phenol() -> Chem.Mol:
    mol = embed_3d(Chem.MolFromSmiles("Oc1ccccc1"), 1)
    annotate(mol)
    return mol


def invalid(mol: Chem.Mol, reason: str = "atoms overlap") -> Chem.Mol:
    copy = Chem.Mol(mol)
    for name in list(copy.GetPropNames()):
        copy.ClearProp(name)
    copy.SetProp("invalid", reason)
    return copy


def points(*atoms: tuple[int, float, float, float]) -> Chem.Mol:
    """Atoms without bonds."""
    mol = Chem.RWMol()
    for number, *_ in atoms:
        mol.AddAtom(Chem.Atom(number))
    conformer = Chem.Conformer(len(atoms))
    conformer.SetPositions(np.array([position for _, *position in atoms], float).reshape(-1, 3))
    mol.AddConformer(conformer)
    mol.SetProp("invalid", "")
    return mol.GetMol()


def circles(picture: str) -> np.ndarray:
    """(atoms, 3) x, y, radius of the balls in a picture; each is drawn twice, the second time its shine."""
    found = ElementTree.fromstring(picture).iter(f"{SVG}circle")
    return np.array([[float(circle.get(key, "nan")) for key in ("cx", "cy", "r")] for circle in found])[::2]


def test_valid_molecules_are_formulas_and_others_balls_and_sticks(phenol):
    formula, balls = svg(phenol), svg(invalid(phenol))
    for picture in (formula, balls):
        root = ElementTree.fromstring(picture)
        assert root.tag == f"{SVG}svg"
        assert not picture.startswith("<?xml")
    assert "<circle" not in formula
    assert len(circles(balls)) == phenol.GetNumAtoms()
    frame = "#{:02x}{:02x}{:02x}".format(*RED)
    assert frame in balls
    assert "invalid: atoms overlap" in balls
    assert frame not in formula


def test_text_is_escaped(phenol):
    attack = "</title><script>alert('x')</script>&"
    for picture in (svg(phenol, attack), svg(invalid(phenol, attack)), ball_and_stick_svg(phenol, attack)):
        assert "<script" not in picture
        assert attack in ElementTree.fromstring(picture).findtext(f"{SVG}title", "")


@pytest.mark.parametrize(("width", "height"), [(190, 190), (120, 300)])
def test_projection_shows_the_widest_plane_inside_the_page(phenol, width, height):
    balls = circles(ball_and_stick_svg(phenol, width=width, height=height))
    assert (balls[:, 0] - balls[:, 2]).min() >= 0
    assert (balls[:, 0] + balls[:, 2]).max() <= width
    assert (balls[:, 1] - balls[:, 2]).min() >= 0
    assert (balls[:, 1] + balls[:, 2]).max() <= height
    # phenol is flat, so the picture keeps its proportions: distances on the page are those in space, in one unit
    x = phenol.GetConformer().GetPositions()
    space = np.sort(np.linalg.norm(x[:, None] - x, axis=-1)[np.triu_indices(len(x), 1)])
    page = np.sort(np.linalg.norm(balls[:, None, :2] - balls[:, :2], axis=-1)[np.triu_indices(len(x), 1)])
    np.testing.assert_allclose(page / page.max(), space / space.max(), atol=0.02)


def test_picture_does_not_depend_on_how_the_molecule_lies(phenol):
    turned = Chem.Mol(phenol)
    angle = 1.1
    rotation = np.array([[math.cos(angle), -math.sin(angle), 0], [math.sin(angle), math.cos(angle), 0], [0, 0, 1]])
    turned.GetConformer().SetPositions(phenol.GetConformer().GetPositions() @ rotation[:, [2, 0, 1]].T + 5)
    one, other = (np.sort(circles(ball_and_stick_svg(mol)), axis=0) for mol in (phenol, turned))
    np.testing.assert_allclose(one, other, atol=0.15)


def test_near_balls_cover_far_ones():
    picture = ball_and_stick_svg(points((6, 0, 0, 0), (6, 3, 0.1, 0), (6, 1.4, 1.5, 0.9), (6, 1.4, -1.5, -0.9)))
    fills = [circle.get("fill", "") for circle in ElementTree.fromstring(picture).iter(f"{SVG}circle")][::2]
    paleness = [min(int(fill[k : k + 2], 16) for k in (1, 3, 5)) for fill in fills]
    assert len(fills) == 4
    assert paleness == sorted(paleness, reverse=True)  # the palest, farthest ball is drawn first
    assert paleness[0] > paleness[-1]


def test_without_any_bonds_near_atoms_are_joined():
    assert ball_and_stick_svg(points((6, 0, 0, 0), (8, 1.2, 0, 0))).count("<line") == 2
    assert ball_and_stick_svg(points((6, 0, 0, 0), (8, 3.2, 0, 0))).count("<line") == 0


@pytest.mark.parametrize(
    "mol",
    [
        Chem.MolFromSmiles("C"),
        Chem.MolFromSmiles("[Na+].[Cl-]"),
        Chem.Mol(),
        points((6, 0, 0, 0)),
        points((6, 0, 0, 0), (6, 0, 0, 0)),
        points((6, 0, 0, 0), (1, 1e9, 0, 0)),
        points((6, math.nan, 0, 0), (1, 1, 0, 0)),
        points((118, 0, 0, 0), (92, 1, 1, 1)),
        points(),
        Chem.MolFromSmiles("C(C)(C)(C)(C)C", sanitize=False),
        Chem.MolFromSmiles("C" * 200),
    ],
)
def test_anything_can_be_drawn(mol, tmp_path, capfd):
    ElementTree.fromstring(svg(mol))
    ElementTree.fromstring(ball_and_stick_svg(mol, "x", frame=True))
    grid_png([mol], tmp_path / "a.png", scale=1)
    assert capfd.readouterr().err == ""


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def test_grid_has_a_cell_per_molecule(phenol, tmp_path):
    path = tmp_path / "grid.png"
    grid_png([phenol, invalid(phenol), phenol, phenol, phenol], path, columns=3, legends=list("abcde"), scale=2)
    image = pixels(path)
    wide, high = CELL + GAP, CELL + CAPTION + GAP
    assert image.shape == (2 * (2 * high + GAP), 2 * (3 * wide + GAP), 3)
    for index in range(6):
        top, left = 2 * (index // 3 * high + GAP // 2), 2 * (index % 3 * wide + GAP // 2)
        cell = np.s_[top : top + 2 * high, left : left + 2 * wide]
        assert (image[cell] < 128).all(-1).any() == (index < 5)  # ink
        edge = np.s_[top : top + 2 * high, left : left + 2 * GAP]
        assert (np.abs(image[edge] - RED).sum(-1) < 30).any() == (index == 1)


def test_grid_says_by_default_what_a_molecule_is(phenol, tmp_path):
    grid_png([phenol], tmp_path / "qed.png", scale=1)
    grid_png([phenol], tmp_path / "none.png", legends=[""], scale=1)
    assert (pixels(tmp_path / "qed.png") != pixels(tmp_path / "none.png")).any()
    grid_png([], tmp_path / "empty.png")
    assert pixels(tmp_path / "empty.png").shape[2] == 3


def test_mistakes_are_named_and_leave_no_file(phenol, tmp_path):
    with pytest.raises(ValueError, match="columns"):
        grid_png([phenol], tmp_path / "a.png", columns=0)
    with pytest.raises(ValueError, match="legends"):
        grid_png([phenol], tmp_path / "a.png", legends=["a", "b"])
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="file"):
        grid_png([phenol], tmp_path / "file" / "a.png")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_atoms_that_an_edit_kept_are_marked():
    mol = Chem.AddHs(Chem.MolFromSmiles("CCCO"))
    plain, green = svg(mol), "#C6E5C9"
    assert green not in plain
    mol.SetProp("kept", "1-2,9999")
    marked = svg(mol)
    assert marked.count("<ellipse") - plain.count("<ellipse") == 2
    assert green in marked
    assert not mol.GetAtomWithIdx(0).HasProp("kept")
