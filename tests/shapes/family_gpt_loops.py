"""Cells as GPT models write them: asyncio, its own loops, thread pools."""

from __future__ import annotations

from shapes.family_items import NEST, REVIEWS, RUNNING, TASK, THREAD, Family, cell, refused

item = Family("gpt")

item(
    "gather_over_an_async_helper_at_top_level",
    cell(
        """
        import asyncio

        async def ask(i: int, text: str) -> tuple[int, str]:
            reply = await llm_query_async(f"yes or no: is it broken? {text}")
            return i, reply.rstrip(".").lower()

        pairs = await asyncio.gather(*(ask(i, t) for i, t in enumerate(context)))
        print({i: r for i, r in pairs})
        """,
        "{0: 'yes', 1: 'yes', 2: 'yes', 3: 'yes', 4: 'yes'}",
        queries=5,
    ),
    cell(
        "[i for i, _ in sorted(await asyncio.gather(ask(0, 'x'), ask(1, 'y')), reverse=True)]",
        value="[1, 0]",
        queries=2,
    ),
    context=REVIEWS,
)

item(
    "semaphore_and_return_exceptions",
    cell(
        """
        import asyncio
        sem = asyncio.Semaphore(2)

        async def guarded(prompt):
            async with sem:
                return await llm_query_async(prompt)

        results = await asyncio.gather(*[guarded(p) for p in ["a", "[down] b", "c"]], return_exceptions=True)
        for r in results:
            print("FAILED" if isinstance(r, Exception) else "ok", type(r).__name__, str(r)[:9])
        """,
        "ok Answer <a>",
        "FAILED LLMQueryError provider:",
        "ok Answer <c>",
        queries=3,
    ),
    cell("print(*await asyncio.gather(*(guarded(p) for p in 'defg')))", "<d> <e> <f> <g>", queries=4),
)

item(
    "a_queue_with_workers_over_cells",
    cell(
        """
        queue: asyncio.Queue[str] = asyncio.Queue(maxsize=2)
        seen: dict[str, str] = {}

        async def worker() -> None:
            while True:
                prompt = await queue.get()
                try:
                    seen[prompt] = await llm_query_async(prompt)
                finally:
                    queue.task_done()

        async def run_all(prompts) -> None:
            workers = [asyncio.create_task(worker()) for _ in range(3)]
            for p in prompts:
                await queue.put(p)
            await queue.join()
            for w in workers:
                w.cancel()
            await asyncio.gather(*workers, return_exceptions=True)

        await run_all("abcde")
        print(sorted(seen.values()))
        """,
        "['<a>', '<b>', '<c>', '<d>', '<e>']",
        queries=5,
    ),
    cell("await run_all('xyz')\nprint(len(seen), queue.empty())", "8 True", queries=3),
)

item(
    "timeouts_around_queries",
    cell(
        """
        try:
            async with asyncio.timeout(0.01):
                await asyncio.sleep(30)
        except TimeoutError:
            print("slow, asking again:", await asyncio.wait_for(llm_query_async("a"), timeout=30))
        done, pending = await asyncio.wait([asyncio.create_task(llm_query_async(p)) for p in "bc"])
        print(sorted(t.result() for t in done), pending, llm_query("d"))
        """,
        "slow, asking again: <a>",
        "['<b>', '<c>'] set() <d>",
        queries=4,
    ),
)

item(
    "run_by_whatever_loop_there_is",
    cell(
        """
        import asyncio

        async def main() -> str:
            return await llm_query_async("a")

        try:
            asyncio.get_running_loop()
        except RuntimeError:
            result = asyncio.run(main())
        else:
            result = await main()
        print(result)
        """,
        "<a>",
        queries=1,
    ),
    refused(
        cell("import anyio\nprint(anyio.run(main))", "<a>", queries=1),
        RUNNING,
        error="RuntimeError: Already running asyncio in this thread",
    ),
)

item(
    "a_plain_query_awaited_in_gathered_tasks",
    refused(
        cell(
            """
            async def ask(prompt: str) -> str:
                return await llm_query(prompt)

            print(await asyncio.gather(*(ask(p) for p in ["a", "b"])))
            """,
            "['<a>', '<b>']",
            queries=2,
        ),
        TASK,
        error="BridgeRefused: A query was made inside a task of its own",
    ),
    cell("print(await ask('a'), await llm_query('b'), await llm_query_async('c'))", "<a> <b> <c>", queries=3),
)

