"""The formats that a soup can be saved in: one file each, chosen by the output's name."""

from lightning_soups.outputs.choosing import check, is_soup, read, read_provenance, soups_in, write

__all__ = ["check", "is_soup", "read", "read_provenance", "soups_in", "write"]
