"""What a GPU gives, in one JSON: python tools/gpu.py [--images FOLDER] [--tables FOLDER]
[--weights FILE] [--minutes 8.5] [--json FILE] [--tiny]

A second entry of bench.py. Each start stops after `minutes`; start it again until it prints the
JSON's name. What was measured is not measured again, and the training goes on from its checkpoint.
All of it takes 25 minutes at most. `images` holds ISIC2018_Task3_Training_Input.zip, `tables` holds
HAM10000_metadata.csv: both go into cache/gpu, the images encoded anew, so that they can be copied
to another machine. `weights` are those of EfficientNet-Lite2 on ImageNet. A row
whose device or library is missing says "not measured". --tiny shows on any machine that it runs.
"""

import _thread
import argparse
import functools
import io
import itertools
import shutil
import sys
import threading
import zipfile
from pathlib import Path

import bench
import torch
from bench import ON_GPU, ROOT, SMALL
from PIL import Image

import dermai_utils as dermai
from dermai_utils import cli, commands, files, settings, training
from dermai_utils.basics import UserError

DATA = ROOT / "cache" / "gpu"
ARCHIVE, TABLE = "ISIC2018_Task3_Training_Input.zip", "HAM10000_metadata.csv"
QUALITY = 45  # of a JPEG: 10,015 squares of 256 px become 32 MB
LITE2 = dict(backbone="timm:tf_efficientnet_lite2", size=260, batch_size=32)
NO_GPU = "no GPU"


def encode(images, tables):
    """Write cache/gpu. UserError where a file is missing."""
    for path in (images / ARCHIVE, tables / TABLE):
        if not path.exists():
            raise UserError(f"gpu: {path} is missing: give --images and --tables")
    with (
        zipfile.ZipFile(images / ARCHIVE) as archive,
        files.atomic(DATA / ARCHIVE, "wb") as file,
        zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as smaller,
    ):
        for name in (name for name in archive.namelist() if name.endswith(".jpg")):
            buffer = io.BytesIO()
            with Image.open(io.BytesIO(archive.read(name))) as image:
                image.convert("RGB").save(buffer, "JPEG", quality=QUALITY, optimize=True)
            smaller.writestr(Path(name).name, buffer.getvalue())
    shutil.copy(tables / TABLE, DATA)
    print(f"gpu: images, {(DATA / ARCHIVE).stat().st_size / 1e6:.0f} MB, in {DATA}")


def memory(paths, folder):
    """Peak of the GPU's memory over the array, which lies there."""
    networks = {"Lite2 at 260 px": LITE2, "ResNet18 at 224 px in batches of 64": {}}
    for name, options in networks.items():
        text = f"peak GPU memory of a training over the array, {name}, GB"
        if not ON_GPU:
            yield text, None, NO_GPU
            continue
        torch.cuda.reset_peak_memory_stats()
        with bench.training(paths, folder, **options) as run:
            bench.epoch(run)
            run.validate()
            array = run.pixels.nbytes / 1e9
        peak = torch.cuda.max_memory_allocated() / 1e9
        yield text, peak - array, f"{peak:.2f} - {array:.2f}"


def resume(s, paths, folder):
    """A training whose second epoch runs on another device, against one that stays on its first."""
    dataset = commands.load(s)
    data = dataset, commands.subsets(s, dataset)
    pairs = [("cpu", "cuda"), ("cuda", "cpu")] if ON_GPU else [("cpu", "cpu")]
    for precision, (first, second) in itertools.product(("fp32", "bf16", "fp16"), pairs):
        changed, same = (
            loss_after(folder / f"{precision}-{first}-{k}", data, (first, other), precision)
            for k, other in enumerate((second, first))
        )
        text = f"going on {first} -> {second} in {precision}, difference of validation losses"
        yield f"{text}, aim ≤ 0.02", abs(changed - same), f"{changed:.4f}, {same:.4f} without"


def loss_after(folder, data, devices, precision):
    """The validation loss after two epochs, the first on devices[0], the second on devices[1]."""
    for turn, device in enumerate(devices):
        options = dict(epochs=2, batch_size=16, device=device, precision=precision)
        with bench.Training(folder, *data, dermai.network("small", "none", 64), **options) as run:
            for epoch in run.epochs():
                if epoch > turn:  # a checkpoint is written at the end of the block
                    break
                for images, labels in run.batches():
                    run.step(run.loss(run.net(images), labels))
                run.validate()
    return run.history_rows[-1]["val_loss"]


def lite2(s, paths, folder):
    """One training of EfficientNet-Lite2 at 260 px: its scores on validation, by argmax."""
    if not ON_GPU and not SMALL:
        yield "Lite2 at 260 px", None, NO_GPU
        return
    dataset = commands.load(s)
    subset = commands.subsets(s, dataset)
    last = commands.trained(s, dataset, subset).history.iloc[-1]
    images = int((subset == "train").sum())
    detail = f"{s.epochs} epochs, {images:,} images"
    yield "Lite2 at 260 px, images/s", images / last["seconds"], detail
    for name in training.SHOWN:
        yield f"Lite2 at 260 px, {name}", float(last[name]), detail


def main(words):
    parser = argparse.ArgumentParser(description=__doc__.partition(":")[0])
    shared, work = ROOT.parent / "shared", ROOT / "work" / "gpu"
    parser.add_argument("--images", type=Path, default=shared / "isic2018_256")
    parser.add_argument("--tables", type=Path, default=shared / "isic2018")
    weights = shared / "weights" / "tf_efficientnet_lite2.fp16.safetensors"
    parser.add_argument("--weights", default=str(weights) if weights.exists() else "imagenet")
    parser.add_argument("--json", type=Path, default=work / "gpu.json")
    parser.add_argument("--minutes", type=float, default=8.5)
    parser.add_argument("--tiny", action="store_true")
    given = parser.parse_args(words)
    if not given.tiny and not (DATA / TABLE).exists():
        encode(given.images, given.tables)
    timer = threading.Timer(60 * given.minutes, _thread.interrupt_main)  # a training saves, then
    timer.daemon = True
    timer.start()
    folders = dict(cache_dir=given.json.parent / "cache", work_dir=given.json.parent)
    sample = settings.read({}, device="cpu", **folders)
    tiny = settings.read({}, run_name="lite2", size=64, backbone="small", epochs=1, **folders)
    quick = dict(data=DATA, preset="quick", **LITE2, weights=given.weights, run_name="lite2")
    s = tiny if given.tiny else settings.read({}, **quick, work_dir=work, cache_dir=DATA / "array")
    parts = {"input": bench.input_path, "training": bench.steps, "memory": memory}
    parts |= {"resume": functools.partial(resume, sample), "lite2": functools.partial(lite2, s)}
    images = given.json.parent if given.tiny else DATA
    bench.measure(parts, given.json, images, 16 if given.tiny else 512)


if __name__ == "__main__":
    sys.exit(cli.exit_status(main, sys.argv[1:]))
