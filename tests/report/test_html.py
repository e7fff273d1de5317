import base64
import re
from html.parser import HTMLParser

import defusedxml.ElementTree
import numpy as np
import pytest

from gendiff.files import UserError
from gendiff.metrics import Metric, Table, Value
from gendiff.report import Code, Facts, Gallery, Highlights, Metrics, Picture, Plots, Text, plots, write_report

HOSTILE = '"><script>alert("x")</script><img src=http://evil.example/a onerror=alert(1)>&lt;{{ 7 * 7 }}'
SVG = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 9 9"><script>alert(1)</script><circle r="4"/></svg>'
PNG = b"\x89PNG\r\n\x1a\n" + bytes(20)
ALLOWED = (
    "html head meta title style body main header footer h1 h2 p section div b i span dl dt dd pre code img figure "
    "figcaption table thead tbody tr th td svg g line circle details summary"
).split()
ONE = Value(0.5, 0.4, 0.6, 10)


class Page(HTMLParser):
    """Collects what a browser would see: elements with their attributes, and text."""

    def __init__(self, html):
        super().__init__()
        self.elements, self.text = [], ""
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data + " "


def report(folder, sections, title="Report", subtitle=""):
    path = folder / "report.html"
    write_report(path, title, sections, subtitle)
    return Page(path.read_text("utf-8"))


def everything(text):
    metrics = [
        Metric("a", text, ONE, ONE, text, "higher", text),
        Metric("b", "share", ONE, None, "%", None, text),
        Metric("c", "length", Value(2.0, 1.0, 3.0, 4), Value(1.0, 1.0, 1.0, 4), "Å", "lower", ""),
    ]
    return [
        Highlights({text: text}),
        Facts(text, {text: text, "seed": 0}),
        Metrics(text, Table(metrics, {text: text}, text)),
        Gallery(text, [Picture(SVG, text, text), Picture(PNG, text)], text),
        Plots(text, [Picture(SVG.encode(), text)], text),
        Text(text, f"{text}\n\n{text}"),
        Code(text, text, text),
    ]


@pytest.mark.parametrize("hostile", [HOSTILE, "</style><style>*{}", "' onload='alert(1)", "C[C@H](N)<script>"])
def test_text_from_data_stays_text(tmp_path, hostile):
    page = report(tmp_path, everything(hostile), hostile, hostile)
    plain = report(tmp_path, everything("x"), "x", "x")
    assert [tag for tag, _ in page.elements] == [tag for tag, _ in plain.elements]  # no element more or less
    assert [sorted(attributes) for _, attributes in page.elements] == [sorted(a) for _, a in plain.elements]
    assert page.text.count(hostile) >= 15
    assert hostile in [attributes.get("alt") for _, attributes in page.elements]


