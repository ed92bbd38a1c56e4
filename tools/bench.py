"""Speed, as ratios measured side by side in one run: python tools/bench.py [--images FOLDER]
[--n 512] [--json FILE] [--parts building,input,training,memory,beside,growth]

Writes a table and a JSON. FOLDER holds real JPEGs, best the originals (600×450); smaller ones are
enlarged to that size first. Without a folder, the pictures of the sample are enlarged, which
compress better than real ones: the ratios are then a little kinder to decoding. Absolute figures
hold for this machine alone.
"""

import argparse
import contextlib
import importlib.util
import itertools
import os
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tools")]

from dermai_utils import colab  # noqa: E402

colab.tune_process()  # before torch, as the command line does

import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402
import torch  # noqa: E402
from PIL import Image  # noqa: E402
from torch.utils.data import DataLoader  # noqa: E402
from torchvision import transforms as T  # noqa: E402

from dermai_utils import augmentation, files, inference, networks, pixels  # noqa: E402
from dermai_utils.app import predictor  # noqa: E402
from dermai_utils.basics import CLASSES  # noqa: E402
from dermai_utils.datasets import SAMPLE, Dataset  # noqa: E402
from dermai_utils.settings import PRESETS  # noqa: E402
from dermai_utils.training import Training  # noqa: E402

CORES = os.cpu_count()
LOADERS = 2  # what Colab has, and what its warnings advise
ON_GPU = torch.cuda.is_available()
SIZE, BATCH = 224, 64
LITE = {k: PRESETS["quick_cpu"][k] for k in ("backbone", "size", "batch_size", "freeze")}
TINY = {"backbone": "timm:test_resnet", "size": 64}
BUSY = [sys.executable, "-c", "while True: pass"]


def enlarged(folder, target, n):
    """`n` JPEGs of 600×450 px in `target`, made from the pictures in `folder`, some repeatedly."""
    sources = sorted(Path(folder).rglob("*.jpg"))[:n]
    target.mkdir(parents=True)

    def one(k):
        with Image.open(sources[k % len(sources)]) as image:
            large = image.convert("RGB").resize((600, 450), Image.Resampling.BICUBIC)
            large.save(target / f"{k:07d}.jpg", quality=95)

    with ThreadPoolExecutor(CORES) as pool:
        list(pool.map(one, range(n)))
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


class Over(Exception):
    """Ends a Training."""


