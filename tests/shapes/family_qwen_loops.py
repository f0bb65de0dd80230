"""Cells as Qwen and GLM models write them: loops, threads and tasks."""

from __future__ import annotations

from shapes.family_items import RUNNING, TASK, THREAD, Family, cell, refused

item = Family("qwen")

item(
    "loop_fetched_and_run_until_complete",
    refused(
        cell(
            """
            import asyncio
            async def process_all(prompts):
                tasks = [asyncio.create_task(llm_query_async(p)) for p in prompts]
                return await asyncio.gather(*tasks)
            loop = asyncio.new_event_loop()
            asyncio.set_event_loop(loop)
            results = loop.run_until_complete(process_all(["a", "b"]))
            loop.close()
            print(results)
            """,
            "['<a>', '<b>']",
            queries=2,
        ),
        RUNNING,
        error="RuntimeError: Cannot run the event loop while another loop is running",
    ),
    cell("print(await process_all(['c']))", "['<c>']", queries=1),
)

item(
    "a_loop_that_runs_already_is_looked_for",
    cell(
        """
        import asyncio
        async def main():
            return llm_query("a") + await llm_query("b")
        print(await main())
        """,
        "<a><b>",
        queries=2,
    ),
    cell(
        """
        loop = asyncio.get_running_loop()
        await asyncio.sleep(0)
        print(loop.is_running(), await asyncio.wait_for(llm_query_async("c"), timeout=20))
        """,
        "True <c>",
        queries=1,
    ),
)

item(
    "run_coroutine_in_a_thread_of_its_own",
    refused(
        cell(
            """
            import asyncio, threading
            out = []
            def runner():
                try:
                    out.append(llm_query("in a thread"))
                except Exception as e:
                    out.append(f"Error: {e}")
            t = threading.Thread(target=runner, daemon=True)
            t.start()
            t.join()
            print(out[0])
            """,
            "<in a thread>",
            queries=1,
        ),
        THREAD,
        f"Error: {THREAD}",
    ),
)

item(
    "to_thread_for_each_prompt",
    refused(
        cell(
            """
            results = [await asyncio.to_thread(llm_query, p) for p in ["a", "b"]]
            print(results)
            """,
            "['<a>', '<b>']",
            queries=2,
        ),
        THREAD,
        error="BridgeRefused: A query was made on another thread",
    ),
)

item(
    "task_group_with_a_plain_query",
    refused(
        cell(
            """
            results = {}
            async def one(key):
                results[key] = llm_query(key)
            try:
                async with asyncio.TaskGroup() as tg:
                    for key in "ab":
                        tg.create_task(one(key))
            except* Exception as group:
                print(len(group.exceptions), group.exceptions[0])
            print(results)
            """,
            "{'a': '<a>', 'b': '<b>'}",
            queries=2,
        ),
        TASK,
        f"2 {TASK}",
        "{}",
    ),
)

item(
    "tasks_left_unfinished",
    cell(
        """
        async def later():
            await asyncio.sleep(3600)
            return await llm_query_async("too late")
        task = asyncio.create_task(later())
        await asyncio.sleep(0)
        print(task.done())
        """,
        "False",
        abandoned=1,
    ),
    cell("print(task.cancelled())", "True"),
)

item(
    "a_coroutine_nobody_awaits",
    cell(
        "r = llm_query_async('a')\nprint(r.upper())",
        error="AttributeError: 'coroutine' object has no attribute 'upper'",
    ),
    cell("r.close()\nx = await llm_query_async('a')\nprint(x.upper())", "<A>", queries=1),
)
