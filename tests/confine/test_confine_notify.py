"""A supervisor answers the fork that a confined process asks for. Each test is a supervisor in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

if sys.platform != "linux":
    pytest.skip("system calls of Linux", allow_module_level=True)

import rlm
from rlm.confine import notify
from rlm.confine.syscalls import NUMBERS

KERNEL = tuple(int("".join(filter(str.isdigit, part))) for part in os.uname().release.split(".")[:2])

PRELUDE = f"""
import sys
sys.path.insert(0, {str(Path(rlm.__file__).parents[1])!r})
import ctypes, errno, os, select, signal, socket
from rlm.confine import notify, seccomp
from rlm.confine.syscalls import NUMBERS, call, prctl

def fork(flags=seccomp.FORK_FLAGS):
    return call("clone", flags, 0, 0, 0, 0)

def error(function, *arguments):
    try:
        function(*arguments)
    except OSError as caught:
        return errno.errorcode[caught.errno]
    return ""

def start(work):
    '''A confined child that does `work`; its pid, its listener, a socket to it.'''
    ours, theirs = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        ours.close()
        try:
            prctl(38, 1)
            listener = seccomp.install(seccomp.build(os.getpid(), forks=True), listener=True)
            socket.send_fds(theirs, [b"l"], [listener])
            os.close(listener)
            work(theirs)
            os._exit(0)
        except BaseException:
            import traceback
            traceback.print_exc()
        finally:
            os._exit(1)
    theirs.close()
    return pid, socket.recv_fds(ours, 1, 1)[1][0], ours

def wait_for_call(listener):
    poll = select.poll()
    poll.register(listener, select.POLLIN)
    assert poll.poll() == [(listener, select.POLLIN)]

