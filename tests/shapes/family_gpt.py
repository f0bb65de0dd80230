"""Cells as GPT models write them: typed helpers, compiled patterns, dataclasses, batches, JSON with fallbacks."""

from __future__ import annotations

from shapes.family_items import REVIEWS, ROWS, Family, cell

item = Family("gpt")

item(
    "look_at_the_context_first",
    cell(
        """
        print(type(context), len(context))
        print(repr(context[:40]))
        headings = sum(1 for line in context.splitlines() if line.startswith("##"))
        print(context.count("\\n"), "lines;", headings, "sections")
        context.splitlines()[-1]
        """,
        "<class 'str'> 396",
        "'# Quarterly report\\n\\n## Orders\\nOrder 101:'",
        "14 lines; 3 sections",
        value="'The magic number is 7481.'",
    ),
    cell("SHOW_VARS()", value="\"Available variables: {'context': 'str', 'headings': 'int'}\""),
)

item(
    "split_by_a_compiled_pattern_and_batch",
    cell(
        r"""
        from __future__ import annotations
        import re
        from typing import NamedTuple

        class Section(NamedTuple):
            title: str
            body: str

        SECTION_RE = re.compile(r"^##\s+(?P<title>.+?)\s*$", re.M)

        def split_sections(text: str) -> list[Section]:
            marks = list(SECTION_RE.finditer(text))
            ends = [m.start() for m in marks[1:]] + [len(text)]
            return [Section(m["title"], text[m.end():end].strip()) for m, end in zip(marks, ends, strict=True)]

        sections = split_sections(context)
        print([s.title for s in sections])
        """,
        "['Orders', 'Complaints', 'Notes']",
    ),
    cell(
        """
        prompts = [f"Summarize the section '{s.title}':\\n{s.body}" for s in sections]
        summaries = dict(zip((s.title for s in sections), llm_batch_query(prompts)))
        for title, text in summaries.items():
            print(f"{title:<12}|{text!s:>24}")
        """,
        "Orders      |     summary of 34 words",
        "Complaints  |     summary of 26 words",
        "Notes       |The magic number is 7481.",
        queries=3,
    ),
    cell("FINAL(' / '.join(summaries))", final="Orders / Complaints / Notes"),
)

item(
    "json_of_an_answer_with_a_fallback",
    cell(
        r'''
        import json, re
        from typing import Any

        def parse_json(text: str) -> dict[str, Any]:
            """Best effort: raw JSON, then a fenced block, then the outermost braces."""
            try:
                return json.loads(text)
            except json.JSONDecodeError:
                pass
            if m := re.search(r"```(?:json)?\s*(.*?)```", text, re.S):
                return json.loads(m.group(1))
            start, end = text.find("{"), text.rfind("}")
            return json.loads(text[start:end + 1]) if 0 <= start < end else {"error": text}

        strict = parse_json(llm_query("Return only JSON with the names:\n" + context))
        chatty = parse_json(llm_query("Return JSON with the names:\n" + context))
        other = parse_json(llm_query("Just talk"))
        print(strict == chatty, strict["count"], sorted(set(strict["names"])))
        print(other)
        ''',
        "True 5 ['Anna Weiss', 'Ben Olsen', 'Chloé Martin', 'Dora Lind']",
        "{'error': '<Just talk>'}",
        queries=3,
    ),
)

item(
    "dataclass_and_a_sorted_leaderboard",
    cell(
        """
        from dataclasses import dataclass, field, asdict
        from collections import Counter

        @dataclass(order=True)
        class Scored:
            score: int
            text: str = field(compare=False)
            label: str = field(default="?", compare=False)

        LABELS = {"POSITIVE": 1, "NEGATIVE": -1}
        scored = []
        for review in context:
            label = llm_query(f"Classify as POSITIVE, NEGATIVE or NEUTRAL: {review}").strip().upper()
            scored.append(Scored(LABELS.get(label, 0), review, label))
        counts = Counter(s.label for s in scored)
        best = max(scored)
        print(counts.most_common())
        print(asdict(best))
        """,
        "[('POSITIVE', 2), ('NEGATIVE', 2), ('NEUTRAL', 1)]",
        "{'score': 1, 'text': 'great lamp, love it', 'label': 'POSITIVE'}",
        queries=5,
    ),
    cell("scored.sort(reverse=True); FINAL([s.score for s in scored])", final=[1, 1, 0, -1, -1]),
    context=REVIEWS,
)

