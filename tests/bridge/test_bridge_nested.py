"""The nested bridge works, for those who ask for it by name. Each test runs in a process of its own: asyncio stays
patched.
"""

from __future__ import annotations

import subprocess
import sys

_BEGIN = """
import asyncio, sys
from contextvars import ContextVar
from rlm.bridge.choose import choose_bridge
from rlm.errors import BridgeRefused, UsageError
variable = ContextVar("variable", default="unset")
async def nap(value=1): await asyncio.sleep(0.001); return value
def nested(): return choose_bridge(bridge="nested", sandbox="inline")
def refused(call):
    try: return call()
    except BridgeRefused: return "refused"
"""


def run_python(code: str) -> list[str]:
    """What the code printed, line by line."""
    done = subprocess.run([sys.executable, "-c", _BEGIN + code], capture_output=True, text=True, timeout=40)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout.splitlines()


def test_a_cell_waits_and_drives():
    assert run_python("""
async def main():
    variable.set("host")
    bridge = nested()
    async def own(): return await nap(2), bridge.wait(lambda: nap(3)), variable.get()
    print(await bridge.run(lambda: (bridge.wait(nap), bridge.drive(own()))), bridge.name)
    print(await bridge.serve(nap))
asyncio.run(main())
""") == ["(1, (2, 3, 'host')) nested", "1"]


def test_made_outside_a_loop_it_patches_the_loop_it_first_runs_on():
    assert run_python("""
bridge = nested()
assert not hasattr(asyncio, "_nest_patched")
async def main():
    others = [asyncio.ensure_future(nap(n)) for n in range(20)]  # ready callbacks beside the patching one
    print(await bridge.run(lambda: [bridge.wait(lambda: nap(n)) for n in range(3)]), sum(await asyncio.gather(*others)))
asyncio.run(main())
""") == ["[0, 1, 2] 190"]


def test_it_refuses_what_the_others_refuse():
    assert (
        run_python("""
import threading
async def main():
    bridge = nested()
    print(refused(lambda: bridge.wait(nap)))
    said = []
    def body():
        thread = threading.Thread(target=lambda: said.append(refused(lambda: bridge.drive(nap()))))
        thread.start(); thread.join(10)
    await bridge.run(body)
    print(said[0])
    await bridge.aclose()
    print(refused(lambda: bridge.wait(nap)))
    try: await bridge.run(body)
    except BridgeRefused: print("refused")
asyncio.run(main())
""")
        == ["refused"] * 4
    )


def test_a_loop_it_cannot_patch_is_a_usage_error():
    uvloop_line, trio_line, later_line = run_python("""
import trio, uvloop
async def main():
    try: nested()
    except UsageError as error: print(error)
with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner: runner.run(main())
trio.run(main)
bridge = nested()
async def later():
    try: await bridge.run(lambda: None)
    except UsageError as error: print(error)
trio.run(later)
""")
    assert "uvloop" in uvloop_line
    assert "trio" in trio_line
    assert "trio" in later_line


def test_a_missing_package_is_a_usage_error_that_ends_in_the_command():
    (line,) = run_python("""
sys.modules["nest_asyncio"] = None
try: nested()
except UsageError as error: print(error)
""")
    assert line.endswith("pip install 'rlm-repl[notebook]'")
