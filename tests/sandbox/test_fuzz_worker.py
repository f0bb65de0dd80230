"""Whatever its host sends: a worker goes on or exits, and it has gone when its host hangs up."""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from environment.env_sides import HANG_SECONDS
from fuzz_strategies import DAMAGED_FRAMES, GOOD_FRAMES, HEADERS, JSON, PARTS, cut, packed
from hypothesis import given, settings
from hypothesis import strategies as st

import rlm
from rlm.sandbox.protocol import Frame, FrameReader

_NUMBER = struct.Struct("!i")
_NUMBER_HERE = struct.Struct("i")
READS = 2000
"""How often to look whether a piece has been read; nothing but the cut of the stream depends on it."""
# Forks a worker for each socket that it is sent; tells its process id, and how it ended.
MOTHER = """
import os, signal, socket, struct, sys
sys.path.insert(0, sys.argv[2])
import asyncio, concurrent.futures, threading
from types import SimpleNamespace
from rlm.sandbox.worker import Worker
from rlm.sandbox.worker_link import Link
from rlm.sandbox.worker_signals import Interrupts
birth = SimpleNamespace(
    report=SimpleNamespace(scratch=None), failure="", surroundings=SimpleNamespace(confined=False, withheld={})
)
settings = {"output_chars": 1000, "prompt_bytes": 1000, "max_tokens": 5, "query_errors": "raise", "tools": {"tool": ""}}
control = socket.socket(fileno=int(sys.argv[1]))
while True:
    message, (*line,), _, _ = socket.recv_fds(control, 1, 1)
    if not message:
        os._exit(0)
    pid = os.fork()
    if pid == 0:
        control.close()
        interrupts = Interrupts()
        link = Link(socket.socket(fileno=line[0]), interrupts)
        try:
            worker = Worker(False)
            worker.begin(link, interrupts, birth)
            worker._set_up(settings)
            worker.serve()
        except BaseException:
            os._exit(1)
    os.close(line[0])
    control.sendall(struct.pack("!i", pid))
    control.sendall(struct.pack("!i", os.waitpid(pid, 0)[1]))
"""
ENDS = (0, 1, 70, 71)
"""Exit codes: the host has gone, a fault of the worker's own, a broken stream, a line that a cell has closed."""


class Mother:
    """The program that forks workers, one at a time."""

    def __init__(self) -> None:
        self._control, theirs = socket.socketpair()
        self._control.settimeout(HANG_SECONDS)
        with theirs:
            arguments = [sys.executable, "-c", MOTHER, str(theirs.fileno()), str(Path(rlm.__file__).parents[1])]
            self._process = subprocess.Popen(
                arguments, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )  # fmt: skip

    def close(self) -> None:
        self._control.close()
        self._process.wait(HANG_SECONDS)

    @contextlib.contextmanager
    def forked(self) -> Iterator[Host]:
        """A worker and its host. Fails where the worker does not end once the host has hung up, in a way it may end."""
        line, theirs = socket.socketpair()
        with theirs:
            socket.send_fds(self._control, [b"x"], [theirs.fileno()])
            pid = self._read_number()
        line.settimeout(HANG_SECONDS)
        try:
            host = Host(line)
            host.send(packed({"t": "hello", "id": 0}))
            assert host.next("reply", "id", 0) is not None, "this worker never began"
            yield host
        finally:
            line.close()
            try:
                status = self._read_number()
            except TimeoutError:
                os.kill(pid, signal.SIGKILL)
                status = self._read_number()
        assert os.WIFEXITED(status), f"ended by signal {os.WTERMSIG(status)}"
        assert os.WEXITSTATUS(status) in ENDS

    def _read_number(self) -> int:
        return int(_NUMBER.unpack(self._control.recv(_NUMBER.size, socket.MSG_WAITALL))[0])


class Host:
    """A worker's host: it sends anything, and reads what comes."""

    def __init__(self, line: socket.socket) -> None:
        self._line = line
        self._reader = FrameReader(1 << 30)
        self._frames: list[Frame] = []

    def send(self, *pieces: bytes) -> None:
        """Send each piece when the one before it has been read, as far as the worker reads at all."""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it has exited
            for piece in pieces:
                self._line.sendall(piece)
                for _ in range(READS):
                    if not _NUMBER_HERE.unpack(fcntl.ioctl(self._line, termios.TIOCOUTQ, bytes(4)))[0]:
                        break
                    os.sched_yield()

    def wait(self, seconds: float) -> None:
        """Let time pass, in which nothing may come."""
        assert not select.select([self._line], [], [], seconds)[0]

    def next_ask(self) -> tuple[str, int]:
        """The prompt and the id of the next query of cell 77."""
        frame = self.next("ask", "cell", 77)
        assert frame is not None
        return bytes(frame.blob).decode(), frame.header["id"]

    def next(self, kind: str, key: str, value: Any) -> Frame | None:
        """The next frame of this type with this value; None where the worker has exited."""
        while True:
            while self._frames:
                frame = self._frames.pop(0)
                if frame.type == kind and frame.header.get(key) == value:
                    return frame
            try:
                data = self._line.recv(1 << 16)
            except ConnectionResetError:
                return None
            if not data:
                return None
            self._frames += self._reader.feed(data)


