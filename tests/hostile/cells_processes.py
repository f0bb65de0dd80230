"""Other processes: making them, signalling them, reading and changing them."""

from __future__ import annotations

from functools import partial
from typing import Any

from hostile.cells import HostileCell
from hostile.twin import another_environment

_process = partial(HostileCell, category="processes")
# After each way to make a child: the child must do no more than end.
_CHILD = """
def child(pid):
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    return pid
"""


async def _signal_another(env: Any, cell: HostileCell) -> Any:
    async with another_environment() as other:
        await other.execute_async("marker = 'kept'")
        pid = (await other.execute_async("import os\nprint(os.getpid())")).stdout.strip()
        await env.set_async("OTHER", int(pid))
        result = await env.execute_async(cell.code)
        kept = await other.execute_async("print(6 * 7, marker)")
        assert kept.stdout.strip() == "42 kept", f"the other environment was harmed: {kept!r}"
        return result


CELLS = [
    _process("processes_fork", code=_CHILD + "attempt(lambda: child(os.fork()), lambda: child(os.forkpty()[0]))"),
    _process(
        "processes_run_a_program",
        code="""
import subprocess
attempt(lambda: subprocess.run(['/bin/true'], check=True), lambda: subprocess.run([T['python'], '-c', '1'], check=True),
        lambda: subprocess.check_output('id', shell=True), lambda: subprocess.Popen(['/bin/sleep', '0']).wait())""",
    ),
    _process(
        "processes_run_a_shell",
        code="""
attempt(lambda: nonempty(os.system('true') == 0), lambda: nonempty(libc.system(b'true') == 0),
        lambda: nonempty(os.popen('id').read()))""",
    ),
    _process(
        "processes_posix_spawn",
        code="""
def spawn(how, path):
    return os.waitpid(how(path, [path], {}), 0)
attempt(*[lambda h=h, p=p: spawn(h, p) for h in (os.posix_spawn, os.posix_spawnp)
        for p in ('/bin/true', T['python'])])""",
    ),
    _process(
        "processes_become_another_program",
        code="""
attempt(lambda: os.execv(T['python'], ['python', '-c', '1']), lambda: os.execve('/bin/true', ['true'], {}),
        lambda: os.execvp('sh', ['sh', '-c', 'true']),
        lambda: syscall('execveat', -100, T['python'].encode(), None, None, 0))""",
    ),
    _process(
        "processes_multiprocessing",
        code="""
import multiprocessing
def start(method):
    process = multiprocessing.get_context(method).Process(target=print)
    process.start()
    process.join(3)
    return process.exitcode
def pool():
    with multiprocessing.Pool(2) as pool:
        return pool.map(abs, [-1, -2])
attempt(lambda: start('fork'), lambda: start('spawn'), lambda: start('forkserver'), pool)""",
    ),
    _process(
        "processes_of_a_pool_of_futures",
        code="""
from concurrent.futures import ProcessPoolExecutor
def run():
    with ProcessPoolExecutor(1) as pool:
        return pool.submit(abs, -1).result(3)
attempt(run)""",
    ),
    _process(
        "processes_bare_system_calls",
        code=_CHILD
        + """
SIGCHLD = 17
arguments = ctypes.create_string_buffer(88)
arguments[32] = SIGCHLD
attempt(lambda: child(syscall('clone', SIGCHLD, 0, 0, 0, 0)), lambda: child(syscall('clone3', arguments, 88)),
        lambda: child(syscall('fork')), lambda: child(syscall('clone', 0, 0, 0, 0, 0)),
        lambda: child(syscall('clone', 0x100 | 0x4000 | SIGCHLD, 0, 0, 0, 0)))""",
    ),
    _process(
        "processes_clone_into_new_namespaces",
        code=_CHILD
        + """
SIGCHLD = 17
attempt(*[lambda f=f: child(syscall('clone', f | SIGCHLD, 0, 0, 0, 0))
        for f in (0x10000000, 0x10020000, 0x50000000, 0x30000000)])""",
    ),
    _process(
        "processes_daemon",
        code="""
def daemon():
    pid = os.fork()
    if pid:
        os.waitpid(pid, 0)
        return 'a daemon is running'
    os.setsid()
    if os.fork():
        os._exit(0)
    import time
    time.sleep(20)
    os._exit(0)
attempt(daemon)""",
    ),
    _process(
        "processes_signal_the_host",
        code="attempt(*[lambda s=s: os.kill(T['host_pid'], s) for s in (0, 10, 15, 1, 2, 12)])",
    ),
    _process(
        "processes_kill_the_host",
        code="attempt(lambda: os.kill(T['host_pid'], 9), lambda: os.kill(T['host_pid'], 19))",
        dangerous=True,
    ),
    _process(
        "processes_signal_the_parent",
        code="attempt(*[lambda s=s: os.kill(parent(), s) for s in (0, 10, 15, 19, 9)])",
    ),
    _process(
        "processes_signal_a_stranger",
        code="attempt(*[lambda s=s: os.kill(T['victim_pid'], s) for s in (0, 10, 19, 15, 9)])",
    ),
    _process(
        "processes_signal_everybody",
        code="attempt(lambda: os.kill(-1, 9))",
        statuses=("ok", "crashed"),
        state="either",
        dangerous=True,
    ),
    _process(
        "processes_signal_our_own_group",
        code="""
attempt(lambda: os.kill(0, 10), lambda: os.killpg(os.getpgid(0), 10),
        lambda: os.killpg(T['host_pid'], 10))""",
        statuses=("ok", "crashed"),
        state="either",
    ),
    _process(
        "processes_signal_all_that_can_be_seen",
        code="""
pids = [int(name) for name in processes() if int(name) != os.getpid()]
attempt(lambda: nonempty([]), *[lambda p=p: os.kill(p, 10) for p in pids])""",
        dangerous=True,
    ),
    _process(
        "processes_signal_by_other_calls",
        code="""
info = ctypes.create_string_buffer(128)
info[8] = 255  # si_code SI_QUEUE
for n in (9, 10, 11):
    info[n] = 255
attempt(*[lambda p=p: syscall('tgkill', p, p, 10) for p in (T['host_pid'], T['victim_pid'])],
        *[lambda p=p: syscall('tkill', p, 10) for p in (T['host_pid'], T['victim_pid'])],
        *[lambda p=p: syscall('rt_sigqueueinfo', p, 10, info) for p in (T['host_pid'], T['victim_pid'])],
        *[lambda p=p: syscall('rt_tgsigqueueinfo', p, p, 10, info) for p in (T['host_pid'], T['victim_pid'])])""",
    ),
    _process(
        "processes_signal_by_a_descriptor",
        code="""
import signal
def send(pid):
    return signal.pidfd_send_signal(os.pidfd_open(pid), 10)
attempt(lambda: send(T['host_pid']), lambda: send(T['victim_pid']), lambda: send(parent()),
        lambda: syscall('pidfd_send_signal', os.open('/proc/%d' % T['victim_pid'], os.O_RDONLY), 10, None, 0))""",
    ),
    _process(
        "processes_signal_another_environment",
        drive=_signal_another,
        code="""
attempt(*[lambda s=s: os.kill(OTHER, s) for s in (0, 2, 9) if OTHER != os.getpid()] or [lambda: nonempty([])])""",
    ),
    _process(
        "processes_trace",
        code="""
SEIZE, ATTACH = 0x4206, 16
attempt(*[lambda p=p, r=r: syscall('ptrace', r, p, 0, 0) for p in (T['victim_pid'], parent())
        for r in (SEIZE, ATTACH)])""",
    ),
    _process(
        "processes_trace_the_host",
        code="""
attempt(lambda: syscall('ptrace', 0x4206, T['host_pid'], 0, 0),
        lambda: syscall('ptrace', 16, T['host_pid'], 0, 0))""",
        dangerous=True,
    ),
    _process(
        "processes_take_a_descriptor",
        code="""
def take(pid, fd):
    return shown(syscall('pidfd_getfd', os.pidfd_open(pid), fd, 0))
attempt(lambda: take(T['host_pid'], T['descriptor']), lambda: take(parent(), 0), lambda: take(T['victim_pid'], 0))""",
    ),
    _process(
        "processes_read_memory",
        code="""
def read(pid, address):
    text = ctypes.create_string_buffer(64)
    local = (ctypes.c_void_p * 2)(ctypes.addressof(text), 64)
    remote = (ctypes.c_void_p * 2)(address, 64)
    syscall('process_vm_readv', pid, local, 1, remote, 1, 0)
    return text.value
attempt(lambda: read(T['host_pid'], T['heap_address']), lambda: read(T['victim_pid'], T['victim_address']))""",
    ),
    _process(
        "processes_write_memory",
        code="""
def write(pid, address):
    text = ctypes.create_string_buffer(b'changed!')
    local = (ctypes.c_void_p * 2)(ctypes.addressof(text), 8)
    remote = (ctypes.c_void_p * 2)(address, 8)
    return syscall('process_vm_writev', pid, local, 1, remote, 1, 0)
def write_file(pid, address):
    return os.pwrite(os.open(f'/proc/{pid}/mem', os.O_RDWR), b'changed!', address)
attempt(lambda: write(T['victim_pid'], T['victim_address']),
        lambda: write_file(T['victim_pid'], T['victim_address']))""",
    ),
    _process(
        "processes_limits_of_others",
        code="""
import resource
attempt(*[lambda p=p: resource.prlimit(p, resource.RLIMIT_NOFILE, (64, 64)) for p in (T['victim_pid'], T['host_pid'])],
        *[lambda p=p: resource.prlimit(p, resource.RLIMIT_NOFILE)
        for p in (T['victim_pid'], T['host_pid'], parent())])""",
    ),
    _process(
        "processes_priority_of_others",
        code="""
attempt(*[lambda p=p: os.setpriority(os.PRIO_PROCESS, p, 19) for p in (T['victim_pid'], T['host_pid'], parent())],
        lambda: os.setpriority(os.PRIO_PGRP, os.getpgid(parent()), 18),
        lambda: syscall('ioprio_set', 1, T['victim_pid'], 3 << 13))""",
    ),
    _process(
        "processes_priority_of_a_user",
        code="attempt(lambda: os.setpriority(os.PRIO_USER, T['uid'], 18))",
        dangerous=True,
    ),
    _process(
        "processes_processors_of_others",
        code="""
attempt(*[lambda p=p: os.sched_setaffinity(p, [min(os.sched_getaffinity(0))])
        for p in (T['victim_pid'], T['host_pid'], parent())])""",
    ),
    _process(
        "processes_schedule_of_others",
        code="""
attempt(*[lambda p=p: os.sched_setscheduler(p, os.SCHED_IDLE, os.sched_param(0))
        for p in (T['victim_pid'], T['host_pid'], parent())])""",
    ),
    _process(
        "processes_memory_of_others_moved",
        code="""
mask = (ctypes.c_ulong * 1)(1)
attempt(lambda: syscall('migrate_pages', T['victim_pid'], 64, mask, mask),
        lambda: syscall('move_pages', T['victim_pid'], 0, None, None, None, 0),
        lambda: syscall('kcmp', T['victim_pid'], T['host_pid'], 1, 0, 0))""",
    ),
    _process(
        "processes_group_of_others",
        code="""
attempt(lambda: os.setpgid(0, os.getpgid(T['host_pid'])), lambda: os.setpgid(T['victim_pid'], 0),
        lambda: os.setpgid(os.getpid(), T['victim_pid']))""",
    ),
    _process(
        "processes_signals_by_an_owned_descriptor",
        code="""
import fcntl
F_SETSIG, F_SETOWN_EX = 10, 15
def arm(owner):
    reading, writing = os.pipe()
    owner(reading)
    fcntl.fcntl(reading, fcntl.F_SETFL, os.O_ASYNC | os.O_NONBLOCK)
    return os.write(writing, b'x')
owner_ex = lambda pid: (1).to_bytes(4, 'little') + pid.to_bytes(4, 'little')
attempt(*[lambda p=p: arm(lambda fd: fcntl.fcntl(fd, fcntl.F_SETOWN, p)) for p in (T['host_pid'], T['victim_pid'])],
        *[lambda p=p: arm(lambda fd: fcntl.fcntl(fd, F_SETOWN_EX, owner_ex(p)))
        for p in (T['host_pid'], T['victim_pid'])],
        lambda: arm(lambda fd: fcntl.fcntl(fd, F_SETSIG, 10)))""",
    ),
    _process(
        "processes_signals_by_an_owned_socket",
        code="""
import fcntl, socket
FIOSETOWN, SIOCSPGRP = 0x8901, 0x8902
def arm(request, pid):
    ours, theirs = socket.socketpair()
    fcntl.ioctl(ours, request, pid.to_bytes(4, 'little'))
    fcntl.fcntl(ours, fcntl.F_SETFL, os.O_ASYNC | os.O_NONBLOCK)
    return theirs.send(b'x')
attempt(*[lambda r=r, p=p: arm(r, p) for r in (FIOSETOWN, SIOCSPGRP) for p in (T['victim_pid'], T['host_pid'])])""",
    ),
    _process(
        "processes_reap_children_of_the_runtime",
        code="""
ECHILD = 10
attempt(lambda: os.waitpid(-1, os.WNOHANG), lambda: os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG), also=(ECHILD,))""",
    ),
    _process(
        "processes_semaphores_and_shared_memory",
        code="""
from multiprocessing import shared_memory
import multiprocessing
attempt(lambda: shared_memory.SharedMemory(T['mark'], create=True, size=64), lambda: multiprocessing.Queue(),
        lambda: shared_memory.SharedMemory(os.path.basename(T['shm_secret'])).buf.tobytes())""",
        expect=("BLOCKED", "GOT"),  # a private /dev/shm may take it: the host looks into its own
    ),
]
