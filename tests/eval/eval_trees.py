"""Small made-up code bases: packages whose docstrings are of words that mean nothing."""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path

WORDS = {
    "river": "delta eddy silt weir ford bank tide reed otter gravel shallow current spring mouth basin".split(),
    "forge": "anvil tongs bellows ember slag ingot quench hammer rivet temper furnace chisel steel coal spark".split(),
    "loom": "warp weft shuttle heddle bobbin selvage thread fringe spindle carded twill linen dye skein reel".split(),
}


def make_tree(root: Path, vocabulary: Mapping[str, list[str]], *, functions: int = 24, seed: int = 1) -> Path:
    """Write one package per name; each function has a docstring of 24 words, four of them shared by all packages."""
    draw = random.Random(seed)
    for package, words in vocabulary.items():
        folder = root / package
        folder.mkdir(parents=True)
        (folder / "__init__.py").write_text('"""Too short."""\n')
        source = []
        for number in range(functions):
            text = " ".join([*draw.choices(words, k=19), "the", "value", "of", "it", f"no{number}"])
            source.append(f'def function_{number}():\n    """{text}."""\n')
        (folder / "work.py").write_text("\n".join(source))
    return root