@pytest.fixture(scope="module")
def mother() -> Iterator[Mother]:
    forking = Mother()
    yield forking
    forking.close()


PROBE = 987_654_321
# Each way of asking, for each prompt: once, and then again for the prompt twice over.
WAYS = """
import asyncio, threading
out = {}
def ask(p): out[p] = [llm_query(p), llm_query(p * 2)]
async def ask_async(p): out[p] = [await llm_query_async(p), await llm_query_async(p * 2)]
def beside(*prompts):
    threads = [threading.Thread(target=ask, args=(p,)) for p in prompts]
    for thread in threads: thread.start()
    return threads
"""
CELLS = {
    "plain": ("a", "ask('a')"),
    "coroutine": ("a", "await ask_async('a')"),
    "thread": ("a", "beside('a')[0].join()"),
    "threads": ("abc", "ts = beside('a', 'b')\nask('c')\nfor t in ts: t.join()"),
    "coroutines": ("abc", "await asyncio.gather(*map(ask_async, 'abc'))"),
    "threads_and_a_coroutine": ("abc", "ts = beside('a', 'b')\nawait ask_async('c')\nfor t in ts: t.join()"),
}


def cell(number: Any, code: str) -> bytes:
    return packed({"t": "cell", "cell": number}, [code.encode()])


def answer(number: int, text: str) -> bytes:
    return packed({"t": "answers", "id": number, "a": [{"s": 0.1}]}, [text.encode()])


def is_harmless(header: dict[str, Any]) -> bool:
    """No pickle of chance bytes; nothing that ends the worker at once for want of a type."""
    return "t" in header and header.get("t") != "setup" and '"pickle"' not in str(header)


WHOLE = st.builds(packed, HEADERS.filter(is_harmless), PARTS)
COMMANDS = st.one_of(
    st.builds(cell, st.integers(1, 3) | JSON, st.sampled_from(["1", "x = 1", "1 / 0", "(", "print(5)"])),
    st.builds(
        lambda kind, name, value, number: packed(
            {"t": kind, "name": name, "v": {"k": "json", "v": value}, "id": number}
        ),
        st.sampled_from(["set", "get", "names", "reset"]),
        st.sampled_from(["x", "y", "llm_query", "", "1"]) | JSON,
        JSON,
        st.integers(1, 9) | JSON,
    ),
    st.builds(answer, st.integers(-1, 3), st.just("<a>")),
    st.just(packed({"t": "wake"})),
)
OTHER_ANSWERS = st.builds(answer, st.integers(50, 60) | st.integers(-3, 0), st.just("<stray>"))
STREAMS = st.lists(GOOD_FRAMES | COMMANDS | COMMANDS | DAMAGED_FRAMES, max_size=6).map(b"".join)


@settings(max_examples=70)
@given(STREAMS, st.lists(st.integers(0, 1000), max_size=3))
def test_a_worker_has_gone_when_its_host_hangs_up(mother: Mother, data: bytes, places: list[int]) -> None:
    with mother.forked() as host:
        host.send(*cut(data, places))


@settings(max_examples=70)
@given(st.lists(WHOLE | COMMANDS | COMMANDS, max_size=6))
def test_a_worker_answers_after_whole_frames_of_any_content_or_has_exited(mother: Mother, frames: list[bytes]) -> None:
    with mother.forked() as host:
        host.send(b"".join(frames) + packed({"t": "names", "id": PROBE}))
        host.next("reply", "id", PROBE)


@settings(max_examples=50)
@given(st.lists(COMMANDS, max_size=6))
def test_a_worker_goes_on_after_every_command_that_has_an_id(mother: Mother, commands: list[bytes]) -> None:
    with mother.forked() as host:
        host.send(b"".join(commands) + packed({"t": "names", "id": PROBE}))
        assert host.next("reply", "id", PROBE) is not None


@pytest.mark.parametrize("name", CELLS)
@settings(max_examples=20)
@given(
    strays=st.lists(COMMANDS.filter(lambda data: b'"answers"' not in data) | OTHER_ANSWERS, max_size=5),
    order=st.permutations("abc"),
    places=st.lists(st.integers(0, 1000), max_size=4),
)
def test_each_call_gets_its_own_answer_among_strays(
    mother: Mother, name: str, strays: list[bytes], order: list[str], places: list[int]
) -> None:
    prompts, code = CELLS[name]
    with mother.forked() as host:
        host.send(cell(77, f"{WAYS}{code}\n[out[p] for p in sorted(out)]"))
        asked = dict(host.next_ask() for _ in prompts)
        host.send(*cut(b"".join(strays) + packed({"t": "names", "id": PROBE}), places))
        for prompt in order:
            if prompt in prompts:
                host.send(*cut(answer(asked[prompt], f"<{prompt}>"), places))
                again, number = host.next_ask()
                assert again == prompt * 2
                asked[again] = number
        for prompt in order:
            if prompt in prompts:
                host.send(*cut(answer(asked[prompt * 2], f"<{prompt * 2}>"), places))
        end = host.next("done", "cell", 77)
        assert end is not None
        shown = repr([[f"<{prompt}>", f"<{prompt * 2}>"] for prompt in prompts])
        assert (end.header["status"], bytes(end.parts()[2]).decode()) == ("ok", shown)
        assert host.next("reply", "id", PROBE) is not None  # asked while the cell ran


