"""Doors of the kernel that no cell needs: each is one more place where the kernel itself may be broken."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from hostile.cells import HostileCell

_kernel = partial(HostileCell, category="kernel")

# What is tried -> expressions. Unconfined, and with the rights that it needs, each does something or complains about
# its arguments; none harms but those of `_DANGEROUS`, in a confinement that is only half one. `buffer(n)` is n zero
# bytes.
_CALLS = {
    "io_uring": ["syscall('io_uring_setup', 8, buffer(120))"],
    "asynchronous_io": ["syscall('io_setup', 8, buffer(8))"],
    "bpf_map": ["syscall('bpf', 0, bytes([2, 0, 0, 0, 4, 0, 0, 0, 4, 0, 0, 0, 1, 0, 0, 0]) + bytes(100), 72)"],
    "performance_events": [
        "syscall('perf_event_open', bytes([1, 0, 0, 0, 112]) + bytes(35) + bytes([0x60]) + bytes(71), 0, -1, -1, 0)"
    ],
    "userfaultfd": ["syscall('userfaultfd', 1)", "syscall('userfaultfd', 0)"],
    "new_keys": [
        "syscall('add_key', b'user', T['mark'].encode(), b'x', 1, -3)",
        "syscall('add_key', b'user', T['mark'].encode(), b'x', 1, -4)",
        "syscall('keyctl', 1, None)",
    ],
    "new_namespaces": [
        f"syscall('unshare', {flag:#x})"
        for flag in (0x10000000, 0x10020000, 0x50000000, 0x20000, 0x40000000, 0x8000000, 0x4000000, 0x2000000, 0x80)
    ],
    "namespaces_of_others": [
        "syscall('setns', os.open('/proc/self/ns/net', os.O_RDONLY), 0)",
        "syscall('setns', os.open('/proc/self/ns/user', os.O_RDONLY), 0)",
        "syscall('setns', os.open('/proc/%d/ns/mnt' % T['host_pid'], os.O_RDONLY), 0)",
        "syscall('setns', os.pidfd_open(T['host_pid']), 0x10000000)",
    ],
    "new_root": ["os.chroot('.')", "syscall('pivot_root', b'.', b'.')"],
    "capabilities_taken": [
        "syscall('capset', (0x20080522).to_bytes(4, 'little') + bytes(4), "
        "(b'\\xff\\xff\\xff\\xff' * 2 + bytes(4)) * 2)",
        "syscall('prctl', 47, 2, 21, 0, 0)",
    ],
    "another_user": ["os.setuid(0 if os.getuid() else 1)", "os.setgid(0 if os.getgid() else 1)", "os.setgroups([1])",
                     "os.setresuid(-1, 0 if os.getuid() else 1, -1)"],
    "personality": ["syscall('personality', 0x0040000)", "syscall('personality', 0x0400000)"],
    "dumpable": ["syscall('prctl', 4, 0 if syscall('prctl', 3, 0, 0, 0, 0) else 1, 0, 0, 0)"],
    "signal_at_the_death_of_the_parent": ["syscall('prctl', 1, 0, 0, 0, 0)"],
    "tracer_of_choice": ["syscall('prctl', 0x59616d61, T['victim_pid'], 0, 0, 0)", "syscall('ptrace', 0, 0, 0, 0)"],
    "segments_of_memory": ["syscall('modify_ldt', 1, buffer(16), 16)"],
    "ports": ["checked(libc.iopl(3))", "checked(libc.ioperm(0x80, 1, 1))"],
    "input_to_a_terminal": [
        "__import__('fcntl').ioctl(0, 0x5412, b'x')",
        "__import__('fcntl').ioctl(1, 0x5412, b'x')",
        "__import__('fcntl').ioctl(0, 0x541C, b'\\3')",
        "os.openpty()",
    ],
    "input_to_a_terminal_with_high_bits": ["syscall('ioctl', 0, 0x100005412, b'x')"],
    "watches_of_file_systems": [
        "syscall('fanotify_init', 0, 0)",
        "syscall('fanotify_init', 0x200, 0)",
        "syscall('inotify_add_watch', syscall('inotify_init1', 0), b'/', 0x3)",
    ],
    "handles_of_files": [
        "syscall('name_to_handle_at', -100, T['home'].encode(), "
        "(128).to_bytes(4, 'little') + bytes(140), buffer(4), 0)",
        "syscall('open_by_handle_at', -100, (8).to_bytes(4, 'little') + bytes(140), 0)",
    ],
    "message_queues": ["syscall('mq_open', T['mark'].encode(), 0o102, 0o600, None)"],
    "shared_memory_of_system_v": ["syscall('shmget', T['ipc_key'], 4096, 0o1600)"],
    "semaphores_of_system_v": ["syscall('semget', T['ipc_key'], 1, 0o1600)"],
    "messages_of_system_v": ["syscall('msgget', T['ipc_key'], 0o1600)"],
    "another_kernel": ["syscall('kexec_load', 0, 0, None, 4)"],
    "modules": ["syscall('init_module', None, 0, b'')"],
    "reboot": ["syscall('reboot', 0, 0, 0, None)"],
    "swap_and_accounting": ["syscall('swapoff', b'/dev/null')", "syscall('acct', b'/dev/null')",
                            "syscall('quotactl', 0x80000700, None, 0, buffer(4))"],
    "name_of_the_machine": ["syscall('sethostname', b'', -1)"],
    "log_of_the_kernel": ["syscall('syslog', 3, buffer(4096), 4096)", "syscall('syslog', 10, None, 0)"],
    "clock": ["__import__('time').clock_settime(0, __import__('time').time())", "syscall('clock_settime', 0, None)",
              "syscall('settimeofday', b'\\xff' * 16, None)", "checked(libc.adjtimex(b'\\2' + bytes(207)))"],
    "mounts": [
        "checked(libc.mount(b'none', b'/tmp', b'tmpfs', ctypes.c_ulong(0), None))",
        "checked(libc.mount(b'/', b'/', None, ctypes.c_ulong(4096), None))",
        "checked(libc.mount(b'proc', b'/proc', b'proc', ctypes.c_ulong(0), None))",
    ],
    "mounts_by_new_calls": ["syscall('fsopen', b'tmpfs', 0)", "syscall('open_tree', -100, b'/', 1)",
                            "syscall(433, -100, b'/', 0)",
                            "syscall(442, -100, b'/', 0x8000, (1).to_bytes(8, 'little') + bytes(24), 32)"],
    "calls_newer_than_the_policy": [
        "syscall(463, -100, T['home_secret'].encode(), 0, b'user.a', buffer(16), 16)",
        "syscall(457, (24).to_bytes(4, 'little') + bytes(4) + b'\\xff' * 8 + bytes(8), buffer(4096), 4096, 0)",
        "syscall(467, -100, b'/', 1, None, 0)", "syscall(512, 0)", "syscall(600, 0)", "syscall(100_000, 0)",
    ],
    "secret_memory": ["syscall(447, 0)"],
    "limits_raised": ["__import__('resource').setrlimit(__import__('resource').RLIMIT_AS, (-1, -1))"],
    "core_files": ["__import__('resource').setrlimit(__import__('resource').RLIMIT_CORE, (1 << 20, 1 << 20))"],
    "real_time_priority": ["os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))", "os.nice(-5)"],
    "locked_memory": ["checked(libc.mlockall(1))"],
}  # fmt: skip
_DANGEROUS = ("mounts", "mounts_by_new_calls", "clock")
# ValueError: `resource` says so of a limit that must not be raised. ENOMEM and EAGAIN: of locked memory.
_ALSO = {"limits_raised": "ValueError", "core_files": "ValueError", "locked_memory": "12, 11"}


def _calls() -> Iterator[HostileCell]:
    for name, attacks in _CALLS.items():
        also = f", also=({_ALSO[name]},)" if name in _ALSO else ""
        needs = ("x86_64",) if name in ("segments_of_memory", "ports") else ()
        lambdas = ",\n        ".join(f"lambda: {attack}" for attack in attacks)
        code = f"buffer = ctypes.create_string_buffer\nattempt({lambdas}{also})"
        yield _kernel(f"kernel_{name}", code=code, needs=needs, dangerous=name in _DANGEROUS)


CELLS = [
    *_calls(),
    _kernel(
        "kernel_own_rights_are_none",
        code="""
