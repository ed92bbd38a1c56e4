"""Where the images and CSVs of `cfg.data` lie: the sample, your own copy, or the official archives.

The official archives are fetched first.
"""

import json
import os
import re
from pathlib import Path

from dermai_utils import config, files
from dermai_utils.config import IMAGE_SUFFIXES, UserError
from dermai_utils.data.fetch import fetch
from dermai_utils.data.unpack import unpack

MIRRORS = (
    "https://isic-archive.s3.amazonaws.com/challenges/2018/",  # the official one since 2025
    "https://isic-challenge-data.s3.amazonaws.com/2018/",
)
TRAIN, TEST = "ISIC2018_Task3_Training", "ISIC2018_Task3_Test"
GROUPINGS, METADATA = f"{TRAIN}_LesionGroupings.csv", "HAM10000_metadata.csv"
OFFICIAL_SIZES = {f"{TRAIN}_Input.zip": 2_771_732_744}  # bytes, on the official mirrors


def run(cfg) -> dict:
    """Put everything in place for `cfg.data`, write `cfg.sources_file`, and return its content.

    {"train": {"images": folder, "labels": CSV}, "test": the same or None, "groupings": CSV or None,
    "metadata": CSV or None, "digest": hex over names, sizes and times of the images and the content
    of the CSVs}. Where all is in place already: 0.1 s, one line, no network.
    """
    fetched = _fetch_all(cfg) if cfg.data == "isic2018" else []
    folder = _folder(cfg)
    paths = _index(folder, leave_out=(cfg.cache / "images", cfg.work))
    train, test = _source(cfg, paths, TRAIN), _source(cfg, paths, TEST)
    for what, name in (("images", f"{TRAIN}_Input"), ("labels", f"{TRAIN}_GroundTruth.csv")):
        if train[what] is None:
            expected = f"expected {name} or {Path(name).stem}.zip, at most 3 levels deep"
            advice = "put them there or check data"
            raise UserError(f"{folder} holds no training {what}: {expected}; {advice}")
    sources = {"train": train, "test": test if all(test.values()) else None}
    sources |= {"groupings": paths.get(GROUPINGS), "metadata": paths.get(METADATA)}
    counts, digest = _survey(sources)
    sources = json.loads(json.dumps(sources, default=str)) | {"digest": digest}  # paths as text
    changed = files.read_json(cfg.sources_file) != sources
    if changed:
        files.write_json(cfg.sources_file, sources)
        _announce_missing(sources)
    _announce(cfg, sources, counts, fetched, changed)
    return sources


def _fetch_all(cfg) -> list[str]:
    """Fetch the official files into cache/archives; the names of those that are new there."""
    if cfg.base_url and not re.match(r"https?://[^/]", cfg.base_url):
        expected = "expected an address that starts with http:// or https://"
        raise UserError(f"base_url={cfg.base_url!r}: {expected}")
    mirrors, folder = [cfg.base_url] if cfg.base_url else list(MIRRORS), cfg.cache / "archives"
    before = {path.name for path in folder.glob("*")}
    # the small one first: a wrong URL shows at once
    for name in (f"{TRAIN}_GroundTruth.zip", f"{TRAIN}_Input.zip"):
        size = None if cfg.base_url else OFFICIAL_SIZES.get(name)
        if fetch(_urls(mirrors, name), folder / name, size) is None:
            expected = "expected the challenge's files; check base_url"
            raise UserError(f"{name} is not at {' or '.join(mirrors)}: {expected}")
        if size not in (None, (folder / name).stat().st_size):
            advice = f"to get that, delete {cfg.show(folder)}"
            print(f"{name} is from another base_url, not the official one: {advice}")
    for name in (GROUPINGS, METADATA, f"{TEST}_GroundTruth.zip"):
        _fetch_optional(mirrors, folder / name)
    if (folder / f"{TEST}_GroundTruth.zip").exists():  # without labels the images are of no use
        _fetch_optional(mirrors, folder / f"{TEST}_Input.zip")
    now = {path.name for path in folder.glob("*") if path.suffix in (".zip", ".csv")}
    return sorted(now - before)


def _fetch_optional(mirrors, target):
    """Fetch what a mirror may lack, which is remembered: the next start needs no network."""
    absent = files.read_json(target.parent / "absent.json") or {}
    if target.exists() or absent.get(target.name) != mirrors:
        if fetch(_urls(mirrors, target.name), target) is None:
            files.write_json(target.parent / "absent.json", absent | {target.name: mirrors})


