"""Cells as Llama and other small models write them: wrong arguments, input(), prose amid code, FINAL anyhow."""

from __future__ import annotations

from shapes.family_items import REVIEWS, ROWS, RUNNING, Family, cell, refused

item = Family("llama")

item(
    "a_plain_loop_and_print",
    cell(
        """
        # Let's go through each review
        i = 0
        for x in context:
            r = llm_query("Classify this review as positive or negative: " + x)
            print(i, r)
            i = i + 1
        """,
        "0 POSITIVE",
        "1 NEGATIVE",
        "2 POSITIVE",
        "3 neutral",
        "",
        "4 NEGATIVE",
        queries=5,
    ),
    cell('print("The final answer is: " + i)', error='TypeError: can only concatenate str (not "int") to str'),
    cell('print("The final answer is: " + str(i))\nFINAL("The final answer is: " + str(i))',
         "The final answer is: 5", final="The final answer is: 5"),
    context=REVIEWS,
)  # fmt: skip

item(
    "input_from_nobody",
    cell("name = input('Enter your question: ')", error="EOFError: there is no input() in a cell"),
    cell(
        "def main():\n    q = input()\n    print(llm_query(q))\nmain()", error="EOFError: there is no input() in a cell"
    ),
)

item(
    "wrong_names_of_arguments",
    cell("llm_query(question='What?', context=context)", error="TypeError: llm_query: the argument prompt is missing"),
    cell("llm_query('What?', context)", error="ValueError: llm_query: the name of a model has at most 256 characters"),
    cell("llm_query(prompt='a', temperature='hot')", error="TypeError: temperature='hot': give a number"),
    cell(
        "llm_query(prompt='a', max_token=5)",
        error="TypeError: llm_query has no option 'max_token': accepted are prompt",
    ),
    cell(
        "llm_query(['a', 'b'])",
        error="TypeError: llm_query: the prompt must be a str, not list: for several prompts use",
    ),
    cell("llm_query()", error="TypeError: llm_query: the argument prompt is missing"),
    cell("llm_query('')", error="ValueError: llm_query: the prompt is empty"),
    cell("llm_query(5)", error="TypeError: llm_query: the prompt must be a str, not int"),
    cell("llm_query(None)", error="TypeError: llm_query: the argument prompt is missing"),
    cell("llm_query('a', max_tokens='100')", error="TypeError: llm_query: max_tokens must be an int, not str"),
    cell("llm_query('a', 'gpt-4', 0.7)", error="TypeError: llm_query: max_tokens must be an int, not float"),
    cell("print(llm_query('a', 100), llm_query(text='b'))", "<a> <b>", queries=2),
)

item(
    "batches_of_the_wrong_kind",
    cell("print(llm_batch_query([]))", "[]"),
    cell("llm_batch_query('one prompt')", error="TypeError: llm_batch_query takes a list of prompts, not one str"),
    cell("llm_batch_query({'prompt': 'a'})", error="TypeError: llm_batch_query takes a list of prompts, not one dict"),
    cell("llm_batch_query('a', 'b', 'c')", error="TypeError: llm_batch_query takes a list of prompts, not one str"),
    cell("llm_batch_query(['a', None])", error="TypeError: llm_batch_query: item 1 is NoneType"),
    cell("llm_batch_query([('a', 'b')])", error="TypeError: llm_batch_query: item 0 is tuple: give a str, or a dict"),
    cell("llm_batch_query(['a', ''])", error="ValueError: llm_batch_query: item 1: the prompt is empty"),
    cell(
        "llm_batch_query([{'question': 'a'}])",
        error="TypeError: llm_batch_query: item 0 has the unknown key 'question'",
    ),
    cell("llm_batch_query()", error="TypeError: llm_batch_query: the argument queries is missing"),
    cell("llm_query_batch(context)", error="TypeError: llm_batch_query: item 0 has the unknown key 'id'"),
    cell("print(llm_query_batched(prompts=tuple('ab'), max_tokens=9))", "['<a>', '<b>']", queries=2),
    cell(
        "results = await llm_batch_query(['a'])",
        error="TypeError: object list can't be used in 'await' expression",
        queries=1,
    ),
    context=ROWS,
)

