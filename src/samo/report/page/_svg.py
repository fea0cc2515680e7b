"""Figures as SVG within the page."""

from __future__ import annotations

import io
import re
import warnings
from xml.etree import ElementTree

from markupsafe import Markup
from matplotlib.figure import Figure

from ..figures.style import house_style

# Colours that only mean "ink" or "paper" are left to the page, which has two themes.
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
        prefix: The start of its ids, which must be unique on the page.
        label: The description for screen readers.
        themed: Whether black and white follow the theme of the page. Set it to False if they are
            drawn on colours of the figure.

    Returns:
        An ``svg`` element.
    """
    stream = io.StringIO()
    with house_style(), warnings.catch_warnings():
        # The font may lack characters of a name, or a name may be too long for its panel.
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
    # On a narrow screen a wide figure is scrolled instead of shrunk until it is illegible.
    style = f"max-width:{width:.0f}px;min-width:min({width:.0f}px,30rem)"
    root.attrib |= {"role": "img", "aria-label": label, "style": style}
    return Markup(ElementTree.tostring(root, encoding="unicode"))


def _local(tag: str) -> str:
    return tag.rpartition("}")[2]


def _adapt(element: ElementTree.Element, prefix: str, *, themed: bool) -> None:
    """Adapts an element to a page with other figures and two themes."""
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