def _urls(mirrors, name):
    return [f"{mirror.rstrip('/')}/{name}" for mirror in mirrors]


def _folder(cfg) -> Path:
    """Where the archives or the unpacked files of `cfg.data` lie."""
    named = {"sample": config.SAMPLE, "isic2018": cfg.cache / "archives"}
    folder = named.get(cfg.data) or Path(cfg.data).absolute()
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        expected = "expected sample, isic2018 or a folder with the archives"
        raise UserError(f"data={cfg.data}: {folder} {what}; {expected}")
    return folder


def _index(folder, leave_out) -> dict[str, Path]:
    """{name: path} of the files and image folders that matter, at most 3 levels deep."""
    ends = ("_Input", "_Input.zip", "_GroundTruth.csv", "_GroundTruth.zip")
    wanted = {GROUPINGS, METADATA} | {start + end for start in (TRAIN, TEST) for end in ends}
    paths = {}
    for where, folders, names in os.walk(folder):
        here = Path(where)
        for name in wanted & {*folders, *names}:
            if (name in folders) == name.endswith("_Input"):
                paths.setdefault(name, here / name)
        deepest = len(here.relative_to(folder).parts) == 2
        folders[:] = [
            name
            for name in ([] if deepest else sorted(folders))
            if not name.startswith((".", "__MACOSX"))
            and not name.endswith("_Input")
            and here / name not in leave_out
        ]
    return paths


def _source(cfg, paths, name) -> dict:
    """Image folder and label file of the training or test data, or None; unpacked if need be."""
    images, labels = paths.get(f"{name}_Input"), paths.get(f"{name}_GroundTruth.csv")
    unpacked = cfg.cache / "images"
    if not any(_images(images)) and f"{name}_Input.zip" in paths:
        images = unpack(paths[f"{name}_Input.zip"], unpacked) / f"{name}_Input"
    if images and (images / images.name).is_dir():  # Windows unpacks X.zip, which holds X/, to X/X/
        images = images / images.name
    if labels is None and f"{name}_GroundTruth.zip" in paths:
        unpack(paths[f"{name}_GroundTruth.zip"], unpacked)
        csv = f"{name}_GroundTruth.csv"
        places = (unpacked / f"{name}_GroundTruth" / csv, unpacked / csv)
        labels = next((path for path in places if path.is_file()), None)
    return {"images": images if any(_images(images)) else None, "labels": labels}


def _images(folder):
    """The directory entries of the images in a folder; none where there is no such folder."""
    if folder and folder.is_dir():
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.lower().endswith(IMAGE_SUFFIXES) and entry.name[0] != ".":
                    yield entry


def _survey(sources) -> tuple[dict, str]:
    """The number of training and test images, and a digest that changes with any image or CSV."""
    optional = ("groupings", "metadata")
    content = {name: files.checksum(sources[name]) for name in optional if sources[name]}
    counts = {}
    for name in ("train", "test"):
        if sources[name]:
            stats = ((entry.name, entry.stat()) for entry in _images(sources[name]["images"]))
            images = sorted((file, stat.st_size, stat.st_mtime_ns) for file, stat in stats)
            counts[name] = len(images)
            content[name] = [images, files.checksum(sources[name]["labels"])]
    return counts, files.fingerprint(content)


def _announce_missing(sources) -> None:
    notices = {
        "groupings": f"no {GROUPINGS}: the split has to do without the official lesion groups",
        "metadata": f"no {METADATA} (the challenge's own mirrors don't carry it): "
        "no age, sex and localization",
        "test": f"no {TEST}_Input with {TEST}_GroundTruth: the official-test subset is skipped",
    }
    for name, notice in notices.items():
        if not sources[name]:
            print(f"download: {notice}")


def _announce(cfg, sources, counts, fetched, changed) -> None:
    test = f"{counts['test']:,}" if "test" in counts else "no"
    news = f"fetched {', '.join(fetched)}" if fetched else "nothing to fetch"
    images = f"{counts['train']:,} training images, {test} official test images"
    print(f"download: {images}; {news}")
    if changed:
        folder = cfg.show(sources["train"]["images"])
        print(f"images in {folder}, listed in {cfg.show(cfg.sources_file)}")
