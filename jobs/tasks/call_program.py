"""Calls a model's function with one test's arguments, as a program in a sandbox, and prints the result as JSON.

The right result is not known here: `livecodebench_tests` compares it outside.
"""

import json
import os
import sys
import types
from typing import Any

MODULE = "submission"


def result_of(prelude: str, code: str, name: str, arguments: list[Any]) -> Any:
    """What the method of `class Solution`, or else the function, of that name returns."""
    module = types.ModuleType(MODULE)
    sys.modules[MODULE] = module
    exec(prelude, module.__dict__)
    exec(compile(code, f"{MODULE}.py", "exec", dont_inherit=True), module.__dict__)
    owner: Any = module.__dict__.get("Solution")
    function = getattr(owner(), name) if hasattr(owner, name) else module.__dict__[name]
    return function(*arguments)


def main() -> None:
    options = json.load(sys.stdin)
    results = os.dup(1)
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.dup2(nothing, 1)
    arguments = [json.loads(line) for line in options["input"].split("\n") if line.strip()]
    result = result_of(options["prelude"], options["code"], options["name"], arguments)
    os.write(results, json.dumps(result).encode())


if __name__ == "__main__":
    main()
