"""What the tests of the cache and of its file have in common."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from rlm.core.query import Completion, Request, Usage
from rlm.models.base import Model

WHOLE = Completion("text \ud800 ☃", "m-1", Usage(1, 2, 3, 4), "length", "openai", 0.5, 3)


def ask(model: Model, *prompts: str, **more: Any) -> list[str]:
    async def main() -> list[str]:
        return [(await model.complete(Request(prompt, **more))).text for prompt in prompts]

    return asyncio.run(main())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "answers.db"


def rows(path: Path) -> int:
    connection = sqlite3.connect(path)
    try:
        return int(connection.execute("SELECT count(*) FROM answers").fetchone()[0])
    finally:
        connection.close()
