"""Random numbers of inline cells' own: the host's generator is the host's, and nobody here may seed it."""

from __future__ import annotations

import random
from types import ModuleType


def seeded_random(seed: int) -> ModuleType:
    """What `import random` gives a cell: the module, its functions those of a generator that begins with this seed."""
    own = random.Random(seed)
    module = ModuleType("random", random.__doc__)
    shared = random.random.__self__  # type: ignore[attr-defined]  # the generator behind the module's functions
    for name, value in vars(random).items():
        bound = getattr(value, "__self__", None) is shared
        setattr(module, name, getattr(own, name) if bound else value)
    return module
