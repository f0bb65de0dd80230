"""A process of the same user that has nothing to do with the sandbox: it must be left alone."""

from __future__ import annotations

import select
import subprocess
import sys

_SCRIPT = """
import ctypes, os, resource, signal, sys
token = ctypes.create_string_buffer(sys.stdin.readline().strip().encode())
signals = []
for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGIO, signal.SIGINT):
    signal.signal(number, lambda n, _: signals.append(n))
print(ctypes.addressof(token), flush=True)
for line in sys.stdin:
    told = open("/proc/self/status").read()
    traced = [l for l in told.splitlines() if l.startswith(("TracerPid", "NoNewPrivs", "Seccomp:"))]
    print(token.value, signals, os.getpriority(os.PRIO_PROCESS, 0), sorted(os.sched_getaffinity(0)), traced,
          resource.getrlimit(resource.RLIMIT_NOFILE), os.sched_getscheduler(0), len(os.listdir("/proc/self/fd")),
          flush=True)
"""
_ANSWER_SECONDS = 5


class Victim:
    """Starts the process and asks it how it is. It is given its secret over a pipe: no command line shows it."""

    def __init__(self, token: str) -> None:
        self._token = token
        self._start()

    def _start(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _SCRIPT],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={},
        )
        self.pid = self._process.pid
        self.address = int(self._ask(self._token))
        self._well = self._ask("how are you?")

    def _ask(self, line: str) -> str:
        assert self._process.stdin and self._process.stdout
        try:
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            return f"dead: {self._process.wait()}"
        if not select.select([self._process.stdout], [], [], _ANSWER_SECONDS)[0]:
            return "gives no answer"
        return self._process.stdout.readline().strip() or f"dead: {self._process.wait()}"

    def harm(self) -> list[str]:
        """What has become of it, in words; a harmed one is replaced."""
        told = self._ask("how are you?")
        if told == self._well:
            return []
        harm = f"the victim was {self._well!r}, is {told!r}"
        self.end()
        self._start()
        return [harm]

    def end(self) -> None:
        """Kill and reap it."""
        self._process.kill()
        self._process.communicate()
