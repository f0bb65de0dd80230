"""Call shapes: statements, functions, generators, callbacks of Python and of C, classes, code that makes code."""

from __future__ import annotations

from shapes.shape_registry import shape

# plain statements and expressions
shape("top_level", "<a>", 1, "llm_query('a')")
shape("assignment", "<a>", 1, "x = llm_query('a')\nx")
shape("augmented_assignment", "<a><b>", 2, "x = llm_query('a')\nx += llm_query('b')\nx")
shape("walrus", ["<a>", 3], 1, "[y, len(y)] if (y := llm_query('a')) else None")
shape("f_string", "<<a>!>", 2, "llm_query(f\"{llm_query('a')}!\")")
shape("argument_of_a_call", "<<a>>", 2, "llm_query(llm_query('a'))")
shape("conditional", "<b>", 2, "llm_query('b') if llm_query('a') == '<a>' else 'no'")
shape("boolean_operator", "<a>", 1, "llm_query('a') or llm_query('b')")
shape("chained_comparison", True, 3, "llm_query('a') < llm_query('b') < llm_query('c')")
shape("starred", ["<a>", "<b>"], 2, "def f(*a): return list(a)\nf(*[llm_query(p) for p in 'ab'])")
shape("slice_and_methods", "A", 1, "llm_query('a').upper()[1:-1]")
shape("assert_statement", "<a>", 1, "assert (x := llm_query('a')), 'empty'\nx")
shape("while_loop", 3, 3, "n = 0\nwhile n < 3 and llm_query(str(n)):\n    n += 1\nn")
shape("for_loop", ["<0>", "<1>", "<2>"], 3, "got = []\nfor i in range(3):\n    got.append(llm_query(str(i)))\ngot")
shape("del_and_rebind", "<b>", 2, "x = llm_query('a')\ndel x\nx = llm_query('b')\nx")
shape(
    "match_statement", ["<a>", "<guard>"], 2,
    """
    match llm_query('a'):
        case '<a>' as found if (g := llm_query('guard')): out = [found, g]
        case _: out = None
    out
    """,
)  # fmt: skip
shape(
    "try_except_finally", ["<try>", "<except>", "<finally>"], 3,
    """
    got = []
    try:
        got.append(llm_query('try'))
        1 / 0
    except ZeroDivisionError:
        got.append(llm_query('except'))
    finally:
        got.append(llm_query('finally'))
    got
    """,
)  # fmt: skip
shape(
    "failure_is_caught", ["LLMQueryError", False, "<b>"], 2,
    """
    try:
        llm_query('fail')
    except LLMQueryError as error:
        out = [type(error).__name__, error.answer.ok, llm_query('b')]
    out
    """,
)  # fmt: skip
shape(
    "except_star", ["<handled>"], 1,
    """
    out = []
    try:
        raise ExceptionGroup('g', [ValueError('v')])
    except* ValueError:
        out.append(llm_query('handled'))
    out
    """,
)  # fmt: skip

# functions
shape("function", "<a>", 1, "def f(p): return llm_query(p)\nf('a')")
shape("nested_def", "<a>", 1, "def f(p):\n    def g(): return llm_query(p)\n    return g()\nf('a')")
shape("closure_nonlocal", 2, 2, """
    def counter():
        n = 0
        def ask(p):
            nonlocal n
            n += len(llm_query(p)) - 2
        return ask, lambda: n
    ask, read = counter()
    ask('a'); ask('b')
    read()
    """)  # fmt: skip
shape("lambda", "<a>", 1, "(lambda p: llm_query(p))('a')")
shape("default_argument", "<a>", 1, "def f(x=llm_query('a')): return x\nf()")
shape("alias", "<a>", 1, "ask = llm_query\nask('a')")
shape("recursion", "<<<a>>>", 3, "def f(p, n): return llm_query(p) if n == 0 else llm_query(f(p, n - 1))\nf('a', 2)")
shape("recursion_through_map", ["<<x>>", "<<y>>"], 4, """
    def f(p, n): return llm_query(p) if n == 0 else next(map(lambda q: llm_query(f(q, n - 1)), [p]))
    [f(p, 1) for p in 'xy']
    """)  # fmt: skip
