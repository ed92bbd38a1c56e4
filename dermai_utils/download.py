"""The official archives: mirrors, resume, verify, unpack; or your own copy, without network.

A file gets its name when it is whole. Until then it is `NAME.part`, with `NAME.part.json` beside it (which version of
it the mirror was sending), so that a later process goes on where this one stopped.
"""

import contextlib
import email.utils
import errno
import itertools
import json
import os
import re
import shutil
import stat
import time
import zipfile
import zlib
from collections import Counter
from pathlib import Path
from urllib.parse import urlsplit

import requests
from tqdm import tqdm

from dermai_utils import config, files
from dermai_utils.config import UserError

MIRRORS = (
    "https://isic-archive.s3.amazonaws.com/challenges/2018/",  # the official one since 2025
    "https://isic-challenge-data.s3.amazonaws.com/2018/",
)
TRAIN, TEST = "ISIC2018_Task3_Training", "ISIC2018_Task3_Test"
GROUPINGS, METADATA = f"{TRAIN}_LesionGroupings.csv", "HAM10000_metadata.csv"
OFFICIAL_SIZES = {f"{TRAIN}_Input.zip": 2_771_732_744}  # bytes, on the official mirrors
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".gif", ".tif", ".tiff", ".bmp", ".webp")

TRIES = 5  # in a row without a new chunk, on one mirror
TIMEOUT = (10, 30)  # seconds: to connect; without a byte
LONGEST_WAIT = 120  # seconds; a mirror that asks for more is given up
CHUNK = 2**18  # bytes, the most that a broken connection loses
SPARE = 2**26  # bytes left free on the disk
LARGEST_RATIO = 50  # unpacked over packed; of the official archives, the labels are packed best, at 13
sleep = time.sleep  # tests put their own here


class _Absent(Exception):
    """The mirror does not have the file."""


class _GiveUp(Exception):
    """This mirror is of no use for this file; the text says why."""


class _Again(Exception):
    """It may work at the next try, after `wait` seconds (None: the usual back-off)."""

    def __init__(self, why, wait=None):
        super().__init__(why)
        self.wait = wait


def fetch(urls, target, size=None):
    """`target`, from the first of the `urls` that gives it whole; None where every mirror says it has no such file.

    A file that is already there and whole is not fetched again. `size`: bytes that it must have, if known. Raises
    UserError when no mirror works, the disk is full, or the content is not what was recorded at the first download.
    """
    target, reasons = Path(target), []
    with _plain_errors(target.parent):
        target.parent.mkdir(parents=True, exist_ok=True)
        if _already_there(target, size):
            return target
        for url in urls:
            try:
                _from_mirror(url, target, size)
                return _accept(target, size)
            except _Absent:
                continue
            except _GiveUp as why:
                reasons.append(f"{urlsplit(url).netloc or url} {why}")
                print(f"{target.name}: {reasons[-1]}")
    if reasons:
        advice = "check the network and base_url, then run this again (what has arrived is kept)"
        raise UserError(f"{target.name} was not fetched: {'; '.join(reasons)}; expected a mirror that has it: {advice}")
    return None