@contextlib.contextmanager
def training(paths, folder, n=None, backbone="resnet18", size=SIZE, **options):
    """A Training on `n` images (by default all) of `paths`, repeated where there are fewer: 6 parts
    training, 1 part validation."""
    n = n or len(paths)
    table = pd.DataFrame({"image": np.arange(n).astype(str), "source": "train", "origin": ""})
    table["label"] = np.array(CLASSES)[np.arange(n) % 7]
    table["lesion_id"], table["pixel_hash"] = table["image"], table["image"]
    subset = pd.Series(np.where(np.arange(n) % 7 < 6, "train", "val"))
    array = built((paths * -(-n // len(paths)))[:n], folder, size)
    dataset = Dataset("bench", table, array, table[:0], [], "")
    options = dict(epochs=1000, batch_size=BATCH, checkpoint_minutes=1e6) | options
    net = networks.network(backbone, "none", size)
    with contextlib.suppress(Over), tempfile.TemporaryDirectory() as own:
        with Training(own, dataset, subset, net, **options) as run:
            yield run
            raise Over  # else the run would be saved


def epoch(run):
    """The steps of one epoch, and no more."""
    run.batch = 0
    for images, labels in run.batches():
        run.step(run.loss(run.net(images), labels))


# The parts: each yields rows of (text, figure, bar, whether a larger figure is better, detail).


def ratio(text, ours, theirs, bar, larger=False):
    return text, ours / theirs, bar, larger, f"{ours:.3g} / {theirs:.3g}"


def building(paths, many, folder, n=2000):
    """An array of `n`, against plainly decoding the same files, and that and a plain write."""
    paths, one = many[:n], pixels.decode(paths[0].read_bytes(), *pixels.shape(SIZE)).tobytes()

    def decode(path):
        with Image.open(path) as image:
            np.asarray(image.convert("RGB"))

    def decoding():
        with ThreadPoolExecutor(CORES) as pool:
            list(pool.map(decode, paths))

    def writing():
        with open(folder / "plain", "wb") as file:
            decoding()
            for _ in paths:
                file.write(one)

    def ours():
        pixels.build(paths, SIZE, folder / "bench.npy")

    ours, decoding, written = n / np.array(seconds(ours, decoding, writing, repeats=9))
    text = "building the array / plain decoding"
    yield ratio(f"{text}, images/s", ours, decoding, 0.9, True)
    yield ratio(f"{text} and a plain write of its bytes, images/s", ours, written, 0.9, True)


class Files(torch.utils.data.Dataset):
    """(3, size, size) of a JPEG, decoded and augmented by PIL and torchvision each time."""

    def __init__(self, paths):
        s, height = augmentation.STRENGTH, pixels.shape(SIZE)[0]
        moves = dict(translate=(s["shift"],) * 2, scale=(1 / s["scale"], s["scale"]))
        affine = T.RandomAffine(s["rotation"], **moves, interpolation=T.InterpolationMode.BILINEAR)
        colour = T.ColorJitter(s["brightness"], s["contrast"], s["colour"])
        cut = [T.CenterCrop(height), T.Resize(SIZE), T.ToTensor()]
        steps = [T.Resize(height), T.RandomHorizontalFlip(), affine, colour, *cut]
        self.paths, self.transform = paths, T.Compose(steps)

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, k):
        with Image.open(self.paths[k]) as image:
            return self.transform(image.convert("RGB"))


def input_path(paths, many, folder):
    """The input path alone, ours against the usual one."""
    device, rows = inference.device("auto"), np.arange(len(paths))
    array = inference.place(built(paths, folder), device)
    loader = DataLoader(Files(paths), BATCH, shuffle=True, num_workers=LOADERS)
    chunks = [rows[k : k + BATCH] for k in range(0, len(rows), BATCH)]

    def ours():
        gathered = inference.ahead(lambda c: inference.gather(array, c, device), chunks, device)
        for images in gathered:
            augmentation.augment(images, SIZE)

    def usual():
        for batch in loader:
            batch.to(device)

    ours, usual = len(paths) / np.array(seconds(ours, usual))
    text = "input path / PIL + torchvision + DataLoader, images/s"
    yield ratio(text, ours, usual, 50 if ON_GPU else 4, True)


class Network(predictor.Predictor):
    """A predictor that gives the network's probabilities alone."""

    def __init__(self, run):
        self.run = run

    def __call__(self, names, images, maps=False):
        return list(self.run.probabilities(images, nets=[self.run.inside]))


def steps(paths, many, folder):
    """A training epoch, an evaluation and predictions, against the bare network's passes."""
    with training(paths, folder) as run:
        images, labels = next(run.batches())

        def resident():
            run.net.train()
            for _ in range(run.mix.steps):
                run.step(run.loss(run.net(images), labels))
            run.total.item()

        text, ours = "epoch / the same steps on one resident batch, s", lambda: epoch(run)
        whole, bare = seconds(ours, resident, repeats=3)
        yield ratio(text, whole, bare, 1.05 if ON_GPU else 1.1)
        array, net = run.pixels[: 2 * BATCH], run.inside

        @torch.inference_mode()
        def forward():
            net.eval()
            for _ in range(2 * 8):
                with inference.autocast(run.device, run.precision):
                    net(images).cpu()

        def evaluation():
            inference.predict(net, array, SIZE, tta=8, batch=BATCH, precision=run.precision)

        text = "evaluation with tta=8 / the same forward passes on resident batches, s"
        yield ratio(text, *seconds(evaluation, forward, repeats=3), 1.1)
        network, decoded = Network(run), built(many[:1000], folder)

        def alone():
            for k in range(0, len(decoded), predictor.AT_ONCE):
                network(None, decoded[k : k + predictor.AT_ONCE])

        ours = seconds(lambda: list(network.each(many[:1000], False)), alone, repeats=3)
        yield ratio("predicting 1,000 pictures / the network alone, s", *ours, 1.15)
        if importlib.util.find_spec("fastai"):
            mine = np.flatnonzero(run.subset == "train")
            theirs = fastai_epoch([paths[k] for k in mine], run.labels, run.device)
            text = "epoch / fastai vision_learner's, s"
            yield ratio(text, whole, theirs, 0.25 if ON_GPU else 0.5)


def fastai_epoch(paths, labels, device):
    """Seconds of an epoch of fastai's vision_learner: the same backbone, size, batch, images and
    loaders."""
    from fastai.vision import all as fastai
    from torchvision.models import resnet18

    frame = pd.DataFrame({"name": [str(path) for path in paths], "label": labels})
    resize = fastai.Resize(pixels.shape(SIZE)[0])
    warps = fastai.aug_transforms(size=SIZE, max_rotate=180, max_zoom=1.25, max_warp=0.0)
    options = dict(valid_pct=0, bs=BATCH, num_workers=LOADERS, device=device)
    options |= dict(item_tfms=resize, batch_tfms=warps)
    loaders = fastai.ImageDataLoaders.from_df(frame, path="/", **options)
    learner = fastai.vision_learner(loaders, resnet18, pretrained=False, metrics=[])
    learner.unfreeze()
    learner.remove_cb(fastai.ProgressCallback)

    def epoch():
        with learner.no_logging():
            learner.fit(1, 1e-4, cbs=[])

    return seconds(epoch, repeats=2)[0]


def in_a_process(folder, body, env=None, **options):
    """The numbers that a Training `run` on the CPU in a process of its own prints last, by `body`;
    `imports` is its peak of resident memory before it."""
    code = f"""
import sys; sys.path[:0] = [{str(ROOT / "tools")!r}]
import bench, pathlib, time
def peak():
    status = open("/proc/self/status")  # not getrusage: a child inherits its parent's peak
    return 1024 * int(next(line for line in status if line.startswith("VmHWM")).split()[1])
imports, folder = peak() if sys.platform == "linux" else 0, pathlib.Path({str(folder)!r})
paths = sorted((folder / "jpeg").iterdir())
with bench.training(paths, folder, device="cpu", **{options!r}) as run:
{body}
"""
    command, env = [sys.executable, "-c", code], os.environ | (env or {})
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    return [float(n) for n in done.stdout.splitlines()[-1].split()]


def memory(paths, many, folder):
    """Peak of resident memory of a CPU run over the array's size; Linux only."""
    body = "    bench.epoch(run); run.validate(); print(peak() - run.pixels.nbytes, imports)"
    for text, options in {"quick_cpu": LITE, "ResNet18 at 224 px in batches of 64": {}}.items():
        over, imports = (n / 1e9 for n in in_a_process(folder, body, **options))
        detail = f"{text}; imports alone {imports:.2f} GB"
        yield "peak memory of a CPU run over the array, GB", over, 2, False, detail


def beside(paths, many, folder, turns=3):
    """Training beside programs that use a core each without a pause."""
    body = "    bench.epoch(run); t = time.perf_counter(); bench.epoch(run)\n"
    body += "    print(time.perf_counter() - t)"
    spinning = {"GOMP_SPINCOUNT": "300000"}  # GNU's own default
    cases = {"alone": (0, {}), "spinning": (0, spinning), "one": (1, {}), "two": (2, {})}
    for name, options in {"quick_cpu": {"n": 224} | LITE, "tiny": {"n": 448} | TINY}.items():
        taken = {case: [] for case in cases}
        for case, (programs, env) in [*cases.items()] * turns:
            busy = [subprocess.Popen(BUSY) for _ in range(programs)]
            try:
                taken[case] += in_a_process(folder, body, env, **options)
            finally:
                for program in busy:
                    program.kill()
                    program.wait()
        took = {case: statistics.median(each) for case, each in taken.items()}
        for case, bar in (("one", 2), ("two", 3)):
            text = f"training of {name} beside {case} busy / alone, s"
            yield ratio(text, took[case], took["alone"], bar)
        text = f"training of {name} alone / with OpenMP's default waiting, s"
        yield ratio(text, took["alone"], took["spinning"], 1.03)


def growth(paths, many, folder, turns=3):
    """Time an image of an epoch at several numbers of images, fastest of some turns."""
    each = {}
    for n, _ in itertools.product((1000, 2500, 5000, 10_000), range(turns)):
        with training(many, folder, n, backbone="timm:test_resnet", size=128) as run:
            begin = time.perf_counter()
            epoch(run)
            taken = (time.perf_counter() - begin) / (run.mix.steps * run.mix.batch)
            each[n] = min(taken, each.get(n, taken))
    text = "time an image, slowest / fastest of 1k to 10k images, s"
    yield ratio(text, max(each.values()), min(each.values()), 1.1)


PARTS = {"building": building, "input": input_path, "training": steps, "memory": memory}
PARTS |= {"beside": beside, "growth": growth}


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition(":")[0])
    parser.add_argument("--images", type=Path, default=ROOT / "cache" / "isic2018" / "images")
    parser.add_argument("--n", type=int, default=512)
    parser.add_argument("--json", default=ROOT / "work" / "bench.json")
    parser.add_argument("--parts", default=",".join(PARTS))
    given, rows = parser.parse_args(), []
    with tempfile.TemporaryDirectory() as temporary:
        folder, source = Path(temporary), given.images
        if not any(source.rglob("*.jpg")):
            source = folder / "sample"
            archive = zipfile.ZipFile(SAMPLE / "ISIC2018_Task3_Test_Input.zip")
            archive.extractall(source)  # those of training include broken ones
        paths = enlarged(source, folder / "jpeg", given.n)
        many = (paths * -(-10_000 // len(paths)))[:10_000]
        for part in given.parts.split(","):
            for text, figure, bar, larger, detail in PARTS[part](paths, many, folder):
                met = bool(figure >= bar if larger else figure <= bar)
                rows.append(dict(row=text, figure=figure, bar=bar, met=met, detail=detail))
                print(
                    f"{text}: {figure:.3g} ({detail}), {'≥' if larger else '≤'} {bar}", flush=True
                )
    about = {"versions": colab.version_line(), "images": given.n, "source": str(given.images)}
    files.write_json(given.json, about | {"rows": rows})
    print(given.json)


if __name__ == "__main__":
    sys.exit(main())
