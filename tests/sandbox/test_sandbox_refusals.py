"""What the kernel would refuse a cell is told beforehand, in words that name what a caller can do; all else is as ever.

No kernel confines anything here: the hook alone speaks, and whatever it lets through goes through.
"""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from rlm.sandbox.readable import readable

REPOSITORY = Path(__file__).resolve().parents[2]
PROGRAM = textwrap.dedent(
    """
    import json, sys
    told = json.loads(sys.argv[1])
    sys.path.insert(0, told["home"])
    from rlm.sandbox.worker_refusals import install
    sys.path.remove(told["home"])
    sys.path += told["import_path"]
    import os, tempfile
    sys.dont_write_bytecode = True
    scratch = told["scratch"]
    if scratch:
        os.environ["TMPDIR"] = os.environ["HOME"] = scratch
        tempfile.tempdir = scratch
        os.chdir(scratch)
    refusals = install(readable=told["readable"], scratch=scratch, withheld=told["withheld"])
    names = {"__name__": "__main__", "refusals": refusals, "scratch": scratch, **told["names"]}
    try:
        exec(compile(told["code"], "<cell 1 of 1.1>", "exec"), names)
    except BaseException as error:
        named = isinstance(error, OSError)
        answer = {"error": type(error).__name__, "text": str(error), "errno": error.errno if named else None,
                  "kinds": [kind.__name__ for kind in type(error).__mro__]}
    else:
        answer = {"error": None, "value": names.get("value")}
    os.write(1, json.dumps(answer).encode())
    """
)


class Cell:
    """Runs code as a cell under the hook, in a process of its own, with a scratch directory unless told otherwise."""

    def __init__(self, folder: Path) -> None:
        self.scratch, self.outside = folder / "scratch", folder / "outside"
        for path in (self.scratch, self.outside):
            path.mkdir()
        (self.outside / "secret.txt").write_text("told to nobody")

    def run(self, code: str, *, has_scratch: bool = True, withheld: dict[str, str] | None = None) -> dict[str, Any]:
        found = readable()
        told = {
            "code": textwrap.dedent(code),
            "home": str(REPOSITORY),
            "readable": [*found.directories, *found.files],
            "import_path": found.import_path,
            "scratch": str(self.scratch) if has_scratch else None,
            "withheld": withheld or {},
            "names": {"outside": str(self.outside), "secret": str(self.outside / "secret.txt")},
        }
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-X", "utf8", "-c", PROGRAM, json.dumps(told)],
            capture_output=True,
            text=True,
            timeout=50,
        )
        assert done.returncode == 0 and done.stderr == "", done.stderr
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer

    def value(self, code: str, **options: Any) -> Any:
        answer = self.run(code, **options)
        assert answer["error"] is None, answer
        return answer["value"]

    def refused(self, code: str, **options: Any) -> str:
        answer = self.run(code, **options)
        assert answer["error"] == "PermissionError", answer
        assert "sandbox" in answer["text"], answer
        text: str = answer["text"]
        return text


@pytest.fixture
def cell(tmp_path: Path) -> Cell:
    return Cell(tmp_path)


@pytest.mark.parametrize(
    "code",
    [
        "import socket; socket.socket()",
        "import socket; socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)",
        "import socket; socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)",
        "import socket; socket.create_connection(('127.0.0.1', 1))",
        "import socket; socket.getaddrinfo('localhost', 1)",
        "import socket; socket.gethostbyname('localhost')",
        "import socket; socket.gethostbyaddr('127.0.0.1')",
        "import socket; socket.getnameinfo(('127.0.0.1', 1), 0)",
        "import socket; socket.socket(socket.AF_UNIX).connect('/run/some.sock')",
        "import socket; socket.socket(socket.AF_UNIX).bind(scratch + '/own.sock')",
        "import socket; socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(b'x', '/run/some.sock')",
        "import socket; socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendmsg([b'x'], [], 0, '/run/some.sock')",
        "import asyncio; asyncio.run(asyncio.open_connection('127.0.0.1', 1))",
        "import asyncio; asyncio.run(asyncio.open_connection('localhost', 1))",
        "import http.client; http.client.HTTPConnection('localhost').request('GET', '/')",
    ],
)
def test_the_network_is_refused_with_the_ways_that_there_are(cell: Cell, code: str) -> None:
    text = cell.refused(f"import warnings; warnings.simplefilter('ignore')\n{code}")
    assert "network" in text and "llm_query" in text and "tool" in text


