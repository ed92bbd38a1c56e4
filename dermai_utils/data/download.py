"""Where the images and labels of `cfg.data` lie: the sample, your own copy in any layout, or the
official archives, which are fetched first."""

import itertools
import re
from pathlib import Path

import pandas as pd

from dermai_utils import config, files
from dermai_utils.config import CLASSES, UserError
from dermai_utils.data import leakage
from dermai_utils.data.fetch import fetch
from dermai_utils.data.layouts import recognisers

MIRRORS = (
    "https://isic-archive.s3.amazonaws.com/challenges/2018/",  # the official one since 2025
    "https://isic-challenge-data.s3.amazonaws.com/2018/",
)
TRAIN, TEST = "ISIC2018_Task3_Training", "ISIC2018_Task3_Test"
GROUPINGS, METADATA = f"{TRAIN}_LesionGroupings.csv", "HAM10000_metadata.csv"
OFFICIAL_IDS = 34_524, 36_099  # of the official test set, ISIC_0034524 and on
IN_DATA_ALREADY = "extra image that is in the data already (same id)"
NAMES = {"own": "your own test set", "extra": "extra training data"}
NAMED = ("sample", "isic2018")  # data that is no folder of the user's
MADE_FROM = ".data.json"  # in work_dir: which folder of data that is
OFFICIAL_SIZES = {f"{TRAIN}_Input.zip": 2_771_732_744}  # bytes, on the official mirrors


def run(cfg) -> dict:
    """Put everything in place for `cfg.data`; writes `cfg.rows_file`, the rows of the copy, and
    `cfg.sources_file`, and returns the latter's content.

    {"layout": in words, "images": {source: folders}, "tables": {what: CSV}, "digest": changes with
    any image, table or row}. source: train, or test, the official one. Where all is in place it is
    one line, without network. The file of a copy that was moved keeps the places of before: the
    table was made from it, and stands.
    """
    check(cfg)
    fetched = _fetch_all(cfg) if cfg.data == "isic2018" else []
    folder = _folder(cfg)
    copy = recognisers.recognise(folder, cfg.cache / "images", (cfg.cache / "images", cfg.work))
    _name_test_set(cfg, copy)
    sources = {
        "layout": copy.layout,
        "images": {source: [*map(str, paths)] for source, paths in copy.folders.items()},
        "tables": {what: str(path) for what, path in copy.tables.items()},
        "digest": copy.digest,
    }
    for source, path in (("extra", cfg.extra), ("own", cfg.test)):
        if path:
            other = _further(cfg, copy, source, Path(path))
            copy.rows = pd.concat([copy.rows, other.rows], ignore_index=True)
            sources |= {f"{source}_layout": other.layout, f"{source}_digest": other.digest}
    rows = files.table_text(copy.rows)
    old = cfg.rows_file.read_text(encoding="utf-8") if cfg.rows_file.is_file() else None
    changed = _without_places(files.read_json(cfg.sources_file)) != _without_places(sources)
    if changed or rows != old:
        files.write_table(copy.rows, cfg.rows_file)
        _announce_copy(cfg, copy)
    if changed:
        files.write_json(cfg.sources_file, sources)
    made_from = {"data": str(folder)}
    if cfg.data not in NAMED and files.read_json(cfg.work / MADE_FROM) != made_from:
        files.write_json(cfg.work / MADE_FROM, made_from)
    _announce(copy, fetched)
    return sources


def _without_places(sources) -> dict:
    """What the table depends on, of what sources_file holds."""
    return {k: v for k, v in (sources or {}).items() if k not in ("images", "tables")}


def check(cfg) -> None:
    """UserError for what can be told of the folders of `cfg` before anything is made: one that is
    not there, or a work_dir that holds what was made from another folder of the same name.

    A copy that was moved, or has another path on another machine, is no other folder.
    """
    folder = _folder(cfg) if cfg.data != "isic2018" else None
    for setting, path in (("extra", cfg.extra), ("test", cfg.test)):
        if path and not Path(path).is_dir():
            expected = "expected a copy of the data (docs/data.md)"
            raise UserError(f"{setting}={path}: no such folder; {expected}")
    old = _made_from(cfg)
    if cfg.data in NAMED or not old or old.name != folder.resolve().name or not old.is_dir():
        return
    if not old.samefile(folder):
        raise UserError(
            f"{cfg.work} was made from {old}, not from {folder}: give another --work-dir and "
            "--cache-dir, or rename one of the folders"
        )


def _made_from(cfg) -> Path | None:
    """The folder of data that work_dir was made from; None where it isn't known."""
    if record := files.read_json(cfg.work / MADE_FROM):
        return Path(str(record.get("data")))
    # made before version 0.2, which wrote it down: a folder of images or a table may lie in it
    sources = files.read_json(cfg.sources_file) if cfg.work.is_dir() else None
    images = itertools.chain(*(sources or {}).get("images", {}).values())
    paths = [Path(path) for path in (*images, *(sources or {}).get("tables", {}).values())]
    above = [p for path in paths for p in (path, *path.parents) if not p.is_relative_to(cfg.cache)]
    return next((p for p in above if p.name == cfg.source), None)


