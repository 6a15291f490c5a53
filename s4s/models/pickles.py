"""Reading a pickle as data: a small machine of its own, in which nothing can be imported, called or executed.

Python's unpickler runs what the file says. This one knows 40 opcodes, builds only plain values, and looks names up in a
table of our own functions given by the caller; everything else is refused by name. Bytes are views into the file, the
number of opcodes and the amount of text are bounded, so memory stays near the size of the file whatever it says.
"""

from __future__ import annotations

import pickle
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from s4s.errors import Error

MAX_OPCODES = 400_000  # a published network has 62,000
MAX_TEXT = 16 << 20  # characters in all; NVIDIA's files hold copies of their source, about 100,000
MAX_LONG_BYTES = 16

Make = Callable[[tuple[Any, ...]], Any]
Names = Mapping[tuple[str, str], Make]
"""(module, name) -> our own function that builds an inert value from the arguments in the file."""


class Buildable:
    """Base of the inert values that take a state after they are made (the BUILD opcode)."""

    def build(self, state: Any) -> None:
        """Take the state, or raise ``Error``."""
        raise Error("a state is given to an object that has none")


@dataclass(frozen=True)
class Name:
    """A name of the table, as it lies on the stack: usable in a call, inert anywhere else."""

    text: str
    make: Make


def load(
    data: memoryview,
    names: Names,
    *,
    persistent: Callable[[Any], Any] | None = None,
    start: int = 0,
    max_opcodes: int = MAX_OPCODES,
) -> tuple[Any, int]:
    """Read one pickle.

    Args:
        data: the file; bytes objects come out as views into it.
        names: what the file may refer to.
        persistent: builds the values that the file refers to by a persistent id; None refuses them.
        start: where the pickle begins.
        max_opcodes: bound on its length.

    Returns:
        The value, and the position after the pickle.

    Raises:
        Error: anything that is not exactly such a pickle.
    """
    machine = _Machine(data, names, persistent, start)
    for _ in range(max_opcodes):
        opcode = machine.opcode()
        if opcode == STOP:
            return machine.result(), machine.position
        step = STEPS.get(opcode)
        if step is None:
            raise Error(f"pickle opcode 0x{opcode:02x} at byte {machine.position - 1} is not used by this format")
        step(machine)
    raise Error(f"the pickle has more than {max_opcodes:,} opcodes")


class _Machine:
    def __init__(self, data: memoryview, names: Names, persistent: Callable[[Any], Any] | None, start: int) -> None:
        self.data, self.names, self.persistent, self.position = data, names, persistent, start
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []  # what lies under each open mark
        self.memo: dict[int, Any] = {}
        self.text_left = MAX_TEXT

    def take(self, size: int) -> memoryview:
        """The next ``size`` bytes of the file."""
        end = self.position + size
        if end > len(self.data):
            raise Error(f"the file is truncated or damaged: a pickle runs past its end at byte {self.position}")
        view = self.data[self.position : end]
        self.position = end
        return view

    def opcode(self) -> int:
        if self.position >= len(self.data):
            raise Error("the file is truncated or damaged: a pickle has no end")
        self.position += 1
        return self.data[self.position - 1]

    def number(self, layout: str) -> Any:
        return struct.unpack(layout, self.take(struct.calcsize(layout)))[0]

    def line(self) -> str:
        end = self.position
        while end < len(self.data) and self.data[end] != ord("\n"):
            end += 1
            if end - self.position > 256:
                raise Error(f"a name at byte {self.position} has no end")
        text = self.text(end - self.position)
        self.take(1)
        return text

    def text(self, size: int) -> str:
        self.text_left -= size
        if self.text_left < 0:
            raise Error(f"the pickle has more than {MAX_TEXT:,} bytes of text")
        try:
            return str(self.take(size), "utf-8")
        except UnicodeDecodeError as error:
            raise Error(f"text before byte {self.position} is not UTF-8") from error

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def pop(self) -> Any:
        if not self.stack:
            raise Error(f"the pickle takes a value that is not there, before byte {self.position}")
        return self.stack.pop()

    def pop_mark(self) -> list[Any]:
        if not self.below:
            raise Error(f"the pickle closes a group it never opened, before byte {self.position}")
        items, self.stack = self.stack, self.below.pop()
        return items

    def top(self, kind: type) -> Any:
        if not self.stack or type(self.stack[-1]) is not kind:
            raise Error(f"the pickle fills a {kind.__name__} that is not there, before byte {self.position}")
        return self.stack[-1]

    def result(self) -> Any:
        value = self.pop()
        if self.stack or self.below:
            raise Error("the pickle ends with values left over")
        return value

    def mark(self) -> None:
        self.below.append(self.stack)
        self.stack = []

    def put(self, index: int) -> None:
        if not self.stack:
            raise Error(f"the pickle remembers a value that is not there, before byte {self.position}")
        self.memo[index] = self.stack[-1]

    def get(self, index: int) -> None:
        if index not in self.memo:
            raise Error(f"the pickle recalls value {index}, which it never stored, before byte {self.position}")
        self.push(self.memo[index])

    def protocol(self) -> None:
        version = self.number("<B")
        if not 2 <= version <= 5:
            raise Error(f"pickle protocol {version} is not supported")

    def frame(self) -> None:
        if self.number("<Q") > len(self.data) - self.position:
            raise Error(f"the file is truncated or damaged: a frame runs past its end at byte {self.position}")

    def long(self) -> None:
        size = self.number("<B")
        if size > MAX_LONG_BYTES:
            raise Error(f"an integer of {size} bytes before byte {self.position}")
        self.push(int.from_bytes(self.take(size), "little", signed=True))

    def tuple_of(self, size: int) -> None:
        if len(self.stack) < size:
            raise Error(f"the pickle takes a value that is not there, before byte {self.position}")
        items = tuple(self.stack[-size:])
        del self.stack[-size:]
        self.push(items)

    def append(self) -> None:
        value = self.pop()
        self.top(list).append(value)

    def appends(self) -> None:
        items = self.pop_mark()
        self.top(list).extend(items)

    def add_items(self) -> None:
        items = self.pop_mark()
        self.top(set).update(map(self.key, items))

    def set_item(self) -> None:
        value, key = self.pop(), self.pop()
        self.top(dict)[self.key(key)] = value

    def set_items(self) -> None:
        items = self.pop_mark()
        if len(items) % 2:
            raise Error(f"a dictionary with a key and no value, before byte {self.position}")
        self.top(dict).update((self.key(key), value) for key, value in zip(items[::2], items[1::2], strict=True))

    def key(self, value: Any) -> str:
        """Keys and set members are strings in this format; others could be made slow to hash."""
        if type(value) is not str:
            raise Error(f"a dictionary key of type {type(value).__name__}, before byte {self.position}")
        return value

    def stack_global(self) -> None:
        name, module = self.pop(), self.pop()
        self.find(module, name)

    def find(self, module: Any, name: Any) -> None:
        if type(module) is not str or type(name) is not str:
            raise Error(f"a name that is not text, before byte {self.position}")
        make = self.names.get((module, name))
        if make is None:
            raise Error(f"refers to {_short(f'{module}.{name}')}, which is not allowed in this format; nothing was run")
        self.push(Name(f"{module}.{name}", make))

    def call(self) -> None:
        """REDUCE and NEWOBJ: both only ever reach a function of the caller's table."""
        args, function = self.pop(), self.pop()
        if type(function) is not Name or type(args) is not tuple:
            raise Error(f"a call of something that is not a known name, before byte {self.position}; nothing was run")
        try:
            self.push(function.make(args))
        except Error as error:
            raise Error(f"{function.text} before byte {self.position}: {error}") from error

    def build(self) -> None:
        state = self.pop()
        if not self.stack or not isinstance(self.stack[-1], Buildable):
            raise Error(f"a state for something that takes none, before byte {self.position}")
        self.stack[-1].build(state)

    def persistent_id(self) -> None:
        if self.persistent is None:
            raise Error(f"a persistent id before byte {self.position} is not allowed in this format")
        self.push(self.persistent(self.pop()))


