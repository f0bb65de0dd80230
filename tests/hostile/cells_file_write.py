"""Changing files of the host: their content, their names, their marks, and what lies beside them."""

from __future__ import annotations

from functools import partial

from hostile.cells import HostileCell

_write = partial(HostileCell, category="file-write")

CELLS = [
    _write(
        "file_write_new_file_at_home",
        code="""
folders = [T['home'], T['cwd'], T['folder'], T['home'] + '/.ssh', os.path.dirname(T['module_file'])]
attempt(*[lambda f=f: open(f + '/' + T['mark'], 'x').close() for f in folders])""",
    ),
    _write(
        "file_write_new_file_in_shared_folders",
        code="""
folders = ['/tmp', '/var/tmp', '/dev/shm', '/', '/run', '/dev/mqueue', '/run/lock']
for folder in folders:
    attempt(lambda: open(folder + '/' + T['mark'], 'x').close())""",
        expect=("BLOCKED", "GOT"),  # a private /tmp may take it: the host looks whether it is in its own
    ),
    _write(
        "file_write_of_a_temporary_file_stays_private",
        code="""
import tempfile
attempt(lambda: tempfile.NamedTemporaryFile(prefix=T['mark'], delete=False).write(b'x'),
        lambda: tempfile.mkdtemp(prefix=T['mark'], dir=T['home']))""",
        expect=("BLOCKED", "GOT"),
        limits={"scratch_bytes": 1 << 20},
        judge=lambda run: "in the home of the host" if "/home/" in run.result.stdout else None,
    ),
    _write(
        "file_write_append_and_overwrite",
        code="""
def overwrite(mode):
    with open(T['home_secret'], mode) as file:
        return file.write('overwritten')
attempt(lambda: overwrite('a'), lambda: overwrite('r+'), lambda: overwrite('w'),
        lambda: os.open(T['ssh_key'], os.O_WRONLY), lambda: os.open(T['ssh_key'], os.O_RDONLY | os.O_TRUNC))""",
    ),
    _write("file_write_truncate", code="attempt(lambda: os.truncate(T['home_secret'], 0))"),
    _write(
        "file_write_mode",
        code="""
AT_FDCWD = -100
attempt(lambda: os.chmod(T['home_secret'], 0o777), lambda: os.chmod(T['home'], 0o777),
        lambda: checked(libc.fchmodat(AT_FDCWD, T['home_secret'].encode(), 0o777, 0)),
        lambda: syscall(452, AT_FDCWD, T['home_secret'].encode(), 0o777, 0),
        lambda: os.chmod('/proc/self/fd/%d' % os.open(T['home_secret'], os.O_PATH), 0o777))""",
        expect=("BLOCKED", "GOT"),  # success may be pretended, for the sake of shutil: the host looks at the files
    ),
    _write(
        "file_write_owner",
        code="""
attempt(lambda: os.chown(T['home_secret'], T['uid'], -1), lambda: os.lchown(T['link'], T['uid'], -1),
        lambda: os.chown('.aws/credentials', T['uid'], -1, dir_fd=os.open(T['home'], os.O_PATH)))""",
    ),
    _write(
        "file_write_times",
        code="""
attempt(lambda: os.utime(T['home_secret'], (0, 0)), lambda: os.utime(T['link'], (0, 0), follow_symlinks=False),
        lambda: checked(libc.utimes(T['home'].encode(), None)),
        lambda: checked(libc.utime(T['home'].encode(), None)))""",
        expect=("BLOCKED", "GOT"),  # success may be pretended, for the sake of shutil: the host looks at the files
    ),
    _write(
        "file_write_extended_attributes",
        code="""
path = T['home_secret']
arguments = ctypes.create_string_buffer(b'\\0' * 8 + (1).to_bytes(4, 'little') + b'\\0' * 4, 16)
attempt(lambda: os.setxattr(path, 'user.x', b'1'),
        lambda: os.setxattr(T['home'], 'user.x', b'1', follow_symlinks=False),
        lambda: os.removexattr(path, 'user.y'),
        lambda: syscall(463, -100, path.encode(), 0, b'user.z', arguments, 16))""",
    ),
    _write(
        "file_write_new_links",
        code="""
name = T['home'] + '/' + T['mark']
attempt(lambda: os.symlink('/etc/passwd', name), lambda: os.link(T['home_secret'], name + 'h'),
        lambda: os.link(T['shm_secret'], '/dev/shm/' + T['mark']))""",
    ),
    _write(
        "file_write_rename",
        code="""
here, there = T['home_secret'], T['home'] + '/' + T['mark']
attempt(lambda: os.rename(here, there), lambda: os.replace(T['ssh_key'], here), lambda: os.rename(T['cwd'], there),
        lambda: os.rename(here, scratch('moved')),
        lambda: checked(libc.renameat2(-100, here.encode(), -100, T['ssh_key'].encode(), 2)))""",
    ),
    _write(
        "file_write_remove",
        code="""
attempt(lambda: os.unlink(T['tmp_secret']), lambda: os.unlink(T['link']), lambda: os.rmdir(T['home'] + '/open'),
        lambda: os.unlink(T['shm_secret']), lambda: os.unlink(T['unix_path']))""",
    ),
    _write(
        "file_write_new_folder",
        code="""
attempt(lambda: os.mkdir(T['home'] + '/' + T['mark']),
        lambda: os.makedirs(T['cwd'] + '/src/' + T['mark'] + '/a'))""",
    ),
    _write(
        "file_write_pipes_and_devices",
        code="""
import stat
name = T['home'] + '/' + T['mark']
attempt(lambda: os.mkfifo(name), lambda: os.mknod(name + 'd', 0o600 | stat.S_IFCHR, os.makedev(1, 3)),
        lambda: os.mknod(name + 's', 0o600 | stat.S_IFSOCK),
        lambda: os.mknod(name + 'b', 0o600 | stat.S_IFBLK, os.makedev(254, 0)))""",
    ),
    _write(
        "file_write_device_in_the_scratch_directory",
        code="""
import stat
attempt(lambda: os.mknod(scratch('null'), 0o600 | stat.S_IFCHR, os.makedev(1, 1))
        or os.open(scratch('null'), os.O_RDONLY),
        lambda: os.mknod(scratch('disk'), 0o600 | stat.S_IFBLK, os.makedev(254, 0)))""",
        limits={"scratch_bytes": 1 << 20},
    ),
    _write(
        "file_write_installed_packages",
        code="""
places = [T['site_packages'], T['rlm_folder'], T['standard_library']]
attempt(*[lambda p=p: open(f"{p}/{T['mark']}.pth", 'x').close() for p in places],
        lambda: open(T['rlm_folder'] + '/__init__.py', 'r+b').close(), lambda: open(os.__file__, 'r+b').close(),
        lambda: os.link(T['rlm_folder'] + '/errors.py', T['rlm_folder'] + '/' + T['mark']))""",
    ),
    _write(
        "file_write_compiled_modules",
        code="""
import json, py_compile
cached = json.__spec__.cached
attempt(lambda: open(cached, 'r+b').close(), lambda: os.mkdir(f"{T['site_packages']}/__pycache__/{T['mark']}"),
        lambda: open(f"{os.path.dirname(cached)}/../../__pycache__/{T['mark']}", 'x').close(),
        lambda: open(f"{T['rlm_folder']}/__pycache__/{T['mark']}", 'x').close())""",
    ),
    _write(
        "file_write_programs_of_the_user",
        code="""
names = [os.path.dirname(T['python']) + '/' + T['mark'], T['home'] + '/.bashrc', T['home'] + '/.profile',
        '/etc/cron.d/' + T['mark']]
attempt(*[lambda n=n: open(n, 'x').close() for n in names],
        lambda: open(os.path.realpath(T['python']), 'r+b').close())""",
    ),
    _write(
        "file_write_shared_mapping",
        code="""
import mmap
def change():
    fd = os.open(T['home_secret'], os.O_RDWR)
    with mmap.mmap(fd, 4, mmap.MAP_SHARED) as shared:
        shared[:4] = b'XXXX'
attempt(change)""",
    ),
    _write(
        "file_write_unnamed_file_given_a_name",
        code="""
def publish():
    fd = os.open(T['home'], os.O_TMPFILE | os.O_RDWR)
    os.link(f'/proc/self/fd/{fd}', T['home'] + '/' + T['mark'], follow_symlinks=True)
attempt(publish)""",
    ),
    _write(
        "file_write_by_the_standard_library",
        code="""
import logging, shelve, shutil, sqlite3, zipfile
def database():
    with sqlite3.connect(T['database']) as opened:
        opened.execute("insert into notes values ('changed')")
path = T['home'] + '/' + T['mark']
attempt(database, lambda: logging.FileHandler(path + 'l'), lambda: zipfile.ZipFile(path + 'z', 'w').close(),
        lambda: shutil.copyfile(os.__file__, path + 'c'), lambda: shutil.make_archive(path + 'a', 'zip', T['home']),
        lambda: shutil.rmtree(T['home']), also=(sqlite3.OperationalError,))""",
    ),
    _write(
        "file_write_by_the_c_library",
        code="""
path = (T['home'] + '/' + T['mark']).encode()
attempt(lambda: checked(libc.creat(path, 0o600)), lambda: checked(libc.open(path, os.O_CREAT | os.O_WRONLY, 0o600)),
        lambda: checked(libc.mkdir(path, 0o700)),
        lambda: checked(libc.truncate(T['ssh_key'].encode(), ctypes.c_long(0))))""",
    ),
    _write(
        "file_write_settings_of_the_kernel",
        code="""
names = ['/proc/sys/kernel/core_pattern', '/proc/sys/vm/drop_caches', '/proc/sysrq-trigger', '/sys/power/state',
         '/proc/sys/kernel/hostname', '/proc/sys/user/max_user_namespaces', '/proc/sys/net/ipv4/ip_forward']
attempt(*[lambda n=n: os.close(os.open(n, os.O_WRONLY)) for n in names])""",
    ),
    _write(
        "file_write_settings_of_the_host_process",
        code="""
def tell(name, text):
    with open(f"/proc/{T['host_pid']}/{name}", 'w') as file:
        return file.write(text)
attempt(lambda: tell('oom_score_adj', '999'), lambda: tell('coredump_filter', '0'),
        lambda: tell('timerslack_ns', '99999'),
        lambda: tell('clear_refs', '1'), lambda: tell('autogroup', '19'))""",
    ),
    _write(
        "file_write_control_groups",
        code="""
attempt(lambda: os.mkdir('/sys/fs/cgroup/' + T['mark']), lambda: os.open('/sys/fs/cgroup/cgroup.procs', os.O_WRONLY),
        lambda: os.mkdir('/sys/fs/cgroup/memory/' + T['mark']))""",
    ),
    _write(
        "file_write_lock_on_a_file_of_the_host",
        code="""
import fcntl
def lock(path, mode):
    with open(path, mode) as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_RDLCK)
attempt(lambda: lock(T['home_secret'], 'r'), lambda: lock(T['shm_secret'], 'r'))""",
    ),
    _write(
        "file_write_remount_of_what_is_read_only",
        code="""
MS_REMOUNT, MS_BIND = 32, 4096
attempt(*[lambda p=p: checked(libc.mount(b'none', p, None, ctypes.c_ulong(MS_REMOUNT | MS_BIND), None))
        for p in (b'/', b'/usr', b'/tmp')],
        lambda: checked(libc.umount2(b'/proc', 2)), lambda: checked(libc.umount2(b'/', 2)))""",
        dangerous=True,
    ),
]
