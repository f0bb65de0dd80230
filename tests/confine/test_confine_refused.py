"""What a process under the filter can and cannot do, on this machine's kernel; each in a process of its own."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

if sys.platform != "linux":
    pytest.skip("system calls of Linux", allow_module_level=True)

import rlm
from rlm.confine import seccomp
from rlm.confine.syscalls import NUMBERS

PRELUDE = f"""
import sys
sys.path.insert(0, {str(Path(rlm.__file__).parents[1])!r})
import asyncio, ctypes, errno, fcntl, os, resource, shutil, signal, socket, stat, subprocess, tempfile, threading
from rlm.confine import seccomp
from rlm.confine.syscalls import MACHINE, NUMBERS, call, libc, prctl

def error(function, *arguments):
    try:
        function(*arguments)
    except OSError as caught:
        return errno.errorcode[caught.errno]
    return ""

def confine(**options):
    prctl(38, 1)
    return seccomp.install(seccomp.build(os.getpid(), forks=False, **options), listener=False)

folder = sys.argv[1]
"""
on_this_kernel = pytest.mark.skipif(not NUMBERS, reason="no filter for this machine")


def run_in_a_process(body: str, folder: Path) -> int:
    command = [sys.executable, "-I", "-c", PRELUDE + textwrap.dedent(body), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=50)
    assert not done.stderr, done.stderr
    return done.returncode


@on_this_kernel
@pytest.mark.parametrize(
    "attempt",
    [
        "socket.socket()",
        "socket.socket(socket.AF_UNIX)",
        "socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)",
        "os.fork()",
        "call('clone', seccomp.FORK_FLAGS, 0, 0, 0, 0)",
        "subprocess.run(['/bin/true'])",
        "os.posix_spawn('/bin/true', ['true'], {})",
        "os.execv('/bin/true', ['true'])",
        "os.kill(os.getppid(), 0)",
        "os.kill(0, 0)",
        "os.kill(-1, 0)",
        "call('tkill', os.getppid(), 0)",
        "call('tgkill', os.getppid(), os.getppid(), 0)",
        "os.pidfd_open(os.getppid())",
        "os.setsid()",
        "os.setpgid(0, 0)",
        "os.setpriority(os.PRIO_PROCESS, 0, 1)",
        "os.sched_setaffinity(os.getppid(), {0})",
        "resource.prlimit(os.getppid(), resource.RLIMIT_CORE)",
        "fcntl.fcntl(0, fcntl.F_SETOWN, os.getppid())",
        "fcntl.ioctl(0, 0x5412, b'x')",
        "os.memfd_create('x')",
        "os.mkfifo(folder + '/fifo')",
        "os.chown(folder, os.getuid(), os.getgid())",
        "os.setxattr(folder, 'user.x', b'1')",
        "os.chroot('/')",
        "os.setuid(os.getuid())",
        "prctl(4, 1)",
        "prctl(1, 0)",
        "call('unshare', 0x10000000)",
        "call('inotify_add_watch', 0, folder.encode(), 1)",
        "call('seccomp', 0, 0, 0)",
        "seccomp.install(seccomp.build(1, forks=True), listener=True)",
    ],
)
def test_a_confined_process_reads_a_permission_error(attempt: str, tmp_path: Path) -> None:
    assert run_in_a_process(f"confine()\nassert error(lambda: {attempt}) == 'EPERM'", tmp_path) == 0


@on_this_kernel
def test_newer_and_foreign_calls_look_absent(tmp_path: Path) -> None:
    body = """
        confine()
        for number in (NUMBERS["clone3"], 471, 500, 0x40000000 | NUMBERS["getpid"], 400):
            assert libc.syscall(ctypes.c_long(number), 0, 0, 0, 0) == -1
            assert ctypes.get_errno() == errno.ENOSYS, number
    """
    assert run_in_a_process(body, tmp_path) == 0


@on_this_kernel
def test_ordinary_work_goes_on(tmp_path: Path) -> None:
    body = """
        confine()
        seen = []
        threads = [threading.Thread(target=seen.append, args=(n,)) for n in range(4)]
        for thread in threads: thread.start()
        for thread in threads: thread.join()
        assert sorted(seen) == [0, 1, 2, 3]

        async def main():
            return await asyncio.get_running_loop().run_in_executor(None, lambda: 6 * 7)
        assert asyncio.run(main()) == 42

        with tempfile.TemporaryDirectory(dir=folder) as inner:
            open(inner + "/a", "w").write("text")
            shutil.copy2(inner + "/a", inner + "/b")
            shutil.copytree(inner, inner + "/c")
            os.truncate(inner + "/b", 2)
            assert open(inner + "/b").read() == "te"
        called = ctypes.CFUNCTYPE(ctypes.c_int)(lambda: 7)
        assert called() == 7
        signal.signal(signal.SIGUSR1, lambda *_: seen.append("signal"))
        os.kill(os.getpid(), signal.SIGUSR1)
        signal.raise_signal(signal.SIGUSR1)
        assert seen[4:] == ["signal", "signal"]
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        left, right = socket.socketpair()
        left.setblocking(False)
        right.sendall(b"hello")
        assert left.recv(5) == b"hello"
        socket.socket(fileno=left.detach()).close()
        os.sched_setaffinity(0, os.sched_getaffinity(0))
        os.isatty(0)
        prctl(1, 9)
    """
    assert run_in_a_process(body, tmp_path) == 0


@on_this_kernel
def test_modes_and_times_of_files_stay_while_their_change_seems_to_succeed(tmp_path: Path) -> None:
    file = tmp_path / "outside"
    file.write_text("x")
    file.chmod(0o640)
    before = file.stat()
    body = """
        confine()
        file = folder + "/outside"
        os.chmod(file, 0o777)
        os.utime(file, (1, 1))
        descriptor = os.open(file, os.O_RDONLY)
        os.fchmod(descriptor, 0o777)
        os.utime(descriptor, (1, 1))
        os.sync()
        flags = bytearray(8)
        if not error(fcntl.ioctl, descriptor, 0x80086601, flags):  # the file system has flags
            assert error(fcntl.ioctl, descriptor, 0x40086602, flags) == "EPERM"
    """
    assert run_in_a_process(body, tmp_path) == 0
    after = file.stat()
    assert (after.st_mode, after.st_mtime_ns, after.st_ctime_ns) == (
        *(before.st_mode, before.st_mtime_ns, before.st_ctime_ns),
    )


@on_this_kernel
def test_no_stream_pair_reaches_a_named_socket(tmp_path: Path) -> None:
    body = """
        named = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        named.bind(folder + "/named")
        listening = socket.socket(socket.AF_UNIX)
        listening.bind(folder + "/listening")
        listening.listen()
        listening.setblocking(False)
        named.setblocking(False)
        confine()
        for name in ("/named", "/listening"):
            left, right = socket.socketpair()
            for state in ("connected", "shut down", "left alone"):
                assert error(left.sendto, b"x", folder + name) == "EISCONN", state
                assert error(left.sendmsg, [b"x"], [], 0, folder + name) == "EISCONN", state
                assert error(left.connect, folder + name) == "EPERM"
                left.shutdown(socket.SHUT_RDWR) if state == "connected" else right.close()
        assert error(named.recv, 1) == "EAGAIN"
        assert error(listening.accept) == "EPERM"
    """
    assert run_in_a_process(body, tmp_path) == 0


@on_this_kernel
def test_the_handler_of_sigint_stays_in_the_kernel_while_its_change_seems_to_succeed(tmp_path: Path) -> None:
    body = """
        received = []
        signal.signal(signal.SIGINT, lambda *_: received.append("the first handler's"))
        confine()
        class Action(ctypes.Structure):
            _fields_ = [("handler", ctypes.c_void_p), ("rest", ctypes.c_char * 256)]
        ignore, now = Action(handler=1), Action()
        for _ in range(3):
            assert libc.sigaction(2, ctypes.byref(ignore), None) == 0
            assert libc.sigaction(2, None, ctypes.byref(now)) == 0
            assert now.handler not in (None, 0, 1)
        os.kill(os.getpid(), signal.SIGINT)
        assert received == ["the first handler's"]
        # Python's own table is its own: what the interpreter calls for a signal can be exchanged in there.
        signal.signal(signal.SIGINT, lambda *_: received.append("the second handler's"))
        os.kill(os.getpid(), signal.SIGINT)
        assert received[1:] == ["the second handler's"]
    """
    assert run_in_a_process(body, tmp_path) == 0


@on_this_kernel
def test_every_thread_there_is_comes_under_the_filter(tmp_path: Path) -> None:
    body = """
        go, found = threading.Event(), []
        thread = threading.Thread(target=lambda: (go.wait(), found.append(error(os.setsid))))
        thread.start()
        confine()
        go.set()
        thread.join()
        assert found == ["EPERM"]
    """
    assert run_in_a_process(body, tmp_path) == 0


@on_this_kernel
def test_a_file_open_for_reading_is_not_emptied_where_landlock_cannot_see_it(tmp_path: Path) -> None:
    (tmp_path / "outside").write_text("kept")
    body = """
        confine(truncate=False)
        file = folder + "/outside"
        assert error(os.truncate, file, 0) == "EPERM"
        assert error(os.open, file, os.O_RDONLY | os.O_TRUNC) == "EPERM"
        assert error(os.open, file, os.O_ACCMODE | os.O_TRUNC) == "EPERM"
        assert open(file).read() == "kept"
        open(folder + "/own", "w").write("x")
    """
    assert run_in_a_process(body, tmp_path) == 0


@pytest.mark.skipif("x86_64" not in seccomp.MACHINE, reason="int 0x80 is x86's")
def test_a_32_bit_call_ends_the_process(tmp_path: Path) -> None:
    body = """
        import mmap
        page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
        page.write(bytes.fromhex("b814000000cd80c3"))  # mov eax, 20 (getpid); int 0x80; ret
        getpid = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))
        confine()
        getpid()
    """
    assert run_in_a_process(body, tmp_path) == -signal.SIGSYS