def _short(text: str) -> str:
    """Text from a file, made safe for one line on a terminal."""
    return ascii(text if len(text) <= 100 else text[:97] + "...")


STOP = pickle.STOP[0]
STEPS: dict[int, Callable[[_Machine], None]] = {
    code[0]: step
    for code, step in {
        pickle.PROTO: _Machine.protocol,
        pickle.FRAME: _Machine.frame,
        pickle.NONE: lambda m: m.push(None),
        pickle.NEWTRUE: lambda m: m.push(True),
        pickle.NEWFALSE: lambda m: m.push(False),
        pickle.BININT: lambda m: m.push(m.number("<i")),
        pickle.BININT1: lambda m: m.push(m.number("<B")),
        pickle.BININT2: lambda m: m.push(m.number("<H")),
        pickle.LONG1: _Machine.long,
        pickle.BINFLOAT: lambda m: m.push(m.number(">d")),
        pickle.SHORT_BINUNICODE: lambda m: m.push(m.text(m.number("<B"))),
        pickle.BINUNICODE: lambda m: m.push(m.text(m.number("<I"))),
        pickle.SHORT_BINBYTES: lambda m: m.push(m.take(m.number("<B"))),
        pickle.BINBYTES: lambda m: m.push(m.take(m.number("<I"))),
        pickle.EMPTY_TUPLE: lambda m: m.push(()),
        pickle.TUPLE1: lambda m: m.tuple_of(1),
        pickle.TUPLE2: lambda m: m.tuple_of(2),
        pickle.TUPLE3: lambda m: m.tuple_of(3),
        pickle.TUPLE: lambda m: m.push(tuple(m.pop_mark())),
        pickle.EMPTY_LIST: lambda m: m.push([]),
        pickle.EMPTY_DICT: lambda m: m.push({}),
        pickle.EMPTY_SET: lambda m: m.push(set()),
        pickle.MARK: _Machine.mark,
        pickle.APPEND: _Machine.append,
        pickle.APPENDS: _Machine.appends,
        pickle.ADDITEMS: _Machine.add_items,
        pickle.SETITEM: _Machine.set_item,
        pickle.SETITEMS: _Machine.set_items,
        pickle.MEMOIZE: lambda m: m.put(len(m.memo)),
        pickle.BINPUT: lambda m: m.put(m.number("<B")),
        pickle.LONG_BINPUT: lambda m: m.put(m.number("<I")),
        pickle.BINGET: lambda m: m.get(m.number("<B")),
        pickle.LONG_BINGET: lambda m: m.get(m.number("<I")),
        pickle.GLOBAL: lambda m: m.find(m.line(), m.line()),
        pickle.STACK_GLOBAL: _Machine.stack_global,
        pickle.REDUCE: _Machine.call,
        pickle.NEWOBJ: _Machine.call,
        pickle.BUILD: _Machine.build,
        pickle.BINPERSID: _Machine.persistent_id,
    }.items()
}
