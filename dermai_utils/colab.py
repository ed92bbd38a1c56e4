"""The setup cell, what this machine can do, Google Drive, and files to and from the browser.

Where there is no Colab, each of them still works or says in one line what to do instead. Nothing
heavy is imported here: what speeds torch up must be set before it is loaded.
"""

import contextlib
import ctypes
import importlib.metadata
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from dermai_utils import __version__, files
from dermai_utils.basics import CLASSES, UserError, counted
from dermai_utils.settings import ROOT, nvidia_gpu

PINNED = ("torch", "torchvision", "numpy", "pandas")  # never replaced: Colab builds its own
IMPORTED_AS = {"pillow": "PIL", "scikit-learn": "sklearn", "opencv-python-headless": "cv2"}
REPORTED = "torch torchvision timm accelerate numpy pandas scikit-learn".split()
OFFICIAL, OFFICIAL_TEST = 10_015, 1_512  # images
ARCHIVES_GB = 5.8  # the official archives, and the images unpacked from them
STEPS, PATIENCE = (4, 8), 4.0  # least and most steps of measuring; seconds after which four will do
DRIVE = Path("/content/drive")  # where Colab's own examples mount it
DRIVE_FOLDER = "DermAI-ISIC2018"  # in My Drive
GPU_CLICKS = {
    "colab": " (for one: Runtime > Change runtime type > T4 GPU, then Runtime > Run all)",
    "kaggle": " (for one: Settings > Accelerator > GPU T4 x2, then Run all)",
    "": "",
}


# Setup.


def setup() -> None:
    """Install what is missing, print the version line, tune this process: the setup cell.

    Raises UserError where the kernel has no PyTorch and is not a hosted one (5 GB).
    """
    if not host() and importlib.util.find_spec("torch") is None:
        raise UserError(
            f"this kernel ({sys.executable}) has no PyTorch; choose the kernel .venv, or "
            "%pip install torch torchvision (5 GB) and run this cell again"
        )
    tune_process()
    install_missing(requirements())
    print(version_line())


def tune_process() -> None:
    """Set what makes torch fast beside other programs; call it before torch is imported."""
    # Threads that wait for another one sleep after some microseconds. By default they spin, and
    # training takes 2.8 times as long while another program uses a core (docs/speed.md). OpenMP
    # reads these once, when torch loads it.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "5000")  # GNU's, on Linux: turns
        os.environ.setdefault("KMP_BLOCKTIME", "1")  # LLVM's and Intel's: milliseconds
    # glibc keeps freed memory; else the kernel clears every page of a large tensor in each step.
    # 2 AVX2 cores, EfficientNet-Lite0 at 128 px, batches of 64: 29 -> 49 images/s.
    with contextlib.suppress(OSError, AttributeError):  # another C library: nothing to tune
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(-4, 0)  # M_MMAP_MAX: no mapping of its own for a large block
        libc.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD, bytes


def host() -> str:
    """The service that runs this kernel: "colab", "kaggle", or "" for a machine of one's own."""
    if "KAGGLE_KERNEL_RUN_TYPE" in os.environ:  # Kaggle's image is made from Colab's
        return "kaggle"
    return "colab" if "google.colab" in sys.modules else ""


def install_missing(lines) -> list[str]:
    """pip-install those of `lines` (such as "timm>=1.0") that cannot be imported; return them.

    Raises UserError with pip's reason.
    """
    missing = [line for line in lines if importlib.util.find_spec(_module(line)) is None]
    if missing:
        print(f"setup: installing {', '.join(missing)}")
        done = subprocess.run(pip_command(missing), capture_output=True, text=True)
        if done.returncode:
            said = done.stderr.strip().splitlines() or ["?"]
            # pip's last line is often a link
            why = next((line for line in said if line.startswith("ERROR: ")), said[-1])
            raise UserError(f"pip could not install {', '.join(missing)}: {why}")
        importlib.invalidate_caches()
    return missing


def pip_command(lines) -> list[str]:
    """What installs `lines`. The versions of torch, torchvision, numpy and pandas that are here are
    part of pip's task: so none is replaced, and the notebook needs no restart."""
    pins = [f"{name}=={version}" for name in PINNED if (version := _version(name))]
    return [sys.executable, "-m", "pip", "install", "--quiet", "--no-color", *lines, *pins]


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
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version(name)


def version_line() -> str:
    """One line for a bug report: this package, Python, the main libraries, the machine."""
    libraries = " ".join(f"{name} {_version(name) or '-'}" for name in REPORTED)
    python = f"Python {platform.python_version()}"
    return f"DermAI-ISIC2018 {__version__}, {python}, {libraries}, {platform.system()} {machine()}"


# This machine.


def machine() -> str:
    """The processor cores and the NVIDIA GPU in words, without importing torch."""
    return f"{os.cpu_count()} cores, {nvidia_gpu() or 'no GPU'}"


def check(settings) -> float:
    """Print what this machine has and how long training with these Settings will take here.

    The speed, images/s, is measured on some training steps, which takes seconds; 0 for the sample.
    """
    print(f"machine: {machine()}")
    if settings.data == "sample":
        print("time: made-up pictures and a tiny network: a minute or two, with or without a GPU")
        return 0.0
    if settings.data == "isic2018":
        print(disk_line(settings))
    speed = images_per_second(settings)
    print(time_line(settings, speed, OFFICIAL if settings.data == "isic2018" else 0))
    if "no GPU" in machine():
        print(f"no GPU: it works, slowly{GPU_CLICKS[host()]}")
    return speed


