"""Cells as Claude models write them: thread pools, tasks and loops, with a way out prepared."""

from __future__ import annotations

from shapes.family_items import REVIEWS, TASK, THREAD, Family, cell, refused

item = Family("claude")

item(
    "thread_pool_with_progress",
    refused(
        cell(
            """
            import concurrent.futures

            def process(args):
                i, text = args
                return i, llm_query(f"Classify: {text}").strip()

            done = {}
            with concurrent.futures.ThreadPoolExecutor(max_workers=3) as executor:
                for i, label in executor.map(process, enumerate(context)):
                    done[i] = label
                    print(f"[{len(done)}/{len(context)}] {label}")
            """,
            "[1/5] POSITIVE",
            "[2/5] NEGATIVE",
            "[3/5] POSITIVE",
            "[4/5] neutral",
            "[5/5] NEGATIVE",
            queries=5,
        ),
        THREAD,
        error="BridgeRefused: A query was made on another thread",
    ),
    cell("print(sorted(map(process, enumerate(context)))[-1], len(done) in (0, 5))", "(4, 'NEGATIVE') True", queries=5),
    context=REVIEWS,
)

item(
    "thread_pool_with_a_serial_fallback",
    refused(
        cell(
            """
        from concurrent.futures import ThreadPoolExecutor

        def run_all(prompts):
            try:
                with ThreadPoolExecutor(max_workers=len(prompts)) as pool:
                    return list(pool.map(llm_query, prompts))
            except Exception:
                return [llm_query(p) for p in prompts]

        print(run_all(["a", "b", "c"]))
        """,
            "['<a>', '<b>', '<c>']",
            queries=3,
        ),
        THREAD,
        "['<a>', '<b>', '<c>']",
        queries=3,
    ),
)

item(
    "threads_that_fill_a_list",
    refused(
        cell(
            """
            import threading

            summaries = [None] * len(context)

            def worker(idx: int, text: str) -> None:
                summaries[idx] = llm_query(f"Summarize: {text}")

            threads = [threading.Thread(target=worker, args=(i, t)) for i, t in enumerate(context)]
            for t in threads:
                t.start()
            for t in threads:
                t.join()
            print(f"{sum(s is not None for s in summaries)}/{len(summaries)} summaries")
            """,
            "5/5 summaries",
            queries=5,
        ),
        THREAD,
        "0/5 summaries",
    ),
    context=REVIEWS,
)

item(
    "asyncio_run_in_a_thread_because_a_loop_may_run",
    refused(
        cell(
            """
            import asyncio
            import concurrent.futures

            async def analyze_all(texts):
                return await asyncio.gather(*[llm_query_async(f"Classify: {t}") for t in texts])

            def run_async(coro):
                with concurrent.futures.ThreadPoolExecutor(max_workers=1) as pool:
                    return pool.submit(asyncio.run, coro).result()

            labels = [str(r).strip() for r in run_async(analyze_all(context))]
            print(labels)
            """,
            "['POSITIVE', 'NEGATIVE', 'POSITIVE', 'neutral', 'NEGATIVE']",
            queries=5,
        ),
        THREAD,
        error="BridgeRefused: A query was made on another thread",
    ),
    cell("print(len(await analyze_all(context)))", "5", queries=5),
    context=REVIEWS,
)

item(
    "an_async_generator_read_over_cells",
    cell(
        """
        async def findings():
            for i, text in enumerate(context):
                yield i, await llm_query_async(f"Classify: {text}")

        stream = findings()
        print(await anext(stream))
        """,
        "(0, 'POSITIVE')",
        queries=1,
    ),
    cell("print([label async for _, label in stream][-1])", "NEGATIVE", queries=4),
    cell("print(await anext(stream, 'exhausted'))", "exhausted"),
    context=REVIEWS,
)

item(
    "a_task_group_in_which_one_fails",
    cell(
        """
        async def check(text):
            reply = await llm_query_async(f"Classify: {text}")
            if reply.strip() not in ("POSITIVE", "NEGATIVE"):
                raise ValueError(f"unexpected label {reply.strip()!r}")
            return reply

        try:
            async with asyncio.TaskGroup() as tg:
                tasks = [tg.create_task(check(t)) for t in context[3:4]]
        except* ValueError as group:
            for error in group.exceptions:
                print(f"❌ {error}")
        print(f"Continuing with {llm_query('plain')} and {await llm_query_async('awaited')}")
        """,
        "❌ unexpected label 'neutral'",
        "Continuing with <plain> and <awaited>",
        queries=3,
    ),
    cell(
        """
        async with asyncio.TaskGroup() as tg:
            tg.create_task(check(context[3]))
        """,
        error="ExceptionGroup: ValueError: unexpected label 'neutral'",
        queries=1,
    ),
    cell(
        """
        async def finish():
            FINAL("from a task")

        async with asyncio.TaskGroup() as tg:
            tg.create_task(finish())
        """,
        final="from a task",
    ),
    context=REVIEWS,
)

item(
    "a_main_that_nobody_awaits",
    cell(
        """
        async def main():
            print("Starting analysis...")
            return await llm_query_async("a")

        main()
        """,
        value="<coroutine object main at 0x>",
    ),
    cell("await main()", "Starting analysis...", value="'<a>'", queries=1),
)

item(
    "threads_that_only_compute",
    cell(
        """
        from concurrent.futures import ThreadPoolExecutor
        import hashlib, queue, threading

        def digest(chunk):
            return hashlib.sha256(chunk.encode()).hexdigest()[:8]

        paragraphs = context.split("\\n\\n")
        with ThreadPoolExecutor() as pool:
            digests = list(pool.map(digest, paragraphs))

        q, lock, total = queue.Queue(), threading.Lock(), 0
        def count():
            global total
            while (p := q.get()) is not None:
                with lock:
                    total += len(p)
        workers = [threading.Thread(target=count) for _ in range(3)]
        [w.start() for w in workers]
        for p in paragraphs + [None] * 3:
            q.put(p)
        [w.join() for w in workers]
        print(len(set(digests)), total == sum(map(len, paragraphs)))
        """,
        "4 True",
    ),
)

item(
    "a_plain_query_inside_gathered_tasks",
    refused(
        cell(
            """
            import asyncio

            async def analyze(text):
                return llm_query(f"Summarize: {text}")   # forgot that this one is not async

            print(await asyncio.gather(*[analyze(t) for t in context[:2]]))
            """,
            "['summary of 5 words', 'summary of 5 words']",
            queries=2,
        ),
        TASK,
        error="BridgeRefused: A query was made inside a task of its own",
    ),
    cell("print([await analyze(t) for t in context[:2]])", "['summary of 5 words', 'summary of 5 words']", queries=2),
    context=REVIEWS,
)

item(
    "async_generator_and_async_with",
    cell(
        """
        from contextlib import asynccontextmanager, suppress

        @asynccontextmanager
        async def timed(label):
            print(f"▶ {label}")
            try:
                yield label
            finally:
                print(f"■ {label}")

        async def stream(prompts):
            for p in prompts:
                yield p, await llm_query_async(p)

        async with timed("pass 1") as label:
            async for p, reply in stream(["x", "y"]):
                print(" ", p, "→", reply)
            with suppress(ZeroDivisionError):
                1 / 0
        """,
        "▶ pass 1",
        "  x → <x>",
        "  y → <y>",
        "■ pass 1",
        queries=2,
    ),
)
