"""The machine against what a run needs, before anything is downloaded: GPU, memory, disk, and the time to expect."""

import os
import shutil
import sys
import time

import torch
import torch.nn.functional as F

from dermai_utils import environment, model, pixels, recipe, train
from dermai_utils.config import CLASSES

OFFICIAL = 10_015  # training images; the challenge's test images are 1,512 more
ARCHIVES_GB = 5.8  # the official archives, and the images unpacked from them
MEMORY_GB = 4.0  # ResNet18 at 224 px in batches of 64 on a CPU took 3.4 (tools/bench.py)
PATIENCE = 4.0  # seconds of measuring; a busy or slow machine does fewer steps
FORWARD_SHARE = 1 / 3  # of a training step's time; the usual count: the backward pass costs two forward ones


def check(cfg) -> None:
    """Print what this machine has and how long the training will take on it, measured on a few steps. Refuses nothing."""
    memory = memory_gb()
    print(f"machine: {environment.machine()}" + (f", {memory:.1f} GB of memory" if memory else ""))
    if memory and memory < MEMORY_GB and cfg.data != "sample":
        print(f"memory: batches of {cfg.batch_size} may need {MEMORY_GB:.0f} GB; a smaller batch_size needs less")
    print(_disk(cfg))
    if cfg.data == "sample":
        print("time: the sample is made-up pictures and a toy network: about a minute, with or without a GPU")
        return
    print(_time(cfg))
    if not torch.cuda.is_available():
        print(f"no GPU: {_click()}")


def memory_gb() -> float | None:
    """The machine's memory in GB (10^9 bytes); None where the system doesn't tell."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    except (AttributeError, ValueError, OSError):  # Windows
        return None


def disk_gb(cfg) -> tuple[float, float]:
    """(free, needed) GB where cache_dir is; needed is what the official data still takes, 0 for data that lies there."""
    folder = next(folder for folder in (cfg.cache, *cfg.cache.parents) if folder.exists())
    height, width = pixels.shape(cfg.image_size)
    array = 0 if cfg.pixels_file.exists() else (OFFICIAL + 1512) * height * width * 3 / 1e9
    needed = array + (0 if cfg.sources_file.exists() else ARCHIVES_GB) if cfg.data == "isic2018" else 0
    return shutil.disk_usage(folder).free / 1e9, needed


def _disk(cfg):
    free, needed = disk_gb(cfg)
    short = ": TOO LITTLE, free some or give another cache_dir" if needed > free else ""
    return f"disk: {free:.0f} GB free" + (f", about {needed:.1f} GB needed{short}" if needed else "")


def _time(cfg):
    done = _epochs_done(cfg)
    wanted = cfg.epochs * len(cfg.member_dirs)
    if done >= wanted:
        return f"time: run {cfg.run_name} is trained; what follows takes a few minutes"
    try:
        speed = images_per_second(cfg)
    except torch.cuda.OutOfMemoryError:
        return f"time: a batch of {cfg.batch_size} does not fit into this GPU's memory: give a smaller batch_size"
    finally:
        torch.cuda.empty_cache()  # what the measurement took would count as taken when the images are placed
    if cfg.data != "isic2018":
        return f"time: {speed:.3g} images/s in training here, so {_words(1000 / speed)} for 1,000 images and one epoch"
    seen = OFFICIAL * (1 - cfg.val_fraction - cfg.test_fraction + FORWARD_SHARE * cfg.val_fraction)
    left = f"{wanted} epochs" if not done else f"the {wanted - done} epochs of {wanted} that are left"
    return (f"time: {_words((wanted - done) * seen / speed)} for {left}, at {speed:.3g} images/s as just measured here; "
            "the first time, downloading and decoding come on top")  # fmt: skip


def _epochs_done(cfg):
    histories = [folder / "history.csv" for folder in cfg.member_dirs]
    return sum(len(path.read_text(encoding="utf-8").splitlines()) - 1 for path in histories if path.exists())


def images_per_second(cfg, steps: int = 5) -> float:
    """Training steps of cfg's network on this machine: random weights, one resident batch, small on a CPU. Some seconds."""
    accelerator = train.start(cfg)
    on_gpu = accelerator.device.type == "cuda"
    batch, warm = (cfg.batch_size, 2) if on_gpu else (min(8, cfg.batch_size), 1)  # the first steps choose kernels
    net = model.build(cfg.backbone, "none", cfg.image_size).to(accelerator.device, memory_format=torch.channels_last).train()
    for layer in recipe.frozen(net, cfg):
        layer.eval()
    net, optimizer = accelerator.prepare(net, torch.optim.AdamW(recipe.parameter_groups(net, cfg)))
    images = torch.zeros(batch, 3, cfg.image_size, cfg.image_size, device=accelerator.device)
    images = images.to(memory_format=torch.channels_last)
    targets = torch.arange(batch, device=accelerator.device) % len(CLASSES)
    times = [time.monotonic()]
    while len(times) <= warm + 1 or (len(times) <= warm + steps and times[-1] - times[0] < PATIENCE):
        with accelerator.autocast():
            loss = F.cross_entropy(net(images), targets)
        accelerator.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
        loss.item()  # waits for the device
        times.append(time.monotonic())
    return (len(times) - 1 - warm) * batch / (times[-1] - times[warm])


def _words(seconds):
    minutes = seconds / 60
    if minutes < 1.5:
        return f"about {max(seconds, 1):.0f} s"
    return f"about {minutes:.0f} min" if minutes < 90 else f"about {minutes / 60:.1f} h"


def _click():
    click = ""
    if "google.colab" in sys.modules:
        click = " (for one: Runtime > Change runtime type > T4 GPU, then Runtime > Run all)"
    elif "KAGGLE_KERNEL_RUN_TYPE" in os.environ:
        click = " (for one: Settings > Accelerator > GPU T4 x2, then Run all)"
    return f"it works, slowly{click}; the preset quick_cpu is made for two processor cores"