def disk_line(settings, free=None) -> str:
    """The free disk space where the cache lies, against what the official data still needs."""
    from dermai_utils import pixels

    folder = next(path for path in (settings.cache, *settings.cache.parents) if path.exists())
    free = shutil.disk_usage(folder).free / 1e9 if free is None else free
    height, width = pixels.shape(settings.size)
    needed = (OFFICIAL + OFFICIAL_TEST) * height * width * 3 / 1e9
    if folder != settings.cache or not any(folder.iterdir()):
        needed += ARCHIVES_GB
    line = f"disk: {free:.0f} GB free, up to {needed:.1f} GB needed"
    return line + (": TOO LITTLE, free some or give another cache_dir" if needed > free else "")


def time_line(settings, speed, images=0) -> str:
    """The time that training takes at `speed` images/s, of which some are for validation; for 1,000
    images and one epoch where their number is not known (0)."""
    batch, epochs = settings.batch_size, settings.epochs
    if not speed:
        return f"time: batches of {batch} do not fit into this GPU's memory: lower batch_size"
    measured = f"{speed:.3g} images/s measured here"
    if not images:
        return (
            f"time: {measured}, so about {_duration(1000 / speed)} for 1,000 images and one epoch"
        )
    val = 1 / settings.folds if settings.folds else settings.val_fraction
    passes = images * (1 - val + val / 3)  # validation has a forward pass only, a third
    total = passes * epochs * max(settings.folds, 1) / speed
    what = f"{counted(images, 'image')} and {counted(epochs, 'epoch')}"
    return f"time: training about {_duration(total)} for {what}, at {measured}"


def _duration(seconds):
    if seconds < 90:
        return f"{max(seconds, 1):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def images_per_second(settings) -> float:
    """Speed of training steps here, on made-up images and random weights; 0 where a batch does not
    fit into the GPU's memory."""
    import torch

    from dermai_utils import inference, networks, recipe

    size, device = settings.size, inference.device(settings.device)
    precision = inference.precision(device, settings.precision)
    batch = settings.batch_size if device.type == "cuda" else min(8, settings.batch_size)
    net = networks.network(settings.backbone, "none", size).to(device).train()
    recipe.freeze(net, settings.freeze, size)
    optimizer, times = recipe.adamw(net), []
    images = torch.rand(batch, 3, size, size, device=device)
    targets = torch.arange(batch, device=device) % len(CLASSES)
    try:
        while len(times) < STEPS[0] or len(times) < STEPS[1] and times[-1] < times[0] + PATIENCE:
            with inference.autocast(device, precision):
                loss = torch.nn.functional.cross_entropy(net(images), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            loss.item()  # waits for the device
            times.append(time.monotonic())
    except torch.cuda.OutOfMemoryError:
        return 0.0
    # the first two steps choose kernels
    return (len(times) - 2) * batch / (times[-1] - times[1])


# What only Colab has: elsewhere, one plain line.


def my_drive() -> Path:
    """Mount Google Drive; return the user's own folder."""
    from google.colab import drive

    drive.mount(str(DRIVE))
    return DRIVE / "MyDrive"


def drive_folders(keep_on_drive: bool, name="sample", mount=my_drive, root=ROOT) -> dict:
    """{"work_dir": a folder on Drive, "cache_dir": one that is not}, for settings.read().

    {} where nothing is to be kept there. Not on Colab, refused or not writable: one line says so
    and results stay on this machine. name: the data set's. root: where the repository lies.
    """
    if not keep_on_drive:
        return {}
    if host() != "colab":
        print("drive: not on Colab, so there is no Drive to mount; results stay on this machine")
        return {}
    try:
        mine = mount()
        work = mine / DRIVE_FOLDER / name
        files.try_write(work)
    # google.colab has errors of its own for each way to refuse; none may stop the run
    except Exception as reason:
        why = (str(reason).strip() or type(reason).__name__).splitlines()[0]
        lost = "results stay on this machine and are lost with it: download them at the end"
        print(f"drive: not mounted ({why}); {lost}")
        return {}
    print(f"drive: results and checkpoints are kept in {work}")
    folders = {"work_dir": str(work)}
    if root.is_relative_to(mine.parent):  # thousands of images never go to Drive
        folders["cache_dir"] = str(mine.parent.with_name("cache") / name)
    return folders


def zip_folder(folder) -> Path:
    """Make `folder`.zip beside `folder`: all but checkpoints (*.pt) and hidden files."""
    folder, left_out = Path(folder), shutil.ignore_patterns("*.pt", ".*")
    with tempfile.TemporaryDirectory() as copy:
        shutil.copytree(folder, Path(copy, folder.name), ignore=left_out)
        return Path(shutil.make_archive(folder, "zip", copy))


def download(path) -> None:
    """Have the browser save `path`; outside Colab, print where it lies."""
    if host() != "colab":
        print(f"download: it is on this machine already, {path}")
        return
    from google.colab import files as browser

    browser.download(str(path))


def upload() -> dict:
    """{name: bytes} of the files that the user picks in the browser; none: one line and {}."""
    if host() != "colab":
        print("upload: not on Colab, so there is no button; write the picture's path into `photo`")
        return {}
    from google.colab import files as browser

    chosen = browser.upload()
    if not chosen:
        print("upload: nothing was chosen; run this cell again to choose a picture")
    return chosen