def test_a_request_by_url_names_the_sandbox_in_its_own_error(cell: Cell) -> None:
    answer = cell.run("import urllib.request; urllib.request.urlopen('http://example.org')")
    assert answer["error"] == "URLError" and "does not allow network access" in answer["text"]


@pytest.mark.parametrize(
    "code",
    [
        "import os; os.fork()",
        "import os; os.forkpty()",
        "import pty; pty.fork()",
        "import os; os.execv('/bin/true', ['true'])",
        "import os; os.execvp('true', ['true'])",
        "import os; os.posix_spawn('/bin/true', ['true'], {})",
        "import os; os.spawnv(os.P_WAIT, '/bin/true', ['true'])",
        "import os; os.system('true')",
        "import os; os.popen('true')",
        "import pty; pty.spawn(['true'])",
        "import subprocess; subprocess.run(['true'])",
        "import subprocess; subprocess.check_output('true', shell=True)",
        "import asyncio; asyncio.run(asyncio.create_subprocess_exec('true'))",
        "import multiprocessing as m; m.Process(target=print).start()",
        "import multiprocessing as m; m.get_context('spawn').Process(target=print).start()",
        "import multiprocessing as m; m.Pool(2)",
        "import multiprocessing as m; m.Manager()",
        "from concurrent.futures import ProcessPoolExecutor as P\nwith P(2) as p: p.submit(print, 1).result()",
    ],
)
def test_other_processes_are_refused(cell: Cell, code: str) -> None:
    text = cell.refused(f"import warnings; warnings.simplefilter('ignore')\n{code}")
    assert "does not allow other processes" in text


@pytest.mark.parametrize("code", ["os.kill(os.getppid(), 0)", "os.kill(-1, 0)", "os.kill(1, 15)", "os.killpg(1, 15)"])
def test_signals_to_other_processes_are_refused(cell: Cell, code: str) -> None:
    assert "signals to other processes" in cell.refused(f"import os; {code}")


def test_a_process_may_signal_itself(cell: Cell) -> None:
    cell.value("import os; os.kill(os.getpid(), 0)")


@pytest.mark.parametrize(
    "code",
    [
        "open(secret)",
        "open(secret.encode())",
        "open(secret, 'rb', buffering=0)",
        "import pathlib; pathlib.Path(secret).read_text()",
        "import os; os.open(secret, os.O_RDONLY)",
        "import io; io.open_code(secret)",
        "import os; os.listdir(outside)",
        "import os; os.listdir(outside.encode())",
        "import os; os.scandir(outside)",
        "import os; os.chdir(outside)",
        "import os; os.listdir('/')",
        "open('../outside/secret.txt')",
        "open(scratch + '/../outside/secret.txt')",
        "open('/usr/lib/../../' + secret)",
        "import shutil; shutil.copy(secret, 'copy')",
        "import shutil; shutil.move(secret, 'mine')",
        "import shutil; shutil.rmtree(outside)",
        "import linecache, tokenize; tokenize.open(secret)",
        "import sqlite3; sqlite3.connect(outside + '/secret.txt')",
        "import pathlib, sqlite3; sqlite3.connect(pathlib.Path(secret))",
        "import glob; glob.glob(outside + '/*')",
        "import glob; list(glob.iglob(outside + '/**', recursive=True))",
        "import os; list(os.walk(outside))",
        "import os; list(os.fwalk(outside))",
        "import pathlib; list(pathlib.Path(outside).glob('*'))",
        "import pathlib; list(pathlib.Path(outside).rglob('*'))",
        "import pathlib; list(pathlib.Path(outside).iterdir())",
        "class S(str): pass\nopen(S(secret))",
    ],
)
def test_reading_outside_is_refused_with_what_may_be_read_and_how_to_grant_more(cell: Cell, code: str) -> None:
    text = cell.refused(code)
    assert "read only Python, its packages and their scratch directory" in text and "read_paths" in text


