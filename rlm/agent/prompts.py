"""What the root model is told. Built by functions, so that every word is where it is used."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from rlm.agent.families import DEFAULT, Family
from rlm.core.preview import describe_value


def build_system_prompt(
    *,
    recursion: bool,
    output_chars: int,
    tools: Mapping[str, Callable[..., Any]],
    budget: bool = False,
    family: Family = DEFAULT,
) -> str:
    """The system prompt. `recursion`: whether `rlm_query` starts a run of its own or is a plain query."""
    words = [family.vocabulary or _VOCABULARY, _RECURSION if recursion else _NO_RECURSION]
    if budget:
        words.append(_BUDGET)
    parts = [_INTRODUCTION, "\n".join(words)]
    if tools:
        parts.append("Functions for this task:\n" + "\n".join(_tool_line(name, tools[name]) for name in tools))
    parts.append(_WORKING.format(output_chars=output_chars))
    if family.addition:
        parts.append(family.addition)
    return "\n\n".join(parts)


_INTRODUCTION = """\
You answer a question over an input that may be far longer than you can read. The input is the variable `context` \
in a Python REPL. You see it only through the code you write: in each turn write Python in a ```repl fence, it is \
run, and you are shown what it printed."""

_VOCABULARY = """\
In the REPL:
- `context`: the input. The first message says its type and length. Several files are a list of dicts, each with \
'name' and 'text'.
- `rlm_grep(pattern, lines_around=0)`: search `context` for a regular expression, all files at once. Returns matches \
in order (at most 1,000, and it says so), each a str with `.text` (its line, and so many around it), `.line`, `.start` \
(offset in characters) and `.name` (of the file). Costs nothing: search before you ask.
- `llm_query(prompt)`: ask a language model; returns its answer, a str. It sees the prompt and nothing else: put the \
text and the question in. A prompt may be long (about 100,000 characters is safe).
- `llm_batch_query(prompts)`: ask many prompts side by side; returns the answers in order. A failed one has \
`.ok == False` and begins with [ERROR]; the others are unharmed. A loop over `llm_query` waits for each in turn, so \
use a batch (or `await asyncio.gather(*[llm_query_async(p) for p in prompts])`).
- `FINAL(value)`: give the final answer and end. `FINAL_VAR("name")`: the same with the value of a variable.
- `SHOW_VARS()`: the variables that exist."""

_RECURSION = """\
- `rlm_query(prompt)`: give a hard part to a child that works as you do, with a REPL of its own in which the prompt \
is `context`. `rlm_batch_query(prompts)` runs several side by side. Each takes many queries: use them sparingly."""

_NO_RECURSION = "- `rlm_query(prompt)`: here the same as `llm_query(prompt)`."

_BUDGET = """\
- `BUDGET()`: a dict of what is left of the budget of this run and its queries. A query that it does not allow fails."""

_WORKING = """\
How to work:
- Variables, functions and imports stay from turn to turn. A variable assigned before an error is kept.
- What is shown is cut after about {output_chars:,} characters: print parts and summaries, keep the rest in variables.
- Look first (type, length, some samples), then choose how to split the input, then query over all of it.
- Let code do what code can do (search, count, split), and queries what needs understanding.
- Check the result before you give it: no answer that you have not seen."""


def _tool_line(name: str, tool: Callable[..., Any]) -> str:
    try:
        signature = str(inspect.signature(tool))
    except (TypeError, ValueError):  # a builtin without one
        signature = "(...)"
    doc = " ".join((inspect.getdoc(tool) or "").split())
    return f"- `{name}{signature}`" + (f": {doc}" if doc else "")


def build_first_message(query: str, context: Any) -> str:
    """The question, with the type, length and a preview of the context."""
    return f"The question:\n{query}\n\n{describe_context(context)}\n\nBegin by looking at `context`."


def describe_context(context: Any) -> str:
    """Type, length, structure and a preview of at most some 4,000 characters, whatever the size of the context."""
    if context is None:
        return "There is no input: `context` is None, and the question is all there is."
    return f"`context` is {describe_value(context)}"


def to_child_query(prompt: str, chars: int = 4000) -> str:
    """The question of a child run whose `context` is the whole prompt: the prompt itself, or its two ends."""
    if len(prompt) <= chars:
        return prompt
    half = chars // 2
    return (
        "The request is in `context`, whole. Find what it asks for, and answer that. It begins:\n"
        f"{prompt[:half]}\n[... {len(prompt) - 2 * half:,} characters ...]\nand ends:\n{prompt[-half:]}"
    )


LAST_REQUEST = (
    "This was the last turn ({why}). Give your best answer now, from what you have seen: either as plain text, or as "
    "one ```repl cell that calls FINAL(...) on what your variables hold."
)
NEAR_BUDGET = "Of the budget only {left} are left: come to an answer soon."
NO_CODE = (
    "Your reply held no code to run and no final answer. Write Python in a ```repl fence; when you have the answer, "
    "call FINAL(answer) in it."
)
EMPTY_REPLY = "Your reply was empty. Write Python in a ```repl fence, or give the answer with FINAL(answer) in it."
OPEN_THINKING = "Your reply was thinking that was never closed, so nothing of it was run. " + NO_CODE
CUT_REPLY = "Your reply was cut at its token limit: write shorter cells."
CUT_CELL = CUT_REPLY + " The last cell was cut off with it, so it was not run."
CUT_FINAL = "Your final answer was cut off, so it was not taken."
REFUSED = (
    "You have declined. You can read the input: it is `context` in the REPL, and Python in a ```repl fence reads it. "
    "If you will not answer the question, say why with FINAL(reason)."
)
REPEATED = "That is the same as before, with the same outcome: do something else, or give the answer by FINAL(answer)."
FAILED_FINAL = "Your final answer was not taken, because a cell of the same reply failed."


def other_language(tags: tuple[str, ...]) -> str:
    """What to say where the only fences are in languages the REPL does not run."""
    shown = ", ".join(dict.fromkeys(tags))
    return f"Only Python runs here, and your fence was marked {shown}. Write Python in a ```repl fence."
