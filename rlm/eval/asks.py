"""The prompts of the scripted cells: in words that any model can follow, in a form that the oracle reads by rule."""

from __future__ import annotations

from dataclasses import dataclass

TEXT = "\nTEXT:\n"
NONE = "NONE"
UNKNOWN = "unknown"
_FACT = "Answer from the text below alone. {question}\nAnswer with {form} and nothing else; if it is not said, NONE."

LABELS: dict[str, tuple[str, ...]] = {
    "abbreviation": ("What do the letters", "What is the full form of", "What is the short form of"),
    "description": ("Why did", "How does one repair", "What is the meaning of"),
    "entity": ("Which animal is seen near", "What kind of tree grows by", "Which colour has"),
    "human": ("Who owned", "Whose idea was", "Which painter drew"),
    "location": ("Where is", "In which country lies", "Which street leads to"),
    "number": ("How many people visit", "How tall is", "In what year was built"),
}
"""Label -> how the questions begin whose answer is of that kind. The rule behind the entries, and the oracle's."""

LABEL_HEAD = (
    "Each line of the text below is `number | date | user | question`. Say of each question what kind of thing its "
    f"answer is: {', '.join(LABELS)} (human: a person; description: an explanation; entity: an animal, a plant, a "
    "colour or another thing).\nAnswer with one line for each entry, `number: kind`, and nothing else." + TEXT
)


@dataclass(frozen=True, slots=True)
class Fact:
    """A kind of fact: how it is asked for, how a text states it (at the start of a line), and what it looks like."""

    question: str
    statement: str
    form: str

    def head(self, subject: str) -> str:
        """All of a prompt that stands before the text."""
        return _FACT.format(question=self.question.format(subject), form=self.form) + TEXT

    def line(self, subject: str, value: str) -> str:
        """The fact as a line of a text."""
        return f"{self.statement.format(subject)}{value}.\n"


CODE = Fact("What is the access code of {}?", "The access code of {} is ", "the code")
DESIGNER = Fact("Who designed {}?", "{} was designed by ", "the name")
BIRTHPLACE = Fact("In which town was {} born?", "{} was born in ", "the name of the town")
FACTS = (CODE, DESIGNER, BIRTHPLACE)
