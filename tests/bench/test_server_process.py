"""The loopback server in a process of its own."""

from __future__ import annotations

import json
import os
import select
import signal
import ssl
import subprocess
import sys
import urllib.request

import pytest

from rlm.bench.latency import constant
from rlm.bench.server_process import ServerProcess, open_server_process
from rlm.errors import UsageError


def ask(server: ServerProcess, content: str) -> str:
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": content}]}).encode()
    request = urllib.request.Request(f"{server.base_url}/chat/completions", body)
    context = ssl.create_default_context(cafile=server.ca_file) if server.ca_file else None
    handler = urllib.request.HTTPSHandler(context=context)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), handler)
    with opener.open(request, timeout=20) as reply:
        return str(json.load(reply)["choices"][0]["message"]["content"])


def has_ended(pid: int) -> bool:
    """Wait until the process has ended, which a descriptor of it tells."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([descriptor], [], [], 20)[0])
    finally:
        os.close(descriptor)


@pytest.mark.parametrize("tls", [False, True])
def test_it_answers_counts_and_is_gone_after_the_block(tls: bool) -> None:
    with open_server_process(latency=constant(0.001), tls=tls) as server:
        assert server.base_url.startswith("https" if tls else "http:")
        assert ask(server, "hello") == "hello"
        stats = server.read_stats()
        assert (stats.requests, stats.connections) == (1, 2)
    assert has_ended(server.pid)


def test_the_answerer_is_a_function_of_any_module() -> None:
    with open_server_process("rlm.eval.likelihood:answer") as server:
        assert "word-likelihood classifier" in ask(server, "hello")


@pytest.mark.parametrize("answer", ["no_such_module:f", "json:no_such_function", "json", "sys:path"])
def test_a_wrong_answerer_is_a_usage_error_that_names_it(answer: str) -> None:
    with pytest.raises(UsageError, match=f"--answer {answer}"):
        with open_server_process(answer):
            pass


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="watches the process by its descriptor, which only Linux has")
def test_it_does_not_outlive_a_parent_that_is_killed() -> None:
    code = (
        "from rlm.bench.server_process import open_server_process\n"
        "with open_server_process() as server:\n"
        "    print(server.pid, flush=True)\n"
        "    input()\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert parent.stdin and parent.stdout
    try:
        pid = int(parent.stdout.readline())
        os.kill(pid, 0)
        parent.send_signal(signal.SIGKILL)
        parent.wait(20)
        assert has_ended(pid)
    finally:
        parent.kill()
        parent.wait()
        parent.stdin.close()
        parent.stdout.close()


def test_started_by_hand_with_a_closed_input_it_greets_and_ends() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "rlm.bench.server_process", "--latency-median", "0.1", "--sigma", "0.4", "--seed", "7"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=30,
    )
    assert done.returncode == 0, done.stderr
    greeting = json.loads(done.stdout)
    assert greeting["base_url"].startswith("http://127.0.0.1:") and greeting["ca_file"] is None