item(
    "words_that_do_not_exist",
    cell("response = llm_querry('a')", error="NameError: name 'llm_querry' is not defined"),
    cell("from llm import llm_query", error="ModuleNotFoundError: No module named 'llm'"),
    cell("from rlm import llm_query", error="ImportError: cannot import name 'llm_query' from 'rlm'"),
    cell("llm.query('a')", error="NameError: name 'llm' is not defined"),
    cell("llm_query.run('a')", error="AttributeError: 'function' object has no attribute 'run'"),
    cell("context.page_content", error="AttributeError: 'str' object has no attribute 'page_content'"),
    cell("display(context)", error="NameError: name 'display' is not defined"),
)

item(
    "text_that_is_no_python",
    cell("Sure! Here is the code:\nprint(1)", error="SyntaxError: invalid syntax"),
    cell("```python\nprint(1)\n```", error="SyntaxError: invalid syntax"),
    cell("print “hello”", error="SyntaxError: invalid character '“' (U+201C)"),
    cell('print "hello"', error="SyntaxError: Missing parentheses in call to 'print'. Did you mean print(...)?"),
    cell("!pip install pandas", error="SyntaxError: invalid syntax"),
    cell("%matplotlib inline", error="SyntaxError: invalid syntax"),
    cell("def f():\nreturn 1", error="IndentationError: expected an indented block after function definition"),
    cell("if True:\n\tx = 1\n        y = 2", error="TabError: inconsistent use of tabs and spaces in indentation"),
    cell("x = llm_query('a'\nprint(x)", error="SyntaxError: '(' was never closed"),
    cell("return llm_query('a')", error="SyntaxError: 'return' outside function"),
    cell("def ask(p):\n    return await llm_query(p)", error="SyntaxError: 'await' outside async function"),
    cell("x = f'{llm_query('", error="SyntaxError: "),
    cell(">>> print(1)", error="SyntaxError: invalid syntax"),
    cell("   print('indented as a whole')\n   x = 5\n", "indented as a whole"),
    cell(""),
)  # fmt: skip

item(
    "the_first_part_of_a_failing_cell_is_kept",
    cell(
        """
        notes = [llm_query("a")]
        notes.append(llm_query("b"))
        notes.append(undefined_variable)
        """,
        error="NameError: name 'undefined_variable' is not defined",
        queries=2,
    ),
    cell("print(notes)", "['<a>', '<b>']"),
)

item(
    "except_pass_around_everything",
    cell(
        """
        result = None
        for p in ["[down] a", "b", 3]:
            try:
                result = llm_query(p)
            except:
                pass
        print(result)
        """,
        "<b>",
        queries=2,
    ),
    cell(
        """
        try:
            FINAL(result)
        except:
            pass
        print("still running")
        """,
        "still running",
        final="<b>",
    ),
)

item(
    "final_inside_an_f_string",
    cell('print(f"The answer is {FINAL(42)}")', final=42),
    cell('x = "Result: " + str(FINAL("text"))', final="text"),
    cell("print(FINAL('printed'))", final="printed"),
    cell("answer_text = FINAL('assigned')\nprint(answer_text)", final="assigned"),
    cell("answer_text", error="NameError: name 'answer_text' is not defined"),
    cell("return_value = [FINAL(x) for x in (1, 2, 3)]", final=1),
    cell("lambda: FINAL(5)", value="<function <lambda> at 0x>"),
)

item(
    "final_in_a_helper_and_twice",
    cell(
        """
        def finish(x):
            print("finishing")
            FINAL(f"answer: {x}")
            print("unreachable")

        for n in range(5):
            if n == 2:
                finish(n)
        """,
        "finishing",
        final="answer: 2",
    ),
    cell("FINAL('one'); FINAL('two')", final="one"),
    cell("if False:\n    FINAL('never')\nprint('no final')", "no final"),
)

