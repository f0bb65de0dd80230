"""Reading a reply: which text is code, which is a final answer, which is neither."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlm.agent.parse import Reply, parse_reply


def fence(code: str, tag: str = "repl", mark: str = "```") -> str:
    return f"{mark}{tag}\n{code}\n{mark}\n"


@pytest.mark.parametrize("tag", ["repl", "python", "py", "python3", "", "REPL", "Python", "{.python}", " repl"])
def test_a_fence_of_python_is_a_cell(tag: str) -> None:
    assert parse_reply("Look:\n" + fence("print(1)\nprint(2)", tag)).cells == ("print(1)\nprint(2)",)


@pytest.mark.parametrize("tag", ["json", "text", "bash", "sh", "js", "output"])
def test_a_fence_of_another_language_is_no_cell_and_is_named(tag: str) -> None:
    reply = parse_reply(fence("print(1)", tag))
    assert (reply.cells, reply.other_tags) == ((), (tag,))


def test_several_fences_are_cells_in_their_order() -> None:
    text = fence("a = 1") + "then\n" + fence("b = 2", "python") + fence("{}", "json") + fence("c = 3", "")
    assert parse_reply(text).cells == ("a = 1", "b = 2", "c = 3")


def test_a_bare_fence_beside_tagged_code_that_is_not_python_is_taken_for_quoted_output() -> None:
    text = fence("print(total)") + "It should print:\n" + fence("the total is 3 apples", "")
    assert parse_reply(text).cells == ("print(total)",)


def test_a_lone_bare_fence_is_a_cell_even_if_it_is_not_python() -> None:
    assert parse_reply(fence("x = = 1", "")).cells == ("x = = 1",)


def test_a_fence_left_open_at_the_end_takes_the_rest() -> None:
    assert parse_reply("```repl\nx = 1\nprint(x)").cells == ("x = 1\nprint(x)",)


def test_a_cell_that_the_provider_cut_off_is_not_run() -> None:
    reply = parse_reply(fence("a = 1") + "```repl\nfor p in parts:\n    llm_qu", cut=True)
    assert (reply.cells, reply.lost_cell, reply.cut) == (("a = 1",), True, True)


def test_a_whole_cell_of_a_cut_reply_is_run() -> None:
    reply = parse_reply(fence("a = 1") + "and then I wou", cut=True)
    assert (reply.cells, reply.lost_cell) == (("a = 1",), False)


def test_a_longer_fence_holds_shorter_ones() -> None:
    inner = "text = '''\n```json\n{}\n```\n'''"
    assert parse_reply(fence(inner, "repl", "````")).cells == (inner,)


def test_code_inside_a_longer_fence_of_another_language_is_not_code() -> None:
    assert parse_reply("````markdown\n" + fence("print(1)") + "````\n").cells == ()


@pytest.mark.parametrize("quote", ['"""', "'''"])
def test_backticks_inside_a_string_of_the_code_do_not_end_it(quote: str) -> None:
    code = f"prompt = f{quote}Answer as\n```json\n{{}}\n```\nonly{quote}\nprint(prompt)"
    assert parse_reply(fence(code) + "Then I read it.").cells == (code,)


def test_a_string_that_never_ends_does_not_swallow_the_next_cells() -> None:
    reply = parse_reply(fence('broken = """oops') + "and\n" + fence("print(2)"))
    assert reply.cells == ('broken = """oops', "print(2)")


def test_an_apostrophe_in_a_comment_opens_no_string() -> None:
    reply = parse_reply(fence("# don't '''\nx = 1  # it's \"\"\"") + fence("y = 2"))
    assert len(reply.cells) == 2


def test_the_next_tagged_fence_ends_one_that_was_never_closed() -> None:
    assert parse_reply("```repl\na = 1\n```repl\nb = 2\n```").cells == ("a = 1", "b = 2")


def test_tildes_make_a_fence() -> None:
    assert parse_reply(fence("a = '```'", "python", "~~~")).cells == ("a = '```'",)


@pytest.mark.parametrize("indent", ["  ", "    ", "\t", "> "])
def test_an_indented_fence_loses_its_indent(indent: str) -> None:
    text = "1. Do this:\n" + "".join(f"{indent}{line}\n" for line in ["```repl", "if x:", "    y = 1", "```"])
    assert parse_reply(text).cells == ("if x:\n    y = 1",)


@pytest.mark.parametrize("end", ["\r\n", "\r"])
def test_line_ends_of_other_systems_are_line_ends(end: str) -> None:
    text = fence("a = 1\nb = 2") + "FINAL(done)"
    reply = parse_reply(text.replace("\n", end))
    assert reply.cells == ("a = 1\nb = 2",)
    assert reply.final is not None and reply.final.text == "done"


def test_a_fence_may_open_at_the_end_of_a_line_of_prose_or_be_one_line() -> None:
    assert parse_reply("Run this: ```python\nx = 1\n```\nFINAL(x)").cells == ("x = 1",)
    assert parse_reply("```repl print(len(context))```").cells == ("print(len(context))",)


def test_code_in_thinking_is_not_run_and_thinking_is_not_kept() -> None:
    reply = parse_reply("<think>maybe\n" + fence("danger()") + "FINAL(no)\n</think>\n" + fence("print(1)"))
    assert reply.cells == ("print(1)",)
    assert reply.final is None and "danger" not in reply.text