@contextlib.contextmanager
def _plain_errors(folder):
    """Whatever the disk refuses, as one line."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise _full(folder, "it filled up on the way") from None
        where = error.filename or folder
        raise UserError(f"{where}: {error.strerror or error}; expected to read and write there") from None


def _full(folder, why):
    advice = "free some or give another cache_dir, then run this again (what is there is kept)"
    return UserError(f"not enough room in {folder}: {why}; {advice}")


def _check_room(folder, needed):
    free = shutil.disk_usage(folder).free
    if free < needed + SPARE:
        raise _full(folder, f"{(needed + SPARE) / 1e9:.2f} GB needed, {free / 1e9:.2f} GB free")


# One file: is it whole, and is it the one we had?


def _already_there(target, size):
    """Is `target` whole? By its record, else by its hash; a file that was put there by hand is recorded as it is."""
    if not target.is_file():
        return False
    record, now = _records(target).get(target.name), target.stat()
    if record and [record["size"], record["mtime_ns"]] == [now.st_size, now.st_mtime_ns]:
        return True
    digest = files.checksum(target)
    if record:
        problem = "is not what its first download was" if digest != record["sha256"] else None
    else:
        problem = _problem(target, target.name, size)
    if problem:
        print(f"{target.name} is there but {problem}: it is fetched again")
        return False
    _record(target, target, digest)
    return True


def _records(target):
    """{name: its sha256, size and mtime_ns}, of the first good downloads. A UserError, not a new start, where it is broken."""
    path = target.parent / "SHA256SUMS.json"
    records = files.read_json(path) if path.exists() else {}
    known = {"sha256", "size", "mtime_ns"}
    if records is None or not all(isinstance(one, dict) and known <= set(one) for one in records.values()):
        raise UserError(f"{path}: cannot be read (edited?), expected what each first download was: put that right, or delete "
                        "it to take the files as they are now")  # fmt: skip
    return records


def _record(target, path, digest):
    """Note `path`, which has or will get the name `target`, as whole. With its time: hashing 2.6 GB takes seconds."""
    entry = {"sha256": digest, "size": path.stat().st_size, "mtime_ns": path.stat().st_mtime_ns}
    files.write_json(target.parent / "SHA256SUMS.json", _records(target) | {target.name: entry})


def _problem(path, name, size):
    """What is wrong with a finished file, or None."""
    with open(path, "rb") as file:
        first = file.read(512)
    length = path.stat().st_size
    if length == 0 or size not in (None, length):
        return f"has {length:,} bytes, expected {f'{size:,}' if size else 'some'}"
    if wrong := _wrong_start(first, name):
        return f"is {wrong}"
    return "is cut off or damaged" if name.endswith(".zip") and not zipfile.is_zipfile(path) else None


def _wrong_start(first, name):
    """What a file with these first bytes is in place of `name`, such as an error or login page; None: looks right."""
    if first.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<"):
        return "a web page"
    return "no zip archive" if name.endswith(".zip") and first[:2] != b"PK"[: len(first)] else None


def _accept(target, size):
    """Give a part that has wholly arrived its final name, if it is what we had before (trust on first use)."""
    part = _part(target)
    if problem := _problem(part, target.name, size):
        _drop(part)
        raise _GiveUp(f"sends a file that {problem}")
    digest, known = files.checksum(part), _records(target).get(target.name, {}).get("sha256")
    if known not in (None, digest):
        _drop(part)
        advice = f"to accept the new one, delete its entry in {target.parent / 'SHA256SUMS.json'} and run this again"
        raise UserError(f"{target.name} has SHA-256 {digest}, expected {known} as at its first download; {advice}")
    _record(target, part, digest)  # before the rename, which keeps the time: killed in between, the rest is done again
    os.replace(part, target)
    _notes(part).unlink(missing_ok=True)
    return target


# One mirror


def _part(target):
    return target.with_name(target.name + ".part")


def _notes(part):
    return part.with_name(part.name + ".json")


def _drop(part):
    part.unlink(missing_ok=True)  # before its notes: new notes must never stand beside old bytes
    _notes(part).unlink(missing_ok=True)


def _size(part):
    return part.stat().st_size if part.exists() else 0


def _from_mirror(url, target, size):
    """Fetch `url` into the part of `target`; what may pass is tried again, TRIES times in a row without progress."""
    part = _part(target)
    tries, farthest = 0, _size(part)
    while True:
        try:
            return _attempt(url, part, target.name, size)
        except _Again as why:
            if _size(part) >= farthest + CHUNK:
                tries, farthest = 0, _size(part)
            tries += 1
            wait = 2 ** (tries - 1) if why.wait is None else why.wait
            if wait > LONGEST_WAIT:
                raise _GiveUp(f"{why} and asks to wait {wait:.0f} s") from None
            if tries == TRIES:
                raise _GiveUp(f"{why} ({tries} tries)") from None
            print(f"{target.name}: {urlsplit(url).netloc} {why}; trying again in {wait:.0f} s")
            sleep(wait)


def _attempt(url, part, name, size):
    """One request, from where the part ends. Returns when the part is whole; else raises one of the three above."""
    notes = files.read_json(_notes(part)) or {}
    have = _size(part) if notes.get("validator") else 0
    headers = {"Accept-Encoding": "identity"}  # else the lengths would be those of a compressed body
    if have:
        headers |= {"Range": f"bytes={have}-", "If-Range": notes["validator"]}
    answer = None
    try:
        with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as answer:
            if not _is_whole(answer, have, notes, part):
                _save(answer, part, have if answer.status_code == 206 else 0, name, size)
    except requests.ReadTimeout:
        raise _Again(f"sent nothing for {TIMEOUT[1]} s") from None
    except (requests.ConnectionError, requests.exceptions.ChunkedEncodingError) as error:
        if answer is None:  # once it has worked, the network may come back
            raise (_Again if have else _GiveUp)("cannot be reached") from None
        stalled = "timed out" in str(error)  # inside the body, only requests' words tell
        raise _Again(f"sent nothing for {TIMEOUT[1]} s" if stalled else "broke off") from None
    except requests.RequestException as error:
        raise _GiveUp(f"cannot be asked ({' '.join(str(error).split())})") from None


def _is_whole(answer, have, notes, part):
    """Judge the head of the answer: True where the part is whole already, False where a body follows to save."""
    code = answer.status_code
    if code in (403, 404, 410):  # S3 answers 403 for a file it doesn't have
        raise _Absent
    if code in (408, 429) or code >= 500:
        raise _Again(f"answers {code}", _retry_after(answer))
    if code == 200:  # to a Range too: the mirror cannot resume, or has another version
        return False
    if code not in (206, 416) or not have:
        raise _GiveUp(f"answers {code}")
    start, total = _content_range(answer)
    same = answer.headers.get("ETag", notes["etag"]) == notes["etag"]
    same = same and total in (None, notes["total"] or total)
    if same and (start == have if code == 206 else total == have):
        return code == 416
    _drop(part)
    raise _Again("has another version of it: starting over", 0)


def _content_range(answer):
    """(first byte, length of the whole) from `bytes 5-9/10` or `bytes */10`; None for what isn't told."""
    found = re.fullmatch(r"bytes (?:(\d+)-\d+|\*)/(\d+|\*)", answer.headers.get("Content-Range", "").strip())
    return tuple(int(text) if text and text != "*" else None for text in found.groups()) if found else (None, None)


