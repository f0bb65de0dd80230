"""A second environment beside the one that a cell runs in."""

from __future__ import annotations

from typing import Any

import rlm


def another_environment(**parameters: Any) -> Any:
    """A process environment with the default isolation, and room for small files where there is a scratch directory."""
    return rlm.AsyncRLMReplEnvironment(limits=rlm.Limits(scratch_bytes=1 << 20), **parameters)