@pytest.mark.parametrize(
    "code",
    [
        "open(outside + '/new', 'w')",
        "open(secret, 'a')",
        "open(secret, 'r+')",
        "open('../outside/new', 'x')",
        "import os; os.open(outside + '/new', os.O_CREAT | os.O_WRONLY)",
        "import os; os.mkdir(outside + '/new')",
        "import os; os.makedirs(outside + '/new/er', exist_ok=True)",
        "import os; os.remove(secret)",
        "import pathlib; pathlib.Path(secret).unlink(missing_ok=True)",
        "import os; os.rmdir(outside)",
        "import os; os.rename(secret, 'mine')",
        "import os; open('mine', 'w').close(); os.replace('mine', secret)",
        "import os; os.link(secret, 'mine')",
        "import os; os.symlink('mine', outside + '/link')",
        "import os; os.truncate(secret, 0)",
        "import os; os.chmod(secret, 0o777)",
        "import os; os.chown(secret, 0, 0)",
        "import os; os.lchown(secret, 0, 0)",
        "import os; os.utime(secret)",
        "import os; os.setxattr(secret, 'user.x', b'1')",
        "import os; os.removexattr(secret, 'user.x')",
        "import tempfile; tempfile.mkdtemp(dir=outside)",
        "import tempfile; tempfile.NamedTemporaryFile(dir=outside)",
        "import os; os.remove(os.__file__)",
    ],
)
def test_writing_outside_is_refused_with_where_may_be_written(cell: Cell, code: str) -> None:
    assert f"write only in their scratch directory {cell.scratch}" in cell.refused(code)
    assert [path.name for path in cell.outside.iterdir()] == ["secret.txt"]


@pytest.mark.parametrize("code", ["open('/tmp/new', 'w')", "import os; os.mkdir('/tmp/new')"])
def test_without_a_scratch_directory_the_limit_that_gives_one_is_named(cell: Cell, code: str) -> None:
    text = cell.refused(code, has_scratch=False)
    assert "has no scratch directory" in text and "Limits(scratch_bytes=" in text


def test_the_error_carries_the_errno_and_the_path_of_a_refusal(cell: Cell) -> None:
    text = cell.refused(
        "try:\n open(secret)\nexcept PermissionError as e:\n assert (e.errno, e.filename) == (13, secret)\n raise"
    )
    assert text.startswith("[Errno 13] ")
    assert cell.run("import os; os.fork()")["errno"] == 1


def test_a_file_that_exists_nowhere_is_refused_outside_and_missing_inside(cell: Cell) -> None:
    answer = cell.run("open(outside + '/none')")
    assert answer["error"] == "PermissionError" and "sandbox" in answer["text"]
    assert "FileNotFoundError" in answer["kinds"]  # libraries that try a file expect this one
    assert "FileNotFoundError" not in cell.run("open(secret)")["kinds"]
    for path in ("scratch + '/none'", "os.__file__ + '.none'", "'none'"):
        assert cell.run(f"import os; open({path})")["error"] == "FileNotFoundError"


def test_everything_is_allowed_in_the_scratch_directory(cell: Cell) -> None:
    value = cell.value(
        """
        import glob, os, pathlib, shutil, sqlite3, tempfile, zipfile
        open("a.txt", "w").write("one")
        shutil.copy2("a.txt", "b.txt"); os.rename("b.txt", "c.txt"); os.link("c.txt", "d.txt")
        os.symlink("d.txt", "e.txt")
        os.chmod("c.txt", 0o600); os.utime("c.txt"); os.truncate("c.txt", 1)
        os.makedirs("deep/er"); shutil.copytree("deep", "copy"); shutil.rmtree("copy")
        os.chdir("/"); shutil.rmtree(scratch + "/deep"); os.chdir(scratch)
        with tempfile.TemporaryDirectory() as folder, tempfile.NamedTemporaryFile() as file:
            assert folder.startswith(scratch) and file.name.startswith(scratch)
        with tempfile.TemporaryFile() as file: file.write(b"x")
        base = sqlite3.connect("base.db"); base.execute("create table t(x)"); base.commit(); base.close()
        sqlite3.connect(":memory:").close()
        with zipfile.ZipFile("mod.zip", "w") as archive: archive.writestr("zipped.py", "answer = 42")
        import sys; sys.path.insert(0, scratch + "/mod.zip")
        import zipped
        shutil.make_archive(scratch + "/all", "tar", scratch)
        names = {p.name for p in pathlib.Path(".").iterdir()}
        assert names == set(os.listdir(scratch)) == set(glob.glob("*")) == {e.name for e in os.scandir()}
        assert len(list(os.walk("."))) == 1 and list(pathlib.Path(scratch).rglob("a.*"))
        value = [zipped.answer, open("c.txt").read(), sorted(names)]
        """
    )
    assert value == [42, "o", ["a.txt", "all.tar", "base.db", "c.txt", "d.txt", "e.txt", "mod.zip"]]


def test_devices_and_ones_own_proc_can_be_opened(cell: Cell) -> None:
    cell.value(
        """
        import os
        open("/dev/null", "w").close(); open("/dev/urandom", "rb").read(1); open("/dev/zero", "rb").close()
        open("/proc/self/status").read(); open(f"/proc/{os.getpid()}/stat").read(); os.listdir("/proc/self/fd")
        """
    )
    assert "read only" in cell.refused("import os; open(f'/proc/{os.getppid()}/environ')")


