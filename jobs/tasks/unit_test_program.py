"""One side of a unit test, as a program in a sandbox: the code of a model, or the test that calls it (`unit_tests`).

The two sides are two processes. Calls and results travel through pipes as plain values, so that the code has no object
of the test in its process and the test none of the code's: no frame to look into, no function to replace, no `==` that
always says yes. Only the test's side writes a verdict.
"""

import builtins
import io
import json
import os
import pickle
import sys
import types
from collections.abc import Iterable
from typing import Any, BinaryIO

MODULE = "submission"
LARGEST = 2**26  # bytes of one call or result
# What a result may be made of: their constructors do nothing but hold values.
PLAIN = {
    "builtins": {
        "set",
        "frozenset",
        "complex",
        "bytearray",
        "range",
        "slice",
        "bool",
        "int",
        "float",
        "str",
        "list",
        "tuple",
        "dict",
    },
    "collections": {"deque"},
    "datetime": {"date", "datetime", "time", "timedelta", "timezone"},
    "decimal": {"Decimal"},
    "fractions": {"Fraction"},
}


class Died(BaseException):
    """The code's process ended; not an Exception, so that no test catches it."""


class PlainPickler(pickle.Pickler):
    """Sends what equals a plain value as that value: an int of a subclass, a dictionary's keys, a number of numpy."""

    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, types.FunctionType | type):
            return NotImplemented
        if isinstance(value, type({}.keys()) | type({}.items())):
            return set, (list(value),)
        kinds: tuple[Any, ...] = (int, float, str, tuple, list)
        for kind in kinds:
            if isinstance(value, kind):
                return kind, (kind(value),)
        if isinstance(value, dict):
            return dict, (list(value.items()),)
        if type(value).__module__ == "numpy" and not getattr(value, "shape", (0,)):
            return (lambda plain: (type(plain), (plain,)))(value.item())
        return NotImplemented


class PlainUnpickler(pickle.Unpickler):
    """Makes plain values and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if name in PLAIN.get(module, ()):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"a result of type {module}.{name} is not a plain value")


class Pipes:
    """Frames of pickled values: eight bytes of length, then the value."""

    def __init__(self, reads: int, writes: int, unpickler: type[pickle.Unpickler]) -> None:
        self._reads: BinaryIO = os.fdopen(reads, "rb")
        self._writes: BinaryIO = os.fdopen(writes, "wb")
        self._unpickler = unpickler

    def send(self, value: Any) -> None:
        """Raises where the value cannot be sent; nothing is sent then. Raises Died where the other side has ended."""
        buffer = io.BytesIO()
        PlainPickler(buffer, protocol=5).dump(value)
        text = buffer.getvalue()
        try:
            self._writes.write(len(text).to_bytes(8, "big") + text)
            self._writes.flush()
        except BrokenPipeError:
            raise Died from None

    def receive(self) -> Any:
        """Raises Died where the other side has ended, UnpicklingError where it sends anything but plain values."""
        size = int.from_bytes(self._read(8), "big")
        if size > LARGEST:
            raise pickle.UnpicklingError(f"a result of {size} bytes is too large")
        return self._unpickler(io.BytesIO(self._read(size))).load()

    def _read(self, size: int) -> bytes:
        found = self._reads.read(size)
        if len(found) < size:
            raise Died
        return found


def serve(prelude: str, code: str, pipes: Pipes) -> None:
    """The code's side: define what it defines, then answer calls."""
    module = types.ModuleType(MODULE)
    sys.modules[MODULE] = module
    broken: Exception | None = None
    try:
        exec(prelude, module.__dict__)
        exec(compile(code, f"{MODULE}.py", "exec", dont_inherit=True), module.__dict__)
    except Exception as error:  # noqa: BLE001 - whatever code raises
        broken = error
    while True:
        kind, name, args, kwargs = pipes.receive()
        try:
            if broken:
                raise broken
            if kind == "has":
                reply = ("value", callable(module.__dict__.get(name)))
            else:
                reply = ("value", module.__dict__[name](*args, **kwargs))
            pipes.send(reply)
        except Exception as error:  # noqa: BLE001 - whatever code raises
            pipes.send(("error", type(error).__name__, str(error)[:1000]))


class Remote:
    """A function of the code, as the test calls it."""

    def __init__(self, name: str, pipes: Pipes) -> None:
        self._name = name
        self._pipes = pipes

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self._pipes.send(("call", self._name, args, kwargs))
        return answer(self._pipes)


def answer(pipes: Pipes) -> Any:
    """A reply's value. Raises what the code raised, as far as it is one of Python's own exceptions."""
    kind, *rest = pipes.receive()
    if kind == "value":
        return rest[0]
    name, text = map(str, rest)
    known = getattr(builtins, name, None)
    raise (known if isinstance(known, type) and issubclass(known, Exception) else RuntimeError)(text)


def check(prelude: str, test: str, entry_point: str, pipes: Pipes) -> str:
    """The test's side: its verdict, `passed`, `failed` or `died`, and what failed."""
    namespace: dict[str, Any] = {"__name__": "test"}
    try:
        exec(prelude, namespace)
        code = compile(test, "test.py", "exec", dont_inherit=True)
        for name in sorted(set(names_in(code)) - set(namespace) - set(dir(builtins)) | {entry_point}):
            pipes.send(("has", name, (), {}))
            if answer(pipes):
                namespace[name] = Remote(name, pipes)
        exec(code, namespace)
        namespace["check"](namespace[entry_point])
    except Died:
        return "died"
    except Exception as error:  # noqa: BLE001 - whatever a test raises
        return f"failed {type(error).__name__}: {error}"
    return "passed"


def names_in(code: types.CodeType) -> Iterable[str]:
    """All global names of a piece of code, of its functions too."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from names_in(constant)


def main(reads: int, writes: int) -> None:
    options = json.load(sys.stdin)
    verdict = os.dup(1)
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.dup2(nothing, 1)
    if "code" in options:
        os.close(verdict)
        serve(options["prelude"], options["code"], Pipes(reads, writes, pickle.Unpickler))
        return
    said = check(options["prelude"], options["test"], options["entry_point"], Pipes(reads, writes, PlainUnpickler))
    os.write(verdict, " ".join(said.split())[:2000].encode(errors="replace"))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
