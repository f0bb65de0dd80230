"""More ways to call a function: those by which classes and objects do it. Importing this adds them to `SHAPES`."""

from __future__ import annotations

import functools
import operator
import weakref
from collections import defaultdict

from bridge_shapes import shape


@shape
def property_and_methods(ask):
    class Thing:
        @property
        def prop(self):
            return ask("property")

        def method(self):
            return ask("method")

        @classmethod
        def of_class(cls):
            return ask("classmethod")

        @staticmethod
        def static():
            return ask("static")

    thing = Thing()
    return thing.prop, thing.method(), Thing.of_class(), Thing.static(), operator.methodcaller("method")(thing)


@shape
def special_methods(ask):
    class Thing:
        def __getitem__(self, key):
            return ask(key)

        def __getattr__(self, name):
            return ask(name)

        def __call__(self):
            return ask("call")

        def __add__(self, other):
            return ask(other)

        def __eq__(self, other):
            return bool(ask("eq"))

        def __hash__(self):
            return len(ask("hash"))

        def __len__(self):
            return len(ask("len"))

        def __iter__(self):
            return iter(ask("iter"))

        def __contains__(self, item):
            return ask(item) == item

        def __bool__(self):
            return ask("bool") == ""

        def __format__(self, how):
            return ask(how)

        def __repr__(self):
            return ask("repr")

    t = Thing()
    return t["a"], t.b, t(), t + "c", t == 1, {t: 1}[t], len(t), list(t), "d" in t, not t, f"{t:e}", repr(t)


@shape
def class_body_and_metaclass(ask):
    class Meta(type):
        def __new__(mcs, name, bases, members):
            return super().__new__(mcs, ask(name), bases, members)

    class Thing(metaclass=Meta):
        attribute = ask("attribute")

    return Thing.__name__, Thing.attribute


@shape
def descriptor_and_set_name(ask):
    class Field:
        def __set_name__(self, owner, name):
            self.name = ask(name)

        def __get__(self, instance, owner):
            return ask(self.name)

    class Thing:
        field = Field()

    return Thing().field


@shape
def init_subclass_and_new(ask):
    class Base:
        def __init_subclass__(cls):
            cls.word = ask("subclass")

        def __new__(cls):
            self = super().__new__(cls)
            self.made = ask("new")
            return self

    class Thing(Base):
        pass

    return Thing.word, Thing().made


@shape
def decorator_at_definition(ask):
    def decorate(function):
        name = ask(function.__name__)
        return lambda: name

    @decorate
    def decorated():
        pass

    return decorated()


@shape
def default_argument(ask):
    def function(text=ask("default")):  # noqa: B008
        return text

    return function()


@shape
def cached_function(ask):
    cached = functools.lru_cache(ask)
    return cached("a"), cached("a"), cached("b")


@shape
def single_dispatch(ask):
    @functools.singledispatch
    def function(value):
        return ask("any")

    @function.register
    def _(value: int):
        return ask("int")

    return function(1), function("a")


@shape
def default_factory(ask):
    mapping = defaultdict(lambda: ask("missing"))
    return mapping["a"]


@shape
def weakref_callback(ask):
    class Thing:
        pass

    seen, thing = [], Thing()
    reference = weakref.ref(thing, lambda _: seen.append(ask("gone")))
    del thing
    return seen, reference() is None


@shape
def finalizer_by_refcount(ask):
    class Thing:
        def __del__(self):
            seen.append(ask("del"))

    seen: list[str] = []
    Thing()
    return seen
