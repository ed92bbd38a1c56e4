import subprocess
import sys

import pytest

from dermai_utils.config import ROOT

HEAVY = ("torch", "numpy", "pandas", "sklearn", "matplotlib", "cv2", "PIL", "scipy", "requests")


def loaded_by(statement):
    code = f"import sys; {statement}; print(*[m for m in {HEAVY} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize("statement", ["import dermai_utils", "from dermai_utils import config, files, environment, pipeline"])
def test_importing_the_package_loads_nothing_heavy(statement):
    assert loaded_by(statement) == set()


def test_and_that_test_can_fail():
    assert {"torch", "numpy"} <= loaded_by("from dermai_utils import model")


def test_imports_point_upward_only():
    """A module imports those above it in the package's list, never one below."""
    import ast

    order = ["config", "files", "environment", "colab", "fetch", "unpack", "download", "pixels", "clean", "duplicates", "split",
             "augment", "model", "recipe", "evaluate", "markup", "intervals", "calibration", "train", "machine", "features",
             "instant", "plots", "findings", "inflation", "find_duplicates", "page_decisions", "page_leakage", "page", "card",
             "report", "masks", "explain", "reference", "pipeline", "predict", "export", "app", "__main__"]  # fmt: skip
    modules = {path.stem: path for path in (ROOT / "dermai_utils").glob("*.py") if path.stem != "__init__"}
    assert set(modules) <= set(order)
    for name, path in modules.items():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("dermai_utils"):
                inner = node.module.removeprefix("dermai_utils").lstrip(".")
                used = [inner] if inner else [alias.name for alias in node.names]
                late = [u for u in used if u in order and order.index(u) >= order.index(name)]
                assert not late, f"{name} imports {late}"
