"""Call shapes: the words with their arguments and aliases, coroutines and tasks, threads and other loops."""

from __future__ import annotations

from shapes.shape_registry import shape

# the words and their arguments
shape("keyword_prompt", "<a>", 1, "llm_query(prompt='a')")
shape("keyword_text", "<a>", 1, "llm_query(text='a')")
shape("number_in_second_place", "<a 7>", 1, "llm_query('a', 7)")
shape("string_in_second_place", "<a tiny>", 1, "llm_query('a', 'tiny')")
shape("model_and_max_tokens", "<a tiny 7>", 1, "llm_query('a', model='tiny', max_tokens=7)")
shape("rlm_query_without_an_agent", "<a>", 1, "rlm_query('a')")
shape("batch", ["<a>", "<b>"], 2, "llm_batch_query(['a', 'b'])")
shape("batch_of_nothing", [], 0, "llm_batch_query([])")
shape("batch_keyword_prompts", ["<a>"], 1, "llm_batch_query(prompts=['a'])")
shape("batch_keyword_queries", ["<a>"], 1, "llm_batch_query(queries=['a'])")
shape("batch_of_a_generator", ["<a>", "<b>"], 2, "llm_batch_query(p for p in 'ab')")
shape("batch_of_duplicates", ["<a>", "<a>"], 2, "llm_batch_query(['a', 'a'])")
shape("batch_number_in_second_place", ["<a 7>"], 1, "llm_batch_query(['a'], 7)")
shape("batch_string_in_second_place", ["<a tiny>"], 1, "llm_batch_query(['a'], 'tiny')")
shape("batch_dict_items", ["<a big 9>", "<b tiny>", "<c tiny 9>"], 3, """
    llm_batch_query([{'prompt': 'a', 'model': 'big', 'max_tokens': 9}, 'b', {'text': 'c', 'max_tokens': 9}], 'tiny')
    """)  # fmt: skip
shape("batch_with_a_failed_slot", [True, False, True], 3, """
    answers = llm_batch_query(['a', 'fail', 'b'])
    assert answers[1].startswith('[ERROR]')
    [answer.ok for answer in answers]
    """)  # fmt: skip
for word in (
    "llm_query_batched",
    "llm_batch",
    "llm_query_batch",
    "batch_llm_query",
    "rlm_batch_query",
    "rlm_query_batched",
):
    shape(f"alias_{word}", ["<a>", "<b>"], 2, f"{word}(['a', 'b'])")

# await, coroutines and tasks
shape("await_query", "<a>", 1, "await llm_query('a')")
shape("await_query_async", "<a>", 1, "await llm_query_async('a')")
shape("await_batch_async", ["<a>", "<b>"], 2, "await llm_batch_query_async(['a', 'b'])")
for word in ("llm_query_batched", "llm_batch", "rlm_batch_query"):
    shape(f"await_{word}_async", ["<a>"], 1, f"await {word}_async(['a'])")
shape("await_rlm_query_async", "<a>", 1, "await rlm_query_async('a')")
shape("async_def", "<a>", 1, "async def f(p): return await llm_query_async(p)\nawait f('a')")
shape("async_def_of_an_earlier_cell", "<a>", 1, "await ask_later('a')")
shape("plain_query_in_async_def", ["<a>", "<b>"], 2, """
    async def f(): return [llm_query('a'), await llm_query_async('b')]
    await f()
    """)  # fmt: skip
shape("plain_query_between_awaits", ["<a>", "<b>", "<c>"], 3, """
    import asyncio
    x = await llm_query_async('a')
    y = list(map(llm_query, ['b']))
    await asyncio.sleep(0)
    [x, *y, llm_query('c')]
    """)  # fmt: skip
shape("coroutine_driven_by_hand", "<a>", 1, """
    async def f(): return llm_query('a')
    try:
        f().send(None)
    except StopIteration as end:
        out = end.value
    out
    """)  # fmt: skip
shape("gather_over_query", ["<a>", "<b>"], 2, "await asyncio.gather(*[llm_query(p) for p in 'ab'])")
shape("gather_over_query_async", ["<a>", "<b>"], 2, """
    import asyncio
    await asyncio.gather(*[llm_query_async(p) for p in 'ab'])
    """)  # fmt: skip
shape("gather_in_async_def", ["<a>", "<b>"], 2, """
    async def f(): return await asyncio.gather(*(llm_query_async(p) for p in 'ab'))
    await f()
    """)  # fmt: skip
shape("task_group", ["<a>", "<b>"], 2, """
    import asyncio
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(llm_query_async(p)) for p in 'ab']
    [task.result() for task in tasks]
    """)  # fmt: skip
