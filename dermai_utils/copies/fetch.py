"""The official archives from the first mirror that sends them whole: resumed, retried, checked.

A file gets its name when it is whole. Until then it is `NAME.part`, and `NAME.part.json` says which
version of it the mirror was sending, so that a later process can go on where this one stopped.
urllib3's Retry repeats a request that gets no useful answer; a body that breaks off is ours to
resume. (pooch and torch.hub do not resume, wget does not notice that the file has changed.)
"""

import itertools
import os
import re
import time
import zipfile
from pathlib import Path

import requests
from requests.adapters import HTTPAdapter
from tqdm.auto import tqdm
from urllib3.util import Retry

from dermai_utils import files
from dermai_utils.basics import UserError

MIRRORS = (
    "https://isic-archive.s3.amazonaws.com/challenges/2018/",  # the official one since 2025
    "https://isic-challenge-data.s3.amazonaws.com/2018/",
)
TRAIN, TEST = "ISIC2018_Task3_Training", "ISIC2018_Task3_Test"
NEEDED = (f"{TRAIN}_GroundTruth.zip", f"{TRAIN}_Input.zip")  # the small one shows a wrong URL soon
OPTIONAL = (f"{TRAIN}_LesionGroupings.csv", "HAM10000_metadata.csv", f"{TEST}_GroundTruth.zip")
SIZES = {f"{TRAIN}_Input.zip": 2_771_732_744}  # bytes, on the official mirrors

TRIES = 5  # in a row without a new chunk, on one mirror
CHUNK = 2**18  # bytes, the most that a broken connection loses
LONGEST_WAIT = 120  # seconds, however long Retry-After asks us to wait
BUSY = (408, 429, 500, 502, 503, 504)
SMALL = 2**24  # bytes: a file of this size is hashed again at each start
SUMS = "SHA256SUMS"  # beside the files, in the format of the command sha256sum


class _Refused(Exception):
    """This mirror does not help with this file; the text says why."""


class _BrokeOff(Exception):
    """The connection ended too early; the next one can go on."""


class _PatientRetry(Retry):
    """Waits as long as the server asks, but not for hours."""

    def get_retry_after(self, response):
        seconds = super().get_retry_after(response)
        return None if seconds is None else min(seconds, LONGEST_WAIT)


def fetch_official(folder, base_url="", mirrors=MIRRORS, sizes=SIZES, **options) -> list[str]:
    """Fetch the files of ISIC 2018 Task 3 into `folder`; the names of those that are new there.

    base_url: another mirror, which then is the only one. UserError if it is no address, or if no
    mirror has the training images and labels. A file that is there and whole is not fetched again.
    """
    if base_url and not re.match(r"https?://[^/]", base_url):
        expected = "expected an address that starts with http:// or https://"
        raise UserError(f"base_url={base_url!r}: {expected}")
    mirrors, official = ([base_url] if base_url else [*mirrors]), sizes if not base_url else {}
    folder = Path(folder)
    with files.disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with files.locked(folder):
            before = {path.name for path in folder.iterdir()}
            for name in NEEDED:
                size = official.get(name)
                if fetch(_urls(mirrors, name), folder / name, size, **options) is None:
                    expected = "expected the challenge's files; check base_url"
                    raise UserError(f"{name} is not at {' or '.join(mirrors)}: {expected}")
                if size not in (None, (folder / name).stat().st_size):
                    print(f"{name} is from another base_url: delete {folder} to get the official")
            for name in OPTIONAL:
                _fetch_optional(mirrors, folder / name, options)
            if (folder / f"{TEST}_GroundTruth.zip").exists():  # images without labels have no use
                _fetch_optional(mirrors, folder / f"{TEST}_Input.zip", options)
            now = {path.name for path in folder.iterdir() if path.suffix in (".zip", ".csv")}
    return sorted(now - before)


def _fetch_optional(mirrors, target, options):
    """Fetch a file that mirrors may lack; which ones lack it is noted, so nobody asks again."""
    note = target.parent / "absent.json"
    absent = files.read_json(note) or {}
    if target.exists() or absent.get(target.name) != mirrors:
        if fetch(_urls(mirrors, target.name), target, **options) is None:
            files.write_json(note, absent | {target.name: mirrors})


