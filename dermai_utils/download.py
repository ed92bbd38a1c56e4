"""Where the images and CSVs of `cfg.data` lie: the sample, your own copy, or the official archives, which it fetches."""

import json
import os
import re
from pathlib import Path

from dermai_utils import config, files
from dermai_utils.config import IMAGE_SUFFIXES, UserError
from dermai_utils.fetch import fetch
from dermai_utils.unpack import unpack

MIRRORS = (
    "https://isic-archive.s3.amazonaws.com/challenges/2018/",  # the official one since 2025
    "https://isic-challenge-data.s3.amazonaws.com/2018/",
)
TRAIN, TEST = "ISIC2018_Task3_Training", "ISIC2018_Task3_Test"
GROUPINGS, METADATA = f"{TRAIN}_LesionGroupings.csv", "HAM10000_metadata.csv"
OFFICIAL_SIZES = {f"{TRAIN}_Input.zip": 2_771_732_744}  # bytes, on the official mirrors


def run(cfg):
    """Put everything in place for `cfg.data` and write `cfg.sources_file`; all in place: 0.1 s, one line, no network.

    Returns {"train": {"images": folder, "labels": CSV}, "test": the same or None, "groupings": CSV or None,
    "metadata": CSV or None, "digest": hex over names, sizes and times of the images and the content of the CSVs}.
    """
    fetched = _fetch_all(cfg) if cfg.data == "isic2018" else []
    folder = _folder(cfg)
    found = _index(folder, leave_out=(cfg.cache / "images", cfg.work))
    train, test = _source(cfg, found, TRAIN), _source(cfg, found, TEST)
    for what, name in (("images", f"{TRAIN}_Input"), ("labels", f"{TRAIN}_GroundTruth.csv")):
        if train[what] is None:
            looked = f"{name} or {Path(name).stem}.zip, at most 3 levels deep"
            raise UserError(f"{folder} holds no training {what}: expected {looked}; put them there or check data")
    sources = {"train": train, "test": test if all(test.values()) else None}
    sources |= {"groupings": found.get(GROUPINGS), "metadata": found.get(METADATA)}
    counts, digest = _survey(sources)
    sources = json.loads(json.dumps(sources, default=str)) | {"digest": digest}  # paths as text
    changed = files.read_json(cfg.sources_file) != sources
    if changed:
        files.write_json(cfg.sources_file, sources)
    _tell(cfg, sources, counts, fetched, changed)
    return sources


def _fetch_all(cfg):
    """The official files into cache/archives; returns the names of those that were not there before."""
    if cfg.base_url and not re.match(r"https?://[^/]", cfg.base_url):
        raise UserError(f"base_url={cfg.base_url!r}: expected an address that starts with http:// or https://")
    mirrors, folder = [cfg.base_url] if cfg.base_url else list(MIRRORS), cfg.cache / "archives"
    before = {path.name for path in folder.glob("*")}
    for name in (f"{TRAIN}_GroundTruth.zip", f"{TRAIN}_Input.zip"):  # the small one first: a wrong URL shows at once
        size = None if cfg.base_url else OFFICIAL_SIZES.get(name)
        if fetch(_urls(mirrors, name), folder / name, size) is None:
            raise UserError(f"{name} is not at {' or '.join(mirrors)}: expected the challenge's files; check base_url")
        if size not in (None, (folder / name).stat().st_size):
            print(f"{name} is from another base_url, not the official one: to get that, delete {cfg.show(folder)}")
    for name in (GROUPINGS, METADATA, f"{TEST}_GroundTruth.zip", f"{TEST}_Input.zip"):
        if name != f"{TEST}_Input.zip" or (folder / f"{TEST}_GroundTruth.zip").exists():  # no use without its labels
            _fetch_optional(mirrors, folder / name)
    now = {path.name for path in folder.glob("*") if path.suffix in (".zip", ".csv")}
    return sorted(now - before)


def _fetch_optional(mirrors, target):
    """Fetch what a mirror may not have. That it doesn't is remembered, so that the next start needs no network."""
    absent = files.read_json(target.parent / "absent.json") or {}
    if target.exists() or absent.get(target.name) != mirrors:
        if fetch(_urls(mirrors, target.name), target) is None:
            files.write_json(target.parent / "absent.json", absent | {target.name: mirrors})


