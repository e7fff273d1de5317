"""Reports for people: one HTML file that shows what a model drew, how good it is and how it was made."""

from gendiff.report.html import Code, Facts, Gallery, Highlights, Metrics, Picture, Plots, Section, Text, write_report

__all__ = [
    "Code",
    "Facts",
    "Gallery",
    "Highlights",
    "Metrics",
    "Picture",
    "Plots",
    "Section",
    "Text",
    "write_report",
]
