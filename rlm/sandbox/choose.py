"""Which sandbox an environment gets, and where its workers come from."""

from __future__ import annotations

import os
from collections.abc import Sequence

from rlm.errors import UsageError
from rlm.sandbox.base import Sandbox
from rlm.sandbox.desk import Desk
from rlm.sandbox.inline import InlineSandbox
from rlm.sandbox.isolation import Isolation
from rlm.sandbox.pool import WorkerPool
from rlm.sandbox.process import ProcessSandbox


def make_sandbox(
    name: str,
    desk: Desk,
    isolation: Isolation | None,
    preload: Sequence[str],
    read_paths: Sequence[str | os.PathLike[str]],
    pool: WorkerPool | None,
) -> Sandbox:
    """The sandbox of that name; a process one without `pool` has a pool of its own. Raises `UsageError`."""
    own = isolation is not None or preload or read_paths
    if name == "inline":
        if own or pool is not None:
            raise UsageError("isolation=, preload=, read_paths= and pool= concern worker processes: sandbox='process'")
        return InlineSandbox(desk)
    if pool is None:
        pool = WorkerPool(0, isolation=isolation, preload=preload, read_paths=read_paths, limits=desk.limits)
        pool.shared = False
        return ProcessSandbox(desk, pool)
    if own:
        raise UsageError("isolation=, preload= and read_paths= are the pool's where pool= is given: set them there")
    return ProcessSandbox(desk, pool)
