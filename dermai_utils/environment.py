"""What this kernel has: packages, versions, processor, GPU. Standard library only."""

import importlib.metadata
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
import time

from dermai_utils.config import ROOT, UserError

PINNED = ("torch", "torchvision", "numpy", "pandas")  # never replaced: Colab builds its own
IMPORTED_AS = {"pillow": "PIL", "scikit-learn": "sklearn", "opencv-python-headless": "cv2"}
REPORTED = "torch torchvision timm accelerate numpy pandas scikit-learn captum".split()


def setup() -> None:
    """Install what is missing and print the version line: each notebook begins with it.

    Raises UserError where the kernel has no PyTorch and is not a hosted one (5 GB).
    """
    if not host() and importlib.util.find_spec("torch") is None:
        raise UserError(
            f"this kernel ({sys.executable}) has no PyTorch; choose the kernel .venv, or "
            "%pip install torch torchvision (5 GB) and run this cell again"
        )
    install_missing()
    print(version_line())


def host() -> str:
    """The service that runs this kernel: "colab", "kaggle", or "" for a machine of one's own."""
    if "google.colab" in sys.modules:
        return "colab"
    return "kaggle" if "KAGGLE_KERNEL_RUN_TYPE" in os.environ else ""


def install_missing() -> list[str]:
    """Install the required packages that cannot be imported, no others; return their lines.

    The versions of torch, torchvision, numpy and pandas that are there are part of pip's task, so
    that none is replaced and the notebook needs no restart. UserError with pip's reason.
    """
    missing = [line for line in requirements() if importlib.util.find_spec(_module(line)) is None]
    if missing:
        print(f"setup: installing {', '.join(missing)}")
        pins = [f"{name}=={version}" for name in PINNED if (version := _version(name))]
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-color"]
        done = subprocess.run([*command, *missing, *pins], capture_output=True, text=True)
        if done.returncode:
            lines = done.stderr.strip().splitlines() or ["?"]
            # pip's last line is often a link
            why = next((line for line in lines if line.startswith("ERROR: ")), lines[-1])
            raise UserError(f"pip could not install {', '.join(missing)}: {why}")
        importlib.invalidate_caches()
    return missing


def requirements() -> list[str]:
    """What the package needs, as lines such as torch>=2.4."""
    try:
        return importlib.metadata.requires("dermai-isic2018") or []
    except importlib.metadata.PackageNotFoundError:  # a checkout that was never installed
        lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
        return [line for line in lines if line and not line.startswith("#")]


def _module(line):
    name = re.match(r"[\w.-]+", line)[0].lower()
    return IMPORTED_AS.get(name, name.replace("-", "_"))


def _version(name):
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def version_line() -> str:
    """One line for a bug report: this package, Python, the main libraries, the machine."""
    from dermai_utils import __version__

    libraries = " ".join(f"{name} {_version(name) or '-'}" for name in REPORTED)
    python = f"Python {platform.python_version()}"
    return f"DermAI-ISIC2018 {__version__}, {python}, {libraries}, {platform.system()} {machine()}"


def provenance() -> dict:
    """Of a run that begins now: the version of this package, the date, the machine."""
    from dermai_utils import __version__

    return {"version": __version__, "date": time.strftime("%F"), "machine": machine()}


def machine() -> str:
    """The processor cores and the NVIDIA GPU, in words, without importing torch."""
    cores = f"{os.cpu_count()} cores"
    if shutil.which("nvidia-smi"):
        query = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader"]
        answer = subprocess.run(query, capture_output=True, text=True)
        if answer.returncode == 0 and answer.stdout.strip():
            return f"{cores}, {answer.stdout.strip().splitlines()[0]}"
    return f"{cores}, no GPU"
