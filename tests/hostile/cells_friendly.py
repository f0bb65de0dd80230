"""What must work in a cell: a sandbox that forbids this would be turned off."""

from __future__ import annotations

from functools import partial
from typing import Any

from hostile.cells import HostileCell, Judge, Run

_friendly = partial(HostileCell, category="friendly", expect=("FINE",))
_SCRATCH = {"scratch_bytes": 4 << 20}


def _says(*words: str) -> Judge:
    """Judges that the error a cell got names these."""

    def judge(run: Run) -> str | None:
        text = run.result.to_text()
        return None if any(word in text for word in words) else f"the error says none of {words}: {text[-400:]}"

    return judge


def _refusal(name: str, code: str, **more: Any) -> HostileCell:
    """A refused deed whose error must tell that it is the sandbox that refuses."""
    return HostileCell(name, "friendly", code, expect=(), statuses=("error",), judge=_says("sandbox"), **more)


_MODULES = """
abc argparse array ast asyncio base64 bisect calendar cmath codecs collections colorsys concurrent.futures
contextlib contextvars copy csv ctypes dataclasses datetime decimal difflib dis email enum fnmatch fractions
functools gc glob graphlib gzip hashlib heapq hmac html http.client inspect io ipaddress itertools json
keyword linecache locale logging lzma bz2 math mimetypes multiprocessing numbers operator os pathlib pickle
pkgutil platform pprint queue random re reprlib sched secrets select selectors shelve shlex shutil signal site
socket sqlite3 ssl statistics string stringprep struct subprocess symtable sysconfig tarfile tempfile textwrap
threading time timeit token tokenize traceback tracemalloc types typing unicodedata unittest urllib.request
uuid warnings weakref xml.etree.ElementTree zipfile zlib zoneinfo
"""

