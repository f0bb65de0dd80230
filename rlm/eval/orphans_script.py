"""A root for the task "orphans" that follows a script: the replies a model might give, fixed beforehand.

The cells know the form of the context and of the sub-model's answers, and nothing about any code base.
"""

from __future__ import annotations

_LOOK = """\
I look at the input first.
```repl
print(type(context).__name__, len(context), "characters")
print(context[:400])
```
"""

_EXAMPLES = """\
The form is plain. I take the examples and the orphans apart.
```repl
import re

def entries(section):
    parts = re.split(r"^@@ ", section, flags=re.MULTILINE)[1:]
    return [(head.strip(), text) for head, _, text in (part.partition("\\n") for part in parts)]

head, _, rest = context.partition("\\nLABELLED EXAMPLES\\n")
labelled, _, unlabelled = rest.partition("\\nORPHANS\\n")
examples = entries(labelled)
orphans = {number: text for number, text in entries(unlabelled) if len(text.split()) >= MIN_WORDS}
print(len(examples), "examples,", len({label for label, _ in examples}), "packages,", len(orphans), "orphans to place")
```
"""

_MAP = '''\
Now the map: sixteen orphans to a prompt, with all the examples, thirty-two prompts to a batch.
```repl
ASK = """Say to which package each unknown docstring belongs, judging by the labelled examples alone.
Answer one line per unknown, nothing else: `number: package, else runner-up, margin`; margin: 0 a tie, 1 certain."""

def prompt_for(shown, numbers):
    lines = [ASK, "LABELLED EXAMPLES"]
    lines += ["@@ " + label + "\\n" + text[:600].strip() for label, text in shown]
    lines += ["UNKNOWN", *("@@ " + number + "\\n" + orphans[number][:1000].strip() for number in numbers)]
    return "\\n".join(lines)

def read(answer):
    found = re.findall(r"^(\\d+): (.+), else (.+), (-?[0-9.]+)$", answer, re.MULTILINE)
    return {number: (label, other, float(margin)) for number, label, other, margin in found}

votes = {}
numbers = list(orphans)
prompts = [prompt_for(examples, numbers[n:n + 16]) for n in range(0, len(numbers), 16)]
for n in range(0, len(prompts), 32):
    for answer in llm_batch_query(prompts[n:n + 32]):
        votes.update(read(answer))
print(len(prompts), "prompts,", len(votes), "votes")
```
'''

_RECHECK = """\
The closest votes I ask again one by one: only the two packages in question, and their surest orphans as examples too.
```repl
surest = {}
for number in sorted(votes, key=lambda number: -votes[number][2]):
    surest.setdefault(votes[number][0], []).append(number)

changed = 0
for number in sorted(votes, key=lambda number: (votes[number][2], number))[:12]:
    pair = votes[number][:2]
    shown = [(label, text) for label, text in examples if label in pair]
    shown += [(label, orphans[other]) for label in pair for other in surest.get(label, [])[:25] if other != number]
    again = read(llm_query(prompt_for(shown, [number])))
    if number in again:
        changed += again[number][0] != votes[number][0]
        votes[number] = again[number]
print(changed, "of 12 changed")
```
"""

_REDUCE = """\
All votes are in.
```repl
FINAL({number: label for number, (label, _, _) in votes.items()})
```
"""


def make_script(min_words: int) -> list[str]:
    """The replies of the scripted root, one per turn; orphans of fewer than `min_words` words are left aside."""
    return [_LOOK, _EXAMPLES.replace("MIN_WORDS", str(min_words)), _MAP, _RECHECK, _REDUCE]