item(
    "pandas_group_and_apply",
    cell(
        """
        import pandas as pd
        df = pd.DataFrame(context)
        df["label"] = df["text"].apply(lambda t: llm_query(f"Classify: {t}").strip())
        print(df[["id", "label"]].to_string(index=False))
        print(df.groupby("city")["label"].agg(list).to_dict())
        """,
        " id    label",
        "  1 POSITIVE",
        "  2 NEGATIVE",
        "  3 POSITIVE",
        "{'Oslo': ['POSITIVE', 'POSITIVE'], 'Rome': ['NEGATIVE']}",
        queries=3,
    ),
    cell(
        """
        pivot = df.pivot_table(index="city", columns="label", values="id", aggfunc="count", fill_value=0)
        print(pivot.to_csv(), end="")
        FINAL(int(pivot.loc["Oslo", "POSITIVE"]))
        """,
        "city,NEGATIVE,POSITIVE",
        "Oslo,0,2",
        "Rome,1,0",
        final=2,
    ),
    context=ROWS,
    needs=("pandas",),
)

item(
    "batch_of_dicts_with_options",
    cell(
        """
        tasks = [{"prompt": f"Summarize row {row['id']}: {row['text']}", "max_tokens": 50} for row in context]
        out = llm_batch_query(tasks)
        print(*(f"{row['id']}: {text}" for row, text in zip(context, out)), sep="\\n")
        """,
        "1: summary of 6 words",
        "2: summary of 8 words",
        "3: summary of 6 words",
        queries=3,
    ),
    cell(
        "llm_batch_query([{'id': 1, 'prompt': 'a'}])",
        error="TypeError: llm_batch_query: item 0 has the unknown key 'id': accepted are prompt (or text), model",
    ),
    context=ROWS,
)

item(
    "a_generator_pipeline_with_a_budget_of_its_own",
    cell(
        """
        from itertools import islice

        def lines():
            yield from (ln for ln in context.splitlines() if ln and not ln.startswith("#"))

        def batches(it, size):
            it = iter(it)
            while block := list(islice(it, size)):
                yield block

        total = 0
        for n, block in enumerate(batches(lines(), 3), start=1):
            total += len(llm_batch_query(block))
            if total >= 6:
                break
        print(f"{n=} {total=} {next(lines())[:9]=}")
        """,
        "n=2 total=6 next(lines())[:9]='Order 101'",
        queries=6,
    ),
)

item(
    "cached_recursion_over_halves",
    cell(
        """
        from functools import lru_cache

        @lru_cache(maxsize=None)
        def condense(lo: int, hi: int) -> str:
            text = context[lo:hi]
            if hi - lo <= 120:
                return str(llm_query(f"Summarize: {text}"))
            mid = (lo + hi) // 2
            return llm_query(f"Summarize both: {condense(lo, mid)} | {condense(mid, hi)}")

        print(condense(0, len(context)), condense.cache_info().misses)
        print(condense(0, len(context)), condense.cache_info().hits)
        """,
        "The magic number is 7481. 7",
        "The magic number is 7481. 1",
        queries=7,
    ),
)

item(
    "submit_by_fields",
    cell(
        """
        names = sorted({n for n in __import__("re").findall(r"[A-Z]\\w+ (?:Olsen|Lind)", context)})
        SUBMIT(answer=", ".join(names), confidence=0.9)
        print("never")
        """,
        final={"answer": "Ben Olsen, Dora Lind", "confidence": 0.9},
    ),
)

item(
    "assertions_on_the_way",
    cell(
        """
        total = sum(map(int, __import__("re").findall(r"(\\d+) EUR", context)))
        print(f"{total:,} EUR")
        assert total > 1000, f"suspiciously low: {total}"
        """,
        "840 EUR",
        error="AssertionError: suspiciously low: 840",
    ),
    cell("total", value="840"),
)

item(
    "structured_answers_by_schema_words_only",
    cell(
        """
        import json
        schema = {"type": "object", "properties": {"names": {"type": "array"}}}
        reply = llm_query(f"Answer with only JSON matching {json.dumps(schema)}. Text: {context}", max_tokens=200)
        data = json.loads(reply)
        print(json.dumps(data, indent=1, ensure_ascii=False)[:34])
        """,
        "{",
        ' "names": [',
        '  "Anna Weiss",',
        '  "B',
        queries=1,
    ),
    cell("llm_query('a', response_format='json')", error="TypeError: llm_query has no option 'response_format'"),
)
