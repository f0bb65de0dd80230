"""The task "orphans": to which package does each docstring of a code base belong, once its file name is gone?

The context holds every docstring; only the judge keeps where each came from.
"""

from __future__ import annotations

import json
import random
import re
import sysconfig
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePath
from typing import Any

from rlm.errors import UsageError
from rlm.eval.docstrings import CodeBase, read_code_base

MIN_WORDS = 20
PACKAGES = 12
EXAMPLES_PER_PACKAGE = 25
MAX_ASKED = 3600  # some 220 prompts of sixteen: a few seconds
_MIN_OF_PACKAGE = 10
MARK = "@@ "


@dataclass(frozen=True, slots=True)
class Orphan:
    """One docstring without its file; `package` is for the judge only (None: from none of the packages asked for)."""

    number: int
    text: str
    package: str | None

    @property
    def asked(self) -> bool:
        """Whether it is long enough to be asked about."""
        return word_count(self.text) >= MIN_WORDS


@dataclass(frozen=True, slots=True)
class OrphanTask:
    """A context and a question for a model, and the truth for the judge.

    files, skipped: Python files read, and those left out because they could not be. left_out: docstrings beyond the
    number that was to be asked about. A text that occurs several times is in it once.
    """

    packages: tuple[str, ...]
    examples: tuple[tuple[str, str], ...]
    orphans: tuple[Orphan, ...]
    files: int
    skipped: int
    left_out: int = 0

    @property
    def context(self) -> str:
        """Labelled examples, then the orphans by number, as one text."""
        return "\n".join(
            (
                f"PACKAGES: {', '.join(self.packages)}",
                "LABELLED EXAMPLES",
                *(f"{MARK}{package}\n{_quoted(text)}" for package, text in self.examples),
                "ORPHANS",
                *(f"{MARK}{orphan.number}\n{_quoted(orphan.text)}" for orphan in self.orphans),
            )
        )

    @property
    def question(self) -> str:
        """What is asked, in words that any model can follow."""
        return (
            "The context holds the docstrings of a code base. Its first line names some packages. After the line "
            f"LABELLED EXAMPLES come docstrings with their package, each below a line '{MARK}package'; after the line "
            f"ORPHANS come docstrings whose file name was taken away, each below a line '{MARK}number'. To which of "
            f"the named packages does each orphan of at least {MIN_WORDS} words (str.split) belong? Some orphans come "
            "from elsewhere: name the likeliest package all the same. Give the final answer as a dict from the "
            "orphan's number (as a str) to the name of the package."
        )

    def judge(self, answer: Any) -> Verdict:
        """Compare an answer (a dict, or JSON of one) with the truth."""
        said = _to_mapping(answer)
        asked = [orphan for orphan in self.orphans if orphan.package is not None and orphan.asked]
        pairs = Counter((orphan.package or "", said.get(str(orphan.number), "(none)")) for orphan in asked)
        right = sum(count for (true, guess), count in pairs.items() if true == guess)
        wrong = [(true, guess, count) for (true, guess), count in pairs.items() if true != guess]
        wrong.sort(key=lambda item: (-item[2], item[0], item[1]))
        return Verdict(len(asked), right, sum(orphan.asked for orphan in self.orphans) - len(asked), tuple(wrong))


@dataclass(frozen=True, slots=True)
class Verdict:
    """How good an answer was.

    asked: orphans that come from the packages, right: of these. elsewhere: orphans asked about that have no right
    answer and do not count. confusions: (true package, answered package, how often), most frequent first.
    """

    asked: int
    right: int
    elsewhere: int
    confusions: tuple[tuple[str, str, int], ...]

    @property
    def accuracy(self) -> float:
        """Share of the asked that are right, 0 to 1."""
        return self.right / self.asked if self.asked else 0.0


