"""What this machine has: packages, versions, a GPU, memory, disk. Standard library only."""

import importlib.metadata
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile

from dermai_utils.config import ROOT, UserError

KEPT = ("torch", "torchvision", "numpy", "pandas")  # never replaced: Colab builds its own
IMPORTED_AS = {"pillow": "PIL", "scikit-learn": "sklearn", "opencv-python-headless": "cv2"}


def requirements() -> list[str]:
    """The lines of requirements.txt that name a package."""
    return [line for line in (ROOT / "requirements.txt").read_text().splitlines() if line and not line.startswith("#")]


def install_missing() -> list[str]:
    """Install the required packages that cannot be imported, and nothing else; returns their requirement lines.

    The versions of torch, torchvision, numpy and pandas that are there are pinned while pip runs, so none is replaced
    and the notebook needs no restart. A second call finds nothing to do.
    """
    missing = [line for line in requirements() if importlib.util.find_spec(_module(line)) is None]
    if missing:
        print(f"setup: installing {', '.join(missing)}")
        with tempfile.NamedTemporaryFile("w", suffix=".txt", delete=False) as pins:
            pins.writelines(f"{name}=={version}\n" for name in KEPT if (version := _version(name)))
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-color", "--constraint", pins.name, *missing]
        done = subprocess.run(command, capture_output=True, text=True)
        os.unlink(pins.name)
        if done.returncode:
            said = done.stderr.strip().splitlines() or ["?"]
            why = next((line for line in said if line.startswith("ERROR: ")), said[-1])  # pip's last line is often a link
            raise UserError(f"pip could not install {', '.join(missing)}: {why}")
        importlib.invalidate_caches()
    return missing


def setup() -> None:
    """What every notebook begins with, once the package is found: install what is missing, print the version line."""
    install_missing()
    print(version_line())


def _module(line):
    name = re.match(r"[\w.-]+", line)[0].lower()
    return IMPORTED_AS.get(name, name.replace("-", "_"))


def _version(name):
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def version_line() -> str:
    """One line for a bug report: this package, Python, the libraries that matter, the machine."""
    from dermai_utils import __version__

    names = ("torch", "torchvision", "timm", "accelerate", "numpy", "pandas", "scikit-learn", "captum")
    libraries = " ".join(f"{name} {_version(name) or '-'}" for name in names)
    return f"DermAI-ISIC2018 {__version__}, Python {platform.python_version()}, {libraries}, {platform.system()} {machine()}"


def machine() -> str:
    """The processor cores and the NVIDIA GPU, in words, without importing torch."""
    cores = f"{os.cpu_count()} cores"
    if shutil.which("nvidia-smi"):
        query = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader"]
        found = subprocess.run(query, capture_output=True, text=True)
        if found.returncode == 0 and found.stdout.strip():
            return f"{cores}, {found.stdout.strip().splitlines()[0]}"
    return f"{cores}, no GPU"