shape("decorator", "[<a>]", 1, """
    def bracket(f): return lambda p: f'[{f(p)}]'
    @bracket
    def ask(p): return llm_query(p)
    ask('a')
    """)  # fmt: skip
shape("decorator_that_asks", "<f>", 1, "def d(f): return llm_query(f.__name__)\n@d\ndef f(): pass\nf")
shape("function_of_an_earlier_cell", "<early a>", 1, "ask_with_greeting('a')")
shape("global_rebinding", ["<new a>", "<early a>"], 2, """
    def rebind(v):
        global greeting
        greeting = v
    rebind('new')
    first = ask_with_greeting('a')
    greeting = 'early'
    [first, ask_with_greeting('a')]
    """)  # fmt: skip
shape("alias_of_an_earlier_cell", "<a>", 1, "asks('a')")

# comprehensions and generators
shape("list_comprehension", ["<a>", "<b>"], 2, "[llm_query(p) for p in 'ab']")
shape(
    "nested_comprehension", [["<ac>", "<ad>"], ["<bc>", "<bd>"]], 4, "[[llm_query(p + q) for q in 'cd'] for p in 'ab']"
)
shape("comprehension_condition", ["a"], 2, "[p for p in 'ab' if llm_query(p) == '<a>']")
shape("set_comprehension", ["<a>", "<b>"], 2, "sorted({llm_query(p) for p in 'ab'})")
shape("dict_comprehension", {"a": "<a>", "b": "<b>"}, 2, "{p: llm_query(p) for p in 'ab'}")
shape("generator_expression", "<a>,<b>", 2, "','.join(llm_query(p) for p in 'ab')")
shape("generator", ["<a>", "<b>"], 2, "def g():\n    for p in 'ab': yield llm_query(p)\nlist(g())")
shape("generator_send", "<a>", 1, "def g():\n    p = yield\n    yield llm_query(p)\nx = g(); next(x)\nx.send('a')")
shape("yield_from", ["<a>", "<b>"], 2, "def g(): yield from (llm_query(p) for p in 'ab')\nlist(g())")
shape("generator_closed_half_way", ["<a>", "<end>"], 2, """
    out = []
    def g():
        try:
            yield llm_query('a')
        finally:
            out.append(llm_query('end'))
    x = g()
    out.append(next(x))
    x.close()
    out
    """)  # fmt: skip

# callbacks of Python and of C
shape("map", ["<a>", "<b>"], 2, "list(map(llm_query, 'ab'))")
shape("filter", ["b"], 2, "list(filter(lambda p: llm_query(p) == '<b>', 'ab'))")
shape("sorted_key", ["a", "b"], 2, "sorted(['b', 'a'], key=llm_query)")
shape("list_sort_cmp", ["a", "b"], 2, """
    from functools import cmp_to_key
    xs = ['b', 'a']
    xs.sort(key=cmp_to_key(lambda x, y: 1 if llm_query(x) > llm_query(y) else -1))
    xs
    """)  # fmt: skip
shape("max_key", "b", 2, "max('a', 'b', key=llm_query)")
shape("reduce", "<<a b> c>", 2, "import functools\nfunctools.reduce(lambda x, y: llm_query(f'{x} {y}'), 'abc')")
shape("partial", "<a tiny>", 1, "import functools\nfunctools.partial(llm_query, model='tiny')('a')")
shape("lru_cache", ["<a>", "<a>"], 1, "import functools\nf = functools.cache(llm_query)\n[f('a'), f('a')]")
shape("singledispatch", "<int 3>", 1, """
    import functools
    @functools.singledispatch
    def f(x): return None
    @f.register
    def _(x: int): return llm_query(f'int {x}')
    f(3)
    """)  # fmt: skip