def make_orphans(path: Path | None = None, seed: int = 7, most: int = MAX_ASKED) -> OrphanTask:
    """Build the task from the code base at `path` (None: the standard library of this Python).

    The packages are the up to twelve top-level directories with the most docstrings of 20 words; where there is only
    one such directory, those inside it, and where there are none, modules. Of each, 25 become examples, or fewer of
    a small one. `most` bounds the orphans that are asked about: what lies beyond is left out. The same code base and
    seed give the same task. Raises `UsageError` where there is too little to ask about.
    """
    root = Path(sysconfig.get_path("stdlib")) if path is None else path
    try:
        code = read_code_base(root)
    except OSError as error:
        raise UsageError(f"--path {root}: {error.strerror}. Name a directory of Python code") from error
    if not code.files:
        raise UsageError(f"--path {root}: no Python files that can be read ({code.skipped} skipped)")
    draw = random.Random(seed)
    items = _once_each(code, root)
    draw.shuffle(items)
    examples = _take_examples(items)
    taken = set(examples)
    rest = [item for item in items if item not in taken]
    kept = _cut(rest, most)
    orphans = tuple(Orphan(number, text, package) for number, (package, text) in enumerate(kept, 1))
    named = sorted({package for package, _ in examples if package})
    labelled = tuple(sorted((package or "", text) for package, text in examples))
    return OrphanTask(tuple(named), labelled, orphans, code.files, code.skipped, len(rest) - len(kept))


def word_count(text: str) -> int:
    """Words between white space."""
    return len(text.split())


def _once_each(code: CodeBase, root: Path) -> list[tuple[str | None, str]]:
    """(package or None, text), every text once: a copy among the orphans would give its example's package away."""
    package_of = _package_names(code, root)
    seen: dict[str, str | None] = {}
    for file, text in code.docstrings:
        seen.setdefault(text, package_of.get(file))
    return [(package, text) for text, package in seen.items()]


def _package_names(code: CodeBase, root: Path) -> dict[str, str]:
    """File -> package, for the files of the packages with the most docstrings that are asked about."""
    long = [PurePath(file).parts for file, text in code.docstrings if word_count(text) >= MIN_WORDS]
    for with_modules in (False, True):
        depth: tuple[str, ...] = ()
        while True:
            counts = Counter(_name_at(parts, depth, with_modules) for parts in long)
            del counts[""]
            ranked = sorted(counts, key=lambda name: (-counts[name], name))
            packages = [name for name in ranked if counts[name] >= _MIN_OF_PACKAGE][:PACKAGES]
            if len(packages) > 1:
                names = {file: _name_at(PurePath(file).parts, depth, with_modules) for file, _ in code.docstrings}
                return {file: name for file, name in names.items() if name in packages}
            if not packages:
                break
            depth = (*depth, packages[0])
    raise UsageError(
        f"--path {root}: too few packages. At least two directories or modules with {_MIN_OF_PACKAGE} docstrings of "
        f"{MIN_WORDS} words each are needed; found {len(long)} such docstrings in {code.files} files"
    )


def _name_at(parts: tuple[str, ...], depth: tuple[str, ...], with_modules: bool) -> str:
    """The name below the directory `depth` to which a file belongs; "" where it belongs to none."""
    if parts[: len(depth)] != depth:
        return ""
    rest = parts[len(depth) :]
    if len(rest) > 1:
        return rest[0]
    return rest[0].removesuffix(".py") if with_modules and rest else ""


def _take_examples(items: list[tuple[str | None, str]]) -> list[tuple[str | None, str]]:
    groups: dict[str, list[tuple[str | None, str]]] = {}
    for package, text in items:
        if package is not None and word_count(text) >= MIN_WORDS:
            groups.setdefault(package, []).append((package, text))
    return [item for group in groups.values() for item in group[: _example_count(len(group))]]


def _example_count(size: int) -> int:
    """25 of a package, but half of it or ten stay to be asked about."""
    return min(EXAMPLES_PER_PACKAGE, max(size // 2, size - _MIN_OF_PACKAGE))


def _cut(items: list[tuple[str | None, str]], most: int) -> list[tuple[str | None, str]]:
    """The items up to the last one of which `most` are asked about."""
    asked = (number for number, (_, text) in enumerate(items, 1) if word_count(text) >= MIN_WORDS)
    last = next(islice(asked, most - 1, None), len(items))
    return items[:last]


def _quoted(text: str) -> str:
    """The text with no line that could pass for a line of the format."""
    return re.sub(r"^(?=@@ |LABELLED EXAMPLES$|ORPHANS$|UNKNOWN$)", " ", text, flags=re.MULTILINE)


def _to_mapping(answer: Any) -> dict[str, str]:
    if isinstance(answer, str):
        found = re.search(r"\{.*\}", answer, re.DOTALL)
        try:
            answer = json.loads(found.group()) if found else {}
        except ValueError:
            answer = {}
    if not isinstance(answer, Mapping):
        return {}
    return {str(number): str(package) for number, package in answer.items()}
