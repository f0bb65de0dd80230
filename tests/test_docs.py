"""What the pages say is so: their code runs, their links lead somewhere, their names are those of the package.

A python block of a page is compiled. One that is followed by the line `<!-- output -->` and a text block is a whole
program: it is run, offline, and must print exactly that text.
"""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

import rlm

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
OUTPUT = "<!-- output -->"
FENCE = re.compile(
    r"^(?P<indent> *)```(?P<tag>\w*)[^\n]*\n(?P<body>.*?)^(?P=indent)```[ \t]*$", re.MULTILINE | re.DOTALL
)
LINK = re.compile(r"(?<!!)\[[^\]]*\]\((?P<target>[^)\s]+)\)")
MAKE = re.compile(r"(?:`|^[$ ]*)make (?P<target>[a-z][\w-]*)", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """One fenced block of a page: its tag, its text, and what it must print where that is said."""

    page: str
    line: int
    tag: str
    text: str
    prints: str | None = None

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks_of(page: str, text: str) -> list[Block]:
    found, fences = [], list(FENCE.finditer(text))
    for number, fence in enumerate(fences):
        following, prints = (fences[number + 1] if number + 1 < len(fences) else None), None
        if following is not None and text[fence.end() : following.start()].strip() == OUTPUT:
            prints = _body(following)
        line = text.count("\n", 0, fence.start()) + 1
        found.append(Block(page, line, fence["tag"], _body(fence), prints))
    return found


def _body(fence: re.Match[str]) -> str:
    return re.sub(f"^{fence['indent']}", "", fence["body"], flags=re.MULTILINE)


def anchors_of(text: str) -> set[str]:
    """The anchors that a page's headings make."""
    headings = re.findall(r"^#+ +(.+?) *$", FENCE.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def dead_links(page: Path, text: str) -> list[str]:
    dead = []
    for link in LINK.finditer(FENCE.sub("", text)):
        path, _, anchor = link["target"].partition("#")
        if re.match(r"[a-z]+:", path):
            continue
        there = (page.parent / path).resolve() if path else page
        if not there.exists():
            dead.append(link["target"])
        elif anchor and anchor not in anchors_of(there.read_text(encoding="utf-8")):
            dead.append(link["target"])
    return dead


def unknown_names(text: str) -> set[str]:
    """Names that a block takes from the package's door and that the door does not have."""
    taken: set[str] = set()
    for node in ast.walk(compile(text, "block", "exec", ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "rlm":
            taken.add(node.attr)
        elif isinstance(node, ast.ImportFrom) and node.module == "rlm":
            taken |= {alias.name for alias in node.names}
    return taken - set(rlm.__all__)


def run(block: Block, home: Path) -> str:
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("RLM_", "OPENAI_"))}
    # the threaded side is still a lawful side: a page may show it
    warnings = ["-W", "error", "-W", "ignore::PendingDeprecationWarning"]
    program = home / "block.py"
    program.write_text(block.text, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, *warnings, str(program)],
        cwd=home,
        env=variables,
        capture_output=True,
        text=True,
        timeout=50,
        stdin=subprocess.DEVNULL,
    )
    return done.stdout + done.stderr


BLOCKS = [block for page in PAGES for block in blocks_of(page.name, page.read_text(encoding="utf-8"))]
PYTHON = [block for block in BLOCKS if block.tag == "python"]


@pytest.mark.parametrize("block", PYTHON, ids=str)
def test_a_block_of_code_is_python_and_takes_names_that_exist(block: Block) -> None:
    compile(block.text, str(block), "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    assert unknown_names(block.text) == set()


@pytest.mark.parametrize("block", [block for block in PYTHON if block.prints is not None], ids=str)
def test_a_program_prints_what_its_page_says(block: Block, tmp_path: Path) -> None:
    assert run(block, tmp_path) == block.prints


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    assert dead_links(page, page.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_make_target_that_a_page_names_exists(page: Path) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z][\w-]*):", makefile, re.MULTILINE))
    assert set(MAKE.findall(page.read_text(encoding="utf-8"))) <= targets


def test_the_tree_in_the_design_page_is_the_tree_on_the_disk() -> None:
    (tree,) = (block for block in blocks_of("design.md", (ROOT / "docs/design.md").read_text()) if block.tag == "tree")
    shown = {line.split()[0] for line in tree.text.splitlines() if re.match(r"  \S", line)}
    disk = {f"{item.name}/" if item.is_dir() else item.name for item in (ROOT / "rlm").iterdir()}
    assert shown == disk - {"__pycache__/", "py.typed"}


def test_the_changelog_dates_no_release_that_did_not_happen() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.findall(r"^## (.+)$", text, re.MULTILINE) == ["[Unreleased]"]


PAGE = f"""# A page

See [there](#a-page), [nowhere](missing.md), [no anchor](#b-page) and [outside](https://example.org/).

```python
import rlm; print(1); rlm.nonsense
```

{OUTPUT}
```text
1
```
"""


def test_a_page_is_read_as_the_tests_above_need_it(tmp_path: Path) -> None:
    code, output = blocks_of("page.md", PAGE)
    assert (code.tag, code.line, code.prints, output.tag, output.prints) == ("python", 5, "1\n", "text", None)
    assert unknown_names(code.text) == {"nonsense"}
    assert run(code, tmp_path).startswith("1\nTraceback")
    assert dead_links(tmp_path / "page.md", "[nowhere](missing.md)") == ["missing.md"]
    (tmp_path / "page.md").write_text(PAGE)
    assert dead_links(tmp_path / "page.md", PAGE) == ["missing.md", "#b-page"]
    assert MAKE.findall("say `make test`, or\n    $ make bench\nto make sure") == ["test", "bench"]
