"""What host, zygote and worker have agreed on without saying it: orders on a lifeline, numbers of descriptors."""

INTERRUPT = b"i"
"""Answered with `INTERRUPTED` when the signal is on its way: the next cell must not begin before."""
INTERRUPTED = b"i"
KILL = b"k"
GRANT = b"g"
"""With two descriptors: the socket and the lifeline of the process that the worker may fork."""
REVOKE = b"r"
BORN = b"b"
"""The zygote has seen the process that a grant was for."""

BIRTH = 0
"""The number of the one reply that a worker gives unasked, as soon as it can: how far its confinement went."""

WORKER_FD = 3
"""In a worker: its own socket."""
SPARE_FD = 4
"""In a worker: /dev/null, until a granted fork finds the new process's socket there."""
