"""Speed, as ratios measured side by side in one run: python tools/bench.py [--images FOLDER]
[--n 512] [--json FILE] [--parts building,input,training,...]

Writes a table and a JSON. FOLDER holds real JPEGs, best the originals (600×450); smaller ones are
enlarged to that size first. Without a folder, the pictures of the sample are enlarged, which
compress better than real ones: the ratios are then a little kinder to decoding. Absolute figures
hold for this machine alone. What a library or a device is missing for is "not measured".
"""

import argparse
import contextlib
import importlib.util
import multiprocessing
import os
import re
import statistics
import sys
import tempfile
import time
import zipfile
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tools")]

from dermai_utils import cli, colab  # noqa: E402

colab.tune_process()  # before torch, as the command line does

import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402
import torch  # noqa: E402
from PIL import Image  # noqa: E402
from torch.utils.data import DataLoader  # noqa: E402
from torchvision import transforms as T  # noqa: E402
from torchvision.datasets import ImageFolder  # noqa: E402

from dermai_utils import augmentation, files, inference, networks, pixels  # noqa: E402
from dermai_utils.basics import CLASSES  # noqa: E402
from dermai_utils.datasets import SAMPLE, Dataset  # noqa: E402
from dermai_utils.settings import PRESETS  # noqa: E402
from dermai_utils.training import Training  # noqa: E402

CORES = os.cpu_count()
LOADERS = 2  # what Colab has, and what its warnings advise
ON_GPU = torch.cuda.is_available()
SMALL = "--tiny" in sys.argv  # of gpu.py: it shows that it runs, no speed
SIZE, BATCH, BACKBONE = (64, 8, "timm:test_resnet") if SMALL else (224, 64, "resnet18")
LITE = {k: PRESETS["quick_cpu"][k] for k in ("backbone", "size", "batch_size", "freeze")}


def enlarged(folder, target, n):
    """`n` JPEGs of 600×450 px in `target`, made from the pictures in `folder`, some repeatedly."""
    sources = sorted(Path(folder).rglob("*.jpg"))[:n]
    target.mkdir(parents=True)
    for k in range(n):
        with Image.open(sources[k % len(sources)]) as image:
            large = image.convert("RGB").resize((600, 450), Image.Resampling.BICUBIC)
            large.save(target / f"{k:07d}.jpg", quality=95)
    return sorted(target.iterdir())


def seconds(*functions, repeats=5):
    """The median time of each function, called in turns after a call that warms it up: what slows
    the machine slows all."""
    times = [[] for _ in functions]
    for turn in range(repeats + 1):
        for function, taken in zip(functions, times, strict=True):
            started = time.perf_counter()
            function()
            if ON_GPU:
                torch.cuda.synchronize()
            if turn:
                taken.append(time.perf_counter() - started)
    return [statistics.median(taken) for taken in times]


def built(paths, folder, size=SIZE):
    """The pixel array of `paths`, made once."""
    array = folder / f"{len(paths)}-{size}.npy"
    if not array.exists():
        pixels.build(paths, size, array)
    return np.load(array, mmap_mode="r")


@contextlib.contextmanager
def training(paths, folder, backbone=BACKBONE, size=SIZE, **options):
    """A Training on `paths`: 6 parts training, 1 part validation. It never ends, so nothing but its
    first checkpoint is written."""
    n = len(paths)
    table = pd.DataFrame({"image": np.arange(n).astype(str), "source": "train", "origin": ""})
    table["label"] = np.array(CLASSES)[np.arange(n) % 7]
    table["lesion_id"], table["pixel_hash"] = table["image"], table["image"]
    subset = pd.Series(np.where(np.arange(n) % 7 < 6, "train", "val"))
    dataset = Dataset("bench", table, built(paths, folder, size), table[:0], [], "")
    options = dict(epochs=1000, batch_size=BATCH, checkpoint_minutes=1e6) | options
    net = networks.network(backbone, "none", size)
    with tempfile.TemporaryDirectory() as own:
        with Training(own, dataset, subset, net, **options) as run:
            yield run


