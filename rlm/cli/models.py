"""`rlm models`: the models that are known by name, their windows and prices, and whether their keys are set."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from rlm.errors import UsageError

if TYPE_CHECKING:
    from rlm.models.providers.registry import Provider

_PRICED_TOKENS = 1000
_HEAD = ("model", "window", "input", "cached", "output", "key")
_LEFT = ("model", "key")


@dataclass(frozen=True)
class _Line:
    """One model. window: tokens. The prices: USD for a million tokens. None: not known."""

    model: str
    window: int | None
    input: float | None
    cached: float | None
    output: float | None
    key: str

    def to_cells(self) -> tuple[str, ...]:
        prices = (self.input, self.cached, self.output)
        window = "unknown" if self.window is None else f"{self.window:,}"
        return self.model, window, *("unknown" if one is None else f"{one:.4g}" for one in prices), self.key


def add_parser(commands: argparse._SubParsersAction[Any]) -> None:
    """Add the command."""
    text = "names, windows, prices, and which keys are set"
    parser = commands.add_parser("models", help=text, description=__doc__)
    parser.add_argument("provider", nargs="?", help="only this one's")
    parser.add_argument("--json", action="store_true", help="print a JSON array")


def run(args: argparse.Namespace) -> int:
    """Print one line for each model; other names of a provider's work as well."""
    from rlm.models.providers.registry import PROVIDERS

    if args.provider is not None and args.provider not in PROVIDERS:
        raise UsageError(f"the provider {args.provider!r} is not known (known: {', '.join(PROVIDERS)})")
    chosen = list(PROVIDERS.values()) if args.provider is None else [PROVIDERS[args.provider]]
    lines = [line for provider in chosen for line in _lines_of(provider)]
    if args.json:
        print(json.dumps([asdict(line) for line in lines], indent=1))
        return 0
    _print_table([line.to_cells() for line in lines])
    print("window in tokens, prices in USD for a million tokens; other names of these providers work as well")
    if find_spec("genai_prices") is None:
        print("prices are not installed: pip install 'rlm-repl[cost]'")
    return 0


def _lines_of(provider: Provider) -> Iterator[_Line]:
    from rlm.models.providers.registry import CONTEXT_WINDOWS

    key = _key_of(provider)
    windows = CONTEXT_WINDOWS.get(provider.name, {})
    if not windows:
        example = provider.example.partition("/")[2]
        yield _Line(provider.example, None, *_prices_of(provider, example), key)
    for name, window in windows.items():
        yield _Line(f"{provider.name}/{name}", window, *_prices_of(provider, name), key)


def _key_of(provider: Provider) -> str:
    """Whether it is set, and by which variable, never what it is."""
    found = next((name for name in provider.key_variables if os.environ.get(name, "").strip()), None)
    if found is not None:
        return f"{found} is set"
    return f"{provider.key_variable} is not set" if provider.needs_key else "none is needed"


def _prices_of(provider: Provider, model: str) -> tuple[float | None, float | None, float | None]:
    """Those of a short query on the server that would be asked: a server of one's own has none."""
    from rlm.core.query import Usage
    from rlm.models.price import find_cost_usd

    def cost(*counts: int) -> float | None:
        return find_cost_usd(provider.find_url(), model, Usage(*counts))

    tokens = _PRICED_TOKENS
    fresh, cached, whole = cost(tokens), cost(tokens, 0, tokens), cost(tokens, tokens)
    if fresh is None or cached is None or whole is None:
        return None, None, None
    million = 1_000_000 / tokens
    return fresh * million, cached * million, (whole - fresh) * million


def _print_table(rows: Sequence[tuple[str, ...]]) -> None:
    table = [_HEAD, *rows]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for row in table:
        cells = zip(_HEAD, row, widths, strict=True)
        padded = (cell.ljust(width) if name in _LEFT else cell.rjust(width) for name, cell, width in cells)
        print("  ".join(padded).rstrip())
