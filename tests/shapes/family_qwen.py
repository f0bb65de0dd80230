"""Cells as Qwen and GLM models write them: `answer` as a plain variable, globals, re-imports, shadowed names, loops."""

from __future__ import annotations

from shapes.family_items import REPORT, REVIEWS, ROWS, Family, cell

item = Family("qwen")

item(
    "chunks_by_length_and_a_buffer",
    cell(
        """
        # 首先查看上下文的基本信息
        print("上下文类型:", type(context))
        print("上下文长度:", len(context))
        chunk_size = len(context) // 3 + 1
        buffers = []
        for i in range(0, len(context), chunk_size):
            chunk = context[i:i+chunk_size]
            summary = llm_query(f"Summarize this part (第{i // chunk_size + 1}部分): {chunk}")
            buffers.append(summary)
            print(f"已处理 {i // chunk_size + 1} 个分块: {summary}")
        """,
        "上下文类型: <class 'str'>",
        "上下文长度: 396",
        "已处理 1 个分块: summary of 30 words",
        "已处理 2 个分块: summary of 29 words",
        "已处理 3 个分块: The magic number is 7481.",
        queries=3,
    ),
    cell(
        """
        answer = llm_query("根据以下摘要回答:\\n" + "\\n".join(buffers))
        print(answer)
        FINAL(answer)
        """,
        "The magic number is 7481.",
        queries=1,
        final="The magic number is 7481.",
    ),
)

item(
    "answer_as_a_plain_variable",
    cell("answer = llm_query('a')\nprint(answer)", "<a>", queries=1),
    cell("answer", value="'<a>'"),
    cell("answers = llm_query_batched(['b', 'c'])\nanswer = answer + ''.join(answers)\nFINAL_VAR('answer')",
         queries=2, final="<a><b><c>"),
    cell("answer = {'content': answer, 'ready': True}", final="<a><b><c>"),
)  # fmt: skip

item(
    "globals_counted_over_cells",
    cell(
        """
        count = 0
        cache = {}
        def ask(q):
            global count
            if q in cache:
                return cache[q]
            count += 1
            cache[q] = llm_query(q)
            return cache[q]
        ask("a"); ask("b"); ask("a")
        print(count)
        """,
        "2",
        queries=2,
    ),
    cell(
        """
        ask("b"); ask("c")
        print(count, list(cache))
        if 'count' in globals() and 'missing' not in globals():
            del cache
        """,
        "3 ['a', 'b', 'c']",
        queries=1,
    ),
    cell("ask('a')", error="NameError: name 'cache' is not defined"),
    cell("cache = {}\nask('a') + str(count)", value="'<a>4'", queries=1),
)

item(
    "the_same_imports_in_each_cell",
    cell("import re, json, math, collections\nnums = [int(x) for x in re.findall(r'(\\d+) EUR', context)]\nprint(nums)",
         "[120, 80, 640]"),
    cell("import re\nfrom statistics import mean, median\nprint(mean(nums), median(nums), math.isqrt(sum(nums)))",
         "280 120 28"),
    cell("from collections import *\nfrom math import *\nprint(Counter('aab')['a'], floor(pi), list(OrderedDict(b=1)))",
         "2 3 ['b']"),
)  # fmt: skip

item(
    "shadowed_builtins_and_words",
    cell(
        """
        list = ["a", "b"]
        input = context
        str = "text"
        id = 5
        print(len(input) > 100, list, id)
        """,
        "True ['a', 'b'] 5",
    ),
    cell("llm_query(str(1))", error="TypeError: 'str' object is not callable"),
    cell("del str, list\nprint(list(str(1)), llm_batch_query(list('ab')))", "['1'] ['<a>', '<b>']", queries=2),
    cell("llm_query = 'oops'\nFINAL = None\nprint(llm_query, FINAL)", "oops None"),
    cell("print(llm_query('back again'))\nFINAL('bound anew')", "<back again>", queries=1, final="bound anew"),
)

item(
    "own_wrapper_under_the_same_name",
    cell(
        """
        _orig = llm_query
        calls = []
        def llm_query(prompt, *args, **kw):
            calls.append(prompt)
            return _orig("wrapped " + prompt, *args, **kw)
        print(llm_query("a"))
        """,
        "<wrapped a>",
        queries=1,
    ),
    cell("print(llm_query('b'), calls)", "<b> ['a']", queries=1),
)

item(
    "hierarchical_summary_by_recursion",
    cell(
        """
        def merge(texts, level=0):
            if len(texts) == 1:
                return texts[0]
            next_level = []
            for i in range(0, len(texts), 2):
                pair = texts[i:i+2]
                next_level.append(llm_query("合并: " + " + ".join(pair)) if len(pair) > 1 else pair[0])
            print("  " * level + f"level {level}: {len(texts)} -> {len(next_level)}")
            return merge(next_level, level + 1)

        final_summary = merge([c for c in "abcde"])
        FINAL_VAR("final_summary")
        """,
        "level 0: 5 -> 3",
        "  level 1: 3 -> 2",
        "    level 2: 2 -> 1",
        queries=4,
        final="<合并: <合并: <合并: a + b> + <合并: c + d>> + e>",
    ),
)