item(
    "final_with_the_wrong_arguments",
    cell("FINAL()", error="TypeError: FINAL(answer) takes exactly one value, not 0"),
    cell("FINAL('a', 'b')", error="TypeError: FINAL(answer) takes exactly one value, not 2"),
    cell("FINAL(answer='a')", error="TypeError: FINAL() got an unexpected keyword argument 'answer'"),
    cell("FINAL_VAR()", error="TypeError: FINAL_VAR(name) takes exactly one name of a variable, not 0"),
    cell("FINAL_VAR(my_result)", error="NameError: name 'my_result' is not defined"),
    cell("FINAL_VAR('my_result')", error="NameError: FINAL_VAR: there is no variable 'my_result'"),
    cell("FINAL_VAR('my result is 5')", final="my result is 5"),
    cell("my_result = 5\nFINAL_VAR(my_result)", final=5),
    cell("FINAL_VAR('my_result')", final=5),
    cell("FINAL_VAR(\"'my_result'\")", final=5),
    cell("SUBMIT()", error="TypeError: SUBMIT takes either values, SUBMIT(answer), or fields"),
    cell("SUBMIT('a', 2)", final=["a", 2]),
    cell("SUBMIT(answer=7)", final={"answer": 7}),
    cell("FINAL = 'my answer'"),
    cell("FINAL['x']", error="TypeError: 'function' object is not subscriptable"),
    cell("FINAL_ANSWER = 'x'"),
)

item(
    "answer_in_all_the_wrong_ways",
    cell("answer['content'] = 'the text'"),
    cell("answer['ready'] = 'yes'", final="the text"),
    cell("answer.ready = True", error="AttributeError: 'dict' object has no attribute 'ready'"),
    cell("answer['ready'] = 0\nanswer['Ready'] = True"),
    cell("answer.update(content=['a', 'b'], ready=1)", final=["a", "b"]),
    cell("answer = dict(ready=True)"),
    cell("answer = 'just text'"),
    cell("answer['ready'] = True", error="TypeError: 'str' object does not support item assignment"),
    cell("answer['content']", error="TypeError: string indices must be integers, not 'str'"),
    cell("del answer"),
    cell("print(answer)", "{'content': ['a', 'b'], 'ready': False, 'Ready': True}"),
)

item(
    "show_vars_misused",
    cell("x = 1\ntext = 'abc'\n_hidden = 2\nSHOW_VARS", value="<function SHOW_VARS at 0x>"),
    cell("print(SHOW_VARS())", "Available variables: {'context': 'str', 'x': 'int', 'text': 'str'}"),
    cell("SHOW_VARS('x')", error="TypeError: SHOW_VARS() takes 0 positional arguments but 1 was given"),
    cell("SHOW_VARS()['x']", error="TypeError: string indices must be integers, not 'str'"),
    cell("print(x, text)\nhelp()", "1 abc", "Available variables: {'context': 'str', 'x': 'int', 'text': 'str'}"),
)

item(
    "leaving_the_program",
    cell("import sys\nkept = 1\nsys.exit()", error="SystemExit: "),
    cell("print(kept)\nexit()", "1", error="SystemExit: "),
    cell("quit('done')", error="SystemExit: done"),
    cell("try:\n    sys.exit(1)\nfinally:\n    print('cleaning up')", "cleaning up", error="SystemExit: 1"),
    cell("raise KeyboardInterrupt", error="KeyboardInterrupt: "),
    cell("raise Exception('I could not find the answer')", error="Exception: I could not find the answer"),
    cell("assert 1 == 2", error="AssertionError: "),
    cell("print('done'); FINAL(kept); sys.exit()", "done", final=1),
)

