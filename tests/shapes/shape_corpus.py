"""All call shapes, in one list."""

from __future__ import annotations

import shapes.shapes_of_code
import shapes.shapes_of_words  # noqa: F401 -- both fill the registry
from shapes.shape_registry import EARLIER_CELL, SHAPES, Shape

__all__ = ["EARLIER_CELL", "SHAPES", "Shape"]
