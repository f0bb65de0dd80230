"""Scripted roots: the replies a model might give to a task, fixed beforehand.

They are made from the question and the size of a part, and from nothing else: the truth of a task does not reach them.
"""

from __future__ import annotations

from rlm.eval.asks import LABEL_HEAD, NONE, UNKNOWN, Fact
from rlm.eval.task import BATCH


def needle_script(head: str, size: int) -> list[str]:
    """Ask about every part; believe only a value that its part holds."""
    return [_LOOK_AT_TEXT, _fill(_SPLIT, SIZE=size), _fill(_SEARCH, HEAD=head), _fill(_MOST_FREQUENT)]


def counts_script(size: int) -> list[str]:
    """Ask for the kind of every entry, and count in code."""
    return [_LOOK_AT_TEXT, _fill(_SPLIT, SIZE=size), _fill(_LABEL, HEAD=LABEL_HEAD), _COUNT]


def pairs_script(size: int, kinds: tuple[str, str]) -> list[str]:
    """Ask for the kind of every entry, and pair the users in code."""
    return [*counts_script(size)[:-1], _fill(_PAIR, FIRST=kinds[0], SECOND=kinds[1])]


def documents_script(first: tuple[Fact, str], second: Fact, size: int) -> list[str]:
    """Two hops: ask about all documents in groups, then about each one that names what was found."""
    fact, subject = first
    return [
        _LOOK_AT_DOCUMENTS,
        _fill(_GROUP, SIZE=size),
        _fill(_FIRST_HOP, HEAD=fact.head(subject)),
        _fill(_SECOND_HOP, HEAD=second.head("{}")),
    ]


def _fill(cell: str, **values: object) -> str:
    for name, value in {"BATCH": BATCH, "NONE": NONE, "UNKNOWN": UNKNOWN, **values}.items():
        cell = cell.replace(f"<{name}>", repr(value))
    return cell


_LOOK_AT_TEXT = """\
I look at the input first.
```repl
print(type(context).__name__, len(context), "characters,", context.count("\\n"), "lines")
print(context[:300])
```
"""

_SPLIT = """\
It is too long to read. I split it where lines end.
```repl
def split(text, size):
    parts, start = [], 0
    while start < len(text):
        end = len(text) if len(text) - start <= size else text.rfind("\\n", start, start + size) + 1
        parts.append(text[start:end])
        start = end
    return parts

parts = split(context, <SIZE>)
print(len(parts), "parts")
```
"""

_SEARCH = """\
Now the same question about every part. A value that its part does not hold is made up, and does not count.
```repl
HEAD = <HEAD>
found = []
for n in range(0, len(parts), <BATCH>):
    batch = parts[n:n + <BATCH>]
    for part, answer in zip(batch, llm_batch_query([HEAD + part for part in batch])):
        value = answer.strip().strip(".")
        if value and value != <NONE> and value in part:
            found.append(value)
print(found)
```
"""

_MOST_FREQUENT = """\
```repl
FINAL(max(found, key=found.count) if found else <UNKNOWN>)
```
"""

_LABEL = """\
I have the kind of every entry said, part by part.
```repl
import re

HEAD = <HEAD>
kinds = {}
for n in range(0, len(parts), <BATCH>):
    for answer in llm_batch_query([HEAD + part for part in parts[n:n + <BATCH>]]):
        kinds.update(re.findall(r"^(\\d+): *(\\w+)", answer, re.MULTILINE))
print(len(kinds), "entries have a kind")
```
"""

_COUNT = """\
Counting is for code.
```repl
from collections import Counter
FINAL(dict(Counter(kinds.values())))
```
"""

_PAIR = """\
Which users have which kinds, and which of them make pairs, is for code.
```repl
has = {}
for line in context.splitlines():
    number, _, user, _ = line.split(" | ", 3)
    has.setdefault(user, set()).add(kinds.get(number))
users = sorted(has)
FINAL([[a, b] for a in users for b in users if a < b and (
    (<FIRST> in has[a] and <SECOND> in has[b]) or (<SECOND> in has[a] and <FIRST> in has[b]))])
```
"""

_LOOK_AT_DOCUMENTS = """\
I look at the documents first.
```repl
print(len(context), "documents,", sum(len(document["text"]) for document in context), "characters")
print(context[0]["name"], context[0]["text"][:300])
```
"""

_GROUP = """\
I put them together in groups that fit into a prompt.
```repl
def sheet(document):
    return "# " + document["name"] + "\\n" + document["text"]

groups, group, size = [], [], 0
for document in context:
    text = sheet(document)
    if group and size + len(text) > <SIZE>:
        groups.append("".join(group))
        group, size = [], 0
    group.append(text)
    size += len(text)
groups.append("".join(group))
print(len(groups), "groups")
```
"""

_FIRST_HOP = """\
First who it is. A name that its group does not hold is made up, and does not count.
```repl
HEAD = <HEAD>
names = []
for n in range(0, len(groups), <BATCH>):
    batch = groups[n:n + <BATCH>]
    for group, answer in zip(batch, llm_batch_query([HEAD + group for group in batch])):
        name = answer.strip().strip(".")
        if name and name != <NONE> and name in group:
            names.append(name)
person = max(names, key=names.count) if names else None
print(person)
```
"""

_SECOND_HOP = """\
Then the documents that name this person, one by one.
```repl
towns = []
for document in context:
    if person is not None and person in document["text"]:
        town = llm_query(<HEAD>.replace("{}", person) + sheet(document)).strip().strip(".")
        if town and town != <NONE> and town in document["text"]:
            towns.append(town)
FINAL(max(towns, key=towns.count) if towns else <UNKNOWN>)
```
"""
