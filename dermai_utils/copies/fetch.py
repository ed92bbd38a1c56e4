"""The official archives from the first mirror that sends them whole: resumed, retried, checked.

A file gets its name when it is whole. Until then it is `NAME.DIGITS.part`, with digits of the
version that the mirror was sending, so that a later process can go on where this one stopped.
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
    folder.mkdir(parents=True, exist_ok=True)
    before = {path.name for path in folder.iterdir()}
    for name in NEEDED:
        if not fetch(mirrors, folder / name, sizes.get(name), **options):
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
        if target.is_file():
            if not (problem := _problem(target, target.name)):
                if size not in (None, target.stat().st_size):  # but whole: no zip that is cut off
                    advice = "delete it to get the official one"
                    print(f"{target.name} is from another base_url: {advice}")
                return True
            print(f"{target.name} is there but {problem}: it is fetched again")
        for mirror in mirrors:
            url = f"{mirror.rstrip('/')}/{target.name}"
            try:
                if part := _from_mirror(url, target, size, wait, timeout):
                    os.replace(part, target)
                    return True
            except _Refused as why:
                reasons.append(f"{url} {why}")
                print(f"{target.name}: {reasons[-1]}")
    if reasons:
        advice = "check the network and base_url, then run this again (finished parts are kept)"
        why = f"{'; '.join(reasons)}; expected a mirror that has it: {advice}"
        raise UserError(f"{target.name} was not fetched: {why}")
    return False


def _problem(path, name, size=None) -> str | None:
    """What is wrong with a finished file that is to be called `name`; None: nothing.

    size: bytes that it must have.
    """
    length = path.stat().st_size
    with open(path, "rb") as file:
        wrong = _wrong_start(file.read(512), name)
    if wrong or not length:
        return f"is {wrong}" if wrong else "has 0 bytes"
    if size not in (None, length):
        return f"has {length:,} bytes, expected {size:,}"
    cut_off = name.endswith(".zip") and not zipfile.is_zipfile(path)
    return "is cut off or damaged" if cut_off else None


def _wrong_start(first, name) -> str | None:
    """What a file that starts like this is, such as a login page; None: perhaps `name`."""
    if first.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<"):
        return "a web page"
    return "no zip archive" if name.endswith(".zip") and first[:2] != b"PK"[: len(first)] else None


# One mirror


def _part(target) -> tuple[Path | None, int]:
    """(what an earlier request left of `target`, its bytes)."""
    part = next(target.parent.glob(f"{target.name}.*.part"), None)
    return part, part.stat().st_size if part else 0


def _drop(target):
    for part in target.parent.glob(f"{target.name}.*.part"):
        part.unlink()


def _from_mirror(url, target, size, wait, timeout) -> Path | None:
    """The whole part, resumed after each broken connection; None: the mirror has no such file."""
    tries, farthest = 0, _part(target)[1]
    while True:
        try:
            part = _request(url, target, size, timeout)
            if part and (problem := _problem(part, target.name, size)):
                _drop(target)
                raise _Refused(f"sends a file that {problem}")
            return part
        except _BrokeOff as why:
            have = _part(target)[1]
            tries, farthest = (1 if have >= farthest + CHUNK else tries + 1), max(farthest, have)
            if tries == TRIES:
                raise _Refused(f"{why} ({tries} tries)") from None
            pause = wait * 2 ** (tries - 1)  # a server may ask for hours: that is not heard
            print(f"{url} {why}; trying again in {pause:.0f} s")
            time.sleep(pause)


def _name(answer, target) -> Path:
    """What the part of this version of `target` is called; without a version, as nothing else."""
    version = answer.headers.get("ETag") or answer.headers.get("Last-Modified") or time.time()
    return target.with_name(f"{target.name}.{files.fingerprint(version)[:8]}.part")


def _request(url, target, size, timeout) -> Path | None:
    """One request, from where the part ends: the part, whole; None if there is no such file."""
    before, have = _part(target)
    headers = {"Accept-Encoding": "identity"}  # else the lengths are those of a compressed body
    if have:
        headers["Range"] = f"bytes={have}-"
    try:
        with requests.get(url, headers=headers, stream=True, timeout=timeout) as answer:
            code, total = answer.status_code, answer.headers.get("Content-Length", "")
            if code in ABSENT:
                return None
            if code not in (200, 206, 416):
                raise (_BrokeOff if code in BUSY else _Refused)(f"answers {code}")
            part = _name(answer, target)
            if code == 200:  # to a Range too: it cannot resume
                have = 0
            else:
                given = answer.headers.get("Content-Range", "")
                rest = re.fullmatch(rf"bytes {have}-\d+/(\d+)", given)
                if not rest or part != before:
                    _drop(target)
                    raise _BrokeOff("has another version of it: starting over")
                total = rest[1]
            _save(answer, target, part, have, int(total) if total.isdecimal() else None, size)
            return part
    except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError):
        raise _BrokeOff("cannot be reached, broke off or stalled") from None
    except (requests.RequestException, ValueError) as error:  # ValueError: http://a..b
        raise _Refused(f"cannot be asked ({' '.join(str(error).split())})") from None


def _save(answer, target, part, have, total, size):
    """Append the body to the `have` bytes of `part`, if length, start and disk allow it."""
    if size and total not in (None, size):
        raise _Refused(f"has {total:,} bytes of it, expected {size:,}")
    chunks = answer.iter_content(CHUNK)
    first = next(chunks, b"")
    if not have:
        if wrong := _wrong_start(first, target.name):  # a login page must not cost what we have
            raise _Refused(f"sends {wrong} in its place")
        _drop(target)
    files.check_room(part.parent, (total or 0) - have)
    units = dict(unit="B", unit_scale=True, unit_divisor=1024)
    bar = progress.bar(total=total, initial=have, desc=target.name, **units)
    with bar, open(part, "ab") as file:
        for chunk in itertools.chain([first], chunks):
            file.write(chunk)
            bar.update(len(chunk))
        file.flush()
        os.fsync(file.fileno())
    if total not in (None, length := part.stat().st_size):
        if length > total:
            _drop(target)
        raise _BrokeOff(f"stopped at {length:,} of {total:,} bytes")
