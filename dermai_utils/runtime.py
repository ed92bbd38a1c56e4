"""This machine: GPU, memory, disk and the time to expect; on Colab also Drive and the browser."""

import os
import shutil
import time
import zipfile
from pathlib import Path

import torch
import torch.nn.functional as F

from dermai_utils import config, environment, files
from dermai_utils.config import CLASSES
from dermai_utils.data import pixels
from dermai_utils.training import inference, model, optim

OFFICIAL = 10_015  # training images; the challenge's test images are 1,512 more
ARCHIVES_GB = 5.8  # the official archives, and the images unpacked from them
MEMORY_GB = 4.0  # ResNet18 at 224 px in batches of 64 on a CPU took 3.4 (tools/bench.py)
PATIENCE = 4.0  # seconds of measuring; a busy or slow machine does fewer steps
# of a training step's time; the usual count: the backward pass costs two forward ones
FORWARD_SHARE = 1 / 3
DRIVE = Path("/content/drive")  # where Colab's own examples mount it
DRIVE_FOLDER = "DermAI-ISIC2018"  # in My Drive
GPU_CLICKS = {
    "colab": " (for one: Runtime > Change runtime type > T4 GPU, then Runtime > Run all)",
    "kaggle": " (for one: Settings > Accelerator > GPU T4 x2, then Run all)",
    "": "",
}


# What a run needs.


def check(cfg) -> None:
    """Print what this machine has and how long training will take, measured on a few steps."""
    memory = memory_gb()
    print(f"machine: {environment.machine()}" + (f", {memory:.1f} GB of memory" if memory else ""))
    if memory and memory < MEMORY_GB and cfg.data != "sample":
        print(
            f"memory: batches of {cfg.batch_size} may need {MEMORY_GB:.0f} GB; "
            "a smaller batch_size needs less"
        )
    print(_disk(cfg))
    print(_time(cfg))
    if cfg.data != "sample" and not torch.cuda.is_available():
        print(
            f"no GPU: it works, slowly{GPU_CLICKS[environment.host()]}; "
            "the preset quick_cpu is made for two processor cores"
        )


def memory_gb() -> float | None:
    """The machine's memory in GB (10^9 bytes); None where the system doesn't say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    except (AttributeError, ValueError, OSError):  # Windows
        return None


def disk_gb(cfg) -> tuple[float, float]:
    """(free, needed) GB where cache_dir is; needed: what the official data still takes, else 0."""
    folder = next(folder for folder in (cfg.cache, *cfg.cache.parents) if folder.exists())
    needed = 0.0
    if cfg.data == "isic2018":
        height, width = pixels.shape(cfg.image_size)
        needed += 0 if cfg.sources_file.exists() else ARCHIVES_GB
        needed += 0 if cfg.pixels_file.exists() else (OFFICIAL + 1512) * height * width * 3 / 1e9
    return shutil.disk_usage(folder).free / 1e9, needed


def _disk(cfg):
    free, needed = disk_gb(cfg)
    line = f"disk: {free:.0f} GB free" + (f", about {needed:.1f} GB needed" if needed else "")
    return line + (": TOO LITTLE, free some or give another cache_dir" if needed > free else "")


def _time(cfg):
    if cfg.data == "sample":
        return (
            "time: made-up pictures and a tiny network: about a minute of training and evaluation, "
            "two to three for all notebooks, with or without a GPU"
        )
    done, wanted = _epochs_done(cfg), cfg.epochs * len(cfg.member_dirs)
    if done >= wanted:
        return f"time: run {cfg.run_name} is trained; what follows takes a few minutes"
    try:
        speed = images_per_second(cfg)
    except torch.cuda.OutOfMemoryError:
        return (
            f"time: a batch of {cfg.batch_size} does not fit into this GPU's memory: "
            "give a smaller batch_size"
        )
    finally:
        # what the measurement took would count as taken when the images are placed
        torch.cuda.empty_cache()
    measured = f"{speed:.3g} images/s"
    if cfg.data != "isic2018":
        each = _duration(1000 / speed)
        return f"time: {measured} in training here, so {each} for 1,000 images and one epoch"
    val = 1 / cfg.folds if cfg.folds else cfg.val_fraction
    images = 1 - val - cfg.test_share(False) + FORWARD_SHARE * val
    epochs = f"the {wanted - done} epochs of {wanted} that are left" if done else f"{wanted} epochs"
    return (
        f"time: {_duration((wanted - done) * OFFICIAL * images / speed)} for {epochs}, at "
        f"{measured} as just measured here; the first time, downloading and decoding come on top"
    )


def _epochs_done(cfg):
    histories = [folder / "history.csv" for folder in cfg.member_dirs]
    texts = [path.read_text(encoding="utf-8") for path in histories if path.exists()]
    return sum(len(text.splitlines()) - 1 for text in texts)


def _duration(seconds):
    minutes = seconds / 60
    if minutes < 1.5:
        return f"about {max(seconds, 1):.0f} s"
    return f"about {minutes:.0f} min" if minutes < 90 else f"about {minutes / 60:.1f} h"


def images_per_second(cfg, steps: int = 5) -> float:
    """Speed of cfg's training steps here: random weights, one batch on the device. Some seconds."""
    accelerator = inference.start(cfg)
    on_gpu = accelerator.device.type == "cuda"
    # the first steps choose kernels
    batch, warm = (cfg.batch_size, 2) if on_gpu else (min(8, cfg.batch_size), 1)
    step = _training_step(cfg, accelerator, batch)
    times = [time.monotonic()]
    while len(times) <= warm + 1 or (
        len(times) <= warm + steps and times[-1] - times[0] < PATIENCE
    ):
        step().item()  # waits for the device
        times.append(time.monotonic())
    return (len(times) - 1 - warm) * batch / (times[-1] - times[warm])


