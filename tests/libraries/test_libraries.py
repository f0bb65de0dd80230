"""The libraries that cells want most work in a confined worker, files in the scratch directory included.

Not tested: torch. Where a library is not installed its tests are skipped.
"""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest
from environment.env_sides import run

import rlm

# library -> a cell whose value is True
CELLS = {
    "numpy": """
import numpy as np
a = np.random.default_rng(1).random((200, 200))
np.save('/tmp/a.npy', a)
bool(np.allclose(np.load('/tmp/a.npy') @ np.linalg.inv(a), np.eye(200)))""",
    "pandas": """
import pandas as pd
frame = pd.DataFrame({'a': range(1000), 'b': list('xy') * 500})
frame.to_csv('/tmp/d.csv', index=False)
pd.read_csv('/tmp/d.csv').groupby('b').a.sum().tolist() == [249500, 250000]""",
    "pyarrow": """
import pyarrow as pa, pyarrow.parquet as pq, pyarrow.compute as pc
pq.write_table(pa.table({'a': list(range(1000))}), '/tmp/t.parquet')
pc.sum(pq.read_table('/tmp/t.parquet')['a']).as_py() == 499500""",
    "polars": """
import polars as pl
pl.DataFrame({'a': range(1000), 'b': ['x', 'y'] * 500}).write_parquet('/tmp/p.parquet')
found = pl.scan_parquet('/tmp/p.parquet').group_by('b').agg(pl.col('a').sum()).sort('b').collect()
found['a'].to_list() == [249500, 250000]""",
    "sklearn": """
from sklearn.datasets import make_classification
from sklearn.ensemble import RandomForestClassifier
X, y = make_classification(300, random_state=0)
bool(RandomForestClassifier(10, n_jobs=2, random_state=0).fit(X, y).score(X, y) > 0.9)""",
    "matplotlib": """
import matplotlib
matplotlib.use('Agg')
import matplotlib.pyplot as plt
plt.plot([1, 2, 3])
plt.savefig('/tmp/x.png')
open('/tmp/x.png', 'rb').read(4) == b'\\x89PNG'""",
}
PRELOADED = ("numpy", "pandas", "pyarrow", "matplotlib")  # polars starts threads when it is imported
pytestmark = pytest.mark.timeout(120)


def needs(*libraries: str) -> None:
    for library in libraries:
        if importlib.util.find_spec(library) is None:
            pytest.skip(f"{library} is not installed")


async def check(env: rlm.AsyncRLMReplEnvironment, library: str) -> None:
    if library != "sklearn" and not env.enforced["scratch"].held:
        pytest.skip("no scratch directory here")
    result = await env.execute_async(CELLS[library])
    assert result.value == "True", result.to_text()


@pytest.mark.parametrize("library", CELLS)
def test_a_library_works_in_a_confined_worker(library: str) -> None:
    needs(library)

    async def main() -> None:
        async with rlm.AsyncRLMReplEnvironment(limits=rlm.Limits(memory_bytes=4 << 30)) as env:
            await check(env, library)

    run(main)


def test_libraries_can_be_preloaded_and_forked_with_what_cells_have_made_of_them() -> None:
    needs(*PRELOADED)

    async def main() -> None:
        options: dict[str, Any] = {"preload": PRELOADED, "limits": rlm.Limits(memory_bytes=4 << 30)}
        async with rlm.AsyncRLMReplEnvironment(**options) as env:
            loaded = await env.execute_async(f"import sys\nall(name in sys.modules for name in {PRELOADED})")
            assert loaded.value == "True"
            await env.execute_async("import pandas as pd\nframe = pd.DataFrame({'a': [1, 2]})")
            async with await env.snapshot() as snapshot:
                await env.execute_async("frame['a'] = 0")
                await env.restore(snapshot)
                assert (await env.execute_async("frame.a.sum().item()")).value == "3"
            for library in PRELOADED:
                await check(env, library)

    run(main)


def test_two_workers_with_a_preloaded_numpy_draw_different_random_numbers() -> None:
    needs("numpy")

    async def main() -> None:
        async with rlm.WorkerPool(preload=["numpy"]) as pool:
            drawn = set()
            for _ in range(2):
                async with rlm.AsyncRLMReplEnvironment(pool=pool) as env:
                    drawn.add((await env.execute_async("import numpy\nnumpy.random.random()")).value)
            assert len(drawn) == 2

    run(main)
