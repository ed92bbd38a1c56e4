"""What a run is, so that it goes on as the same one: settings, data, a reader's own parts.

Code is compared as a syntax tree: another comment or line break is no other code.
"""

import ast
import functools
import hashlib
import inspect
import textwrap
import types

from dermai_utils.basics import PARTS, UserError
from dermai_utils.recipe import MACHINE
from dermai_utils.runs import SAME, stored_table, table_changes

PLAIN = (type(None), bool, int, float, complex, str, bytes)
DEPTH = 6  # of functions that call functions, and of objects in objects


def name_of(thing) -> str:
    """The name to print: of a function or a class, or the class of an object."""
    if isinstance(thing, functools.partial):
        return name_of(thing.func)
    return getattr(thing, "__qualname__", type(thing).__qualname__)


def is_own(part) -> bool:
    """Whether a reader gave this part, rather than this package."""
    part = part.func if isinstance(part, functools.partial) else part
    return part is not None and not str(getattr(part, "__module__", "")).startswith("dermai_utils.")


def identity(net, options) -> tuple[dict, dict]:
    """What makes a run the same one: options, network, names of a reader's parts (None: standard);
    and {part: fingerprint}."""
    about = getattr(net, "about", {})
    given = {k: v for k, v in vars(options).items() if k not in MACHINE}
    parts = {name: given.pop(name) for name in PARTS if name in given}
    own = {name: name_of(part) if is_own(part) else None for name, part in parts.items()}
    own["network"] = None if "backbone" in about else name_of(net)
    prints = {name: fingerprint(part) for name, part in parts.items()}
    prints["network"] = fingerprint([about, str(net)])
    return given | about | own | {"folds": 0}, prints


def check_same(run, before: dict) -> None:
    """UserError that names in which settings, parts or data the run in the folder differs."""
    found, old, new = [], before.get("sources", {}), run.settings["sources"]
    for name in run.identity | new:
        was, now = (each.get(name) for each in (before, run.identity))
        if was != now:
            was, now = ("the standard one" if x is None else x for x in (was, now))
            found.append(f"{name} was {was}, is {now}")
        elif old.get(name) != new.get(name):
            found.append(f"the code or the values of {name} changed")
    table = stored_table(run.dataset, run.subset)
    if changes := table_changes(run.table, table, columns=(*SAME, "subset")):
        found.append(f"data and split: {changes}")
    if found:
        raise UserError(
            f"{run.folder} holds a run with other settings or data ({'; '.join(found)}): "
            "give them again to go on, or another --run-name (another folder) to train beside it"
        )
    run.settings = before | {k: v for k, v in run.settings.items() if k not in run.identity}


def fingerprint(thing) -> str:
    """16 hex digits that change with the code of `thing` (a function, a class, an object, a
    functools.partial), with its plain attributes and buffers, and with what the code refers to in
    its own module.

    >>> fingerprint(functools.partial(round, ndigits=1)) == fingerprint(round)
    False
    """
    return hashlib.sha256(repr(_described(thing, DEPTH)).encode()).hexdigest()[:16]


def _described(thing, depth):
    if isinstance(thing, PLAIN):
        return thing
    if depth == 0:
        return name_of(thing)
    inner = functools.partial(_described, depth=depth - 1)
    if hasattr(thing, "detach"):  # a tensor
        thing = thing.detach().cpu().numpy()
    if hasattr(thing, "tobytes"):
        return thing.shape, hashlib.sha256(thing.tobytes()).hexdigest()
    if isinstance(thing, dict):
        return [(str(key), inner(value)) for key, value in thing.items()]
    if isinstance(thing, set | frozenset):
        return sorted(map(str, thing))
    if isinstance(thing, functools.partial):
        thing = thing.func, thing.args, thing.keywords
    if isinstance(thing, types.MethodType):
        thing = thing.__func__, thing.__self__
    if isinstance(thing, list | tuple):
        return [inner(item) for item in thing]
    if isinstance(thing, types.FunctionType):
        return _tree(thing), inner(_surroundings(thing))
    if isinstance(thing, types.BuiltinFunctionType | types.ModuleType):
        return thing.__name__
    if isinstance(thing, type):
        return _tree(thing)
    state = {k: v for k, v in getattr(thing, "__dict__", {}).items() if k != "training"}
    return _tree(type(thing)), inner(state)


def _tree(thing) -> str:
    """The syntax tree of a function or a class; its name where Python cannot find the source."""
    try:
        return ast.dump(ast.parse(textwrap.dedent(inspect.getsource(thing))))
    except (OSError, TypeError, SyntaxError):  # the last: a lambda in the middle of a call
        code = getattr(thing, "__code__", None)
        return f"{name_of(thing)} {code.co_code.hex()} {code.co_consts}" if code else name_of(thing)


def _surroundings(function) -> dict:
    """What a function uses beside its own code: defaults, closure, and names of its own module."""
    found = inspect.getclosurevars(function)
    used = dict(found.nonlocals)
    for name, value in found.globals.items():
        own = getattr(value, "__module__", None) == function.__module__
        if isinstance(value, PLAIN) or own:
            used[name] = value
    return used | {"defaults": function.__defaults__, "keywords": function.__kwdefaults__}