status = dict(line.split(':\\t', 1) for line in shown('/proc/self/status').splitlines() if ':\\t' in line)
rights = {name: int(status[name], 16) for name in ('CapEff', 'CapPrm', 'CapInh', 'CapAmb')}
wrong = [name for name, held in rights.items() if held]
wrong += [name for name, value in (('NoNewPrivs', '1'), ('Seccomp', '2')) if status[name] != value]
attempt(lambda: nonempty(wrong))""",
    ),
    _kernel(
        "kernel_program_in_memory",
        code="""
def run():
    fd = os.memfd_create('program')
    with open(T['python'], 'rb') as file:
        os.sendfile(fd, file.fileno(), 0, 1 << 28)
    os.execve(fd, ['python', '-c', '1'], {})
attempt(run)""",
    ),
    _kernel(
        "kernel_loader_run_as_a_program",
        code="""
import glob
loaders = glob.glob('/lib64/ld-linux*') + glob.glob('/lib/ld-linux*') or ['/lib64/ld-linux-x86-64.so.2']
attempt(*[lambda p=p: os.execv(p, [p, T['python'], '-c', '1']) for p in loaders])""",
    ),
    _kernel(
        "kernel_own_filter_over_ours",
        code="""
import socket
def allow_all():
    code = ctypes.create_string_buffer((6).to_bytes(2, 'little') + b'\\0\\0' + (0x7FFF0000).to_bytes(4, 'little'), 8)
    program = ctypes.create_string_buffer((1).to_bytes(8, 'little') + ctypes.addressof(code).to_bytes(8, 'little'), 16)
    for how in (lambda: syscall('seccomp', 1, 0, program), lambda: syscall('prctl', 22, 2, program, 0, 0)):
        try:
            how()
        except OSError as error:
            print('refused', error)
    return socket.socket()
