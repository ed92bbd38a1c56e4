"""The official archives from the first mirror that sends them whole: resumed, retried, checked.

A file gets its name when it is whole. Until then it is `NAME.part`, and `NAME.part.json` says which
version of it the mirror was sending, so that a later process can go on where this one stopped.
(urllib3's Retry does not resume a body that breaks off, neither do pooch and torch.hub, and wget
does not notice that the file has changed.)
"""

import itertools
import os
import re
import time
import zipfile
from pathlib import Path

import requests

from dermai_utils import files, progress
from dermai_utils.basics import UserError

MIRRORS = (
    "https://isic-archive.s3.amazonaws.com/challenges/2018/",  # the official one since 2025
    "https://isic-challenge-data.s3.amazonaws.com/2018/",
)
TRAIN, TEST = "ISIC2018_Task3_Training", "ISIC2018_Task3_Test"
NEEDED = (f"{TRAIN}_GroundTruth.zip", f"{TRAIN}_Input.zip")  # the small one shows a wrong URL soon
OPTIONAL = (f"{TRAIN}_LesionGroupings.csv", "HAM10000_metadata.csv")
OPTIONAL += (f"{TEST}_GroundTruth.zip", f"{TEST}_Input.zip")  # images without labels have no use
SIZES = {f"{TRAIN}_Input.zip": 2_771_732_744}  # bytes, on the official mirrors

TRIES = 5  # in a row without a new chunk, on one mirror
CHUNK = 2**18  # bytes, the most that a broken connection loses
BUSY = (408, 429, 500, 502, 503, 504)
ABSENT = (403, 404, 410)  # S3 answers 403 for a file that it lacks


class _Refused(Exception):
    """This mirror does not help with this file; the text says why."""


class _BrokeOff(Exception):
    """No answer, a busy one, or half a file; another try can go on."""


def fetch_official(folder, base_url="", mirrors=MIRRORS, sizes=SIZES, **options) -> list[str]:
    """Fetch the files of ISIC 2018 Task 3 into `folder`; the names of those that are new there.

    base_url: another mirror, which then is the only one. UserError if it is no address, or if no
    mirror has the training images and labels. A file that is there and whole is not fetched again.
    """
    if base_url and not re.match(r"https?://[^/]", base_url):
        expected = "expected an address that starts with http:// or https://"
        raise UserError(f"base_url={base_url!r}: {expected}")
    mirrors, sizes = ([base_url], {}) if base_url else ([*mirrors], sizes)
    folder = Path(folder)
    with files.disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with files.locked(folder):
            before = {path.name for path in folder.iterdir()}
            for name in NEEDED:
                size = sizes.get(name)
                if not fetch(mirrors, folder / name, size, **options):
                    expected = "expected the challenge's files; check base_url"
                    raise UserError(f"{name} is not at {' or '.join(mirrors)}: {expected}")
            absent = files.read_json(folder / "absent.json") or {}  # so that nobody asks again
            for name in OPTIONAL:
                skip = absent.get(name) == mirrors and not (folder / name).exists()
                skip |= name == OPTIONAL[-1] and not (folder / OPTIONAL[-2]).exists()
                if not skip and not fetch(mirrors, folder / name, **options):
                    absent[name] = mirrors
                    files.write_json(folder / "absent.json", absent)
            now = {path.name for path in folder.iterdir() if path.suffix in (".zip", ".csv")}
    return sorted(now - before)


def fetch(mirrors, target, size=None, *, wait=1.0, timeout=(10, 30)) -> bool:
    """Get the file `target` from the first of `mirrors` that sends it whole; False if none has it.

    size: bytes that it must have, or None. wait: seconds before the first retry, doubled for each
    further one. timeout: seconds to connect, seconds without a byte. A whole file that is there is
    taken. UserError if no mirror works, or the disk is full.
    """
    target, reasons = Path(target), []
    with files.disk_errors(target.parent):
        target.parent.mkdir(parents=True, exist_ok=True)
        if _is_there(target, size):
            return True
        for mirror in mirrors:
            url = f"{mirror.rstrip('/')}/{target.name}"
            try:
                if _from_mirror(url, _part(target), size, wait, timeout):
                    _accept(_part(target), target, size)
                    return True
            except _Refused as why:
                reasons.append(f"{url} {why}")
                print(f"{target.name}: {reasons[-1]}")
    if reasons:
        advice = "check the network and base_url, then run this again (finished parts are kept)"
        why = f"{'; '.join(reasons)}; expected a mirror that has it: {advice}"
        raise UserError(f"{target.name} was not fetched: {why}")
    return False


# One file: is it whole?


def _is_there(target, size) -> bool:
    """Whether `target` is whole. Another size than the official one is taken, with a line: a file
    that is cut off is no zip."""
    if not target.is_file():
        return False
    if problem := _problem(target):
        print(f"{target.name} is there but {problem}: it is fetched again")
        return False
    if size not in (None, target.stat().st_size):
        print(f"{target.name} is from another base_url: delete it to get the official one")
    return True


