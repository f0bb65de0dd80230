"""Cells as Claude models write them: steps with banners and ticks, classes, careful handlers, `answer`, FINAL_VAR."""

from __future__ import annotations

from shapes.family_items import REPORT, REVIEWS, ROWS, Family, cell

item = Family("claude")

item(
    "banner_steps_then_answer_content",
    cell(
        """
        # Step 1: Let me first understand the structure of the context
        print("=" * 30)
        print("STEP 1: STRUCTURE")
        print("=" * 30)
        lines = context.strip().split("\\n")
        print(f"✓ Total lines: {len(lines)}")
        print(f"✓ First line: {lines[0]!r}")
        """,
        "=" * 30,
        "STEP 1: STRUCTURE",
        "=" * 30,
        "✓ Total lines: 14",
        "✓ First line: '# Quarterly report'",
    ),
    cell(
        """
        # Step 2: Ask a sub-model about each section
        sections = [s for s in context.split("## ")[1:]]
        findings = []
        for i, section in enumerate(sections):
            print(f"Processing section {i + 1}/{len(sections)}... ", end="", flush=True)
            result = llm_query(f"Summarize:\\n\\n{section}")
            findings.append(result)
            print(f"done ({len(result)} chars)")
        """,
        "Processing section 1/3... done (19 chars)",
        "Processing section 2/3... done (19 chars)",
        "Processing section 3/3... done (25 chars)",
        queries=3,
    ),
    cell(
        """
        answer["content"] = "\\n".join(f"- {f}" for f in findings)
        answer["ready"] = True
        print("Answer set.")
        """,
        "Answer set.",
        final="- summary of 32 words\n- summary of 24 words\n- The magic number is 7481.",
    ),
)

item(
    "a_class_with_state_over_cells",
    cell(
        '''
        class DocumentAnalyzer:
            """Analyzes the document chunk by chunk, keeping track of what was found."""

            def __init__(self, text: str, chunk_size: int = 120, overlap: int = 20):
                self.text = text
                self.chunk_size = chunk_size
                self.overlap = overlap
                self.findings: dict[int, str] = {}
                self._errors = 0

            @property
            def chunks(self):
                step = self.chunk_size - self.overlap
                return [self.text[i:i + self.chunk_size] for i in range(0, len(self.text), step)]

            def analyze(self, question: str) -> "DocumentAnalyzer":
                for i, chunk in enumerate(self.chunks):
                    try:
                        reply = llm_query(f"{question}\\n\\n<chunk>\\n{chunk}\\n</chunk>")
                        if "NOT FOUND" not in reply:
                            self.findings[i] = reply
                    except Exception as e:
                        self._errors += 1
                        print(f"  ⚠ chunk {i}: {e}")
                return self

            def __repr__(self):
                found = f"{len(self.findings)} findings, {self._errors} errors"
                return f"<DocumentAnalyzer {len(self.chunks)} chunks, {found}>"

        analyzer = DocumentAnalyzer(context)
        analyzer
        ''',
        value="<DocumentAnalyzer 4 chunks, 0 findings, 0 errors>",
    ),
    cell(
        'analyzer.analyze("What is the magic number?")',
        value="<DocumentAnalyzer 4 chunks, 1 findings, 0 errors>",
        queries=4,
    ),
    cell(
        """
        DocumentAnalyzer.chunk_count = lambda self: len(self.chunks)   # add a helper after the fact
        final_answer = analyzer.findings[max(analyzer.findings)]
        print(analyzer.chunk_count(), isinstance(analyzer, DocumentAnalyzer))
        FINAL_VAR("final_answer")
        """,
        "4 True",
        final="The magic number is 7481.",
    ),
)

item(
    "retry_with_backoff_helper",
    cell(
        '''
        import time
        import random

        def query_with_retry(prompt, max_retries=4, base_delay=0.001):
            """Query with exponential backoff."""
            last_error = None
            for attempt in range(max_retries):
                try:
                    return llm_query(prompt)
                except Exception as e:
                    last_error = e
                    print(f"Attempt {attempt + 1} failed: {type(e).__name__}")
                    time.sleep(base_delay * 2 ** attempt + random.uniform(0, base_delay))
            raise RuntimeError(f"All {max_retries} attempts failed") from last_error

        print(query_with_retry("[flaky] question"))
        ''',
        "Attempt 1 failed: LLMQueryError",
        "Attempt 2 failed: LLMQueryError",
        "<[flaky] question>",
        queries=3,
    ),
    cell(
        'query_with_retry("[down] question", max_retries=2)',
        "Attempt 1 failed: LLMQueryError",
        "Attempt 2 failed: LLMQueryError",
        error="RuntimeError: All 2 attempts failed",
        queries=2,
    ),
)

item(
    "batch_with_failed_slots_and_a_second_pass",
    cell(
        """
        prompts = {f"doc_{i}": f"{'[flaky] ' if i == 2 else ''}Classify: {r}" for i, r in enumerate(context)}
        results = dict(zip(prompts, llm_query_batched(list(prompts.values()))))

        # Some may have failed: check and retry only those
        for round_no in range(1, 4):
            failed = [k for k, v in results.items() if v.startswith("[ERROR]") or not v.ok]
            print(f"Round {round_no}: {len(results) - len(failed)} ok, {len(failed)} failed {failed}")
            if not failed:
                break
            results.update(zip(failed, llm_query_batched([prompts[k] for k in failed])))
        """,
        "Round 1: 4 ok, 1 failed ['doc_2']",
        "Round 2: 4 ok, 1 failed ['doc_2']",
        "Round 3: 5 ok, 0 failed []",
        queries=7,
    ),
    cell("FINAL({k: v.strip().lower() for k, v in results.items()})", final={
        "doc_0": "positive", "doc_1": "negative", "doc_2": "positive", "doc_3": "neutral", "doc_4": "negative",
    }),
    context=REVIEWS,
)  # fmt: skip

