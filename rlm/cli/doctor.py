"""`rlm doctor`: what is installed, which side runs, what confines cells, and whether it works here."""

from __future__ import annotations

import argparse
import os
import platform
import sys
import warnings
from collections.abc import Sequence
from importlib import metadata
from typing import Any

from rlm import __version__
from rlm.errors import UsageError

_NEEDED = ("anyio", "httpx2", "greenlet")
_OPTIONAL = ("httptools", "uvloop", "genai-prices", "rich", "trustme", "nest-asyncio", "trio")
_TRY_SECONDS = 30.0


def add_parser(commands: argparse._SubParsersAction[Any]) -> None:
    """Add the command."""
    parser = commands.add_parser("doctor", help="what is installed and whether it works", description=__doc__)
    parser.add_argument("--model", help='ask it one tiny query, e.g. "openai/gpt-5-mini"')
    parser.add_argument("--base-url", help="address of its server, where that is not the provider's own")
    parser.add_argument("-v", "--verbose", action="store_true", help="show tracebacks of failures")


def run(args: argparse.Namespace) -> int:
    """Print one line per finding. 0 where rlm is usable here, else 1."""
    from rlm.cli.doctor_model import ask_model, look_at_keys, look_at_transport

    if args.base_url is not None and args.model is None:
        raise UsageError("--base-url goes with --model")
    report = _Report()
    _look_at_versions(report)
    _look_at_other_owner(report)
    _look_at_flag(report)
    look_at_keys(report.add)
    if report.usable:
        look_at_transport(report.add)
        _look_at_sandboxes(report)
        if args.model is not None:
            ask_model(report.add, args.model, args.base_url)
    print("usable" if report.usable else "not usable: see the lines marked FAIL")
    return 0 if report.usable else 1


class _Report:
    usable = True

    def add(self, mark: str, what: str, found: str) -> None:
        """Print a finding. `FAIL` makes rlm unusable; `warn` and `--` do not."""
        print(f"{mark:4}  {what:18}  {found}", flush=True)
        if mark == "FAIL":
            self.usable = False


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _look_at_versions(report: _Report) -> None:
    report.add("ok", "rlm", f"{__version__} (distribution rlm-repl {_version('rlm-repl') or 'not installed'})")
    good = sys.version_info >= (3, 11)
    report.add("ok" if good else "FAIL", "python", f"{platform.python_version()} ({sys.executable})")
    known = sys.platform == "linux"
    report.add(
        "ok" if known else "warn", "platform", platform.platform() + ("" if known else " (tested on Linux only)")
    )
    for name in _NEEDED:
        version = _version(name)
        report.add("ok" if version else "FAIL", name, version or f"missing: pip install {name}")
    for name in _OPTIONAL:
        report.add("ok" if _version(name) else "--", name, _version(name) or "not installed (optional)")


def _look_at_other_owner(report: _Report) -> None:
    """The distribution `rlms` brings a package `rlm` too: whichever came last has overwritten files of the other."""
    version = _version("rlms")
    if version is None:
        report.add("ok", "rlms", "not installed (it would own a package `rlm` too)")
        return
    report.add(
        "warn",
        "rlms",
        f"{version} is installed as well, and owns a package `rlm` too: their files overwrite each other. "
        "Keep one of them in an environment (pip uninstall rlms, then pip install --force-reinstall rlm-repl)",
    )


def _look_at_flag(report: _Report) -> None:
    from rlm.bridge.choose import VARIABLE, read_flag

    given = os.environ.get(VARIABLE)
    origin = f"from {VARIABLE}={given}" if given else f"the default; {VARIABLE} is not set"
    try:
        flag = read_flag()
    except UsageError as error:
        report.add("FAIL", "use_pure_async", str(error))
        return
    report.add("ok", "use_pure_async", f"{flag} ({'pure async' if flag else 'threaded'}; {origin})")


def _look_at_sandboxes(report: _Report) -> None:
    from rlm.cli.doctor_confinement import look_at_confinement
    from rlm.errors import IsolationWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", IsolationWarning)  # every gap is a finding of its own
        worker = look_at_confinement(report.add)
        _try_cells(report, ("process", "inline") if worker else ("inline",))


def _try_cells(report: _Report, sandboxes: Sequence[str]) -> None:
    """Run a cell that asks a function, in each sandbox, as an environment without parameters would."""
    import asyncio

    from rlm.errors import SandboxUnavailable

    for sandbox in sandboxes:
        try:
            found = asyncio.run(_try(sandbox))
        except SandboxUnavailable:
            report.add("FAIL", f"{sandbox} sandbox", "refused: isolation='full' asks for what is NOT ENFORCED above")
        except Exception as error:  # noqa: BLE001 -- whatever fails here is the finding
            report.add("FAIL", f"{sandbox} sandbox", " ".join(f"{type(error).__name__}: {error}".split()))
        else:
            report.add("ok", f"{sandbox} sandbox", found)


async def _try(sandbox: Any) -> str:
    import asyncio
    import time

    from rlm.environment import AsyncRLMReplEnvironment
    from rlm.errors import SandboxError
    from rlm.models.scripted import ScriptedModel

    started = time.perf_counter()
    model = ScriptedModel(lambda prompt: prompt.upper())
    async with asyncio.timeout(_TRY_SECONDS), AsyncRLMReplEnvironment(model, sandbox=sandbox) as env:
        result = await env.execute_async("llm_query('a') + str(1 + 1)")
        if result.value != "'A2'":
            raise SandboxError(f"a cell that should give 'A2' gave {result.to_text()!r}")
        milliseconds = 1000 * (time.perf_counter() - started)
        return f"started, ran a cell with a query on {env.path} in {milliseconds:.0f} ms"
