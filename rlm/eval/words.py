"""Made-up sentences and names, drawn from a generator of random numbers; one sentence, one line."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from random import Random
from typing import TypeVar

T = TypeVar("T")

_WHO = (
    "The miller", "A grey heron", "The night porter", "Her youngest aunt", "The ferry", "An old clerk", "The choir",
    "A pedlar", "The gardener", "His neighbour", "The piano tuner", "A stray dog", "The last guest", "The watchman",
    "A travelling dentist", "The schoolmaster", "The baker's cart", "A lame horse", "The postmistress", "The twins",
)  # fmt: skip
_DOES = (
    "waited for", "looked past", "never mentioned", "came back to", "walked around", "wrote about", "dreamed of",
    "complained about", "kept away from", "laughed at", "took care of", "was tired of", "asked about", "drew a map of",
)  # fmt: skip
_WHAT = (
    "the wet meadow", "a broken lantern", "the market stalls", "an empty barn", "the late train", "a row of poplars",
    "the winter stores", "a letter without a stamp", "the church clock", "some borrowed ladders", "the river bank",
    "a basket of quinces", "the narrow stairs", "an unpaid bill", "the copper kettle", "a torn umbrella",
)  # fmt: skip
_WHEN = (
    "until it was dark", "before the rain", "as on every Tuesday", "for no good reason", "with great patience",
    "in spite of the cold", "once more", "and nobody minded", "while the bells rang", "after supper", "all the same",
    "at the end of the week", "without a word", "in the first days of May",
)  # fmt: skip
_HEADS = (
    "Vel", "Mar", "Tor", "Hal", "Bran", "Ost", "Kel", "Dun", "Fen", "Gar", "Lor", "Nor", "Pel", "Ras", "Sel", "Tam",
    "Ul", "Wes", "Yar", "Zel", "Cor", "Eb", "Hol", "Ing", "Jar", "Lun", "Mil", "Rov", "Stav", "Thal",
)  # fmt: skip
_TAILS = (
    "brook", "ford", "ham", "mouth", "wick", "stead", "haven", "bury", "field", "gate", "holm", "leigh", "mere",
    "moor", "ness", "shaw", "thorpe", "well", "worth", "combe", "dale", "cliff", "barrow", "hurst",
)  # fmt: skip
_ENDS = (
    "anno", "berg", "cutt", "dell", "eska", "fors", "gren", "hald", "ikov", "jens", "kari", "lund", "mont", "nell",
    "orsa", "pike", "quist", "rand", "sten", "tova", "ulme", "vane", "wirth", "yeld",
)  # fmt: skip
_FIRST = (
    "Ada", "Bruno", "Clara", "Dorian", "Edith", "Felix", "Greta", "Hugo", "Irma", "Jonas", "Karin", "Leopold", "Mira",
    "Nils", "Olga", "Paul", "Quentin", "Rosa", "Simon", "Tilda", "Ulrich", "Vera", "Walter", "Yvonne",
)  # fmt: skip
_KINDS = ("Bridge", "Tower", "Library", "Station", "Theatre", "Lighthouse", "Observatory", "Aqueduct")
_PLACES = (
    "harbour office", "customs house", "town archive", "grain store", "signal box", "water tower", "night school",
    "boat shed", "post office", "old mint", "rope works", "lock house", "fish market", "toll gate", "tram depot",
    "weather station",
)  # fmt: skip

TOWNS = tuple(head + tail for head in _HEADS for tail in _TAILS)
PEOPLE = tuple(f"{first} {head}{end}" for head in _HEADS for end in _ENDS for first in _FIRST)
BUILDINGS = tuple(f"{head}{end} {kind}" for head in _HEADS for end in _ENDS for kind in _KINDS)
SITES = tuple(f"the {place} in {town}" for place in _PLACES for town in TOWNS)


def pick(rng: Random, items: Sequence[T]) -> T:
    """One of the items. By `random()` alone, whose numbers are the same in every version of Python."""
    return items[int(rng.random() * len(items))]


def pick_several(rng: Random, items: Sequence[T], count: int) -> list[T]:
    """So many different items, in random order; all of them where there are fewer."""
    count = min(count, len(items))
    chosen: dict[int, None] = {}
    while len(chosen) < count:
        chosen[int(rng.random() * len(items))] = None
    return [items[index] for index in chosen]


def filler(rng: Random) -> Iterator[str]:
    """Sentences about nothing, each a line, without end."""
    draw = rng.random
    who, does, what, when = len(_WHO), len(_DOES), len(_WHAT), len(_WHEN)
    while True:
        yield (
            f"{_WHO[int(draw() * who)]} {_DOES[int(draw() * does)]} {_WHAT[int(draw() * what)]} "
            f"{_WHEN[int(draw() * when)]}.\n"
        )
