"""The report: one self-contained HTML page about a soup directory."""

from lightning_soups.report.page import HELP, write_report

__all__ = ["HELP", "write_report"]