def _retry_after(answer):
    """Seconds to wait from Retry-After, which is a number or a date; None if it is neither."""
    text = answer.headers.get("Retry-After", "").strip()
    if text.isdecimal():
        return int(text)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
    except ValueError:
        return None


def _save(answer, part, have, name, size):
    """Append the body to the part, which has `have` bytes, once its length, its first bytes and the disk allow it."""
    length = answer.headers.get("Content-Length", "")
    total = _content_range(answer)[1] or (int(length) + have if length.isdecimal() else None)
    if size and total not in (None, size):
        raise _GiveUp(f"has {total:,} bytes of it, expected {size:,}")
    chunks = answer.iter_content(CHUNK)
    first = next(chunks, b"")
    if not have:
        if wrong := _wrong_start(first, name):  # before the old part goes: a login page must not cost 2 GB
            raise _GiveUp(f"sends {wrong} in its place")
        _drop(part)
        etag = answer.headers.get("ETag")
        strong = etag if etag and not etag.startswith("W/") else None  # If-Range takes no weak ETag
        validator = strong or answer.headers.get("Last-Modified")
        files.write_json(_notes(part), {"etag": etag, "validator": validator, "total": total})
    _check_room(part.parent, (total or 0) - have)
    bar = tqdm(total=total, initial=have, desc=name, unit="B", unit_scale=True, unit_divisor=1024)
    with bar, open(part, "ab") as file:
        for chunk in itertools.chain([first], chunks):
            file.write(chunk)
            bar.update(len(chunk))
        file.flush()
        os.fsync(file.fileno())
    if total is not None and _size(part) > total:
        _drop(part)
    if total is not None and _size(part) < total:
        raise _Again(f"stopped at {_size(part):,} of {total:,} bytes")


# Unpacking