def test_the_page_stands_alone(tmp_path):
    page = report(tmp_path, everything(HOSTILE), HOSTILE)
    html = (tmp_path / "report.html").read_text("utf-8")
    assert {tag for tag, _ in page.elements} <= set(ALLOWED)
    for _, attributes in page.elements:
        assert not [name for name in attributes if name.startswith("on") or name in ("href", "style", "srcset")]
        assert attributes.get("src", "data:").startswith("data:")
    style = html[html.index("<style>") : html.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style
    assert "http" not in style
    policy = next(a["content"] for tag, a in page.elements if tag == "meta" and "http-equiv" in a)
    assert "default-src 'none'" in policy
    assert "script-src" not in policy


def test_pictures_come_through_unchanged_and_never_as_markup(tmp_path):
    page = report(tmp_path, [Gallery("", [Picture(SVG), Picture(PNG, "b", "invalid"), Picture(b"\xff\xd8\xff\xe0")])])
    sources = [attributes["src"] for tag, attributes in page.elements if tag == "img"]
    kinds = [re.match(r"data:(\S+);base64,(.*)", source).groups() for source in sources]
    assert [kind for kind, _ in kinds] == ["image/svg+xml", "image/png", "image/jpeg"]
    assert [base64.b64decode(data) for _, data in kinds][:2] == [SVG.encode(), PNG]
    assert [a.get("class") for tag, a in page.elements if tag == "figure"] == [None, "flagged", None]


def test_photos_keep_their_colours_on_a_dark_page(tmp_path):
    page = report(tmp_path, [Gallery("", [Picture(PNG), Picture(PNG, photo=True)])])
    assert [a.get("class") for tag, a in page.elements if tag == "img"] == [None, "photo"]
    html = (tmp_path / "report.html").read_text()
    assert re.findall(r"(\S+) { filter: invert", html) == ["img:not(.photo)"]


@pytest.mark.parametrize("image", [b"", "text", b"GIF89a", "<html><svg>", b"\x89PNG"])
def test_what_is_no_picture_is_refused_and_leaves_nothing(tmp_path, image):
    with pytest.raises(ValueError, match="SVG, PNG or JPEG"):
        write_report(tmp_path / "report.html", "", [Gallery("", [Picture(image)])])
    assert list(tmp_path.iterdir()) == []


def test_a_table_shows_its_numbers_and_bars(tmp_path):
    table = Table(
        [
            Metric(
                "valid", "valid", Value(0.82, 0.81, 0.83, 9), Value(0.98, 0.97, 0.99, 7), "%", "higher", "what it is"
            ),
            Metric("length", "length", Value(3.0, 2.0, 4.0, 9), Value(1.0, 0.5, 1.5, 7), "Å", "lower"),
            Metric("energy", "energy", Value(-3.0, -4.0, 2.0, 9), Value(1.0, 0.5, 1.5, 7), "kcal/mol"),
        ],
        {"bonds": "lookup"},
    )
    page = report(tmp_path, [Metrics("Quality", table)])
    words = page.text.split()
    for text in ("98.0", "82.0", "1.00", "3.00", "↑", "↓", "lookup"):
        assert text in words
    assert words.index("98.0") < words.index("82.0")
    assert "what it is" in page.text
    centres = [float(attributes["cx"]) for tag, attributes in page.elements if tag == "circle"]
    assert centres == [
        98,
        82,
        25,
        75,
    ]  # per cent on their own scale, lengths to the largest; none where numbers are negative


def test_empty_sections_make_a_page(tmp_path):
    sections = [
        Highlights({}),
        Facts("facts", {}),
        Metrics("metrics", Table([])),
        Gallery("gallery", []),
        Plots("plots", []),
        Text("text", ""),
        Code("code", ""),
    ]
    assert "Nothing to show." in report(tmp_path, sections).text
    assert "Report" in report(tmp_path, []).text


def test_a_report_that_cannot_be_written_is_a_users_error(tmp_path):
    with pytest.raises(UserError, match="is a directory"):
        write_report(tmp_path, "title", [])
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError):
        write_report(tmp_path / "file" / "report.html", "title", [])


def is_svg(data):
    return defusedxml.ElementTree.fromstring(data, forbid_dtd=False).tag.endswith("svg")


@pytest.mark.parametrize("label", ["heavy atoms", "$\\frac{", "<script>", "logP (Å²) $x"])
def test_plots_are_svg_whatever_the_labels(label):
    rng = np.random.default_rng(0)
    assert is_svg(plots.histogram(rng.normal(size=100), rng.normal(size=50), label, label))
    assert is_svg(plots.bars({"C": 9, label: 3}, {"C": 2, "N": 1}, label, label))
    assert is_svg(plots.loss_curve(range(200), rng.random(200), label))


def test_plots_of_nothing_little_and_broken_numbers():
    for numbers in ([], [1.0], [2.0, 2.0], [np.nan, np.inf, 1.0]):
        assert is_svg(plots.histogram(numbers, numbers, "", ""))
        assert is_svg(plots.loss_curve(range(len(numbers)), numbers))
    assert is_svg(plots.bars({}, {}, "", ""))
    assert is_svg(plots.bars({3: 1, 1: 2}, dict.fromkeys(range(200), 1), "", ""))


def test_plots_are_reproducible():
    assert plots.bars({1: 2, 3: 4}, {1: 1}, "sizes", "atoms") == plots.bars({1: 2, 3: 4}, {1: 1}, "sizes", "atoms")


def test_losses_are_read_from_a_log(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text("epoch,step,loss,validation\n0,10,2.5,\n0,19,,3.0\n0,20,1.5,\n")
    steps, losses = plots.read_losses(path)
    assert steps.tolist() == [10, 20]
    assert losses.tolist() == [2.5, 1.5]
    assert plots.read_losses(path, "validation")[1].tolist() == [3.0]
    with pytest.raises(UserError, match="no column 'accuracy'; there are: epoch, step"):
        plots.read_losses(path, "accuracy")
    with pytest.raises(UserError, match="no such file"):
        plots.read_losses(tmp_path / "missing.csv")