item(
    "main_guard_without_asyncio",
    cell(
        """
        def main():
            data = context
            out = []
            for d in data:
                out.append(llm_query("Say " + d))
            return out

        if __name__ == "__main__":
            print(main()[-1])
        """,
        "<Say broken on arrival, want a refund>",
        queries=5,
    ),
    context=REVIEWS,
)

item(
    "main_guard_with_argparse_and_asyncio",
    cell(
        """
        import argparse
        parser = argparse.ArgumentParser(prog="analyze")
        parser.add_argument("--limit", type=int, default=2)
        args = parser.parse_args([])
        print(args.limit)
        """,
        "2",
    ),
    refused(
        cell(
            """
            import asyncio
            async def main():
                print(await llm_query("a"))
            loop = asyncio.new_event_loop()
            loop.run_until_complete(main())
            loop.close()
            """,
            "<a>",
            queries=1,
        ),
        RUNNING,
        error="RuntimeError: Cannot run the event loop while another loop is running",
    ),
)

item(
    "recursion_without_an_end",
    cell(
        """
        depth = 0
        def split(t):
            global depth
            depth += 1
            return split(t[:len(t) // 2]) + split(t[len(t) // 2:])
        split(context)
        """,
        error="RecursionError: maximum recursion depth exceeded",
    ),
    cell("print(depth > 100, llm_query('a'))", "True <a>", queries=1),
)

item(
    "answers_treated_as_something_else",
    cell("r = llm_query('a')\nprint(r['text'])", error="TypeError: string indices must be integers", queries=1),
    cell("print(r.choices[0].message.content)", error="AttributeError: 'Answer' object has no attribute 'choices'"),
    cell("print(r.content)", error="AttributeError: 'Answer' object has no attribute 'content'"),
    cell("r.append('b')", error="AttributeError: 'Answer' object has no attribute 'append'"),
    cell("import json\njson.loads(r)", error="JSONDecodeError: Expecting value: line 1 column 1 (char 0)"),
    cell("int(r)", error="ValueError: invalid literal for int() with base 10: '<a>'"),
    cell("print(type(r).__name__, isinstance(r, str), r + '!', [r], {r: 1}['<a>'], r.ok, json.dumps({'r': r}))",
         'Answer True <a>! [\'<a>\'] 1 True {"r": "<a>"}'),
    cell("float(llm_query('How many yes or no?').strip('Noe.') or 3)", value="3.0", queries=1),
)  # fmt: skip

item(
    "a_library_that_is_not_there",
    cell(
        """
        try:
            import langchain_of_tomorrow as lc
        except ImportError:
            lc = None
            print("not installed, using plain Python")
        chunks = lc.split(context) if lc else [context[i:i+200] for i in range(0, len(context), 200)]
        print(len(chunks))
        """,
        "not installed, using plain Python",
        "2",
    ),
)

item(
    "huge_prints_and_huge_values",
    cell("print('x' * 1_000_000)", stdout=r"x{75000}\n\[\.\.\. 900,001 characters .* here \.\.\.\]\nx{24999}\n"),
    cell("big = list(range(10))\nprint(big * 3, sep='\\n')\nbig[10]",
         "[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9]",
         error="IndexError: list index out of range"),
    cell("import sys\nsys.stdout.write('no newline')\nprint('warn', file=sys.stderr)", stdout="no newline"),
)  # fmt: skip

item(
    "too_many_queries_that_fail",
    cell(
        """
        for attempt in range(3):
            try:
                result = llm_query("[down] please")
                break
            except LLMQueryError as e:
                print("Error:", e, "retrying", attempt)
        else:
            print("giving up")
        """,
        "Error: provider: RuntimeError: the provider is overloaded retrying 0",
        "Error: provider: RuntimeError: the provider is overloaded retrying 1",
        "Error: provider: RuntimeError: the provider is overloaded retrying 2",
        "giving up",
        queries=3,
    ),
    cell(
        "llm_query('[down] please')",
        error="LLMQueryError: provider: RuntimeError: the provider is overloaded",
        queries=1,
    ),
)