def _urls(mirrors, name):
    return [f"{mirror.rstrip('/')}/{name}" for mirror in mirrors]


def fetch(urls, target, size=None, *, wait=1.0, timeout=(10, 30)) -> Path | None:
    """`target`, from the first of `urls` that sends it whole; None if no mirror has it.

    size: bytes that it must have, or None. wait: seconds before the first retry, doubled for each
    further one. timeout: seconds to connect, seconds without a byte. UserError if no mirror works,
    the disk is full, or the content is not that of the first download.
    """
    target, reasons = Path(target), []
    with files.disk_errors(target.parent):
        target.parent.mkdir(parents=True, exist_ok=True)
        if _is_there(target, size):
            return target
        for url in urls:
            try:
                if _from_mirror(url, _part(target), size, wait, timeout):
                    _accept(target, size)
                    return target
            except _Refused as why:
                reasons.append(f"{_host(url)} {why}")
                print(f"{target.name}: {reasons[-1]}")
    if reasons:
        advice = "check the network and base_url, then run this again (finished parts are kept)"
        why = f"{'; '.join(reasons)}; expected a mirror that has it: {advice}"
        raise UserError(f"{target.name} was not fetched: {why}")
    return None


def _host(url):
    return re.sub(r".*?://|[/?#].*", "", url) or url  # urlsplit refuses some, such as http://[


# One file: is it whole, and is it the one we had?


def _is_there(target, size) -> bool:
    """Whether `target` is whole. A file that the user put there is recorded as it is."""
    if not target.is_file():
        return False
    recorded, problem = _sums(target).get(target.name), _problem(target, target.name, size)
    if not problem and (not recorded or target.stat().st_size < SMALL):
        now = files.checksum(target)
        problem = "is not what its first download was" if recorded not in (None, now) else None
        if not recorded:
            _record(target, now)
    if problem:
        print(f"{target.name} is there but {problem}: it is fetched again")
    return not problem


def _accept(target, size):
    """Give a whole `.part` its name, if it is the file we had before (trust on first use)."""
    part = _part(target)
    if problem := _problem(part, target.name, size):
        _drop(part)
        raise _Refused(f"sends a file that {problem}")
    now, first = files.checksum(part), _sums(target).get(target.name)
    if first not in (None, now):
        _drop(part)
        advice = f"to accept the new one, delete its line in {target.parent / SUMS}, run this again"
        expected = f"expected {first} as at its first download; {advice}"
        raise UserError(f"{target.name} has SHA-256 {now}, {expected}")
    if not first:  # before the rename: a process killed in between finishes at the next call
        _record(target, now)
    os.replace(part, target)
    _notes(part).unlink(missing_ok=True)


def _problem(path, name, size) -> str | None:
    """What is wrong with a finished file, or None."""
    with open(path, "rb") as file:
        first = file.read(512)
    length = path.stat().st_size
    if length == 0 or size not in (None, length):
        return f"has {length:,} bytes, expected {f'{size:,}' if size else 'some'}"
    if wrong := _wrong_start(first, name):
        return f"is {wrong}"
    cut_off = name.endswith(".zip") and not zipfile.is_zipfile(path)
    return "is cut off or damaged" if cut_off else None


def _wrong_start(first, name) -> str | None:
    """What a file that starts like this is, such as a login page; None: perhaps `name`."""
    if first.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<"):
        return "a web page"
    return "no zip archive" if name.endswith(".zip") and first[:2] != b"PK"[: len(first)] else None


def _sums(target) -> dict[str, str]:
    """{name: SHA-256} of the files beside `target`, each as at its first download."""
    path = target.parent / SUMS
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    found = [re.fullmatch(r"([0-9a-f]{64})  (.+)", line) for line in lines]
    if not all(found):
        expected = "expected lines of 64 hex digits, two blanks and a name"
        advice = "correct it, or delete it to trust the files as they are now"
        raise UserError(f"{path} is damaged: {expected}; {advice}")
    return {match[2]: match[1] for match in found}