def test_paths_relative_to_a_descriptor_and_descriptors_are_left_to_the_kernel(cell: Cell) -> None:
    cell.value(
        """
        import os
        os.mkdir("sub"); folder = os.open("sub", os.O_RDONLY); os.chdir("/")
        os.close(os.open("new", os.O_CREAT | os.O_WRONLY, dir_fd=folder))
        os.rename("new", "other", src_dir_fd=folder, dst_dir_fd=folder); os.chmod("other", 0o600, dir_fd=folder)
        os.symlink("other", "link", dir_fd=folder); os.link("other", "third", src_dir_fd=folder, dst_dir_fd=folder)
        for name in os.listdir(folder): os.remove(name, dir_fd=folder)
        os.mkdir("new", dir_fd=folder); os.rmdir("new", dir_fd=folder); os.utime(folder); os.fchmod(folder, 0o700)
        reading, writing = os.pipe(); open(writing, "wb").close(); open(reading, "rb").read()
        """
    )


def test_a_database_in_memory_is_opened_from_any_directory_and_by_any_path_object(cell: Cell) -> None:
    cell.value(
        """
        import os, sqlite3
        class Late:
            asked = 0
            def __fspath__(self):
                self.asked += 1
                if self.asked == 1: raise LookupError("not yet")
                return ":memory:"
        os.chdir("/")
        for name in (":memory:", "", "file::memory:", Late()):
            sqlite3.connect(name, uri=True).close()
        """
    )


def test_a_symbolic_link_to_what_may_be_read_may_be_read(tmp_path: Path) -> None:
    cell = Cell(tmp_path)
    (cell.outside / "link").symlink_to(Path(json.__file__).parent)
    assert cell.value("value = len(open(outside + '/link/__init__.py').read()) > 0") is True


def test_the_scratch_directory_can_change(cell: Cell) -> None:
    cell.value("refusals.scratch = outside; open(secret, 'a').close()")
    assert "has no scratch" in cell.refused("refusals.scratch = None; open('x', 'w')")


def test_the_runtimes_own_forks_are_let_through(cell: Cell) -> None:
    code = "import os\nrefusals.resting = True\npid = os.fork()\nif not pid: os._exit(0)\nos.waitpid(pid, 0)"
    cell.value(f"import warnings; warnings.simplefilter('ignore')\n{code}")


@pytest.mark.parametrize(
    "code",
    [
        "class S(str):\n def startswith(self, *a): return True\n def __str__(self): return 'x'\nopen(S(secret))",
        "class S(str):\n __class__ = int\nopen(S(secret))",
        "class S(bytes):\n def __getitem__(self, i): return b'/dev/null'\nopen(S(secret.encode()))",
        "class P:\n def __fspath__(self): return secret\nopen(P())",
        "import sqlite3\nclass P:\n def __fspath__(self): return secret\nsqlite3.connect(P())",
    ],
)
def test_what_lies_about_its_path_is_refused_all_the_same(cell: Cell, code: str) -> None:
    cell.refused(code)


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("class P:\n def __fspath__(self): 1 / 0\nopen(P())", "ZeroDivisionError"),
        ("class P:\n def __fspath__(self): 1 / 0\nimport sqlite3; sqlite3.connect(P())", "ZeroDivisionError"),
        ("class P:\n def __fspath__(self): return 3\nimport sqlite3; sqlite3.connect(P())", "TypeError"),
        ("open('/etc/pass\\0wd')", "ValueError"),
        ("import os; os.listdir('a\\0b')", "ValueError"),
        ("open(3.5)", "TypeError"),
        ("open('')", "FileNotFoundError"),
        ("open('x' * 5000)", "OSError"),
        ("import os; os.mkdir('loop'); os.rmdir('loop'); os.symlink('loop', 'loop'); open('loop')", "OSError"),
    ],
)
def test_what_cannot_be_judged_meets_pythons_own_error(cell: Cell, code: str, error: str) -> None:
    assert cell.run(code)["error"] == error


