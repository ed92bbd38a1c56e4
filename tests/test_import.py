import ast
import graphlib
import os
import re
import subprocess
import sys

import pytest

import dermai_utils
from dermai_utils.config import ROOT

HEAVY = ("torch", "numpy", "pandas", "sklearn", "matplotlib", "cv2", "PIL", "scipy", "requests")


def loaded_by(statement):
    code = f"import sys; {statement}; print(*[m for m in {HEAVY} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


@pytest.mark.parametrize(
    "statement",
    ["import dermai_utils", "from dermai_utils import config, files, environment, pipeline"],
)
def test_importing_the_package_loads_nothing_heavy(statement):
    assert loaded_by(statement) == set()


def test_and_that_test_can_fail():
    assert {"torch", "numpy"} <= loaded_by("from dermai_utils.training import model")


PACKAGE = ROOT / "dermai_utils"
ORDER = re.findall(r"^    (\w+)  +\w", dermai_utils.__doc__, re.M)  # the map that a reader sees


def imported(path):
    """The rooms that a file imports from, inside functions too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "dermai_utils":
            inner = node.module.split(".")[1:]
            yield from inner[:1] or (
                alias.name for alias in node.names if alias.name != "__version__"
            )


def test_a_room_imports_from_those_above_it_and_never_from_one_below():
    rooms = {p.stem for p in PACKAGE.iterdir() if p.suffix == ".py" or (p / "__init__.py").exists()}
    assert rooms - {"__init__"} == set(ORDER)
    for path in PACKAGE.rglob("*.py"):
        room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        for used in imported(path) if room != "__init__" else ():
            assert ORDER.index(used) <= ORDER.index(room), f"{path}: imports {used}"


def test_inside_a_room_no_imports_go_round_in_a_circle():
    uses = {}
    for path in PACKAGE.rglob("*.py"):
        name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        uses[name] = {
            f"{node.module.removeprefix('dermai_utils.')}.{alias.name}"
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("dermai_utils.")
            for alias in node.names
        }
        uses[name] |= {used.rpartition(".")[0] for used in uses[name]}
    for order in graphlib.TopologicalSorter(
        {name: used & set(uses) for name, used in uses.items()}
    ).static_order():
        assert order in uses  # CycleError names the circle


OPENMP = "import os, dermai_utils, torch; print(os.environ.get('KMP_BLOCKTIME'))"


@pytest.mark.skipif(sys.platform != "linux", reason="torch brings GNU's OpenMP on Linux only")
@pytest.mark.parametrize("policy, turns", [({}, "5000"), ({"OMP_WAIT_POLICY": "ACTIVE"}, None)])
def test_waiting_threads_sleep_soon_unless_the_user_says_otherwise(policy, turns):
    """By what OpenMP itself says of its settings when torch loads it."""
    mine = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
    env = {key: value for key, value in os.environ.items() if key not in mine}
    env |= {"OMP_DISPLAY_ENV": "VERBOSE"} | policy
    command = [sys.executable, "-c", OPENMP]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=True)
    found = re.search(r"GOMP_SPINCOUNT = '(\d+)'", done.stderr)
    assert found and (found[1] == turns if turns else int(found[1]) > 5000)
    assert done.stdout.strip() == ("1" if turns else "None")