def _urls(mirrors, name):
    return [f"{mirror.rstrip('/')}/{name}" for mirror in mirrors]


def _folder(cfg):
    """Where the archives or the unpacked files of `cfg.data` lie."""
    known = {"sample": config.FIXTURE, "isic2018": cfg.cache / "archives"}
    folder = known.get(cfg.data) or Path(cfg.data).absolute()
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise UserError(f"data={cfg.data}: {folder} {what}; expected sample, isic2018 or a folder with the archives")
    return folder


def _index(folder, leave_out):
    """{name: path} of the files and image folders that matter, at most 3 levels deep."""
    ends = ("_Input", "_Input.zip", "_GroundTruth.csv", "_GroundTruth.zip")
    wanted = {GROUPINGS, METADATA} | {part + end for part in (TRAIN, TEST) for end in ends}
    found = {}
    for where, folders, names in os.walk(folder):
        here = Path(where)
        for name in wanted & {*folders, *names}:
            if (name in folders) == name.endswith("_Input"):
                found.setdefault(name, here / name)
        deeper = len(here.relative_to(folder).parts) < 2
        kept = (name for name in sorted(folders) if deeper and not name.startswith((".", "__MACOSX")))
        folders[:] = [name for name in kept if not name.endswith("_Input") and here / name not in leave_out]
    return found


def _source(cfg, found, part):
    """The image folder and the label file of one part (None: there is none), unpacked into cache/images if need be."""
    images, labels = found.get(f"{part}_Input"), found.get(f"{part}_GroundTruth.csv")
    unpacked = cfg.cache / "images"
    if not any(_pictures(images)) and f"{part}_Input.zip" in found:
        images = unpack(found[f"{part}_Input.zip"], unpacked) / f"{part}_Input"
    if images and (images / images.name).is_dir():  # Windows unpacks X.zip, which holds X/, to X/X/
        images = images / images.name
    if labels is None and f"{part}_GroundTruth.zip" in found:
        unpack(found[f"{part}_GroundTruth.zip"], unpacked)
        places = (unpacked / f"{part}_GroundTruth" / f"{part}_GroundTruth.csv", unpacked / f"{part}_GroundTruth.csv")
        labels = next((path for path in places if path.is_file()), None)
    return {"images": images if any(_pictures(images)) else None, "labels": labels}


def _pictures(folder):
    """The directory entries of the images in a folder; none where there is no such folder."""
    if folder and folder.is_dir():
        with os.scandir(folder) as entries:
            yield from (e for e in entries if e.name.lower().endswith(IMAGE_SUFFIXES) and not e.name.startswith("."))


def _survey(sources):
    """How many images each part has, and a digest that changes whenever an image or a CSV does."""
    counts, seen = {}, {name: files.checksum(sources[name]) for name in ("groupings", "metadata") if sources[name]}
    for part in ("train", "test"):
        if sources[part]:
            stats = ((entry.name, entry.stat()) for entry in _pictures(sources[part]["images"]))
            images = sorted((name, now.st_size, now.st_mtime_ns) for name, now in stats)
            counts[part], seen[part] = len(images), [images, files.checksum(sources[part]["labels"])]
    return counts, files.fingerprint(seen)


def _tell(cfg, sources, counts, fetched, changed):
    """One line; what is missing, and what follows from it, only when something has changed."""
    missing = {
        "groupings": f"no {GROUPINGS}: the split has to do without the official lesion groups",
        "metadata": f"no {METADATA} (the challenge's own mirrors don't carry it): no age, sex and localization",
        "test": f"no {TEST}_Input with {TEST}_GroundTruth: the official-test part is skipped",
    }
    for name, notice in missing.items():
        if changed and not sources[name]:
            print(f"download: {notice}")
    test = f"{counts['test']:,} official test images" if "test" in counts else "no official test images"
    news = f"fetched {', '.join(fetched)}" if fetched else "nothing to fetch"
    print(f"download: {counts['train']:,} training images, {test}; {news}")
    if changed:
        print(f"images in {cfg.show(sources['train']['images'])}, listed in {cfg.show(cfg.sources_file)}")