def test_threads_loops_logging_and_sources_work_as_ever(cell: Cell) -> None:
    cell.value(
        """
        import asyncio, importlib.resources, inspect, json, logging, socket, warnings
        from concurrent.futures import ThreadPoolExecutor
        asyncio.run(asyncio.sleep(0))
        async def in_thread(): return await asyncio.to_thread(len, "abc")
        assert asyncio.run(in_thread()) == 3
        with ThreadPoolExecutor(2) as pool: assert list(pool.map(len, ["a", "bc"])) == [1, 2]
        logging.basicConfig(filename=scratch + "/log"); logging.warning("told"); assert "told" in open("log").read()
        assert "def dumps" in inspect.getsource(json.dumps)
        assert "def dumps" in importlib.resources.files("json").joinpath("__init__.py").read_text()
        a, b = socket.socketpair(); a.sendall(b"x"); a.sendmsg([b"y"]); assert b.recv(2) == b"xy"; a.close(); b.close()
        import mimetypes, platform, uuid; mimetypes.guess_type("a.csv"); platform.platform(); uuid.uuid1()
        import zoneinfo; zoneinfo.ZoneInfo("UTC")
        """
    )


def test_libraries_that_cells_import_can_be_imported_and_used(cell: Cell) -> None:
    pytest.importorskip("numpy")
    pytest.importorskip("pandas")
    cell.value(
        """
        import warnings; warnings.simplefilter("ignore")
        import numpy, pandas, polars
        frame = pandas.DataFrame({"a": numpy.arange(3)}); frame.to_csv("a.csv"); frame.to_pickle("a.pickle")
        assert pandas.read_csv("a.csv").a.sum() == 3 and polars.read_csv("a.csv")["a"].sum() == 3
        numpy.save("a.npy", frame.a); assert numpy.load("a.npy", mmap_mode="r")[2] == 2
        """
    )
    assert "read_paths" in cell.refused(
        "import warnings; warnings.simplefilter('ignore')\nimport pandas; pandas.read_csv(secret)"
    )


def test_locks_and_queues_of_multiprocessing_serve_threads(cell: Cell) -> None:
    value = cell.value(
        """
        import multiprocessing as m, threading
        from multiprocessing.pool import ThreadPool
        with ThreadPool(3) as pool: assert pool.map(len, ["a", "bc", "def"]) == [1, 2, 3]
        import multiprocessing.dummy
        with m.dummy.Pool(2) as pool: assert pool.map(abs, [-1]) == [1]
        queue = m.Queue(); queue.put({"a": 1}); assert queue.get(timeout=30) == {"a": 1}
        queue.close(); queue.join_thread()
        event = m.Event(); thread = threading.Thread(target=event.set); thread.start(); assert event.wait(30)
        thread.join()
        lock = m.Lock(); assert lock.acquire() and not lock.acquire(block=False) and not lock.acquire(timeout=0.001)
        lock.release()
        errors = []
        for call in (lock.release, m.RLock().release, m.BoundedSemaphore(1).release):
            try: call()
            except (ValueError, AssertionError) as error: errors.append(type(error).__name__)
        with m.RLock() as _, m.Semaphore(2): pass
        twice = m.RLock(); twice.acquire(); twice.acquire(); twice.release()
        taken = []
        thread = threading.Thread(target=lambda: taken.append(twice.acquire(block=False)))
        thread.start(); thread.join()
        twice.release()
        value = [errors, taken]
        """
    )
    assert value == [["ValueError", "AssertionError", "ValueError"], [False]]


def test_a_withheld_module_says_where_it_lies_and_how_it_is_granted(cell: Cell) -> None:
    withheld = {"mylib": "/srv/tree"}
    for code in ("import mylib", "from mylib.part import x", "import importlib; importlib.import_module('mylib')"):
        answer = cell.run(code, withheld=withheld)
        assert answer["error"] == "ModuleNotFoundError"
        assert "No module named 'mylib" in answer["text"] and "/srv/tree" in answer["text"]
        assert ".pth" in answer["text"] and "read_paths=['/srv/tree']" in answer["text"]
    assert cell.run("import mylib2", withheld=withheld)["text"] == "No module named 'mylib2'"


def test_who_only_asks_whether_a_withheld_module_is_there_hears_no(cell: Cell) -> None:
    code = "import importlib.util; value = importlib.util.find_spec('mylib')"
    assert cell.value(code, withheld={"mylib": "/srv/tree"}) is None


def test_a_module_that_cells_can_import_is_not_withheld_by_its_name(cell: Cell) -> None:
    cell.value("import json, csv", withheld={"json": "/srv/tree", "csv": "/srv/tree"})


def test_a_walk_that_a_library_makes_finds_nothing_as_it_would_without_the_hook(cell: Cell) -> None:
    value = cell.value(
        """
        import glob, os, types
        module = types.ModuleType("library")
        code = "import glob, os\\ndef find(p): return glob.glob(p + '/*') + list(os.walk(p))"
        exec(compile(code, "library.py", "exec"), module.__dict__)
        value = module.find(outside)
        """
    )
    assert value == []