def test_thinking_that_a_chat_template_opened_ends_at_its_lone_closing_tag() -> None:
    reply = parse_reply("so I try\n" + fence("danger()") + "</think>\n" + fence("print(1)"))
    assert reply.cells == ("print(1)",)


def test_thinking_that_is_never_closed_holds_all_that_follows() -> None:
    reply = parse_reply("<think>\n" + fence("danger()"))
    assert (reply.cells, reply.open_thinking, reply.text) == ((), True, "")


def test_a_tag_of_thinking_inside_code_is_code() -> None:
    code = "parts = answer.split('</think>')\nprint('<think>')"
    assert parse_reply(fence(code)).cells == (code,)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("FINAL(42)", "42"),
        ("  FINAL(42).", "42"),
        ("**FINAL(42)**", "42"),
        ('FINAL("the answer")', "the answer"),
        ("FINAL('it\\'s')", "it's"),
        ('FINAL("""two\nlines""")', "two\nlines"),
        ('FINAL("a" and "b")', '"a" and "b"'),
        ("FINAL(f(x) = (a + b))", "f(x) = (a + b)"),
        ("FINAL(first\n(second)\nthird)", "first\n(second)\nthird"),
        ("FINAL(the answer :) is 4)", "the answer :) is 4"),
        ("FINAL(sad :( )", "sad :( "),
        ("FINAL(never closed", "never closed"),
        ("FINAL(\n```\nf(1)\n```\n)", "```\nf(1)\n```"),
        ("FINAL: 42", "42"),
        ("FINAL: one\ntwo\n\nI hope this helps.", "one\ntwo"),
        ("FINAL:\n- one\n\n- two", "- one\n\n- two"),
        ("Done.\n\nFINAL(42)\n\nThanks", "42"),
        ("FINAL(1)\nFINAL(2)", "1"),
    ],
)
def test_a_final_answer_in_text_is_found(text: str, expected: str) -> None:
    final = parse_reply(text).final
    assert final is not None and not final.is_name
    assert final.text == expected.strip()


@pytest.mark.parametrize(
    "text", ["FINAL_VAR(result)", 'FINAL_VAR("result")', "FINAL_var('result')", "FINAL_VAR: result"]
)
def test_a_final_variable_in_text_is_found(text: str) -> None:
    final = parse_reply(text).final
    assert final is not None and final.is_name and final.text == "result"


@pytest.mark.parametrize(
    "text",
    [
        "I will call FINAL(x) later.",
        "FINAL(x) will be called once I know.",
        "`FINAL(x)` ends the run.",
        "FINAL_VAR(not a name)",
        "FINALLY(1)",
        "FINAL:",
        "final(1)",
    ],
)
def test_a_word_about_final_is_no_final_answer(text: str) -> None:
    assert parse_reply(text).final is None


def test_final_inside_a_cell_is_code() -> None:
    reply = parse_reply(fence("FINAL(42)"))
    assert (reply.cells, reply.final) == (("FINAL(42)",), None)


def test_a_fence_with_nothing_but_a_final_in_prose_is_that_final() -> None:
    reply = parse_reply(fence("FINAL(The answer is 42, I think)"))
    assert reply.cells == () and reply.final is not None
    assert reply.final.text == "The answer is 42, I think"


def test_a_final_before_a_cell_and_the_cell_are_both_found() -> None:
    reply = parse_reply("FINAL(done)\n" + fence("x = 1"))
    assert reply.cells == ("x = 1",) and reply.final is not None and reply.final.text == "done"


@pytest.mark.parametrize("text", ["", "\n\n", "```", "```repl", "```repl\n```", "~~~\n~~~"])
def test_a_reply_without_anything_holds_no_cell(text: str) -> None:
    reply = parse_reply(text)
    assert (reply.cells, reply.final) == ((), None)


PIECES = ["```", "````", "~~~", "repl", "json", "\n", "\r", " ", '"""', "'''", "'", "\\", "#", "(", ")", "FINAL(", "x"]
PIECES += [
    "FINAL:",
    "FINAL_VAR(",
    "<think>",
    "</think>",
    "```repl\n",
    "\n```\n",
    "\x00",
    "\ud800",
    "> ",
    "\t",
    "\u2028",
]


@given(st.one_of(st.text(), st.lists(st.sampled_from(PIECES)).map("".join)), st.booleans())
def test_no_text_makes_it_raise(text: str, cut: bool) -> None:
    reply = parse_reply(text, cut=cut)
    assert isinstance(reply, Reply)
    assert all(cell.strip() for cell in reply.cells)


@given(st.lists(st.text(alphabet="abc =()\n", min_size=1).filter(lambda code: code.strip("\n").strip()), max_size=5))
def test_cells_come_back_as_they_were_written(cells: list[str]) -> None:
    text = "and\n".join(fence(cell) for cell in cells)
    assert parse_reply(text).cells == tuple(cell.strip("\n") for cell in cells)


@pytest.mark.parametrize(
    "piece", ["FINAL(\n", "FINAL(a) b\n", "```\n", '```repl\nx = """\n```\n', "<think>\n", "</think>\n", "(((", "\\"]
)
def test_a_long_hostile_reply_is_read_in_passable_time(piece: str) -> None:
    started = time.monotonic()
    parse_reply(piece * (200_000 // len(piece)))
    assert time.monotonic() - started < 20