shape("re_sub_callback", "<a>-<b>", 2, "import re\nre.sub('[ab]', lambda m: llm_query(m.group()), 'a-b')")
shape("json_default", '{"x": "<object>"}', 1, """
    import json
    json.dumps({'x': object()}, default=lambda o: llm_query(type(o).__name__))
    """)  # fmt: skip
shape(
    "json_object_hook", "<1>", 1, "import json\njson.loads('{\"a\": 1}', object_hook=lambda d: llm_query(str(d['a'])))"
)
shape("iter_sentinel", ["<a>", "<b>"], 3, "it = iter('abc')\nlist(iter(lambda: llm_query(next(it)), '<c>'))")
shape(
    "itertools_groupby", ["<a>", "<b>"], 3, "import itertools\n[k for k, _ in itertools.groupby('aab', key=llm_query)]"
)
shape("defaultdict_factory", {"k": "<new>"}, 1, """
    import collections
    d = collections.defaultdict(lambda: llm_query('new'))
    d['k']
    dict(d)
    """)  # fmt: skip
shape("ctypes_qsort_callback", [1, 2, 3], 3, """
    import ctypes
    libc = ctypes.CDLL(None)
    Compare = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_int), ctypes.POINTER(ctypes.c_int))
    asked = []
    def compare(a, b):
        if len(asked) < 3: asked.append(llm_query(f'q{len(asked)}'))
        return a[0] - b[0]
    xs = (ctypes.c_int * 3)(3, 1, 2)
    libc.qsort(xs, 3, ctypes.sizeof(ctypes.c_int), Compare(compare))
    while len(asked) < 3: asked.append(llm_query('rest'))
    list(xs)
    """)  # fmt: skip
shape("sqlite3_function", [("<a>",), ("<b>",)], 2, """
    import sqlite3, contextlib
    with contextlib.closing(sqlite3.connect(':memory:')) as db:
        db.create_function('ask', 1, lambda p: str(llm_query(p)))
        rows = db.execute("select ask(column1) from (values ('a'), ('b'))").fetchall()
    rows
    """)  # fmt: skip
shape("string_format_hook", "<spec>", 1, """
    class F:
        def __format__(self, spec): return llm_query(spec)
    f"{F():spec}"
    """)  # fmt: skip
shape("template_substitute", "<a>", 1, "import string\nstring.Template('$x').substitute(x=llm_query('a'))")
shape("exit_stack", ["<b>", "<a>"], 2, """
    import contextlib
    out = []
    with contextlib.ExitStack() as stack:
        stack.callback(lambda: out.append(llm_query('a')))
        stack.callback(lambda: out.append(llm_query('b')))
    out
    """)  # fmt: skip

# classes and the data model
shape("method", "<a>", 1, "class C:\n    def ask(self, p): return llm_query(p)\nC().ask('a')")
shape("class_body", "<a>", 1, "class C:\n    x = llm_query('a')\nC.x")
shape("property", "<a>", 1, "class C:\n    @property\n    def x(self): return llm_query('a')\nC().x")
shape("cached_property", ["<a>", "<a>"], 1, """
    import functools
    class C:
        @functools.cached_property
        def x(self): return llm_query('a')
    c = C()
    [c.x, c.x]
    """)  # fmt: skip
shape("getitem", "<a>", 1, "class C:\n    def __getitem__(self, p): return llm_query(p)\nC()['a']")
shape("getattr", "<a>", 1, "class C:\n    def __getattr__(self, p): return llm_query(p)\nC().a")
shape("iter_and_next", ["<0>", "<1>"], 2, """
    class C:
        n = -1
        def __iter__(self): return self
        def __next__(self):
            self.n += 1
            if self.n == 2: raise StopIteration
            return llm_query(str(self.n))
    list(C())
    """)  # fmt: skip
