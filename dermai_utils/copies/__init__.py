"""Copies of the data: fetch the official archives, unpack zips, and find out which layout it is."""

from pathlib import Path

from dermai_utils.copies.fetch import fetch_official
from dermai_utils.copies.finding import COLUMNS, Copy, commonest, find
from dermai_utils.copies.layouts import LAYOUTS, Layout

NEAR_DUPLICATES = Path(__file__).with_name("near_duplicates.csv")  # image_a, image_b, score

__all__ = ["COLUMNS", "LAYOUTS", "NEAR_DUPLICATES", "Copy", "Layout", "commonest"]
__all__ += ["fetch_official", "find"]
