"""Formats of preference files: one table, detected from the columns, with errors that name file, row and column."""

from prefloop.data.formats.loading import Loaded, faulty, load, load_usable
from prefloop.data.formats.table import FORMATS, Format
from prefloop.data.formats.writing import shape, to_row, unpaired
from prefloop.data.records import split

__all__ = ["FORMATS", "Format", "Loaded", "faulty", "load", "load_usable", "shape", "split", "to_row", "unpaired"]