shape("call_dunder", "<a>", 1, "class C:\n    def __call__(self, p): return llm_query(p)\nC()('a')")
shape("hash_and_eq", True, 2, """
    class C:
        def __hash__(self): return len(llm_query('h'))
        def __eq__(self, other): return llm_query('e') == '<e>'
    hash(C()) == 3 and C() == 1
    """)  # fmt: skip
shape("repr_of_the_last_value", "<a>", 1, "class C:\n    def __repr__(self): return repr(str(llm_query('a')))\nC()")
shape("descriptor", "<x>", 1, """
    class D:
        def __set_name__(self, owner, name): self.name = name
        def __get__(self, instance, owner): return llm_query(self.name)
    class C: x = D()
    C().x
    """)  # fmt: skip
shape("metaclass", "<C>", 1, """
    class M(type):
        def __new__(cls, name, bases, body): return super().__new__(cls, name, bases, {**body, 'x': llm_query(name)})
    class C(metaclass=M): pass
    C.x
    """)  # fmt: skip
shape("init_subclass", "<B>", 1, """
    class A:
        def __init_subclass__(cls): cls.x = llm_query(cls.__name__)
    class B(A): pass
    B.x
    """)  # fmt: skip
shape("dataclass_default_factory", "<a>", 1, """
    import dataclasses
    @dataclasses.dataclass
    class C: x: str = dataclasses.field(default_factory=lambda: llm_query('a'))
    C().x
    """)  # fmt: skip
shape("enum_body", "<a>", 1, "import enum\nclass E(enum.Enum):\n    A = str(llm_query('a'))\nE.A.value")
shape("with_statement", ["<in>", "<out>"], 2, """
    out = []
    class C:
        def __enter__(self): out.append(llm_query('in'))
        def __exit__(self, *a): out.append(llm_query('out'))
    with C(): pass
    out
    """)  # fmt: skip
shape("contextmanager", ["<in>", "<out>"], 2, """
    import contextlib
    out = []
    @contextlib.contextmanager
    def c():
        out.append(llm_query('in'))
        yield
        out.append(llm_query('out'))
    with c(): pass
    out
    """)  # fmt: skip
shape("del_by_refcount", ["<gone>"], 1, """
    out = []
    class C:
        def __del__(self): out.append(llm_query('gone'))
    c = C()
    del c
    out
    """)  # fmt: skip
shape("weakref_callback", ["<gone>"], 1, """
    import weakref
    out = []
    class C: pass
    c = C()
    w = weakref.ref(c, lambda _: out.append(llm_query('gone')))
    del c
    out
    """)  # fmt: skip

# code that makes code
shape("exec", "<a>", 1, "scope = {'ask': llm_query}\nexec('x = ask(\"a\")', scope)\nscope['x']")
shape("eval", "<a>", 1, "eval('llm_query(\"a\")')")
shape("compile_and_exec", "<a>", 1, "exec(compile('made = llm_query(\"a\")', 'made', 'exec'))\nmade")
shape("string_module", "<a>", 1, """
    import types
    m = types.ModuleType('made')
    m.llm_query = llm_query
    exec('def f(p): return llm_query(p)', m.__dict__)
    m.f('a')
    """)  # fmt: skip
shape("import_hook", "<shape_made>", 1, """
    import sys, importlib.abc, importlib.machinery
    class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
        def find_spec(self, name, path, target=None):
            return importlib.machinery.ModuleSpec(name, self) if name == 'shape_made' else None
        def exec_module(self, module): module.x = llm_query(module.__name__)
    finder = Finder()
    sys.meta_path.insert(0, finder)
    try:
        import shape_made
    finally:
        sys.meta_path.remove(finder)
        sys.modules.pop('shape_made', None)
    shape_made.x
    """)  # fmt: skip
shape("copy_context_run", "<a>", 1, "import contextvars\ncontextvars.copy_context().run(llm_query, 'a')")