def _accept(part, target, size):
    """Give a whole `.part` its name."""
    length = part.stat().st_size
    wrong_size = size not in (None, length) and f"has {length:,} bytes, expected {size:,}"
    if problem := wrong_size or _problem(part):
        _drop(part)
        raise _Refused(f"sends a file that {problem}")
    os.replace(part, target)
    _notes(part).unlink(missing_ok=True)


def _problem(path) -> str | None:
    """What is wrong with a finished file, or None."""
    name = path.name.removesuffix(".part")
    with open(path, "rb") as file:
        first = file.read(512)
    if not first:
        return "has 0 bytes"
    if wrong := _wrong_start(first, name):
        return f"is {wrong}"
    cut_off = name.endswith(".zip") and not zipfile.is_zipfile(path)
    return "is cut off or damaged" if cut_off else None


def _wrong_start(first, name) -> str | None:
    """What a file that starts like this is, such as a login page; None: perhaps `name`."""
    if first.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<"):
        return "a web page"
    return "no zip archive" if name.endswith(".zip") and first[:2] != b"PK"[: len(first)] else None


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


def _from_mirror(url, part, size, wait, timeout) -> bool:
    """Fetch `url` into `part`, resumed after each broken connection; False: it is not there."""
    tries, farthest = 0, _size(part)
    while True:
        try:
            return _request(url, part, size, timeout)
        except _BrokeOff as why:
            grew = _size(part) >= farthest + CHUNK
            tries, farthest = (1 if grew else tries + 1), max(farthest, _size(part))
            if tries == TRIES:
                raise _Refused(f"{why} ({tries} tries)") from None
            pause = wait * 2 ** (tries - 1)  # a server may ask for hours: that is not heard
            print(f"{url} {why}; trying again in {pause:.0f} s")
            time.sleep(pause)


def _request(url, part, size, timeout) -> bool:
    """One request, from where `part` ends; True if it is whole then, False if there is none."""
    notes = files.read_json(_notes(part)) or {}
    have, total = (_size(part) if notes.get("version") else 0), notes.get("total")
    if have and have == total:  # a process was killed before it gave the file its name
        return True
    headers = {"Accept-Encoding": "identity"}  # else the lengths are those of a compressed body
    if have:
        headers |= {"Range": f"bytes={have}-", "If-Range": notes["version"]}
    try:
        answer = requests.get(url, headers=headers, stream=True, timeout=timeout)
    except (requests.ConnectionError, requests.Timeout):
        raise _BrokeOff("cannot be reached") from None
    except (requests.RequestException, ValueError) as error:  # ValueError: http://a..b
        raise _Refused(f"cannot be asked ({' '.join(str(error).split())})") from None
    with answer:
        code = answer.status_code
        if code in ABSENT:
            return False
        start = answer.headers.get("Content-Range", "").startswith(f"bytes {have}-")
        same = have and start and _version(answer) in (None, notes["version"])
        if code == 416 or (code == 206 and not same):
            _drop(part)
            raise _BrokeOff("has another version of it: starting over")
        if code in BUSY:
            raise _BrokeOff(f"answers {code}")
        if code not in (200, 206):
            raise _Refused(f"answers {code}")
        if code == 200:  # to a Range too: it cannot resume
            length = answer.headers.get("Content-Length", "")
            have, total = 0, int(length) if length.isdecimal() else None
        _save(answer, part, have, total, size)
    return True


def _version(answer) -> str | None:
    """What identifies this version of the file; If-Range takes no weak ETag."""
    etag = answer.headers.get("ETag", "W/")
    return answer.headers.get("Last-Modified") if etag.startswith("W/") else etag


def _save(answer, part, have, total, size):
    """Append the body to the `have` bytes of `part`, if length, start and disk allow it."""
    if size and total not in (None, size):
        raise _Refused(f"has {total:,} bytes of it, expected {size:,}")
    try:
        chunks = answer.iter_content(CHUNK)
        first = next(chunks, b"")
        if not have:
            if wrong := _wrong_start(first, part.stem):  # a login page must not cost what we have
                raise _Refused(f"sends {wrong} in its place")
            _drop(part)
            files.write_json(_notes(part), {"version": _version(answer), "total": total})
        files.check_room(part.parent, (total or 0) - have)
        units = dict(unit="B", unit_scale=True, unit_divisor=1024)
        bar = progress.bar(total=total, initial=have, desc=part.stem, **units)
        with bar, open(part, "ab") as file:
            for chunk in itertools.chain([first], chunks):
                file.write(chunk)
                bar.update(len(chunk))
            file.flush()
            os.fsync(file.fileno())
    except (requests.ConnectionError, requests.exceptions.ChunkedEncodingError):
        raise _BrokeOff("broke off or stalled") from None
    if total is not None and _size(part) > total:
        _drop(part)
    if total is not None and _size(part) != total:
        raise _BrokeOff(f"stopped at {_size(part):,} of {total:,} bytes")