item(
    "while_true_until_a_condition",
    cell(
        """
        import time
        pos, step, found, n = 0, 64, None, 0
        while True:
            window = context[pos:pos + step]
            if not window:
                break
            n += 1
            res = llm_query("magic number?\\n" + window)
            if "NOT FOUND" in res:
                pos += step // 2
                time.sleep(0.001)
                continue
            found = res
            break
        else:
            print("never")
        print(found, "after", n)
        """,
        "The magic number is 7481. after 12",
        queries=12,
    ),
)

item(
    "literal_eval_of_an_answer",
    cell(
        r"""
        import ast
        raw = llm_query("Give only json: " + context)
        try:
            data = eval(raw)
        except Exception as e:
            data = None
        data2 = ast.literal_eval(raw)
        bad = llm_query("[1, 2, 3")
        try:
            ast.literal_eval(bad)
        except (ValueError, SyntaxError) as e:
            print("解析失败:", type(e).__name__)
        print(data == data2, data['count'])
        exec("computed = data['count'] * 2\ndef again(p): return llm_query(p * 2)")
        print(computed, again("x"))
        """,
        "解析失败: SyntaxError",
        "True 5",
        "10 <xx>",
        queries=3,
    ),
)

item(
    "regular_expressions_without_raw_strings",
    cell(
        """
        import re
        dates = re.findall("\\d{4}-\\d{2}-\\d{2}", context)
        people = re.findall("Order (\\d+): (\\w+ \\w+)", context)
        print(dates, dict(people))
        pattern = re.compile(f"{re.escape('EUR.')}$", re.MULTILINE)
        masked = re.sub(r"\\b([A-Z]\\w+) (Olsen|Lind)\\b", lambda m: llm_query(m.group(2)), context)
        print(len(pattern.findall(context)), masked.count("<Olsen>"), masked.count("<Lind>"))
        """.replace("\\\\", "\\"),
        "['2024-12-24'] {'101': 'Anna Weiss', '102': 'Ben Olsen', '103': 'Chloé Martin'}",
        "3 2 1",
        queries=3,
    ),
)

item(
    "values_that_are_no_text_given_as_final",
    cell("FINAL(len(context))", final=5),
    cell("FINAL(True)", final=True),
    cell("FINAL(None)", final=None),
    cell("FINAL([i for i, r in enumerate(context) if 'love' in r])", final=[0, 2]),
    cell("FINAL_VAR(3.5)", final=3.5),
    cell(
        "result = {'计数': 2, 'items': [1, {'a': None}]}\nFINAL_VAR(result)",
        final={"计数": 2, "items": [1, {"a": None}]},
    ),
    context=REVIEWS,
)

item(
    "values_that_cross_only_as_text",
    cell("FINAL({1})", final="{1}"),
    cell("FINAL({row['id']: row['city'] for row in context})", final="{1: 'Oslo', 2: 'Rome', 3: 'Oslo'}"),
    cell("from collections import Counter\nFINAL(Counter(r['city'] for r in context).most_common(1)[0])",
         final="('Oslo', 2)"),
    cell("from datetime import date\nFINAL([date(2024, 12, 24)])", final="[datetime.date(2024, 12, 24)]"),
    context=ROWS,
    portable=False,
)  # fmt: skip

item(
    "temporary_files_for_intermediate_results",
    cell(
        """
        import json, os, tempfile
        path = os.path.join(tempfile.mkdtemp(), "中间结果.json")
        with open(path, "w", encoding="utf-8") as f:
            json.dump([llm_query(f"第{i}页") for i in range(2)], f, ensure_ascii=False)
        """,
        queries=2,
    ),
    cell(
        """
        with open(path, encoding="utf-8") as f:
            pages = json.load(f)
        os.remove(path); os.rmdir(os.path.dirname(path))
        print(pages, os.path.exists(path))
        """,
        "['<第0页>', '<第1页>'] False",
    ),
)

item(
    "text_of_all_scripts",
    cell(
        """
        s = "naïve café — “quotes” 👩‍👩‍👧 \\u200b \\x00 مرحبا"
        reply = llm_query(s)
        print(reply == f"<{s}>", reply.encode()[:9], ascii(reply[-6:]))
        变量 = {"键": "值"}
        print(变量, f"{'宽':>4}|")
        """,
        "True b'<na\\xc3\\xafve c' '\\u0645\\u0631\\u062d\\u0628\\u0627>'",
        "{'键': '值'}    宽|",
        queries=1,
    ),
    cell("FINAL_VAR('变量')", final={"键": "值"}),
    context=REPORT,
)
