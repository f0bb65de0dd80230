"""Any word with the outside: every family of sockets, and the libraries that open them."""

from __future__ import annotations

from functools import partial

from hostile.cells import HostileCell

_network = partial(HostileCell, category="network")
_SOCKET = """
import socket
def said(family, kind, address, protocol=0):
    with socket.socket(family, kind, protocol) as sock:
        sock.settimeout(1)
        sock.connect(address)
        return sock.send(b'GET / HTTP/1.0\\r\\n\\r\\n')
"""

CELLS = [
    _network(
        "network_tcp",
        code=_SOCKET
        + """
attempt(lambda: said(socket.AF_INET, socket.SOCK_STREAM, ('127.0.0.1', T['tcp_port'])),
        lambda: socket.create_connection(('localhost', T['tcp_port']), 1), also=(socket.gaierror,))""",
    ),
    _network(
        "network_tcp_over_ip_6",
        code=_SOCKET
        + """
attempt(lambda: said(socket.AF_INET6, socket.SOCK_STREAM,
        ('::1', T['tcp6_port'])))""",
    ),
    _network(
        "network_udp",
        code=_SOCKET
        + """
def packet(family):
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        return sock.sendto(b'x', ('127.0.0.1' if family == socket.AF_INET else '::ffff:127.0.0.1', T['udp_port']))
attempt(lambda: packet(socket.AF_INET), lambda: packet(socket.AF_INET6),
        lambda: said(socket.AF_INET, socket.SOCK_DGRAM, ('127.0.0.1', T['udp_port'])))""",
    ),
    _network(
        "network_unix_socket",
        code=_SOCKET + "attempt(lambda: said(socket.AF_UNIX, socket.SOCK_STREAM, T['unix_path']))",
    ),
    _network(
        "network_abstract_unix_socket",
        code=_SOCKET
        + """
attempt(lambda: said(socket.AF_UNIX, socket.SOCK_STREAM, T['abstract_name']),
        lambda: said(socket.AF_UNIX, socket.SOCK_DGRAM, T['abstract_dgram_name']))""",
    ),
    _network(
        "network_unix_datagrams",
        code=_SOCKET
        + """
import logging, logging.handlers, syslog
logger = logging.getLogger('canary')
logger.addHandler(logging.handlers.SysLogHandler(T['dgram_path']))
logger.error('told')  # swallows its errors: the host hears it
attempt(lambda: said(socket.AF_UNIX, socket.SOCK_DGRAM, T['dgram_path']),
        lambda: said(socket.AF_UNIX, socket.SOCK_DGRAM, '/dev/log'))""",
    ),
    _network(
        "network_from_one_end_of_a_pair",
        code="""
import socket
def stray(kind, address):
    ours, theirs = socket.socketpair(socket.AF_UNIX, kind)
    return ours.sendto(b'x', address)
EISCONN = 106
attempt(*[lambda k=k, a=a: stray(k, a) for k in (socket.SOCK_DGRAM, socket.SOCK_SEQPACKET)
          for a in (T['dgram_path'], T['abstract_dgram_name'])],
        lambda: stray(socket.SOCK_STREAM, T['unix_path']), also=(EISCONN, 95))""",
    ),
    _network(
        "network_from_a_disconnected_pair",
        code="""
import socket
def reconnect(path):
    ours, theirs = socket.socketpair()
    theirs.close()
    ours.connect(path)
    return ours.send(b'x')
def disconnect(path):
    ours, theirs = socket.socketpair()
    libc.connect(ours.fileno(), b'\\0' * 16, 16)  # AF_UNSPEC
    ours.connect(path)
    return ours.send(b'x')
EISCONN = 106
attempt(lambda: reconnect(T['unix_path']), lambda: reconnect(T['abstract_name']), lambda: disconnect(T['unix_path']),
        also=(EISCONN, 22))""",
    ),
    _network(
        "network_on_the_socket_of_the_runtime",
        code="""
import socket, stat
def sockets():
    for fd in range(1024):
        try:
            if stat.S_ISSOCK(os.fstat(fd).st_mode):
                yield socket.socket(fileno=os.dup(fd))
        except OSError:
            pass
def turn(sock):
    sock.connect(T['unix_path'])
    return sock
EISCONN = 106
attempt(*[lambda s=s: turn(s) for s in sockets()], lambda: nonempty([]), also=(EISCONN,))""",
    ),
    _network(
        "network_descriptors_sent_to_the_host",
        code="""
import socket, stat
sent = 0
for fd in range(3, 1024):
    try:
        if stat.S_ISSOCK(os.fstat(fd).st_mode):
            sock = socket.socket(fileno=os.dup(fd))
            for _ in range(50):
                socket.send_fds(sock, [b'\\0'], [0, 0, 0, 0])
                sent += 1
    except OSError as error:
        print('refused', error)
print('BLOCKED' if not sent else 'GOT')""",
        # Bytes it may write: then the worker has broken the protocol. The host looks whether descriptors came.
        statuses=("ok", "crashed", "killed", "timeout"),
        expect=("BLOCKED", "GOT"),
        state="either",
    ),
    _network(
        "network_other_families",
        code="""
import socket
def make(family):
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_RAW, socket.SOCK_SEQPACKET):
        try:
            return family, kind, socket.socket(family, kind)
        except OSError:
            continue
    raise PermissionError(1, 'no socket of any kind')
attempt(*[lambda f=f: make(f) for f in range(50)])""",
    ),
    _network(
        "network_raw_and_packet_sockets",
        code="""
import socket
attempt(lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP),
        lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 3),
        lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP))""",
    ),
    _network(
        "network_netlink",
        code="""
import socket
attempt(*[lambda p=p: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, p) for p in (0, 4, 9, 15, 16)],
        lambda: nonempty([n for _, n in socket.if_nameindex() if n != 'lo']))""",
    ),
    _network(
        "network_multipath_tcp",
        code=_SOCKET + "attempt(lambda: said(socket.AF_INET, socket.SOCK_STREAM, ('127.0.0.1', T['tcp_port']), 262))",
    ),
    _network(
        "network_to_the_hypervisor",
        code="""
import socket
attempt(lambda: socket.socket(40, socket.SOCK_STREAM),
        lambda: socket.socket(40, socket.SOCK_DGRAM))""",
    ),
    _network(
        "network_crypto_sockets_of_the_kernel",
        code="""
import socket
def digest():
    sock = socket.socket(38, socket.SOCK_SEQPACKET)
    sock.bind(('hash', 'sha256'))
    return sock
attempt(digest)""",
    ),
    _network(
        "network_names_by_the_resolver",
        code="""
# The resolver of the C library, pointed at a server of the host: no name leaves the machine.
libc.__res_init() if hasattr(libc, '__res_init') else None
libc.__res_state.restype = ctypes.c_void_p
state = libc.__res_state()
server = (2).to_bytes(2, 'little') + T['udp_port'].to_bytes(2, 'big') + bytes([127, 0, 0, 1]) + b'\\0' * 8
ctypes.memmove(state, (1).to_bytes(4, 'little') + (1).to_bytes(4, 'little'), 8)  # one second, one try
ctypes.memmove(state + 16, (1).to_bytes(4, 'little') + server, 20)
query = getattr(libc, 'res_query', None) or ctypes.CDLL('libresolv.so.2').res_query
answer = ctypes.create_string_buffer(512)
attempt(lambda: nonempty(query(b'canary.invalid', 1, 1, answer, 512) > 0))""",
        # a query without an answer looks like a refusal to the cell: the host sees the packet
    ),
    _network(
        "network_by_http",
        code="""
import http.client, urllib.request, xmlrpc.client
url = f"http://127.0.0.1:{T['tcp_port']}/"
def get():
    connection = http.client.HTTPConnection('127.0.0.1', T['tcp_port'], timeout=1)
    connection.request('GET', '/')
    return connection
attempt(get, lambda: urllib.request.urlopen(url, timeout=1), lambda: xmlrpc.client.ServerProxy(url).x())""",
    ),
    _network(
        "network_by_asyncio",
        code="""
import asyncio
def run(make):
    async def main():
        return await asyncio.wait_for(make(), 2)
    return asyncio.run(main())
async def packets():
    address = ('127.0.0.1', T['udp_port'])
    return await asyncio.get_running_loop().create_datagram_endpoint(asyncio.DatagramProtocol, remote_addr=address)
async def listen():
    server = await asyncio.start_server(print, '127.0.0.1', 0)
    return [sock.getsockname() for sock in server.sockets]
attempt(lambda: run(lambda: asyncio.open_connection('127.0.0.1', T['tcp_port'])),
        lambda: run(lambda: asyncio.open_unix_connection(T['unix_path'])),
        lambda: nonempty(run(listen)),
        lambda: run(packets))""",
    ),
    _network(
        "network_by_tls_and_mail",
        code="""
import ftplib, smtplib, ssl
port = T['tcp_port']
attempt(lambda: ssl.get_server_certificate(('127.0.0.1', port), timeout=1),
        lambda: smtplib.SMTP('127.0.0.1', port, timeout=1),
        lambda: ftplib.FTP().connect('127.0.0.1', port, timeout=1))""",
    ),
    _network(
        "network_by_multiprocessing",
        code="""
from multiprocessing.connection import Client, Listener
attempt(lambda: Client(('127.0.0.1', T['tcp_port'])), lambda: Client(T['unix_path']),
        lambda: Client(T['abstract_name']),
        lambda: Listener(('127.0.0.1', 0)))""",
    ),
    _network(
        "network_listening",
        code="""
import socket
def listen(family, address):
    sock = socket.socket(family)
    sock.bind(address)
    sock.listen()
    return sock
attempt(lambda: listen(socket.AF_INET, ('0.0.0.0', 0)), lambda: listen(socket.AF_INET6, ('::', 0)),
        lambda: listen(socket.AF_UNIX, T['home'] + '/' + T['mark']), lambda: listen(socket.AF_UNIX, '\\0' + T['mark']),
        lambda: socket.create_server(('127.0.0.1', 0)))""",
    ),
    _network(
        "network_bare_system_calls",
        code="""
# socket, and its way by a pair that is bound and connected anew
AF_INET, AF_UNIX, STREAM = 2, 1, 1
pair = (ctypes.c_int * 2)()
address = (1).to_bytes(2, 'little') + T['unix_path'].encode() + b'\\0'
attempt(lambda: checked(libc.socket(AF_INET, STREAM, 0)), lambda: checked(libc.socket(AF_UNIX, STREAM, 0)),
        lambda: checked(libc.socketpair(AF_INET, STREAM, 0, pair)),
        lambda: checked(libc.connect(0, address, len(address))),
        lambda: checked(libc.socketpair(AF_UNIX, 2, 0, pair)) or checked(libc.bind(pair[0], b'\\1\\0', 2)))""",
    ),
]