def epoch(run):
    """The steps of one epoch, and no more."""
    run.batch = 0
    for images, labels in run.batches():
        run.step(run.loss(run.net(images), labels))


# The parts: each yields rows of (text with the aim, figure or None, detail).


def ratio(text, ours, theirs):
    return text, ours / theirs, f"{ours:.3g} / {theirs:.3g}"


def building(paths, folder, n=2000):
    """An array of `n` pictures, against plainly decoding the same files."""
    many = (paths * -(-n // len(paths)))[:n]

    def decode(path):
        with Image.open(path) as image:
            np.asarray(image.convert("RGB"))

    def decoding():
        with ThreadPoolExecutor(CORES) as pool:
            list(pool.map(decode, many))

    def ours():
        pixels.build(many, SIZE, folder / "bench.npy")

    text = "building the array / plain decoding, images/s, aim ≥ 0.9"
    yield ratio(text, *(n / np.array(seconds(ours, decoding, repeats=9))))


def usual_steps():
    """The augmentation as it is usually written, for a PIL image."""
    s, height = augmentation.STRENGTH, pixels.shape(SIZE)[0]
    moves = dict(translate=(s["shift"],) * 2, scale=(1 / s["scale"], s["scale"]))
    affine = T.RandomAffine(s["rotation"], **moves, interpolation=T.InterpolationMode.BILINEAR)
    colour = T.ColorJitter(s["brightness"], s["contrast"], s["colour"])
    cut = [T.CenterCrop(height), T.Resize(SIZE), T.ToTensor()]
    return T.Compose([T.Resize(height), T.RandomHorizontalFlip(), affine, colour, *cut])


def input_path(paths, folder):
    """The input path alone, ours against the usual one."""
    device, rows = inference.device("auto"), np.arange(len(paths))
    array = inference.place(built(paths, folder), device)
    images = ImageFolder(paths[0].parents[1], usual_steps())
    loader = DataLoader(images, BATCH, shuffle=True, num_workers=LOADERS)
    chunks = [rows[k : k + BATCH] for k in range(0, len(rows), BATCH)]

    def ours():
        gathered = inference.ahead(lambda c: inference.gather(array, c, device), chunks, device)
        for images in gathered:
            augmentation.augment(images, SIZE)

    def usual():
        for batch, _ in loader:
            batch.to(device)

    text = "input path / PIL + torchvision + DataLoader, images/s, aim ≥ 4, on a GPU ≥ 50"
    yield ratio(text, *(len(paths) / np.array(seconds(ours, usual))))


def steps(paths, folder):
    """A training epoch and an evaluation, against the bare network's passes and fastai's epoch."""
    with training(paths, folder) as run:
        images, labels = next(run.batches())
        array, net = run.pixels[: 2 * BATCH], run.inside

        def resident():
            run.net.train()
            for _ in range(run.mix.steps):
                run.step(run.loss(run.net(images), labels))
            run.total.item()

        @torch.inference_mode()
        def forward():
            net.eval()
            for _ in range(2 * 8):
                with inference.autocast(run.device, run.precision):
                    net(images).cpu()

        def evaluation():
            inference.predict(net, array, SIZE, tta=8, batch=BATCH, precision=run.precision)

        whole, bare = seconds(lambda: epoch(run), resident, repeats=3)
        yield ratio("epoch / the same steps on one resident batch, s, aim ≤ 1.1", whole, bare)
        text = "evaluation with tta=8 / the same forward passes on resident batches, s, aim ≤ 1.1"
        yield ratio(text, *seconds(evaluation, forward, repeats=3))
        text = "epoch / fastai vision_learner's, s, aim ≤ 0.5, on a GPU ≤ 0.25"
        if not importlib.util.find_spec("fastai"):
            yield text, None, "fastai is not installed"
            return
        mine = np.flatnonzero(run.subset == "train")
        yield ratio(text, whole, fastai_epoch([paths[k] for k in mine], run.labels, run.device))


def fastai_epoch(paths, labels, device):
    """Seconds of an epoch of fastai's vision_learner: the same backbone, size, batch, images and
    loaders."""
    from fastai.vision import all as fastai
    from torchvision.models import resnet18

    frame = pd.DataFrame({"name": [str(path) for path in paths], "label": labels})
    options = dict(valid_pct=0, bs=BATCH, num_workers=LOADERS, device=device)
    options["item_tfms"] = fastai.Resize(pixels.shape(SIZE)[0])
    moves = dict(max_rotate=180, max_zoom=1.25, max_warp=0.0)
    options["batch_tfms"] = fastai.aug_transforms(size=SIZE, **moves)
    loaders = fastai.ImageDataLoaders.from_df(frame, path="/", **options)
    learner = fastai.vision_learner(loaders, resnet18, pretrained=False, metrics=[])
    learner.unfreeze()
    learner.remove_cb(fastai.ProgressCallback)

    def epoch():
        with learner.no_logging():
            learner.fit(1, 1e-4, cbs=[])

    return seconds(epoch, repeats=2)[0]


def memory(paths, folder):
    """Peak of resident memory of a CPU run over the array's size; Linux."""
    for name, options in {"quick_cpu": LITE, "ResNet18 at 224 px in batches of 64": {}}.items():
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as own:
            over, imports = own.submit(peaks, paths, folder, options).result()
        text = f"peak memory of a CPU run over the array, {name}, GB, aim ≤ 2"
        yield text, over, f"imports alone {imports:.2f} GB"


def peaks(paths, folder, options):
    """This process's peak memory after an epoch over the array's size, and before it, in GB."""
    imports = peak()
    with training(paths, folder, device="cpu", **options) as run:
        epoch(run)
        run.validate()
        return peak() - run.pixels.nbytes / 1e9, imports


def peak():
    status = Path("/proc/self/status").read_text()  # not getrusage: it counts the parent's peak
    return int(re.search(r"VmHWM:\s*(\d+)", status)[1]) * 1024 / 1e9


PARTS = {"building": building, "input": input_path, "training": steps, "memory": memory}


def measure(parts, target, images, n):
    """Measure those of `parts` ({name: function}) that the JSON `target` does not have yet; print
    and write the rows of each. images: a folder of JPEGs, of which n are enlarged."""
    about = {"versions": colab.version_line(), "images": n, "source": str(images), "parts": {}}
    found = files.read_json(target) or about
    with tempfile.TemporaryDirectory() as temporary:
        folder, source = Path(temporary), Path(images)
        if not any(source.rglob("*.jpg")):
            source = folder / "sample"
            # the test images: those of training include broken ones
            zipfile.ZipFile(SAMPLE / "ISIC2018_Task3_Test_Input.zip").extractall(source)
        paths = enlarged(source, folder / "jpeg" / "all", n)
        for name in (name for name in parts if name not in found["parts"]):
            rows = found["parts"][name] = []
            for text, figure, detail in parts[name](paths, folder):
                value = "not measured" if figure is None else f"{figure:.3g}"
                print(f"{text}: {value} ({detail})", flush=True)
                rows.append(dict(row=text, figure=figure, detail=detail))
            files.write_json(target, found)
    print(target)


def main(words):
    parser = argparse.ArgumentParser(description=__doc__.partition(":")[0])
    parser.add_argument("--images", type=Path, default=ROOT / "cache" / "isic2018" / "images")
    parser.add_argument("--n", type=int, default=512)
    parser.add_argument("--json", type=Path, default=ROOT / "work" / "bench.json")
    parser.add_argument("--parts", default=",".join(PARTS))
    given = parser.parse_args(words)
    given.json.unlink(missing_ok=True)
    parts = {name: PARTS[name] for name in given.parts.split(",")}
    measure(parts, given.json, given.images, given.n)


if __name__ == "__main__":
    sys.exit(cli.exit_status(main, sys.argv[1:]))