CELLS = [
    _friendly(
        "friendly_modules_of_the_standard_library",
        code=f"""
import importlib
for name in {_MODULES.split()}:
    importlib.import_module(name)
print('FINE')""",
        max_seconds=20,
    ),
    _friendly(
        "friendly_asyncio",
        code="""
import asyncio
async def double(n):
    await asyncio.sleep(0.001)
    return 2 * n
async def main():
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(double(n)) for n in range(20)]
    return sum(t.result() for t in tasks) + await asyncio.to_thread(sum, [1, 2])
assert asyncio.run(main()) == 383
print('FINE')""",
    ),
    _friendly(
        "friendly_await_at_the_top",
        code="""
import asyncio
assert await asyncio.gather(asyncio.sleep(0, 1), asyncio.sleep(0.01, 2)) == [1, 2]
print('FINE')""",
    ),
    _friendly(
        "friendly_threads",
        limits={"memory_bytes": 2 << 30},  # each thread takes address space: its stack, and an arena of malloc
        code="""
import queue, threading
from concurrent.futures import ThreadPoolExecutor
with ThreadPoolExecutor(8) as pool:
    assert sum(pool.map(lambda n: n * n, range(100))) == 328350
box = queue.Queue()
thread = threading.Thread(target=lambda: box.put(threading.get_native_id()))
thread.start()
thread.join()
assert box.get(timeout=1) != threading.get_native_id()
print('FINE')""",
    ),
    _friendly(
        "friendly_queries",
        code="""
from concurrent.futures import ThreadPoolExecutor
assert llm_query('a') == 'a'
assert llm_batch_query(['b', 'c']) == ['b', 'c']
with ThreadPoolExecutor(4) as pool:
    assert list(pool.map(llm_query, 'defg')) == list('defg')
assert add(1, 2) == 3
print('FINE')""",
        judge=lambda run: None if sorted(run.prompts) == list("abcdefg") else f"the model was asked {run.prompts}",
    ),
    _friendly(
        "friendly_temporary_files",
        limits=_SCRATCH,
        code="""
import os, pathlib, shutil, tempfile
with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder, 'a', 'b.txt')
    path.parent.mkdir()
    path.write_text('text')
    shutil.copy(path, path.with_name('c.txt'))
    shutil.copy2(path, path.with_name('d.txt'))
    os.replace(path.with_name('c.txt'), path.with_name('e.txt'))
    path.with_name('link').symlink_to('b.txt')
    assert sorted(os.listdir(path.parent)) == ['b.txt', 'd.txt', 'e.txt', 'link']
    assert path.with_name('link').read_text() == 'text'
with tempfile.NamedTemporaryFile('w+') as file:
    file.write('more')
    file.seek(0)
    assert file.read() == 'more'
with open('here.txt', 'w') as file:
    file.write('in the folder that we start in')
os.remove('here.txt')
print('FINE')""",
    ),
    _friendly(
        "friendly_scratch_by_formats",
        limits=_SCRATCH,
        code="""
import csv, dbm.dumb, gzip, json, os, pickle, sqlite3, tarfile, tempfile, zipfile
os.chdir(tempfile.gettempdir())
with sqlite3.connect('x.db') as database:
    database.execute('create table t (a)')
    database.executemany('insert into t values (?)', [(n,) for n in range(1000)])
assert database.execute('select sum(a) from t').fetchone() == (499500,)
with gzip.open('x.gz', 'wt') as file:
    file.write('text')
with zipfile.ZipFile('x.zip', 'w') as archive:
    archive.write('x.gz')
with tarfile.open('x.tar', 'w') as archive:
    archive.add('x.gz')
with open('x.pickle', 'wb') as file:
    pickle.dump([1], file)
with open('x.csv', 'w', newline='') as file:
    csv.writer(file).writerow([1, 2])
print('FINE')""",
    ),
    _friendly(
        "friendly_scratch_is_the_home_too",
        limits=_SCRATCH,
        code="""
import os, pathlib
path = pathlib.Path.home() / '.cache' / 'x'
path.mkdir(parents=True)
(path / 'y').write_text('z')
assert os.path.expanduser('~') == str(pathlib.Path.home())
print('FINE')""",
    ),
    _friendly(
        "friendly_own_package_files",
        code="""
import email, importlib.metadata, importlib.resources, inspect, json, os
assert 'def loads' in inspect.getsource(json)
assert (importlib.resources.files('email') / 'message.py').read_text()
assert importlib.metadata.version('anyio')
assert os.listdir(os.path.dirname(email.__file__))
print('FINE')""",
    ),
    _friendly(
        "friendly_installed_packages",
        code="import anyio, idna\nassert anyio.run(anyio.sleep, 0) is None\nprint('FINE')",
    ),
    _friendly(
        "friendly_devices",
        code="""
import os, random, secrets, uuid
with open('/dev/urandom', 'rb') as file:
    assert len(file.read(16)) == 16
with open('/dev/zero', 'rb') as file:
    assert file.read(4) == bytes(4)
with open(os.devnull, 'w') as file:
    file.write('x')
assert len({random.random(), random.SystemRandom().random(), secrets.token_hex(), uuid.uuid4(), os.urandom(8)}) == 5
print('FINE')""",
    ),
    _friendly(
        "friendly_time_zones",
        code="""
import datetime, time, zoneinfo
winter = datetime.datetime(2024, 1, 1, 12, tzinfo=zoneinfo.ZoneInfo('Europe/Berlin'))
assert winter.utcoffset() == datetime.timedelta(hours=1)
assert time.localtime().tm_year > 2000 and datetime.datetime.now().astimezone().tzinfo
print('FINE')""",
    ),
    _friendly(
        "friendly_numbers",
        code="""
import decimal, fractions, math, statistics
decimal.getcontext().prec = 50
assert str(decimal.Decimal(2).sqrt()).startswith('1.41421356')
assert fractions.Fraction(1, 3) + fractions.Fraction(1, 6) == fractions.Fraction(1, 2)
assert math.factorial(500) % 499 == 0 and statistics.median(range(101)) == 50 and len(str(2 ** 5000)) == 1506
print('FINE')""",
    ),
    _friendly(
        "friendly_database_in_memory",
        code="""
import sqlite3
with sqlite3.connect(':memory:') as database:
    database.execute('create table t (a)')
    database.executemany('insert into t values (?)', [(n,) for n in range(100)])
    assert database.execute('select sum(a) from t').fetchone() == (4950,)
print('FINE')""",
    ),
    _friendly(
        "friendly_hashes_and_ciphers",
        code="""
import hashlib, hmac, ssl, zlib
assert hashlib.sha256(b'').hexdigest().startswith('e3b0c44298fc')
assert hashlib.scrypt(b'a', salt=b'b', n=2, r=1, p=1) and hashlib.pbkdf2_hmac('sha256', b'a', b'b', 10)
assert hmac.new(b'k', b'm', 'sha512').digest() and ssl.create_default_context() and zlib.crc32(b'x')
print('FINE')""",
    ),
    _friendly(
        "friendly_numpy",
        needs=("numpy",),
        code="""
import numpy as np
a = np.random.default_rng(0).normal(size=(200, 200))
assert np.allclose(a @ np.linalg.inv(a), np.eye(200), atol=1e-6)
assert np.fft.fft(np.arange(8)).shape == (8,)
print('FINE')""",
        max_seconds=20,
        limits={"memory_bytes": 2 << 30},
    ),
    _friendly(
        "friendly_pandas",
        needs=("pandas",),
        code="""
import io, pandas as pd
frame = pd.read_csv(io.StringIO('a,b\\n1,x\\n2,y\\n3,x'))
assert frame.groupby('b').a.sum().to_dict() == {'x': 4, 'y': 2}
print('FINE')""",
        max_seconds=30,
        limits={"memory_bytes": 2 << 30, "cell_seconds": 20, "compute_seconds": 20},
    ),
    _friendly(
        "friendly_polars",
        needs=("polars",),
        code="""
import polars as pl
assert pl.DataFrame({'a': [1, 2, 3]}).select(pl.col('a').sum()).item() == 6
print('FINE')""",
        max_seconds=30,
        limits={"memory_bytes": 4 << 30, "cell_seconds": 20, "compute_seconds": 20},
    ),
    _friendly(
        "friendly_logging",
        code="""
import logging, warnings
logging.basicConfig(level='INFO', force=True)
logging.getLogger('x').warning('told')
warnings.warn('told too')
print('FINE')""",
        judge=lambda run: None if "told" in run.result.stderr else "the log is not in stderr",
    ),
    _friendly(
        "friendly_our_own_state",
        code="""
import os, platform, resource, sys, time
with open('/proc/self/status') as file:
    assert 'VmRSS' in file.read()
with open('/proc/self/maps') as file:
    assert 'stack' in file.read()
assert os.listdir('/proc/self/fd') and os.cpu_count() >= 1 and os.getpid() and platform.platform() and sys.version
assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss and time.process_time() > 0 and os.sched_getaffinity(0)
print('FINE')""",
    ),
    _friendly(
        "friendly_signals_to_ourselves",
        code="""
import os, signal, time
heard = []
signal.signal(signal.SIGUSR1, lambda number, frame: heard.append(number))
os.kill(os.getpid(), signal.SIGUSR1)
signal.raise_signal(signal.SIGUSR1)
signal.signal(signal.SIGALRM, lambda number, frame: heard.append(number))
signal.setitimer(signal.ITIMER_REAL, 0.01)
while len(heard) < 3:
    time.sleep(0.005)
signal.signal(signal.SIGALRM, signal.SIG_DFL)
signal.signal(signal.SIGUSR1, signal.SIG_DFL)
print('FINE')""",
    ),
    _friendly(
        "friendly_handler_of_interrupts_may_be_asked_for",
        code="""
import signal
signal.signal(signal.SIGINT, signal.SIG_IGN)
signal.signal(signal.SIGINT, signal.default_int_handler)
print('FINE')""",
    ),
    _friendly(
        "friendly_pipes_and_selectors",
        code="""
import mmap, os, select, selectors, socket
reading, writing = os.pipe()
os.write(writing, b'x')
assert select.select([reading], [], [], 1)[0] and os.read(reading, 1) == b'x'
ours, theirs = socket.socketpair()
ours.sendall(b'hello')
assert theirs.recv(5) == b'hello'
with mmap.mmap(-1, 4096) as memory:
    memory[:2] = b'ok'
with selectors.DefaultSelector() as selector:
    selector.register(theirs, selectors.EVENT_READ)
    assert selector.select(0) == []
print('FINE')""",
    ),
    _friendly(
        "friendly_c_functions",
        code="""
import ctypes
assert ctypes.CDLL(None).abs(-5) == 5
pointer = ctypes.POINTER(ctypes.c_int)
compare = ctypes.CFUNCTYPE(ctypes.c_int, pointer, pointer)(lambda a, b: a[0] - b[0])
numbers = (ctypes.c_int * 4)(3, 1, 4, 1)
ctypes.CDLL(None).qsort(numbers, 4, 4, compare)
assert list(numbers) == [1, 1, 3, 4]
print('FINE')""",
    ),
    _friendly(
        "friendly_much_memory_within_the_limit",
        code="""
blocks = [bytearray(10 << 20) for _ in range(20)]
assert sum(map(len, blocks)) == 200 << 20
del blocks
print('FINE')""",
    ),
    _friendly(
        "friendly_text_of_every_kind",
        code="""
import base64, csv, difflib, html, io, json, re, string, textwrap, unicodedata, xml.etree.ElementTree as tree
assert json.loads(json.dumps({'é': [1.5, None, '😀']}))['é'][2] == '😀'
assert re.findall(r'(\\w+)@', 'a@b c@d') == ['a', 'c'] and tree.fromstring('<a><b/></a>')[0].tag == 'b'
assert list(csv.reader(io.StringIO('a,b'))) == [['a', 'b']] and unicodedata.name('é')
assert html.unescape('&lt;') == '<' and base64.b64encode(b'x') == b'eA==' and textwrap.fill('a b', 1) == 'a\\nb'
print('FINE')""",
    ),
    _friendly(
        "friendly_tests_in_a_cell",
        code="""
import io, unittest
class Sums(unittest.TestCase):
    def test_sum(self):
        self.assertEqual(sum([1, 2]), 3)
result = unittest.TextTestRunner(stream=io.StringIO()).run(unittest.defaultTestLoader.loadTestsFromTestCase(Sums))
assert result.wasSuccessful() and result.testsRun == 1
print('FINE')""",
    ),
    _refusal("friendly_words_on_a_refused_program", "import subprocess\nsubprocess.run(['/bin/true'])"),
    _refusal("friendly_words_on_a_refused_child", "import os\nos.fork()"),
    _refusal("friendly_words_on_refused_multiprocessing", "import multiprocessing\nmultiprocessing.Pool(2)"),
    _refusal("friendly_words_on_a_refused_socket", "import socket\nsocket.create_connection(('127.0.0.1', 9), 1)"),
    _refusal(
        "friendly_words_on_a_refused_address", "import urllib.request\nurllib.request.urlopen('http://127.0.0.1:9/')"
    ),
    _refusal("friendly_words_on_a_refused_file", "open(T['home_secret'])"),
    _refusal("friendly_words_on_a_refused_new_file", "open(T['home'] + '/new', 'w')"),
    _refusal("friendly_words_on_a_working_tree", "import planted_module", needs=("planted",)),
]