def unpack(archive, folder):
    """Every member of `archive` under `folder`; returns `folder`. Interrupted, it goes on; done, it is instant.

    Each member is tested (CRC, length) before it gets its name. UserError for an archive that is damaged, or that
    holds what no official one does: names outside the folder, links, encryption, a name twice, too many bytes.
    """
    archive, folder = Path(archive), Path(folder)
    marker = folder / f".{archive.name}.json"
    with _plain_errors(folder):
        stamp, old = [archive.stat().st_size, archive.stat().st_mtime_ns], files.read_json(marker)
        if old and old["archive"] == stamp and all(_count(folder / name) >= n for name, n in old["counts"].items()):
            return folder
        try:
            with zipfile.ZipFile(archive) as bundle:
                members = _members(bundle, archive, folder)
                _extract_all(bundle, members, archive, folder)
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
            why = " ".join(str(error).split()) or "it ends too early"
            raise UserError(f"{archive} is damaged ({why}), expected a whole zip: delete it, run this again") from None
        counts = Counter(os.path.dirname(name) for name in members)
        _clear_older(folder, members, old["counts"] if old else {})
        files.write_json(marker, {"archive": stamp, "counts": counts})
    return folder


def _count(folder):
    return len(os.listdir(folder)) if folder.is_dir() else 0


def _members(bundle, archive, folder):
    """The archive's files as {name: ZipInfo}; a UserError for what no official archive holds."""
    members, seen = {}, set()
    for info in bundle.infolist():
        name = info.orig_filename  # .filename is cut at a NUL and has the system's own separators
        why = "a name given twice" if name.casefold() in seen else _refusal(info, name)
        if why:
            raise UserError(f"{archive} holds {why} ({name!r}), expected plain files: not unpacked; delete it")
        seen.add(name.casefold())  # Foo.jpg and foo.jpg are one file on a Mac
        if not info.is_dir():
            members[name] = info
    total, packed = sum(info.file_size for info in members.values()), archive.stat().st_size
    if total > max(LARGEST_RATIO * packed, 2**20):
        raise UserError(f"{archive} has {packed:,} bytes and would unpack to {total:,}, expected images: delete it")
    for parent in {(folder / name).parent for name in members}:
        if not parent.resolve().is_relative_to(folder.resolve()):
            raise UserError(f"{parent} leads out of {folder}, expected a plain folder: remove that link")
    return members


def _refusal(info, name):
    if re.search(r"[\\:\0]", name) or {"", ".", ".."} & set(name.removesuffix("/").split("/")):
        return "a name that leaves the folder"
    if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "a link or device"
    return "an encrypted file" if info.flag_bits & 1 else None


def _extract_all(bundle, members, archive, folder):
    folder.mkdir(parents=True, exist_ok=True)
    missing = [(name, info) for name, info in members.items() if not _is_there(folder / name, info)]
    _check_room(folder, sum(info.file_size for _, info in missing))
    for name, info in tqdm(missing, desc=f"unpacking {archive.name}", unit=" files", delay=2):
        _extract(bundle, info, folder / name)


def _extract(bundle, info, path):
    """One member, through a temporary name that the next try writes over."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    with bundle.open(info) as source, open(temporary, "wb") as file:  # checks the CRC, stops at the declared size
        shutil.copyfileobj(source, file)
    if (length := temporary.stat().st_size) != info.file_size:
        raise zipfile.BadZipFile(f"{info.filename} has {length:,} bytes, declared {info.file_size:,}")
    os.utime(temporary, ns=(_time(info), _time(info)))
    os.replace(temporary, path)


def _time(info):
    """The time of change that a member gets: it stands for the content (the CRC, as nanoseconds after 2018-01-01).

    So the digest of the images is the same wherever the same archive is unpacked, and a fresh Colab machine goes on
    with the split and the checkpoints that lie on Drive.
    """
    return 1_514_764_800 * 10**9 + info.CRC


def _is_there(path, info):
    return path.exists() and (path.stat().st_size, path.stat().st_mtime_ns) == (info.file_size, _time(info))


def _clear_older(folder, members, older):
    """Remove what an earlier version of the archive put into its folders and this one doesn't have."""
    for parent in set(older) - {""}:  # the top is shared with other archives
        for path in (folder / parent).glob("*"):
            if path.is_file() and f"{parent}/{path.name}" not in members:
                path.unlink()


# The three kinds of `data`


def run(cfg):
    """Put everything in place for `cfg.data` and write `cfg.sources_file`; all in place: 0.1 s, one line, no network.

    Returns {"train": {"images": folder, "labels": CSV}, "test": the same or None, "groupings": CSV or None,
    "metadata": CSV or None, "digest": hex over names, sizes and times of the images and the content of the CSVs}.
    """
    with _plain_errors(cfg.cache):
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
