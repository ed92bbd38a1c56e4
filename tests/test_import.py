"""What importing costs, and that no module imports itself by way of others."""

import ast
import doctest
import graphlib
import importlib
import inspect
import os
import pkgutil
import re
import subprocess
import sys

import pytest

import dermai_utils
from dermai_utils.settings import PACKAGE, ROOT

HEAVY = ("torch", "numpy", "pandas", "sklearn", "matplotlib", "cv2", "PIL", "scipy", "requests")
LIGHT = "basics, settings, colab, commands, cli, files, progress"


SPIN = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")


def python(code, **env):
    """What a new interpreter prints."""
    env = {key: text for key, text in os.environ.items() if key not in SPIN} | env
    options = dict(cwd=ROOT, env=env, capture_output=True, text=True, check=True)
    done = subprocess.run([sys.executable, "-c", code], **options)
    return done.stdout.strip(), done.stderr


@pytest.mark.parametrize("names, heavy", [(LIGHT, set()), ("network", {"torch", "numpy"})])
def test_importing_the_light_modules_loads_nothing_heavy(names, heavy):
    code = f"import sys; from dermai_utils import {names}; "
    said, _ = python(code + f"print(*[m for m in {HEAVY} if m in sys.modules])")
    assert set(said.split()) >= heavy and bool(said) == bool(heavy)


# The public functions.


def test_every_public_name_is_there_and_no_module_has_its_name():
    modules = {module.name for module in pkgutil.iter_modules(dermai_utils.__path__)}
    assert not modules & set(dermai_utils.__all__) and len(dermai_utils.__all__) <= 27
    assert set(dermai_utils.__all__) <= set(dir(dermai_utils))
    for name in dermai_utils.__all__:
        assert not inspect.ismodule(getattr(dermai_utils, name))
    with pytest.raises(AttributeError, match="no attribute 'lod'"):
        dermai_utils.lod  # noqa: B018


NO_EXAMPLE = {"CLASSES", "UserError", "Dataset", "Run", "Training", "setup"}


@pytest.mark.parametrize("name", sorted(set(dermai_utils.__all__) - NO_EXAMPLE))
def test_every_public_function_has_an_example_that_runs(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    function = getattr(dermai_utils, name)
    module = importlib.import_module(function.__module__)
    [example] = doctest.DocTestFinder(recurse=False).find(function, name, globs=vars(module) | {})
    assert example.examples, f"{name} has no example"
    assert doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(example).failed == 0


# Who imports whom.

PATHS = {path.relative_to(PACKAGE).with_suffix(""): path for path in PACKAGE.rglob("*.py")}
MODULES = {".".join(name.parts).removesuffix(".__init__"): path for name, path in PATHS.items()}
del MODULES["__init__"]


def imports(path):
    """The modules that a file imports, inside functions too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("dermai_utils"):
            base = node.module.removeprefix("dermai_utils").removeprefix(".")
            inner = {alias.name: f"{base}.{alias.name}".strip(".") for alias in node.names}
            for name, module in inner.items():
                yield module if module in MODULES else base or dermai_utils._HOME.get(name, "")
        if isinstance(node, ast.Attribute) and getattr(node.value, "id", "") == "dermai":
            yield dermai_utils._HOME[node.attr]  # `import dermai_utils as dermai`


def test_imports_form_no_circle():
    uses = {name: set(imports(path)) - {name, ""} for name, path in MODULES.items()}
    assert len(list(graphlib.TopologicalSorter(uses).static_order())) == len(uses)


def test_the_core_imports_no_room_but_copies():
    rooms = {path.parent.name for path in PACKAGE.glob("*/__init__.py")} - {"copies"}
    shell = {"commands", "cli", "__main__"}
    for name, path in MODULES.items():
        if path.parent == PACKAGE and name not in shell:
            used = {module.split(".")[0] for module in imports(path)}
            assert not used & rooms, f"{name} imports {used & rooms}"


def test_the_map_in_the_docstring_has_every_module():
    names = set(re.findall(r"^    (\w+)/?  +\w", dermai_utils.__doc__, re.M))
    assert {name.split(".")[0] for name in MODULES} == names | {"__main__"}


# What makes torch fast is set by the command line and the setup cell, not by an import.


@pytest.mark.skipif(sys.platform != "linux", reason="torch brings GNU's OpenMP on Linux only")
@pytest.mark.parametrize("policy, turns", [({}, "5000"), ({"OMP_WAIT_POLICY": "ACTIVE"}, None)])
def test_waiting_threads_sleep_soon_unless_the_user_says_otherwise(policy, turns):
    """By what OpenMP itself says of its settings when torch loads it."""
    code = "import os; before = dict(os.environ); from dermai_utils import cli, colab; "
    code += "assert before == dict(os.environ); colab.tune_process(); import torch"
    _, said = python(code, OMP_DISPLAY_ENV="VERBOSE", **policy)
    found = re.search(r"GOMP_SPINCOUNT = '(\d+)'", said)
    assert found and (found[1] == turns if turns else int(found[1]) > 5000)