def _record(target, digest):
    sums = _sums(target) | {target.name: digest}
    with files.atomic(target.parent / SUMS) as file:
        file.writelines(f"{digest}  {name}\n" for name, digest in sorted(sums.items()))


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
    retry = _PatientRetry(
        TRIES - 1, status_forcelist=BUSY, backoff_factor=wait, raise_on_status=False
    )
    tries, farthest = 0, _size(part)
    with requests.Session() as session:
        session.mount("http://", HTTPAdapter(max_retries=retry))
        session.mount("https://", HTTPAdapter(max_retries=retry))
        while True:
            try:
                return _request(session, url, part, size, timeout)
            except _BrokeOff as why:
                grew = _size(part) >= farthest + CHUNK
                tries, farthest = (1 if grew else tries + 1), max(farthest, _size(part))
                if tries == TRIES:
                    raise _Refused(f"{why} ({tries} tries)") from None
                pause = wait * 2 ** (tries - 1)
                print(f"{part.stem}: {_host(url)} {why}; trying again in {pause:.0f} s")
                time.sleep(pause)


def _request(session, url, part, size, timeout) -> bool:
    """One request, from where `part` ends; True if it is whole then, False if there is none."""
    notes = files.read_json(_notes(part)) or {}
    have = _size(part) if notes.get("validator") else 0
    headers = {"Accept-Encoding": "identity"}  # else the lengths are those of a compressed body
    if have:
        headers |= {"Range": f"bytes={have}-", "If-Range": notes["validator"]}
    try:
        answer = session.get(url, headers=headers, stream=True, timeout=timeout)
    except requests.ConnectionError:
        raise _Refused(f"cannot be reached ({TRIES} tries)") from None
    except (requests.RequestException, ValueError) as error:  # the latter of http://a..b
        raise _Refused(f"cannot be asked ({' '.join(str(error).split())})") from None
    with answer:
        code = answer.status_code
        if code in (403, 404, 410):  # S3 answers 403 for a file that it lacks
            return False
        if code not in (200, 206, 416) or (code != 200 and not have):
            raise _Refused(f"answers {code}")
        if code != 200 and not _fits(answer, have, notes):
            _drop(part)
            raise _BrokeOff("has another version of it: starting over")
        if code != 416:  # 416: nothing is missing. 200 to a Range: it cannot resume
            _save(answer, part, have if code == 206 else 0, size)
    return True


def _fits(answer, have, notes) -> bool:
    """Whether an answer to a Range goes on with the `have` bytes, or says that these are all."""
    start, total = _content_range(answer)
    same = answer.headers.get("ETag", notes["etag"]) == notes["etag"]
    same = same and total in (None, notes["total"] or total)
    return same and (start if answer.status_code == 206 else total) == have


def _content_range(answer):
    """(first byte, length of the whole) from `bytes 5-9/10` or `bytes */10`; None for a *."""
    header = answer.headers.get("Content-Range", "").strip()
    match = re.fullmatch(r"bytes (?:(\d+)-\d+|\*)/(?:(\d+)|\*)", header)
    numbers = match.groups() if match else (None, None)
    return tuple(None if text is None else int(text) for text in numbers)


def _save(answer, part, have, size):
    """Append the body to the `have` bytes of `part`, if length, start and disk allow it."""
    length = answer.headers.get("Content-Length", "")
    total = _content_range(answer)[1] or (int(length) + have if length.isdecimal() else None)
    if size and total not in (None, size):
        raise _Refused(f"has {total:,} bytes of it, expected {size:,}")
    try:
        chunks = answer.iter_content(CHUNK)
        first = next(chunks, b"")
        if not have:
            if wrong := _wrong_start(first, part.stem):  # a login page must not cost what we have
                raise _Refused(f"sends {wrong} in its place")
            _drop(part)
            _note_version(answer, part, total)
        files.check_room(part.parent, (total or 0) - have)
        bar = tqdm(total=total, initial=have, desc=part.stem, unit="B", unit_scale=True, delay=1)
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


def _note_version(answer, part, total):
    """Note what identifies this version of the file; If-Range takes no weak ETag."""
    etag = answer.headers.get("ETag")
    strong = etag if etag and not etag.startswith("W/") else None
    validator = strong or answer.headers.get("Last-Modified")
    files.write_json(_notes(part), {"etag": etag, "validator": validator, "total": total})