def _name_test_set(cfg, copy) -> None:
    """Only the ids of the official test set are called so: other test images are the user's own.

    Where a training and a test image have one id, that of the one that isn't official gets its
    source before it: own:ID, or train:ID. Which images leak by that is for the audit to say.
    """
    rows = copy.rows
    test = rows["source"] == "test"
    if cfg.data == "sample" or not test.any():
        return
    if others := (~rows.loc[test, "image"].map(is_official)).sum():
        copy.notes.append(
            f"of {test.sum():,} test images {others:,} have no id of the official test set: "
            "all of them are evaluated as your own test set"
        )
        rows = rows.assign(source=rows["source"].where(~test, "own"))
    source, which = ("own", "test") if others else ("train", "training")
    usable = rows["reason"] == ""
    renamed = usable & (rows["source"] == source)
    renamed &= rows["image"].isin(rows.loc[usable & (rows["source"] != source), "image"])
    if renamed.any():
        first = rows.loc[renamed, "image"].iloc[0]
        copy.notes.append(
            f"{renamed.sum():,} test images have the id of a training image ({first}, ...): of the "
            f"two, the {which} image is called {source}:{first}"
        )
        rows = rows.assign(image=rows["image"].mask(renamed, f"{source}:" + rows["image"]))
        copy.digest = files.fingerprint([copy.digest, source])  # another table than without this
    copy.rows = rows


def is_official(image: str) -> bool:
    """Whether an id is one of the official test set's: ISIC_0034524 and on, none of HAM10000."""
    first, last = OFFICIAL_IDS
    digits = re.fullmatch(r"ISIC_(\d{7})", image)
    return bool(digits) and first <= int(digits[1]) <= last


def _further(cfg, main, source, folder) -> recognisers.Copy:
    """The copy of the data in `folder` as rows of that source, with ids that nothing else has.

    An extra image of which the id is there already is rejected. A test image keeps its place, under
    the id "own:ID": which training images it shares is for the audit to say.
    """
    what, unpacked = {"own": "test", "extra": "extra"}[source], cfg.cache / f"images_{source}"
    copy = recognisers.recognise(folder, unpacked, (cfg.cache, cfg.work), what)
    rows = copy.rows.assign(source=source)
    taken = {leakage.base_id(image) for image in main.rows["image"]}
    twice = rows["image"].map(leakage.base_id).isin(taken)
    rows["image"] = rows["image"].mask(twice, f"{source}:" + rows["image"])
    repeated = rows["image"].duplicated() | rows["image"].isin(main.rows["image"])
    repeated &= rows["reason"] == ""
    rows["reason"] = rows["reason"].mask(repeated, "duplicate id (the first row is kept)")
    if source == "extra":
        rows["reason"] = rows["reason"].mask(twice & (rows["reason"] == ""), IN_DATA_ALREADY)
    usable = rows.loc[rows["reason"] == "", "label"].value_counts().reindex(CLASSES, fill_value=0)
    counts = " · ".join(f"{name} {count:,}" for name, count in usable.items())
    print(f"download: {NAMES[source]}, layout {copy.layout}: {counts}")
    for note in copy.notes:
        print(f"download: {NAMES[source]}: {note}")
    if source == "extra" and twice.any():
        print(f"download: {twice.sum():,} extra images are in the data already: left out")
    copy.rows = rows
    return copy


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
        expected = "expected sample, isic2018, or a folder with a copy of the data (docs/data.md)"
        raise UserError(f"data={cfg.data}: {folder} {what}; {expected}")
    return folder


def _announce_copy(cfg, copy) -> None:
    counts = " · ".join(f"{name} {count:,}" for name, count in copy.counts().items())
    print(f"download: layout {copy.layout}: {counts}")
    for note in [*copy.notes, *_missing(copy)]:
        print(f"download: {note}")
    folder = cfg.show(copy.folders["train"][0])
    print(f"download: images in {folder}, listed in {cfg.show(cfg.rows_file)}")


def _missing(copy) -> list[str]:
    """What the official layout has and this copy of it lacks, a line each."""
    notices = {
        recognisers.GROUPINGS: f"no {GROUPINGS}: the split has to do without the official lesion "
        "groups",
        recognisers.HAM_METADATA: f"no {METADATA} (the challenge's own mirrors don't carry it): "
        "no age, sex and localization",
        "test labels": f"no {TEST}_Input with {TEST}_GroundTruth: the official-test subset is "
        "skipped",
    }
    official = copy.layout == recognisers.OFFICIAL
    return [text for what, text in notices.items() if official and what not in copy.tables]


def _announce(copy, fetched) -> None:
    train, test = copy.images["train"], copy.images.get("test")
    news = f"fetched {', '.join(fetched)}" if fetched else "nothing to fetch"
    images = f"{train:,} training images, {f'{test:,}' if test else 'no'} official test images"
    print(f"download: {images}; {news}")