shape("create_task", "<a>", 1, "task = asyncio.create_task(llm_query_async('a'))\nawait task")
shape(
    "as_completed",
    ["<a>", "<b>"],
    2,
    "sorted([await x for x in asyncio.as_completed([llm_query_async(p) for p in 'ab'])])",
)
shape("wait_for", "<a>", 1, "await asyncio.wait_for(llm_query_async('a'), 20)")
shape("asyncio_timeout", "<a>", 1, "async with asyncio.timeout(20):\n    x = await llm_query_async('a')\nx")
shape("asyncio_semaphore", ["<a>", "<b>"], 2, """
    limit = asyncio.Semaphore(1)
    async def ask(p):
        async with limit:
            return await llm_query_async(p)
    await asyncio.gather(ask('a'), ask('b'))
    """)  # fmt: skip
shape("async_for", ["<a>", "<b>"], 2, """
    async def g():
        for p in 'ab': yield await llm_query_async(p)
    out = []
    async for x in g(): out.append(x)
    out
    """)  # fmt: skip
shape("async_comprehension", ["<a>", "<b>"], 2, "[await llm_query_async(p) for p in 'ab']")
shape("async_with", ["<in>", "<out>"], 2, """
    out = []
    class C:
        async def __aenter__(self): out.append(await llm_query_async('in'))
        async def __aexit__(self, *a): out.append(llm_query('out'))
    async with C(): pass
    out
    """)  # fmt: skip
shape("asynccontextmanager", ["<in>", "<out>"], 2, """
    import contextlib
    out = []
    @contextlib.asynccontextmanager
    async def c():
        out.append(await llm_query_async('in'))
        yield
        out.append(await llm_query_async('out'))
    async with c(): pass
    out
    """)  # fmt: skip

# what needs a thread or a loop of its own: the process sandbox has them to give
shape("asyncio_run", "<a>", 1, """
    import asyncio, contextlib
    async def f(): return await llm_query_async('a')
    with contextlib.closing(f()) as work:
        out = asyncio.run(work)
    out
    """, "running")  # fmt: skip
shape("asyncio_run_with_plain_queries", ["<a>", "<b>"], 2, """
    import contextlib
    async def f(): return [llm_query('a'), await llm_query('b')]
    with contextlib.closing(f()) as work:
        out = asyncio.run(work)
    out
    """, "running")  # fmt: skip
shape("run_until_complete_of_a_new_loop", "<a>", 1, """
    loop = asyncio.new_event_loop()
    work = llm_query_async('a')
    try:
        out = loop.run_until_complete(work)
    finally:
        work.close()
        loop.close()
    out
    """, "loop")  # fmt: skip
shape("thread", ["<a>"], 1, """
    import threading
    out, errors = [], []
    def ask():
        try:
            out.append(llm_query('a'))
        except Exception as error:
            errors.append(error)
    thread = threading.Thread(target=ask)
    thread.start()
    thread.join()
    if errors: raise errors[0]
    out
    """, "thread")  # fmt: skip
shape("thread_pool_map", ["<a>", "<b>", "<c>"], 3, """
    from concurrent.futures import ThreadPoolExecutor
    with ThreadPoolExecutor(3) as pool:
        out = list(pool.map(llm_query, 'abc'))
    out
    """, "thread")  # fmt: skip
shape("thread_pool_submit", "<a>", 1, """
    from concurrent.futures import ThreadPoolExecutor
    with ThreadPoolExecutor() as pool:
        out = pool.submit(llm_query, 'a').result()
    out
    """, "thread")  # fmt: skip
shape("to_thread", "<a>", 1, "import asyncio\nawait asyncio.to_thread(llm_query, 'a')", "thread")
shape("thread_with_a_loop_of_its_own", ["<a>", "<b>"], 2, """
    import asyncio, threading
    out, errors = [], []
    async def both():
        # in this thread the plain word is tried first: it is what a side that has no threads refuses
        first = llm_query('a')
        return [first, await llm_query_async('b')]
    def run():
        try:
            out.extend(asyncio.run(both()))
        except Exception as error:
            errors.append(error)
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if errors: raise errors[0]
    out
    """, "thread")  # fmt: skip

# libraries that may be there
shape("numpy_vectorize", ["<a>", "<b>"], 2, """
    import numpy
    numpy.vectorize(lambda p: str(llm_query(p)), otypes=[object])(['a', 'b']).tolist()
    """, needs=("numpy",))  # fmt: skip
shape("pandas_apply", ["<a>", "<b>"], 2, """
    import pandas
    pandas.Series(['a', 'b']).apply(llm_query).tolist()
    """, needs=("pandas",))  # fmt: skip
