"""Speed, as ratios measured side by side in one run: python tools/bench.py [--images FOLDER]
[--n 512] [--json FILE] [--parts building,input,training,memory,beside,growth]

Writes a table and a JSON. FOLDER holds real JPEGs, best the originals (600×450); smaller ones are
enlarged to that size first. Without a folder, the pictures of the sample are enlarged, which
compress better than real ones: the ratios are then a little kinder to decoding. Absolute figures
hold for this machine alone.
"""

import importlib.util
import json
import os
import platform
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

import dermai_utils  # noqa: E402, F401, I001  before torch: it says how torch's threads wait

import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402
import torch  # noqa: E402
from PIL import Image  # noqa: E402
from torch.utils.data import DataLoader, Dataset  # noqa: E402
from torchvision import transforms as T  # noqa: E402

from dermai_utils import config, environment, files  # noqa: E402
from dermai_utils.__main__ import command, read_words  # noqa: E402
from dermai_utils.data import pixels  # noqa: E402
from dermai_utils.predict import predictor  # noqa: E402
from dermai_utils.training import augment, inference, loop  # noqa: E402

CORES = os.cpu_count()
LOADERS = 2  # what Colab has, and what its warnings advise
ON_GPU = torch.cuda.is_available()
BACKBONE, SIZE, BATCH = "resnet18", 224, 64
CPU_RUNS = {
    "quick_cpu": {
        key: config.PRESETS["quick_cpu"][key]
        for key in ("backbone", "image_size", "batch_size", "freeze")
    },
    "ResNet18, 224 px, batches of 64": {},
}
BESIDE = {  # n: images, of which 6 in 7 are trained on
    "quick_cpu": {"n": 224} | CPU_RUNS["quick_cpu"],
    "the sample's network": {"n": 448, "backbone": "timm:test_resnet", "image_size": 64},
}
BUSY = [sys.executable, "-c", "while True: pass"]


class Images(Dataset):
    """(3, size, size) float32 of a JPEG, decoded and augmented by PIL and torchvision each time it
    is asked for."""

    def __init__(self, paths, size, mean, std, augmented):
        s, to_size = augment.STRENGTH, T.Resize(pixels.shape(size)[0])
        moves = dict(translate=(s["shift"],) * 2, scale=(1 / s["scale"], s["scale"]))
        random = [
            T.RandomHorizontalFlip(),
            T.RandomAffine(s["rotation"], **moves, interpolation=T.InterpolationMode.BILINEAR),
            T.ColorJitter(s["brightness"], s["contrast"], s["colour"]),
        ]
        cut = [
            T.CenterCrop(pixels.shape(size)[0]),
            T.Resize(size),
            T.ToTensor(),
            T.Normalize(mean, std),
        ]
        self.paths, self.transform = (
            paths,
            T.Compose([to_size, *(random if augmented else []), *cut]),
        )

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, k):
        with Image.open(self.paths[k]) as image:
            return self.transform(image.convert("RGB"))


class Never:
    is_set = False


def enlarged(folder, target, n):
    """`n` JPEGs of 600×450 px in `target`, made from the pictures in `folder`, repeated where there
    are fewer."""
    sources = sorted(Path(folder).rglob("*.jpg"))[:n]
    target.mkdir(parents=True)

    def one(k):
        with Image.open(sources[k % len(sources)]) as image:
            image.convert("RGB").resize((600, 450), Image.Resampling.BICUBIC).save(
                target / f"ISIC_{k:07d}.jpg", quality=95
            )

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


def input_path(paths, array, device):
    """Images/s of the input path alone, ours against the usual one."""
    images = inference.place(pixels.load(array), device, say=inference.quiet)
    batches = augment.Batches(
        images, SIZE, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), device, CORES
    )
    rows = np.arange(len(paths))
    subsets = [rows[k : k + BATCH] for k in range(0, len(rows), BATCH)]

    def ours():
        for batch in batches.stream((subset, (0, 0, k)) for k, subset in enumerate(subsets)):
            batch.to(device)

    images = Images(paths, SIZE, batches.mean, batches.std, augmented=True)
    loader = DataLoader(images, BATCH, shuffle=True, num_workers=LOADERS, persistent_workers=True)

    def usual():
        for batch in loader:
            batch.to(device)

    return len(paths) / np.array(seconds(ours, usual))