attempt(allow_all)""",
    ),
    _kernel(
        "kernel_filter_taken_off",
        code="""
import socket
def take_off():
    for arguments in ((22, 0, 0, 0, 0), (38, 0, 0, 0, 0), (21, 0, 0, 0, 0)):
        try:
            syscall('prctl', *arguments)
        except OSError as error:
            print('refused', error)
    return socket.socket()
attempt(take_off)""",
    ),
    _kernel(
        "kernel_filter_in_another_thread",
        code="""
import socket, threading
got = []
def inside():
    try:
        got.append((socket.socket(), shown(T['home_secret'])))
    except OSError as error:
        print('refused', error)
def opened():
    try:
        got.append(shown(T['home_secret']))
    except OSError as error:
        print('refused', error)
threads = [threading.Thread(target=work) for work in (inside, opened)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
attempt(lambda: nonempty(got))""",
    ),
    _kernel(
        "kernel_own_landlock_over_ours",
        code="""
def widen():
    handled = (1).to_bytes(8, 'little')  # only execution is handled: all else would be free
    try:
        ruleset = syscall('landlock_create_ruleset', handled, 8, 0)
        syscall('landlock_restrict_self', ruleset, 0)
    except OSError as error:
        print('refused', error)
    return shown(T['home_secret'])
attempt(widen)""",
    ),
    _kernel(
        "kernel_system_calls_of_32_bit",
        needs=("x86_64",),
        code="""
import mmap
page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
page.write(b'\\x53\\xb8\\x14\\0\\0\\0\\xcd\\x80\\x5b\\xc3')  # push rbx; mov eax, 20 (getpid); int 0x80; pop rbx; ret
function = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))
pid = function()
attempt(lambda: nonempty(pid == os.getpid()))""",
        statuses=("ok", "error", "crashed"),
        state="either",
    ),
    _kernel(
        "kernel_system_calls_of_x32",
        needs=("x86_64",),
        code="attempt(lambda: syscall(0x40000000 + 39), lambda: syscall(0x40000000 + 520))",
        gap="cannot fail on a kernel that has no x32 itself",
    ),
    _kernel(
        "kernel_jump_into_a_system_call",
        needs=("x86_64",),
        code="""
import mmap
page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
# socket(AF_INET, SOCK_STREAM, 0)
page.write(b'\\xb8\\x29\\0\\0\\0\\xbf\\x02\\0\\0\\0\\xbe\\x01\\0\\0\\0\\x31\\xd2\\x0f\\x05\\xc3')
function = ctypes.CFUNCTYPE(ctypes.c_long)(ctypes.addressof(ctypes.c_char.from_buffer(page)))
result = function()
print('GOT' if result >= 0 else 'BLOCKED', result)""",
    ),
    _kernel(
        "kernel_upper_halves_of_arguments",
        code="""
high = 1 << 32
attempt(lambda: syscall('kill', high | T['victim_pid'], 10), lambda: syscall('kill', high | (os.getpid() ^ 1), 0),
        lambda: syscall('prctl', high | 4, 0 if syscall('prctl', 3, 0, 0, 0, 0) else 1, 0, 0, 0),
        lambda: syscall('clone', high | 17, 0, 0, 0, 0) or os._exit(0))""",
    ),
]
