"""The call shapes: cells in which a query is asked in every way that Python has, and what their last line must show.

The model answers `<prompt>`, and `<prompt model max_tokens>` where a query asks for them.
"""

from __future__ import annotations

from dataclasses import dataclass
from textwrap import dedent
from typing import Any


@dataclass(frozen=True)
class Shape:
    """`refused_inline`: a word of the sentence with which the inline sandbox refuses it; `""`: works everywhere."""

    name: str
    code: str
    expected: Any
    queries: int
    refused_inline: str = ""
    needs: tuple[str, ...] = ()


SHAPES: list[Shape] = []
EARLIER_CELL = """
greeting = "early"
def ask_with_greeting(p):
    return llm_query(f"{greeting} {p}")
async def ask_later(p):
    return await llm_query_async(p)
asks = llm_query
"""


def shape(name: str, expected: Any, queries: int, code: str, refused: str = "", needs: tuple[str, ...] = ()) -> None:
    SHAPES.append(Shape(name, dedent(code), expected, queries, refused, needs))