def _training_step(cfg, accelerator, batch):
    """A function that trains on one made-up batch and returns its loss."""
    layout = dict(device=accelerator.device, memory_format=torch.channels_last)
    net = model.build(cfg.backbone, "none", cfg.image_size).to(**layout).train()
    for layer in optim.frozen(net, cfg):
        layer.eval()
    net, optimizer = accelerator.prepare(net, torch.optim.AdamW(optim.parameter_groups(net, cfg)))
    images = torch.zeros(batch, 3, cfg.image_size, cfg.image_size).to(**layout)
    targets = torch.arange(batch, device=accelerator.device) % len(CLASSES)

    def step():
        with accelerator.autocast():
            loss = F.cross_entropy(net(images), targets)
        accelerator.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
        return loss

    return step


# What only Colab has: elsewhere, one plain line.


def drive_folders(keep_on_drive: bool, data: str = "") -> dict:
    """{"work_dir": a folder on Drive, "cache_dir": one that is not}, for config.load.

    {} where nothing is to be kept there. Drive is mounted only when asked. Not on Colab, refused,
    or not writable: one line says so and the run goes on locally.
    """
    if not keep_on_drive:
        return {}
    source = config.load(data=data).source
    try:
        work = _mounted() / DRIVE_FOLDER / source
        files.try_write(work)
    except ImportError:
        print("drive: not on Colab, so there is no Drive to mount; results stay on this machine")
        return {}
    # google.colab has errors of its own for each way to refuse; none may stop the run
    except Exception as reason:
        why = (str(reason).strip() or type(reason).__name__).splitlines()[0]
        print(
            f"drive: not mounted ({why}); results stay on this machine and are lost with it: "
            "download them at the end"
        )
        return {}
    print(f"drive: results and checkpoints are kept in {work}")
    # thousands of images never go to Drive, even where the repository itself lies there
    on_drive = config.ROOT.is_relative_to(DRIVE)
    cache = {"cache_dir": str(DRIVE.with_name("cache") / source)} if on_drive else {}
    return {"work_dir": str(work)} | cache


def _mounted():
    from google.colab import drive

    drive.mount(str(DRIVE))
    return DRIVE / "MyDrive"


def zip_folder(folder) -> Path:
    """Make `folder`.zip anew, beside `folder`: its files and folders, not what is hidden."""
    folder = Path(folder)
    archive = folder.with_name(f"{folder.name}.zip")
    with (
        files.atomic(archive, "wb") as file,
        zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as bundle,
    ):
        for path in sorted(folder.rglob("[!.]*")):
            bundle.write(path, path.relative_to(folder.parent))
    return archive


def download(path) -> None:
    """Have the browser save `path`; where that can't be, say where it lies."""
    try:
        from google.colab import files as browser
    except ImportError:
        print(f"download: it is on this machine already, {path}")
    else:
        browser.download(str(path))


def upload() -> dict:
    """{name: bytes} of the files that the user picks in the browser; none: one line and {}."""
    try:
        from google.colab import files as browser
    except ImportError:
        print("upload: not on Colab, so there is no button; write the picture's path into `photo`")
        return {}
    chosen = browser.upload()
    if not chosen:
        print("upload: nothing was chosen; run this cell again to choose a picture")
    return chosen
