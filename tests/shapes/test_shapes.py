"""Every way in which a cell may call a query function works, with the same result on every side and loop."""

from __future__ import annotations

import importlib.util

import pytest
from environment.env_sides import Shared
from shapes.shape_corpus import EARLIER_CELL, SHAPES, Shape


def test_the_corpus_has_at_least_42_shapes_with_different_names():
    assert len({shape.name for shape in SHAPES}) == len(SHAPES) >= 42


@pytest.fixture(scope="module")
def prepared(repl: Shared) -> Shared:
    repl.good(EARLIER_CELL)
    return repl


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.name)
def test_shape(shape: Shape, prepared: Shared) -> None:
    for module in shape.needs:
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is not installed")
    result = prepared.cell(shape.code)
    if shape.refused_inline and not prepared.side.process:
        assert result.status == "error", result.to_text()
        assert result.error is not None
        for word in ("await", "llm_batch_query", "process", shape.refused_inline):
            assert word in result.error.traceback, result.error.traceback
        assert result.queries == ()
    else:
        assert result.status == "ok", result.to_text()
        assert result.value == repr(shape.expected)
        assert len(result.queries) == shape.queries
    assert (result.stdout, result.stderr, result.abandoned, result.notice) == ("", "", 0, "")
    assert result.path == prepared.side.name
    # whatever a shape did, the environment goes on
    assert prepared.good("llm_query('after')").value == "'<after>'"