item(
    "verify_before_answering",
    cell(
        """
        from collections import defaultdict

        votes = defaultdict(list)
        for phrasing in ("What is the magic number?", "Find the magic number.", "magic number??"):
            reply = llm_query(f"{phrasing}\\n{context}")
            votes[reply].append(phrasing)

        ranked = sorted(votes.items(), key=lambda kv: -len(kv[1]))
        print(f"{'Answer':<28} Votes")
        print("-" * 34)
        for text, who in ranked:
            print(f"{text:<28} {len(who)}")

        confident = len(ranked[0][1]) == 3
        if confident:
            answer["content"], answer["ready"] = ranked[0][0], True
        print("✅ ready" if answer["ready"] else "❌ not yet")
        """,
        "Answer                       Votes",
        "-" * 34,
        "The magic number is 7481.    3",
        "✅ ready",
        queries=3,
        final="The magic number is 7481.",
    ),
    cell("answer", value="{'content': 'The magic number is 7481.', 'ready': False}"),
)

item(
    "ready_before_the_content_is_changed_again",
    cell(
        """
        answer["content"] = "draft"
        answer["ready"] = True
        # wait, let me double check that
        check = llm_query("Is 'draft' right?")
        answer["content"] = f"checked: {check}"
        """,
        queries=1,
        final="checked: <Is 'draft' right?>",
    ),
)

item(
    "captured_prints_and_own_tracebacks",
    cell(
        """
        import io, traceback
        from contextlib import redirect_stdout

        buffer = io.StringIO()
        with redirect_stdout(buffer):
            print("captured", llm_query("inside"))
        log = buffer.getvalue().splitlines()
        print(log)

        def risky(x):
            return x / 0

        try:
            risky(1)
        except ZeroDivisionError:
            traceback.print_exc()
            print(traceback.format_exc().splitlines()[-1])
        """,
        "['captured <inside>']",
        "ZeroDivisionError: division by zero",
        queries=1,
    ),
    cell("import sys\nsys.stdout = io.StringIO()\nprint('lost')"),
    cell("print('found again')", "found again"),
)

item(
    "long_output_is_cut_in_the_middle",
    cell(
        """
        # Print the whole context many times "to get a feeling for it"
        for i in range(20_000):
            print(f"{i:05d}: {context[:20]!r}")
        """,
        stdout=r"(?s)00000: '# Quarterly report\\n\\n'\n.*\n\[\.\.\. 540,000 characters are missing here \.\.\.\]\n.*"
        r"19999: '# Quarterly report\\n\\n'\n",
    ),
    cell("print('still here')", "still here"),
)

item(
    "records_grouped_with_a_table_at_the_end",
    cell(
        """
        from itertools import groupby
        from operator import itemgetter

        rows = sorted(context, key=itemgetter("city"))
        table = ["| City | Reviews | Mood |", "|---|---|---|"]
        for city, group in groupby(rows, key=itemgetter("city")):
            texts = [r["text"] for r in group]
            mood = llm_query("Classify: " + "; ".join(texts)).strip().title()
            table.append(f"| {city} | {len(texts)} | {mood} |")
        md = "\\n".join(table)
        print(md)
        FINAL_VAR("md")
        """,
        "| City | Reviews | Mood |",
        "|---|---|---|",
        "| Oslo | 2 | Positive |",
        "| Rome | 1 | Negative |",
        queries=2,
        final="| City | Reviews | Mood |\n|---|---|---|\n| Oslo | 2 | Positive |\n| Rome | 1 | Negative |",
    ),
    context=ROWS,
)

item(
    "final_var_of_a_name_in_the_wrong_cell",
    cell(
        """
        try:
            FINAL_VAR("final_report")
        except NameError as e:
            print(f"Oops: {e}")
        """,
        "Oops: FINAL_VAR: there is no variable 'final_report'. Available variables: answer, context. "
        "Create and assign final_report first, or call FINAL(...) with the answer itself.",
    ),
    cell(
        """
        final_report = {"orders": context.count("Order "), "tickets": context.count("Ticket ")}
        FINAL_VAR("final_report")
        """,
        final={"orders": 3, "tickets": 2},
    ),
)

item(
    "final_swallowed_by_careful_handlers",
    cell(
        """
        results, error_log = [], []
        try:
            results.append(llm_query("a"))
            FINAL(results[0])
        except Exception as e:
            error_log.append(str(e))
            FINAL("failed")
        finally:
            print(f"Finished with {len(error_log)} errors")
        """,
        "Finished with 0 errors",
        queries=1,
        final="<a>",
    ),
    cell(
        """
        try:
            FINAL("first")
        except:
            print("caught everything")
        print("and going on")
        FINAL("second")
        """,
        "caught everything",
        "and going on",
        final="first",
    ),
)

item(
    "a_context_of_several_documents",
    cell(
        """
        print(f"Type: {type(context).__name__}, {len(context)} items")
        for name, text in context.items():
            print(f"  • {name}: {len(text):,} chars")
        relevant = {n: t for n, t in context.items() if "magic" in t}
        reply = rlm_query(f"What is the magic number?\\n{''.join(relevant.values())}")
        replies = rlm_query_batched([f"Summarize {n}" for n in context])
        print(reply, replies)
        """,
        "Type: dict, 2 items",
        "  • report.md: 396 chars",
        "  • empty.txt: 0 chars",
        "The magic number is 7481. ['summary of 2 words', 'summary of 2 words']",
        queries=3,
    ),
    context={"report.md": REPORT, "empty.txt": ""},
)