item(
    "thread_pool_of_multiprocessing",
    refused(
        cell(
            """
            from multiprocessing.pool import ThreadPool

            with ThreadPool(processes=2) as pool:
                print(pool.starmap(llm_query, [("a", "tiny"), ("b",)]))
            """,
            "['<a>', '<b>']",
            queries=2,
        ),
        THREAD,
        error="BridgeRefused: A query was made on another thread than the cell's",
    ),
)

item(
    "asyncio_run_beside_a_top_level_await",
    refused(
        cell(
            """
            async def main():
                return await llm_query_async("a")

            first = await main()
            second = asyncio.run(main())
            """,
            error="RuntimeError: asyncio.run() cannot be called from a running event loop",
            queries=1,
        ),
        RUNNING,
        error="RuntimeError: asyncio.run() cannot be called from a running event loop",
        queries=1,
    ),
    cell("print(first, 'second' in globals())", "<a> False"),
)

item(
    "asyncio_run_of_main",
    refused(
        cell(
            """
            import asyncio

            async def main() -> list[str]:
                return await llm_batch_query_async(["a", "b"])

            if __name__ == "__main__":
                print(asyncio.run(main()))
            """,
            "['<a>', '<b>']",
            queries=2,
        ),
        RUNNING,
        error="RuntimeError: asyncio.run() cannot be called from a running event loop",
    ),
    cell("print(await main())", "['<a>', '<b>']", queries=2),
)

item(
    "asyncio_run_with_await_as_the_way_out",
    cell(
        """
        import asyncio
        async def main():
            return await asyncio.gather(llm_query_async("a"), llm_query_async("b"))
        work = main()
        try:
            out = asyncio.run(work)
        except RuntimeError:
            out = await work
        print(out)
        """,
        "['<a>', '<b>']",
        queries=2,
    ),
)

item(
    "nested_loop_with_nest_asyncio",
    refused(
        cell(
            """
            import asyncio
            import nest_asyncio
            nest_asyncio.apply()

            async def main():
                return await llm_query_async("a")

            print(asyncio.run(main()))
            """,
            "<a>",
            queries=1,
        ),
        NEST,
        error="ImportError: nest_asyncio",
    ),
    needs=("nest_asyncio",),
)

item(
    "thread_pool_map_over_chunks",
    refused(
        cell(
            """
            from concurrent.futures import ThreadPoolExecutor

            CHUNK = 150
            chunks = [context[i:i + CHUNK] for i in range(0, len(context), CHUNK)]

            with ThreadPoolExecutor(max_workers=4) as pool:
                found = list(pool.map(lambda c: llm_query(f"What is the magic number?\\n{c}"), chunks))
            hits = [f for f in found if "NOT FOUND" not in f]
            print(len(chunks), hits)
            """,
            "3 ['The magic number is 7481.']",
            queries=3,
        ),
        THREAD,
        error="BridgeRefused: A query was made on another thread than the cell's",
    ),
    cell(
        """
        found = llm_batch_query([f"What is the magic number?\\n{c}" for c in chunks])
        FINAL(int(next(f for f in found if f.endswith("7481."))[-5:-1]))
        """,
        final=7481,
        queries=3,
    ),
)

item(
    "submit_and_as_completed_with_errors_by_future",
    refused(
        cell(
            """
            from concurrent.futures import ThreadPoolExecutor, as_completed
            results, errors = {}, {}
            with ThreadPoolExecutor() as ex:
                futures = {ex.submit(llm_query, p): p for p in ("a", "[down]", "b")}
                for fut in as_completed(futures):
                    try:
                        results[futures[fut]] = fut.result()
                    except Exception as e:
                        errors[futures[fut]] = f"{type(e).__name__}: {e}"
            print(sorted(results.items()))
            for key in sorted(errors):
                print(key, "->", errors[key])
            """,
            "[('a', '<a>'), ('b', '<b>')]",
            "[down] -> LLMQueryError: provider: RuntimeError: the provider is overloaded",
            queries=3,
        ),
        THREAD,
        "[]",
        *(f"{prompt} -> BridgeRefused: {THREAD}" for prompt in ("[down]", "a", "b")),
    ),
)
