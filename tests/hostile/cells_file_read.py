"""Reading files of the host: by every name and every road that leads to them."""

from __future__ import annotations

from functools import partial
from typing import Any

from hostile.cells import HostileCell
from hostile.twin import another_environment

_read = partial(HostileCell, category="file-read")


async def _read_the_scratch_of_another(env: Any, cell: HostileCell) -> Any:
    async with another_environment() as other:
        written = await other.execute_async(
            "import os, tempfile\npath = os.path.join(tempfile.mkdtemp(), 'x')\n"
            "with open(path, 'w') as file: _ = file.write('CANARY of another')\nprint(path, os.getpid())"
        )
        await env.set_async("OTHER", written.stdout.split())
        return await env.execute_async(cell.code)


CELLS = [
    _read("file_read_absolute_path", code="attempt(lambda: shown(T['home_secret']), lambda: shown(T['ssh_key']))"),
    _read(
        "file_read_relative_path",
        code="attempt(lambda: shown('../' * 20 + T['home_secret']), lambda: shown('/../..' + T['cwd_secret']))",
    ),
    _read("file_read_link_of_the_host", code="attempt(lambda: shown(T['link']))"),
    _read(
        "file_read_own_link",
        code="""
def through():
    os.symlink(T['home_secret'], scratch('link'))
    return shown(scratch('link'))
def through_folder():
    os.symlink(T['home'], scratch('folder'))
    return shown(scratch('folder/.aws/credentials'))
attempt(through, through_folder)""",
    ),
    _read(
        "file_read_proc_root_and_cwd",
        code="""
own = ['/proc/self/root', '/proc/thread-self/root',
        '/proc/self/task/%d/root' % os.getpid(), '/proc/self/cwd/..' + '/..' * 9]
others = [f'/proc/{pid}/root' for pid in (1, parent(), T['host_pid'], T['victim_pid'])]
attempt(*[lambda p=p: shown(p + T['home_secret']) for p in own + others],
        lambda: shown('/proc/%d/cwd/.env' % T['host_pid']))""",
    ),
    _read(
        "file_read_relative_to_a_descriptor",
        code="""
def relative(folder, path, flags=os.O_RDONLY):
    return os.read(os.open(path, os.O_RDONLY, dir_fd=os.open(folder, flags | os.O_DIRECTORY)), 99)
attempt(lambda: relative(T['home'], '.aws/credentials'), lambda: relative('/', T['home_secret'][1:]),
        lambda: relative(T['home'], '.aws/credentials', os.O_PATH),
        lambda: relative('/', T['home_secret'][1:], os.O_PATH),
        lambda: relative('.', '../' * 20 + T['home_secret']))""",
    ),
    _read(
        "file_read_reopened_from_a_path_descriptor",
        code="""
def reopen(path):
    fd = os.open(path, os.O_PATH)
    return os.read(os.open(f'/proc/self/fd/{fd}', os.O_RDONLY), 99)
attempt(lambda: reopen(T['home_secret']), lambda: reopen(T['link']))""",
    ),
    _read(
        "file_read_other_open_flags",
        code="""
flags = [os.O_RDWR, os.O_NOATIME, os.O_NONBLOCK | os.O_NOFOLLOW, os.O_SYNC, os.O_RDWR | os.O_APPEND]
attempt(*[lambda f=f: os.read(os.open(T['home_secret'], f), 99) for f in flags])""",
    ),
    _read(
        "file_read_by_mapping",
        code="""
import mmap
def mapped():
    with open(T['home_secret'], 'rb') as file:
        return mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)[:]
attempt(mapped)""",
    ),
    _read(
        "file_read_by_sqlite",
        code="""
import sqlite3
def rows(name, **more):
    with sqlite3.connect(name, **more) as database:
        return database.execute('select * from notes').fetchall()
def attached():
    with sqlite3.connect(':memory:') as database:
        database.execute('attach ? as other', (T['database'],))
        return database.execute('select * from other.notes').fetchall()
attempt(lambda: rows(T['database']), lambda: rows(f"file:{T['database']}?immutable=1", uri=True), attached,
        also=(sqlite3.OperationalError,))""",
    ),
    _read(
        "file_read_by_import_from_another_folder",
        code="""
import sys
sys.path.insert(0, T['module_folder'])
def by_spec():
    import importlib.util
    spec = importlib.util.spec_from_file_location('m', T['module_file'])
    spec.loader.exec_module(module := importlib.util.module_from_spec(spec))
    return module.SECRET
def by_runpy():
    import runpy
    return runpy.run_path(T['module_file'])['SECRET']
attempt(lambda: __import__('canary_module').SECRET, by_spec, by_runpy, also=(ImportError,))""",
    ),
    _read(
        "file_read_by_import_from_a_working_tree_of_the_host",
        code="""
attempt(lambda: __import__('canary_module').SECRET, lambda: __import__('planted_module').SECRET,
        lambda: shown(T['planted_file']), also=(ImportError,))""",
    ),
    _read(
        "file_read_by_the_standard_library",
        code="""
import codecs, fileinput, io, linecache, pathlib, shutil, subprocess, tokenize
path = T['home_secret']
attempt(lambda: pathlib.Path(path).read_bytes(), lambda: codecs.open(path).read(), lambda: io.FileIO(path).readall(),
        lambda: list(fileinput.input(path)), lambda: nonempty(linecache.getlines(path)),
        lambda: tokenize.open(path).read(),
        lambda: shutil.copyfile(path, scratch('copy')) and shown(scratch('copy')))""",
    ),
    _read(
        "file_read_by_the_c_library",
        code="""
libc.fopen.restype = ctypes.c_void_p
path = T['home_secret'].encode()
how = ctypes.create_string_buffer(24)  # open_how: read-only, no restriction
attempt(lambda: os.read(checked(libc.open(path, 0)), 99), lambda: os.read(checked(libc.openat(-100, path, 0)), 99),
        lambda: os.read(syscall('openat2', -100, path, how, 24), 99), lambda: nonempty(libc.fopen(path, b'r')))""",
    ),
    _read(
        "file_read_by_copying_in_the_kernel",
        code="""
def copied(how):
    source = os.open(T['home_secret'], os.O_RDONLY)
    reading, writing = os.pipe()
    how(writing, source)
    return os.read(reading, 99)
attempt(lambda: copied(lambda o, i: os.sendfile(o, i, 0, 99)), lambda: copied(lambda o, i: os.splice(i, o, 99)))""",
    ),
    _read(
        "file_read_after_a_hard_link",
        code="""
attempt(lambda: os.link(T['home_secret'], scratch('hard')) or shown(scratch('hard')),
        lambda: os.link(T['home_secret'], T['folder'] + '/' + T['mark']) or shown(T['folder'] + '/' + T['mark']))""",
    ),
    _read(
        "file_read_after_a_change_of_folder",
        code="""
def enter():
    os.chdir(T['cwd'])
    return shown('.env')
def enter_by_descriptor():
    os.fchdir(os.open(T['cwd'], os.O_PATH))
    return shown('.env')
here = os.getcwd()
attempt(enter, enter_by_descriptor)
os.chdir(here)""",
    ),
    _read(
        "file_read_listing_of_folders",
        code="""
import glob, pathlib
places = [T['home'], T['cwd'], T['folder'], os.path.dirname(T['home_secret'])]
attempt(*[lambda p=p: os.listdir(p) for p in places], lambda: list(os.scandir(T['home'])),
        lambda: nonempty(glob.glob(T['home'] + '/.*/*')), lambda: nonempty(list(os.walk(T['home']))),
        lambda: nonempty(list(pathlib.Path(T['folder']).rglob('*'))))""",
    ),
    _read(
        "file_read_homes_of_users",
        code="""
def homes(folder):
    found = [os.path.join(folder, name) for name in os.listdir(folder)]
    return nonempty([path for path in found if os.path.isdir(path) and not T['python'].startswith(path)])
attempt(lambda: homes('/home'), lambda: homes('/root'), lambda: nonempty(os.listdir('/var/log')),
        lambda: nonempty(os.listdir('/var/lib')), lambda: nonempty(os.listdir('/boot')),
        lambda: nonempty(os.listdir('/run')))""",
    ),
    _read("file_read_etc_shadow", code="attempt(lambda: shown('/etc/shadow'), lambda: shown('/etc/gshadow'))"),
    _read(
        "file_read_etc_passwd_and_other_settings",
        code="""
names = ['passwd', 'group', 'hostname', 'machine-id', 'fstab', 'ssh/ssh_config', 'apt/sources.list', 'crontab']
attempt(*[lambda n=n: shown('/etc/' + n) for n in names])""",
    ),
    _read("file_read_shared_memory_of_the_host", code="attempt(lambda: shown(T['shm_secret']))"),
    _read(
        "file_read_of_the_host_by_its_descriptors",
        code="""
fds = ['/proc/%d/fd/%d' % (T['host_pid'], fd) for fd in (T['descriptor'], *range(3, 40))]
attempt(*[lambda p=p: shown(p) for p in fds], lambda: os.listdir('/proc/%d/fd' % T['host_pid']))""",
    ),
    _read(
        "file_read_sockets_and_mounts_of_the_host",
        code="""
name = os.path.basename(T['folder'])
def lines(path):
    with open(path) as file:
        return nonempty([line for line in file if name in line])
port = '%04X' % T['tcp_port']
def ports(path):
    with open(path) as file:
        return nonempty([line for line in file if f':{port}' in line])
attempt(lambda: lines('/proc/net/unix'), lambda: lines('/proc/self/net/unix'), lambda: lines('/proc/1/mountinfo'),
        lambda: ports('/proc/net/tcp'), lambda: ports('/proc/self/net/tcp'),
        lambda: ports('/proc/%d/net/tcp' % T['host_pid']))""",
    ),
    _read(
        "file_read_secrets_of_the_kernel",
        code="""
paths = ['/proc/kcore', '/proc/kallsyms', '/proc/keys', '/proc/modules', '/proc/cmdline', '/proc/timer_list',
        '/proc/config.gz',
         '/dev/mem', '/dev/kmsg', '/proc/kmsg', '/sys/kernel/notes', '/proc/sys/kernel/random/boot_id',
         '/proc/vmallocinfo',
         '/proc/diskstats', '/proc/interrupts', '/proc/locks', '/proc/swaps', '/proc/partitions']
attempt(*[lambda p=p: os.read(os.open(p, os.O_RDONLY | os.O_NONBLOCK), 99) for p in paths],
        lambda: os.listdir('/sys/class/net'), lambda: os.listdir('/sys/block'))""",
    ),
    _read(
        "file_read_other_processes_by_proc",
        code="""
pids = [T['host_pid'], T['victim_pid'], 1 if os.getpid() != 1 and parent() not in (0, 1) else T['host_pid']]
names = ['status', 'cmdline', 'stat', 'maps', 'environ', 'comm', 'io', 'limits', 'cgroup']
attempt(*[lambda p=p, n=n: shown(f'/proc/{p}/{n}') for p in pids for n in names])""",
    ),
    _read(
        "file_read_devices",
        code="""
paths = ['/dev/sda', '/dev/vda', '/dev/nvme0n1', '/dev/kvm', '/dev/fuse', '/dev/net/tun', '/dev/ptmx', '/dev/tty',
        '/dev/loop-control',
         '/dev/hpet', '/dev/rtc0', '/dev/input/event0', '/dev/snd/timer', '/dev/dri/card0', '/dev/vsock',
         '/dev/userfaultfd']
attempt(*[lambda p=p: os.open(p, os.O_RDONLY | os.O_NONBLOCK) for p in paths])""",
    ),
    _read(
        "file_read_scratch_of_another_environment",
        drive=_read_the_scratch_of_another,
        code="""
path, pid = OTHER
attempt(lambda: shown(path), lambda: os.listdir(os.path.dirname(path)), lambda: shown(f'/proc/{pid}/root{path}'),
        lambda: shown(f'/proc/{pid}/cwd/x'))""",
    ),
    _read(
        "file_read_by_watching_it",
        code="""
def watch():
    fd = syscall('inotify_init1', 0)
    return syscall('inotify_add_watch', fd, T['home'].encode(), 0xFFF)
attempt(watch)""",
    ),
    _read(
        "file_read_whether_it_exists",
        code="""
attempt(lambda: os.stat(T['home_secret']), lambda: os.readlink(T['link']),
        lambda: nonempty(os.access(T['home'], 0)))""",
        expect=("BLOCKED", "GOT"),
        gap="Landlock does not keep a cell from asking whether a path exists; a private root does",
    ),
]