def building(paths, folder, n=2000):
    """Images/s of building an array of `n`, of plainly decoding the same files on all cores, and of
    that and a plain write of as many bytes."""
    paths = (paths * -(-n // len(paths)))[:n]

    def decoding():
        def one(path):
            with Image.open(path) as image:
                np.asarray(image.convert("RGB"))

        with ThreadPoolExecutor(CORES) as pool:
            list(pool.map(one, paths))

    def ours():
        pixels.build(paths, SIZE, folder / "bench.npy", progress=False)

    pixels.build(paths[:1], SIZE, folder / "bench.npy", progress=False)
    one = pixels.load(folder / "bench.npy")[0].tobytes()

    def decoding_and_writing():
        with open(folder / "plain", "wb") as file:
            decoding()
            for _ in paths:
                file.write(one)

    return len(paths) / np.array(seconds(ours, decoding, decoding_and_writing, repeats=9))


def run_on(paths, folder, n=None, **given):
    """A loop.Run over an array of `n` images (by default all) of `paths`, repeated where there are
    fewer; its table is made here: 6 parts training, 1 part validation."""
    n = n or len(paths)
    paths = paths * -(-n // len(paths))
    settings = (
        dict(
            image_size=SIZE,
            backbone=BACKBONE,
            weights="none",
            batch_size=BATCH,
            epochs=4,
            data="isic2018",
        )
        | given
    )
    folders = {"cache_dir": folder / f"cache-{len(paths)}", "work_dir": folder / "work"}
    cfg = config.load(env={}, **folders, **settings)
    if not cfg.pixels_file.exists():
        pixels.build(paths, cfg.image_size, cfg.pixels_file, progress=False)
    labels, ids = np.array(config.CLASSES)[np.arange(n) % 7], np.arange(n).astype(str)
    table = pd.DataFrame({"image": ids, "label": labels, "row": np.arange(n)})
    table["lesion_id"], table["source"] = table["image"], "train"
    table["subset"] = np.where(np.arange(n) % 7 < 6, "train", "val")
    for path in (cfg.table_file, cfg.split_file):
        with files.atomic(path) as file:
            table.to_csv(file, index=False)
    return loop.Run(cfg, table, inference.start(cfg))


def epoch_overhead(run):
    """Wall time of a training epoch against the same number of steps on one resident batch."""

    def epoch():
        run.step = 0
        run.train_epoch(Never)

    images = run.batches(run.rows[: run.batch], (0, 0, 0))
    targets = torch.from_numpy(run.labels[: run.batch]).to(run.accelerator.device)

    def resident():
        run.training_mode()
        for _ in range(run.steps):
            run.train_step(images, targets)
        run.total.item()

    run.schedule.step = lambda: None  # as many steps as the bench needs
    return seconds(epoch, resident, repeats=3)


def evaluation(run):
    """Seconds of predictions with eight-fold test-time augmentation, and of the same forward passes
    on resident batches."""
    network, rows = run.accelerator.unwrap_model(run.net).eval(), run.rows[: 2 * run.batch]
    at_once = inference.evaluation_batch(run.batch, run.accelerator.device)
    resident = [run.batches(rows[k : k + at_once]) for k in range(0, len(rows), at_once)]

    def ours():
        with run.accelerator.autocast():
            inference.predict(network, run.batches, rows, at_once, tta=8)

    @torch.inference_mode()
    def forward():
        with run.accelerator.autocast():
            for batch in resident:
                for _ in range(8):
                    logits = network(batch)
            logits.cpu()

    return seconds(ours, forward, repeats=3)


class Network(predictor.Predictor):
    """A predictor that gives the network's probabilities alone, from random weights."""

    def __init__(self, run):
        self.cfg = run.cfg
        network = run.accelerator.unwrap_model(run.net).eval()
        self.run = inference.LoadedRun(run.cfg, networks=[network])

    def __call__(self, names, images, maps=False):
        return list(self.run.with_images(images).probabilities(np.arange(len(images))))


def predicting(paths, run):
    """Seconds of predicting a folder's pictures, and of the network alone on decoded ones."""
    network, shape, n = Network(run), pixels.shape(run.cfg.image_size), predictor.AT_ONCE
    images = np.stack([pixels.decode(path.read_bytes(), *shape) for path in paths])

    def alone():
        for k in range(0, len(images), n):
            network(None, images[k : k + n])

    return seconds(lambda: list(network._each(paths, False)), alone, repeats=3)


def fastai_epoch(paths, labels, run):
    """Seconds of an epoch of fastai's vision_learner: the same backbone, size, batch, images and
    loaders."""
    from fastai.vision import all as fastai
    from torchvision.models import resnet18

    frame = pd.DataFrame({"name": [str(path) for path in paths], "label": labels})
    loaders = fastai.ImageDataLoaders.from_df(
        frame,
        path="/",
        valid_pct=0,
        bs=BATCH,
        num_workers=LOADERS,
        item_tfms=fastai.Resize(pixels.shape(SIZE)[0]),
        batch_tfms=fastai.aug_transforms(size=SIZE, max_rotate=180, max_zoom=1.25, max_warp=0.0),
        device=run.accelerator.device,
    )
    learner = fastai.vision_learner(loaders, resnet18, pretrained=False, metrics=[])
    learner.unfreeze()
    learner.remove_cb(fastai.ProgressCallback)

    def epoch():
        with learner.no_logging():
            learner.fit(1, 1e-4, cbs=[])

    return seconds(epoch, repeats=2)[0]


def in_a_process(folder, body, env=None, **settings):
    """The numbers that a training `run` on the CPU in a process of its own prints last, by `body`;
    `imports` is its peak of resident memory before it."""
    code = f"""
import sys
sys.path.insert(0, {str(ROOT / "tools")!r}); sys.path.insert(0, {str(ROOT)!r})
import bench, pathlib, time
def peak():
    status = open("/proc/self/status")
    return 1024 * int(next(line for line in status if line.startswith("VmHWM")).split()[1])
imports, folder = peak() if sys.platform == "linux" else 0, pathlib.Path({str(folder)!r})
paths = sorted((folder / "jpeg").iterdir())
run = bench.run_on(paths, folder, device="cpu", epochs=1, **{settings!r})
{body}
"""
    command, env = [sys.executable, "-c", code], os.environ | (env or {})
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    return [float(n) for n in done.stdout.splitlines()[-1].split()]


def memory(folder, **settings):
    """(peak of resident memory over the array's size, what the imports alone take of it, what the
    bare network needs for a step on one batch) of training runs of their own, GB.

    Linux only. Not getrusage's ru_maxrss: a child inherits its parent's, and this one has trained
    four networks.
    """
    run = """
run.train_epoch(bench.Never); run.validate()
print(peak() - run.batches.images.nbytes, imports)
"""
    bare = """
import torch
images, _ = run.batches(run.rows[:run.batch], (0, 0, 0)), run.training_mode()
before = peak()
loss = torch.nn.functional.cross_entropy(run.net(images), torch.zeros(run.batch).long())
loss.backward()
print(peak() - before)
"""
    numbers = in_a_process(folder, run, **settings) + in_a_process(folder, bare, **settings)
    return [n / 1e9 for n in numbers]


def beside(folder, n, turns=3, **settings):
    """{circumstance: seconds of the same steps}: alone, alone as OpenMP waits by default, and with
    one and two programs beside it that use a core each without a pause."""
    body = """
run.schedule.step = lambda: None
run.train_epoch(bench.Never)
run.step, begin = 0, time.perf_counter()
run.train_epoch(bench.Never)
print(time.perf_counter() - begin)
"""
    spinning = {"GOMP_SPINCOUNT": "300000"}  # GNU's own default
    cases = {"alone": (0, {}), "spinning": (0, spinning), "one": (1, {}), "two": (2, {})}
    taken = {case: [] for case in cases}
    for case, (programs, env) in [*cases.items()] * turns:
        busy = [subprocess.Popen(BUSY) for _ in range(programs)]
        try:
            taken[case] += in_a_process(folder, body, env, n=n, **settings)
        finally:
            for program in busy:
                program.kill()
                program.wait()
    return {case: statistics.median(seconds) for case, seconds in taken.items()}


def growth(paths, folder, sizes, turns=3):
    """Seconds an image of an epoch at each number of images, fastest of some turns; a small
    backbone, so the rest shows."""
    runs, taken = {}, {n: [] for n in sizes}
    for n in sizes:
        runs[n] = run_on(paths, folder / "growth", n, backbone="timm:test_resnet", image_size=128)
        runs[n].schedule.step = lambda: None
    for n, run in [*runs.items()] * turns:
        run.step, begin = 0, time.perf_counter()
        run.train_epoch(Never)
        taken[n].append((time.perf_counter() - begin) / (run.steps * run.batch))
    return {n: min(each) for n, each in taken.items()}


@command
def main(words):
    images, report = ROOT / "cache" / "isic2018" / "images", ROOT / "work" / "bench.json"
    own = {"images": str(images), "n": 512, "json": str(report), "parts": ",".join(PARTS)}
    settings, own = read_words(words, **own)
    if settings:
        options = ", ".join(f"--{name}" for name in own)
        raise config.UserError(f"--{next(iter(settings))}: expected one of {options}")
    wanted = own["parts"].split(",")
    if unknown := set(wanted) - set(PARTS):
        raise config.UserError(f"--parts={unknown.pop()}: expected some of {','.join(PARTS)}")
    with tempfile.TemporaryDirectory() as temporary:
        folder, source = Path(temporary), Path(own["images"])
        if not any(source.rglob("*.jpg")):
            source = sample_images(folder / "sample")
        sources = sorted(source.rglob("*.jpg"))
        many = (sources * (10_000 // len(sources) + 1))[:10_000]
        paths, rows = enlarged(source, folder / "jpeg", own["n"]), []
        for part in wanted:
            for row in PARTS[part](paths, many, folder):
                rows.append(row)
                print(f"{row[0]}: {row[1]:.3g} ({row[4]})", flush=True)
    table = pd.DataFrame(rows, columns=["row", "figure", "bar", "met", "detail"])
    print(table.to_markdown(index=False) if _has("tabulate") else table.to_string(index=False))
    result = {
        "machine": f"{platform.processor() or platform.machine()}, {environment.machine()}",
        "versions": environment.version_line(),
        "images": own["n"],
        "source": own["images"],
        "rows": json.loads(table.to_json(orient="records")),
    }
    files.write_json(own["json"], result)
    print(own["json"])


def sample_images(folder):
    """The sample's training images, unpacked in `folder`, without the three that are broken."""
    zipfile.ZipFile(config.SAMPLE / "ISIC2018_Task3_Training_Input.zip").extractall(folder)
    for stem in ("ISIC_9000903", "ISIC_9000904", "ISIC_9000905"):
        for broken in folder.rglob(f"{stem}.jpg"):
            broken.unlink()
    return folder


def _has(name):
    return importlib.util.find_spec(name) is not None


def of_building(paths, many, folder):
    ours, decoding, written = building(paths, folder)
    yield (
        "building the array / plain decoding, images/s",
        ours / decoding,
        "≥ 0.9",
        ours / decoding >= 0.9,
        f"{ours:.0f} / {decoding:.0f}",
    )
    yield (
        "building the array / plain decoding and a plain write of its bytes, images/s",
        ours / written,
        "≥ 0.9",
        ours / written >= 0.9,
        f"{ours:.0f} / {written:.0f}",
    )


def of_input(paths, many, folder):
    pixels.build(paths, SIZE, folder / "bench.npy", progress=False)
    ours, usual = input_path(paths, folder / "bench.npy", "cuda" if ON_GPU else "cpu")
    bar = 50 if ON_GPU else 4
    yield (
        "input path / PIL + torchvision + DataLoader, images/s",
        ours / usual,
        f"≥ {bar}",
        ours / usual >= bar,
        f"{ours:.0f} / {usual:.0f}",
    )


def of_training(paths, many, folder):
    run = run_on(paths, folder)
    epoch, resident = epoch_overhead(run)
    bar = 1.05 if ON_GPU else 1.10
    yield (
        "epoch / the same steps on one resident batch, s",
        epoch / resident,
        f"≤ {bar}",
        epoch / resident <= bar,
        f"{epoch:.1f} / {resident:.1f}",
    )
    ours, forward = evaluation(run)
    yield (
        "evaluation with tta=8 / the same forward passes on resident batches, s",
        ours / forward,
        "≤ 1.10",
        ours / forward <= 1.10,
        f"{ours:.1f} / {forward:.1f}",
    )
    thousand = (paths * (1000 // len(paths) + 1))[:1000]
    ours, alone = predicting(thousand, run)
    yield (
        "predicting 1,000 pictures / the network alone, s",
        ours / alone,
        "≤ 1.15",
        ours / alone <= 1.15,
        f"{ours:.1f} / {alone:.1f}",
    )
    if _has("fastai"):
        mine = np.flatnonzero(np.arange(len(paths)) % 7 < 6)
        theirs = fastai_epoch([paths[k] for k in mine], [config.CLASSES[k % 7] for k in mine], run)
        bar = 0.25 if ON_GPU else 0.5
        yield (
            "epoch / fastai vision_learner's, s",
            epoch / theirs,
            f"≤ {bar}",
            epoch / theirs <= bar,
            f"{epoch:.1f} / {theirs:.1f}",
        )
        epoch = epoch_overhead(run_on(paths, folder, freeze="early"))[0]
        yield (
            "epoch with freeze=early / fastai vision_learner's with all layers learning, s",
            epoch / theirs,
            "",
            None,
            f"{epoch:.1f} / {theirs:.1f}",
        )


def of_memory(paths, many, folder):
    for text, settings in CPU_RUNS.items():
        extra, imports, bare = memory(folder, **settings)
        detail = f"{text}; imports {imports:.2f} GB, a step of the bare network {bare:.2f} GB"
        yield "peak memory of a CPU run over the array, GB", extra, "≤ 2", extra <= 2, detail


def of_beside(paths, many, folder):
    for text, settings in BESIDE.items():
        took = beside(folder, **settings)
        for case, words, bar in (
            ("one", "beside one busy program / alone", 2),
            ("two", "beside two busy programs / alone", 3),
        ):
            ratio = took[case] / took["alone"]
            detail = f"{text}: {took[case]:.1f} / {took['alone']:.1f}"
            yield f"training {words}, s", ratio, f"≤ {bar}", ratio <= bar, detail
        ratio = took["alone"] / took["spinning"]
        detail = f"{text}: {took['alone']:.1f} / {took['spinning']:.1f}"
        yield (
            "training alone / with OpenMP's default waiting, s",
            ratio,
            "≤ 1.03",
            ratio <= 1.03,
            detail,
        )


def of_growth(paths, many, folder):
    each = growth(many, folder, [n for n in (1000, 2500, 5000, 10_000) if n <= len(many)])
    spread = max(each.values()) / min(each.values())
    yield (
        "time an image, slowest / fastest of 1k to 10k images",
        spread,
        "≤ 1.1",
        spread <= 1.1,
        ", ".join(f"{n}: {1e3 * s:.2f} ms" for n, s in each.items()),
    )


PARTS = {
    "building": of_building,
    "input": of_input,
    "training": of_training,
    "memory": of_memory,
    "beside": of_beside,
    "growth": of_growth,
}


if __name__ == "__main__":
    sys.exit(main())