def ended(pid):
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
"""


def run_supervisor(body: str) -> None:
    command = [sys.executable, "-I", "-c", PRELUDE + textwrap.dedent(body)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=50)
    assert done.returncode == 0 and not done.stderr, done.stderr


@pytest.fixture(scope="session")
def listening() -> None:
    """Skips where the kernel has no such thing. Asked in another process: the answer is found by forking."""
    if not NUMBERS:
        pytest.skip("no numbers for this machine")
    ask = f"{PRELUDE}\nsys.exit(0 if notify.supported() else 3)"
    if subprocess.run([sys.executable, "-I", "-c", ask], timeout=50).returncode == 3:
        pytest.skip("this kernel has no user notification")


def test_the_requests_are_those_of_the_kernels_header() -> None:
    # SECCOMP_IOCTL_NOTIF_RECV, _SEND, _ID_VALID, _ADDFD as a C compiler sees them
    requests = (notify._RECV, notify._SEND, notify._ID_VALID, notify._ADDFD)
    assert requests == (0xC0502100, 0xC0182101, 0x40082102, 0x40182103)


def test_it_is_supported_where_a_listener_can_be_had_and_the_kernel_is_new_enough() -> None:
    if not NUMBERS or KERNEL < (5, 9):
        pytest.skip("no user notification that gives descriptors")
    body = """
        heard = notify.supported()
        prctl(38, 1)
        try:
            seccomp.install(seccomp.build(os.getpid(), forks=True), listener=True)
        except OSError:
            assert not heard
        else:
            assert heard
    """
    run_supervisor(body)


def test_a_granted_fork_is_a_child_of_the_supervisor_and_holds_the_given_descriptor(listening: None) -> None:
    run_supervisor("""
        def work(sock):
            supervisor = os.getppid()
            pid = fork()
            if pid == 0:
                assert os.getppid() == supervisor
                os.write(9, f"{os.getpid()}".encode())
                os._exit(7)
            sock.send(str(pid).encode())

        worker, listener, sock = start(work)
        wait_for_call(listener)
        held = notify.receive(listener)
        assert (held.pid, held.number) == (worker, NUMBERS["clone"])
        assert held.arguments[:2] == (seccomp.FORK_FLAGS, 0)
        assert notify.still_waits(listener, held.id)
        heard, given = os.pipe()
        assert notify.add_fd(listener, held.id, given, 9)
        os.close(given)
        assert notify.allow(listener, held.id)
        assert not notify.still_waits(listener, held.id)
        new = int(os.read(heard, 20))
        assert new == int(sock.recv(20)) != worker
        assert {ended(new), ended(worker)} == {7, 0}
    """)


def test_a_fork_that_is_not_granted_fails_and_its_caller_goes_on(listening: None) -> None:
    run_supervisor("""
        def work(sock):
            sock.send(f"{error(fork)} {error(fork)}".encode())

        worker, listener, sock = start(work)
        for reason in (errno.EPERM, errno.EAGAIN):
            wait_for_call(listener)
            assert notify.refuse(listener, notify.receive(listener).id, reason)
        assert sock.recv(20) == b"EPERM EAGAIN"
        assert ended(worker) == 0
    """)


def test_no_other_fork_is_asked_about(listening: None) -> None:
    run_supervisor("""
        def work(sock):
            for other in (17, 0x1200011, seccomp.FORK_FLAGS | 0x10000000, seccomp.FORK_FLAGS | 1 << 32):
                assert error(fork, other) == "EPERM", other
            assert error(os.fork) == "EPERM"
            assert error(os.posix_spawn, "/bin/true", ["true"], {}) == "EPERM"

        worker, listener, sock = start(work)
        assert ended(worker) == 0
        poll = select.poll()
        poll.register(listener, select.POLLIN)
        assert poll.poll(0) in ([], [(listener, select.POLLHUP)])
    """)


def test_an_answer_to_a_caller_that_is_gone_reaches_nobody(listening: None) -> None:
    run_supervisor("""
        def work(sock):
            fork()

        worker, listener, sock = start(work)
        wait_for_call(listener)
        held = notify.receive(listener)
        os.kill(worker, signal.SIGKILL)
        assert ended(worker) == -9
        assert not notify.still_waits(listener, held.id)
        assert not notify.add_fd(listener, held.id, 0, 9)
        assert not notify.allow(listener, held.id)
        assert not notify.refuse(listener, held.id, errno.EPERM)
    """)


def test_a_call_whose_caller_has_died_is_not_received(listening: None) -> None:
    run_supervisor("""
        def work(sock):
            if fork() == 0:
                signal.pause()
            fork()

        worker, listener, sock = start(work)
        wait_for_call(listener)
        held = notify.receive(listener)
        notify.allow(listener, held.id)  # the new process keeps the filter, and so the listener, alive
        wait_for_call(listener)
        os.kill(worker, signal.SIGKILL)
        assert ended(worker) == -9
        assert notify.receive(listener) is None
        new = int(open(f"/proc/self/task/{os.getpid()}/children").read())
        os.kill(new, signal.SIGKILL)
        assert ended(new) == -9
    """)


def test_a_descriptor_that_cannot_be_given_raises_and_the_call_still_waits(listening: None) -> None:
    run_supervisor("""
        def work(sock):
            assert error(fork) == "EPERM"

        worker, listener, sock = start(work)
        wait_for_call(listener)
        held = notify.receive(listener)
        assert error(notify.add_fd, listener, held.id, 999, 9) == "EBADF"
        assert error(notify.add_fd, listener, held.id, 0, 1 << 30) == "EBADF"
        assert notify.still_waits(listener, held.id)
        assert notify.refuse(listener, held.id, errno.EPERM)
        assert ended(worker) == 0
    """)


def test_a_granted_fork_signals_nobody_and_asks_for_its_own_forks_on_the_same_listener(listening: None) -> None:
    run_supervisor("""
        def work(sock):
            worker, supervisor = os.getpid(), os.getppid()
            if fork() == 0:
                assert error(os.kill, worker, 0) == "", "until its own filter stands"
                prctl(1, 9)
                seccomp.install(seccomp.build_own(os.getpid()), listener=False)
                for pid in (worker, supervisor, os.getpid(), -1, 0):
                    assert error(os.kill, pid, 0) == "EPERM", pid
                assert error(os.fork) == "EPERM"
                assert error(os.setsid) == "EPERM"
                assert error(fork) == "EAGAIN"
                os._exit(5)
            sock.recv(1)

        worker, listener, sock = start(work)
        wait_for_call(listener)
        notify.allow(listener, notify.receive(listener).id)
        wait_for_call(listener)
        held = notify.receive(listener)
        assert held.pid != worker
        assert notify.refuse(listener, held.id, errno.EAGAIN)
        assert ended(held.pid) == 5
        sock.send(b"x")
        assert ended(worker) == 0
    """)


def test_a_confined_process_makes_no_listener_of_its_own(listening: None) -> None:
    run_supervisor("""
        def work(sock):
            program = seccomp.build(os.getpid(), forks=True)
            assert error(lambda: seccomp.install(program, listener=True)) == "EPERM"
            assert not notify.supported()

        worker, listener, sock = start(work)
        assert ended(worker) == 0
    """)


def test_without_a_caller_left_poll_reports_a_hang_up(listening: None) -> None:
    run_supervisor("""
        worker, listener, sock = start(lambda sock: None)
        assert ended(worker) == 0
        poll = select.poll()
        poll.register(listener, select.POLLIN)
        assert poll.poll() == [(listener, select.POLLHUP)]
    """)


SIGNALLED = """
    def work(sock):
        signal.signal(signal.SIGUSR1, lambda *_: sock.send(b"s"))
        signal.pthread_sigmask(HOW, [signal.SIGUSR1])
        try:
            if fork() == 0:
                os._exit(0)
            sock.send(b"f")
        except OSError:
            sock.send(b"e")
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGUSR1])

    worker, listener, sock = start(work)
    wait_for_call(listener)
    held = notify.receive(listener)
    os.kill(worker, signal.SIGUSR1)
"""


def test_a_fork_with_signals_blocked_is_made_at_the_first_answer(listening: None) -> None:
    run_supervisor(
        SIGNALLED.replace("HOW", "signal.SIG_BLOCK")
        + """
    assert notify.allow(listener, held.id)
    assert ended(worker) == 0
    assert sock.recv(2, socket.MSG_WAITALL) == b"fs"
    os.wait()
    """
    )


@pytest.mark.skipif(KERNEL < (5, 19), reason="the flag is Linux 5.19's")
def test_an_allowed_fork_that_meets_a_signal_is_not_made_but_asked_for_again(listening: None) -> None:
    run_supervisor(
        SIGNALLED.replace("HOW", "signal.SIG_UNBLOCK")
        + """
    poll = select.poll()
    poll.register(listener, select.POLLIN)
    assert not poll.poll(100), "what has been taken up is not interrupted before it is answered"
    assert notify.allow(listener, held.id)
    wait_for_call(listener)
    again = notify.receive(listener)
    assert again.pid == held.pid and again.id != held.id
    assert notify.refuse(listener, again.id, errno.EAGAIN)
    assert sock.recv(2, socket.MSG_WAITALL) == b"se"
    assert ended(worker) == 0
    """
    )
