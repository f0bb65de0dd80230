"""A sub-model that is a tiny statistical classifier, NOT a language model.

It is complement naive Bayes: a word speaks for a label by how much likelier it is under that label's examples than
under all others. It knows nothing beforehand: all it has are the labelled examples in the prompt, and it errs. It
reads one form of prompt and no other:

    (anything)
    LABELLED EXAMPLES
    @@ label
    text ...
    UNKNOWN
    @@ name
    text ...

and answers one line per unknown, `name: label, else runner-up, margin`; the margin is per known word, 0 a tie.
"""

from __future__ import annotations

import re
from collections import Counter
from functools import lru_cache
from math import log

_SMOOTHING = 0.1
_NAMES = re.compile(r"[A-Za-z_][A-Za-z_0-9]*")
_PARTS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")
_Weights = dict[str, tuple[float, ...]]


def answer(prompt: str) -> str:
    """Classify every unknown of the prompt from the prompt's own examples."""
    _, found, rest = prompt.partition("\nLABELLED EXAMPLES\n")
    examples, separated, unknown = rest.partition("\nUNKNOWN\n")
    if not found or not separated:
        return (
            "I am a word-likelihood classifier: I need the lines LABELLED EXAMPLES and UNKNOWN, and texts below them."
        )
    labels, weights = _fit(examples)
    if len(labels) < 2:
        return "I need labelled examples of at least two labels."
    return "\n".join(_classify(name, text, labels, weights) for name, text in split_entries(unknown))


def split_entries(section: str) -> list[tuple[str, str]]:
    """The entries of a section as (what follows the mark, text)."""
    entries = re.split(r"^@@ ", section, flags=re.MULTILINE)[1:]
    return [(head.strip(), text) for head, _, text in (entry.partition("\n") for entry in entries)]


def words_of(text: str) -> list[str]:
    """Identifiers in lower case, and their parts where they are put together (`max_size`, `TestCase`)."""
    found = []
    for name in _NAMES.findall(text):
        found.append(name.lower())
        if not name.isalpha() or not name[1:].islower():
            found += [part.lower() for part in _PARTS.findall(name)]
    return found


@lru_cache(maxsize=8)  # the prompts of a run repeat the same examples: fitting is then most of the work
def _fit(examples: str) -> tuple[tuple[str, ...], _Weights]:
    """Labels, and for each word of the examples its weight for each label (a log likelihood ratio)."""
    counts: dict[str, Counter[str]] = {}
    for label, text in split_entries(examples):
        counts.setdefault(label, Counter()).update(words_of(text))
    labels = tuple(sorted(counts))
    everything: Counter[str] = Counter()
    for counter in counts.values():
        everything.update(counter)
    rest = _SMOOTHING * len(everything)
    totals = {label: counts[label].total() for label in labels}
    whole = everything.total()
    bases = [log((whole - totals[label] + rest) / (totals[label] + rest)) if everything else 0.0 for label in labels]
    weights = {
        word: tuple(
            log((counts[label][word] + _SMOOTHING) / (count - counts[label][word] + _SMOOTHING)) + base
            for label, base in zip(labels, bases, strict=True)
        )
        for word, count in everything.items()
    }
    return labels, weights


def _classify(name: str, text: str, labels: tuple[str, ...], weights: _Weights) -> str:
    known = [weights[word] for word in words_of(text) if word in weights]
    scores = [sum(column) for column in zip(*known, strict=True)] if known else [0.0] * len(labels)
    order = sorted(range(len(labels)), key=lambda n: -scores[n])
    margin = (scores[order[0]] - scores[order[1]]) / max(1, len(known))
    return f"{name}: {labels[order[0]]}, else {labels[order[1]]}, {margin:.4f}"
