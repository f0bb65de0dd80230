"""The runtime under Recursive Language Models. Public names are imported when first asked for."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

__version__ = "0.1.0"

# name -> module that defines it; `import rlm` alone imports none of them
_HOMES = {
    "Adaptive": "rlm.models.adaptive",
    "Answer": "rlm.core.query",
    "AnswerError": "rlm.core.query",
    "AsyncRLMReplEnvironment": "rlm.environment",
    "Budget": "rlm.core.budget",
    "BudgetExceeded": "rlm.errors",
    "Breaker": "rlm.models.breaker",
    "Cache": "rlm.models.cache",
    "CellError": "rlm.core.cell",
    "CellResult": "rlm.core.cell",
    "Completion": "rlm.core.query",
    "Enforced": "rlm.core.enforced",
    "Fallback": "rlm.models.fallback",
    "Final": "rlm.core.cell",
    "Hedge": "rlm.models.hedge",
    "IsolationWarning": "rlm.errors",
    "LLMQueryError": "rlm.errors",
    "Limiter": "rlm.models.limiter",
    "Limits": "rlm.core.limits",
    "Model": "rlm.models.base",
    "ModelError": "rlm.errors",
    "Options": "rlm.core.query",
    "Protection": "rlm.core.enforced",
    "QueryRecord": "rlm.core.query",
    "QueryRefused": "rlm.errors",
    "RLM": "rlm.agent.rlm",
    "RLMError": "rlm.errors",
    "RLMReplEnvironment": "rlm.sync",
    "RecordError": "rlm.errors",
    "Request": "rlm.core.query",
    "Retry": "rlm.models.retry",
    "RetryBudget": "rlm.models.retry",
    "RunDiverged": "rlm.errors",
    "RunResult": "rlm.agent.run",
    "SandboxError": "rlm.errors",
    "SandboxUnavailable": "rlm.errors",
    "ScriptedModel": "rlm.models.scripted",
    "Snapshot": "rlm.sandbox.snapshot",
    "ToolError": "rlm.errors",
    "Usage": "rlm.core.query",
    "UsageError": "rlm.errors",
    "ValueNotPortable": "rlm.errors",
    "WorkerPool": "rlm.sandbox.pool",
    "from_client": "rlm.models.clients",
    "open_model": "rlm.models.resolve",
}

__all__ = ["__version__", *sorted(_HOMES)]

if TYPE_CHECKING:
    from rlm.agent.rlm import RLM as RLM
    from rlm.agent.run import RunResult as RunResult
    from rlm.core.budget import Budget as Budget
    from rlm.core.cell import CellError as CellError
    from rlm.core.cell import CellResult as CellResult
    from rlm.core.cell import Final as Final
    from rlm.core.enforced import Enforced as Enforced
    from rlm.core.enforced import Protection as Protection
    from rlm.core.limits import Limits as Limits
    from rlm.core.query import Answer as Answer
    from rlm.core.query import AnswerError as AnswerError
    from rlm.core.query import Completion as Completion
    from rlm.core.query import Options as Options
    from rlm.core.query import QueryRecord as QueryRecord
    from rlm.core.query import Request as Request
    from rlm.core.query import Usage as Usage
    from rlm.environment import AsyncRLMReplEnvironment as AsyncRLMReplEnvironment
    from rlm.errors import BudgetExceeded as BudgetExceeded
    from rlm.errors import IsolationWarning as IsolationWarning
    from rlm.errors import LLMQueryError as LLMQueryError
    from rlm.errors import ModelError as ModelError
    from rlm.errors import QueryRefused as QueryRefused
    from rlm.errors import RecordError as RecordError
    from rlm.errors import RLMError as RLMError
    from rlm.errors import RunDiverged as RunDiverged
    from rlm.errors import SandboxError as SandboxError
    from rlm.errors import SandboxUnavailable as SandboxUnavailable
    from rlm.errors import ToolError as ToolError
    from rlm.errors import UsageError as UsageError
    from rlm.errors import ValueNotPortable as ValueNotPortable
    from rlm.models.adaptive import Adaptive as Adaptive
    from rlm.models.base import Model as Model
    from rlm.models.breaker import Breaker as Breaker
    from rlm.models.cache import Cache as Cache
    from rlm.models.clients import from_client as from_client
    from rlm.models.fallback import Fallback as Fallback
    from rlm.models.hedge import Hedge as Hedge
    from rlm.models.limiter import Limiter as Limiter
    from rlm.models.resolve import open_model as open_model
    from rlm.models.retry import Retry as Retry
    from rlm.models.retry import RetryBudget as RetryBudget
    from rlm.models.scripted import ScriptedModel as ScriptedModel
    from rlm.sandbox.pool import WorkerPool as WorkerPool
    from rlm.sandbox.snapshot import Snapshot as Snapshot
    from rlm.sync import RLMReplEnvironment as RLMReplEnvironment


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'rlm' has no attribute {name!r}")
    value = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
