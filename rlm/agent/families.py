"""What a family of models is told otherwise than the rest. Only what has been shown of a family stands here."""

from __future__ import annotations

import re
from typing import NamedTuple


class Family(NamedTuple):
    """Models whose name holds `pattern`. vocabulary: in place of ours; addition: after everything. Empty: none."""

    name: str
    pattern: str
    vocabulary: str = ""
    addition: str = ""


_CALLS = """\
- `context`: the input. The first message says its type and length.
- `llm_query(prompt)`: ask a language model, which sees the prompt and nothing else; returns its answer, a str.
- `llm_query_batched(prompts)`: ask many prompts side by side; returns the answers in order. A failed one begins with \
[ERROR].
- `SHOW_VARS()`: the variables that exist."""

_ANSWER_DICT = f"""\
In the REPL:
{_CALLS}
- `answer`: a dict. Put the final answer into `answer["content"]`, and when it is final set `answer["ready"] = True`."""

_FINAL_TEXT = f"""\
In the REPL:
{_CALLS}
- The final answer: when you are done, write outside of code, on a line of its own, FINAL(your answer), or \
FINAL_VAR(name) for the value of a variable that an earlier cell has assigned."""

_FEW_QUERIES = """\
Each query costs time and money. Put as much into one prompt as belongs together, up to about 200,000 characters: of \
1,000 lines, ask about some 200 groups of 5 and not about each line. What code can find needs no query."""

DEFAULT = Family("default", "")
FAMILIES = (
    # Trained on the prompts of the library of that time: these words are what they know.
    Family("rlm-qwen3-30b", r"rlm-qwen3-30b", vocabulary=_ANSWER_DICT),
    Family("rlm-qwen3-8b", r"rlm-qwen3-8b", vocabulary=_FINAL_TEXT),
    # arXiv 2512.24601, appendix: Qwen3-Coder makes thousands of queries for basic tasks where it is not held back.
    Family("qwen3-coder", r"qwen3-coder", addition=_FEW_QUERIES),
    DEFAULT,
)


def find_family(model: str) -> Family:
    """The family of a model, by its name with or without its provider."""
    return next(family for family in FAMILIES if re.search(family.pattern, model.lower()))