@pytest.mark.parametrize("wake", [[packed({"t": "wake"})], []])
@settings(max_examples=10)
@given(places=st.lists(st.integers(0, 1000), max_size=4))
def test_a_thread_left_reading_hands_the_line_over(mother: Mother, wake: list[bytes], places: list[int]) -> None:
    with mother.forked() as host:
        host.send(cell(77, f"{WAYS}beside('a')\nllm_query('b')"))
        asked = dict(host.next_ask() for _ in "ab")
        host.send(answer(asked["b"], "<b>"))
        assert host.next("done", "cell", 77) is not None
        host.send(*wake, *cut(packed({"t": "names", "id": PROBE}), places))
        assert host.next("reply", "id", PROBE) is not None


ANSWERS = st.builds(
    packed,
    st.fixed_dictionaries(
        {"t": st.sampled_from(["answers", "value"]), "id": st.just(1)},
        optional={
            "a": st.lists(
                st.fixed_dictionaries({"s": JSON}, optional={"e": JSON, "u": JSON, "m": JSON}) | JSON, max_size=2
            ),
            "v": st.fixed_dictionaries(
                {"k": st.sampled_from(["json", "jsonb", "str", "pickle"])}, optional={"v": JSON}
            ),
            "error": JSON,
            "b": st.lists(st.integers(0, 9), max_size=2),
        },
    ),
    st.lists(st.sampled_from([b"", b"x", b"\xff", b"[" * 5000, b"."]), max_size=2),
)


ASKING = {
    "plain": "llm_query('a')",
    "coroutine": "await llm_query_async('a')",
    "thread": "import threading\nt = threading.Thread(target=llm_query, args=('a',))\nt.start()\nt.join()",
    "tool": "tool(1)",
}


@pytest.mark.parametrize("name", ASKING)
@settings(max_examples=20)
@given(data=ANSWERS)
def test_a_malformed_answer_costs_its_cell_only(mother: Mother, name: str, data: bytes) -> None:
    with mother.forked() as host:
        host.send(cell(77, ASKING[name]))
        assert host.next("tool" if name == "tool" else "ask", "id", 1) is not None
        host.send(data)
        frame = host.next("done", "cell", 77)
        assert frame is not None
        host.send(cell(78, "await llm_query_async('b')"))
        ask = host.next("ask", "cell", 78)
        assert ask is not None
        host.send(answer(ask.header["id"], "<b>"))
        frame = host.next("done", "cell", 78)
        assert frame is not None
        assert bytes(frame.parts()[2]) == b"'<b>'"


ALARM = """
import signal, threading, time
class Late(Exception): pass
def late(*_): raise Late
signal.signal(signal.SIGALRM, late)
out = []
def ask(): time.sleep(0.1); out.append(llm_query('b'))
thread = threading.Thread(target=ask)
thread.start()
signal.setitimer(signal.ITIMER_REAL, 0.3)
try: llm_query('a')
except Late: print('late')
thread.join(3)
out
"""


def test_a_call_that_a_handler_leaves_lets_another_thread_read(mother: Mother) -> None:
    """The main thread reads for both when its alarm comes; nobody else would, were the other one not woken."""
    with mother.forked() as host:
        host.send(cell(77, ALARM))
        asked = dict(host.next_ask() for _ in "ab")
        host.wait(0.5)
        host.send(answer(asked["b"], "<b>"))
        end = host.next("done", "cell", 77)
        assert end is not None
        assert [bytes(part) for part in end.parts()[:3:2]] == [b"late\n", b"['<b>']"]


GATHER = """
import asyncio
answers = await asyncio.gather(*[llm_query_async('x' * 500) for _ in range(2000)])
len(answers), {len(answer) for answer in answers}
"""


def test_a_worker_whose_host_does_not_read_reads_on(mother: Mother) -> None:
    """Its questions fill the line while as much is on its way to it: one of the two has to read."""
    text = "x" * 20_000
    with mother.forked() as host:
        host.send(cell(77, GATHER))
        for _ in range(4):
            asked = [host.next_ask()[1] for _ in range(500)]
            host.send(b"".join(answer(number, text) for number in asked))
        end = host.next("done", "cell", 77)
        assert end is not None
        assert bytes(end.parts()[2]) == b"(2000, {20000})"
