"""Figures as SVG that stands within the page."""

from __future__ import annotations

import io
import re
import warnings
from xml.etree import ElementTree

from markupsafe import Markup
from matplotlib.figure import Figure

from ..style import house_style

# Colours that say nothing but "ink" or "paper" are left to the page, which has two themes.
_THEMED = {
    "#000000": "var(--ink)",
    "#ffffff": "var(--card)",
    "#555555": "var(--muted)",
    "#cccccc": "var(--line)",
    "#dddddd": "var(--grid)",
    "#e4e4e4": "var(--grid)",
    "#0072b2": "var(--blue)",
}
_COLOUR = re.compile(r"#[0-9a-fA-F]{6}\b")
_DIGITS = re.compile(r"(-?\d+\.\d{2})\d+")
_REFERENCE = re.compile(r"url\(#([^)]+)\)")


def inline(figure: Figure, prefix: str, label: str, *, themed: bool = True) -> Markup:
    """Draws a figure for the page.

    Args:
        figure: The figure.
        prefix: What its ids begin with: they must not be those of another figure on the page.
        label: What it shows, for those who do not see it.
        themed: Whether black and white are to follow the page's theme. Not where they lie on
            colours of the figure's own.

    Returns:
        An ``svg`` element.
    """
    stream = io.StringIO()
    with house_style(), warnings.catch_warnings():
        # Names may have letters that the font lacks, or be too long for their panel.
        warnings.simplefilter("ignore", UserWarning)
        figure.savefig(stream, format="svg", metadata={"Date": None})
    root = ElementTree.fromstring(stream.getvalue())
    for parent in list(root.iter()):
        for child in list(parent):
            if _local(child.tag) in {"metadata", "title"}:
                parent.remove(child)
    for element in root.iter():
        _adapt(element, prefix, themed=themed)
    width = float(root.attrib.pop("width").removesuffix("pt")) * 96 / 72
    root.attrib.pop("height")
    # On a narrow screen a wide figure is scrolled, and not shrunk until it cannot be read.
    style = f"max-width:{width:.0f}px;min-width:min({width:.0f}px,30rem)"
    root.attrib |= {"role": "img", "aria-label": label, "style": style}
    return Markup(ElementTree.tostring(root, encoding="unicode"))


def _local(tag: str) -> str:
    return tag.rpartition("}")[2]


def _adapt(element: ElementTree.Element, prefix: str, *, themed: bool) -> None:
    """Makes one element fit for a page that holds other figures, and has two themes."""
    element.tag = _local(element.tag)
    attributes = {}
    for name, value in element.attrib.items():
        name = _local(name)
        if name == "id":
            value = prefix + value
        elif name == "href" and value.startswith("#"):
            value = f"#{prefix}{value[1:]}"
        value = _REFERENCE.sub(rf"url(#{prefix}\1)", value)
        if themed and name in {"style", "fill", "stroke"}:
            value = _COLOUR.sub(lambda m: _THEMED.get(m[0].lower(), m[0]), value)
        if name in {"d", "x", "y", "transform", "points"}:
            value = _DIGITS.sub(r"\1", value)
        attributes[name] = value
    element.attrib.clear()
    element.attrib.update(attributes)
