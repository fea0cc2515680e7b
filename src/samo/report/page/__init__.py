"""The report: one HTML page of all runs in a directory."""

from ._page import Page, html_page

__all__ = ["Page", "html_page"]
