"""One file from the first mirror that gives it whole: resumed, tried again, verified.

It gets its name when it is whole. Until then it is `NAME.part`, and `NAME.part.json` says which
version of it the mirror was sending, so that a later process goes on where this one stopped. Our
own: pooch and torch.hub do not resume, and wget does not notice that the file has changed.
"""

import email.utils
import itertools
import os
import re
import time
import zipfile
from pathlib import Path

import requests

from dermai_utils import files, progress
from dermai_utils.config import UserError

TRIES = 5  # in a row without a new chunk, on one mirror
TIMEOUT = (10, 30)  # seconds: to connect; without a byte
LONGEST_WAIT = 120  # seconds; a mirror that asks for more is given up
CHUNK = 2**18  # bytes, the most that a broken connection loses
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


def is_address(source) -> bool:
    """Whether `source` begins as an http(s) address does."""
    return bool(re.match(r"https?://", str(source), re.IGNORECASE))


def _host(url):
    return re.sub(r".*?://|[/?#].*", "", url) or url  # urlsplit refuses some, such as http://[


def fetch(urls, target, size=None):
    """`target`, from the first of the `urls` that gives it whole; None where no mirror has it.

    A file that is there and whole is not fetched again. size: bytes that it must have, or None.
    UserError where no mirror works, the disk is full, or the content is not that of the first
    download.
    """
    target, reasons = Path(target), []
    with files.plain_errors(target.parent):
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
                reasons.append(f"{_host(url)} {why}")
                print(f"{target.name}: {reasons[-1]}")
    if reasons:
        advice = "check the network and base_url, then run this again (what has arrived is kept)"
        why = f"{'; '.join(reasons)}; expected a mirror that has it: {advice}"
        raise UserError(f"{target.name} was not fetched: {why}")
    return None


# One file: is it whole, and is it the one we had?


def _already_there(target, size) -> bool:
    """Is `target` whole, by its record or hash? A file put there by hand is recorded as it is."""
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


def _records(target) -> dict:
    """{name: {sha256, size, mtime_ns}} of the first good downloads; a UserError where broken."""
    path, fields = target.parent / "SHA256SUMS.json", {"sha256", "size", "mtime_ns"}
    records = files.read_json(path) if path.exists() else {}
    if records is None or not all(
        isinstance(entry, dict) and fields <= set(entry) for entry in records.values()
    ):
        raise UserError(
            f"{path}: cannot be read (edited?), expected what each first download was: "
            "put that right, or delete it to take the files as they are now"
        )
    return records


def _record(target, path, digest):
    """Note `path`, which is `target` or will be renamed to it, as whole.

    With its time of change, which spares the seconds that hashing 2.6 GB takes.
    """
    entry = {"sha256": digest, "size": path.stat().st_size, "mtime_ns": path.stat().st_mtime_ns}
    files.write_json(target.parent / "SHA256SUMS.json", _records(target) | {target.name: entry})


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


def _accept(target, size):
    """Give a whole `.part` its final name, if it is what we had before (trust on first use)."""
    part = _part(target)
    if problem := _problem(part, target.name, size):
        _drop(part)
        raise _GiveUp(f"sends a file that {problem}")
    digest, first = files.checksum(part), _records(target).get(target.name, {}).get("sha256")
    if first not in (None, digest):
        _drop(part)
        sums = target.parent / "SHA256SUMS.json"
        advice = f"to accept the new one, delete its entry in {sums} and run this again"
        expected = f"expected {first} as at its first download; {advice}"
        raise UserError(f"{target.name} has SHA-256 {digest}, {expected}")
    # before the rename, which keeps the time: killed in between, the next call finishes
    _record(target, part, digest)
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
    """Fetch `url` into `target`'s `.part`, with up to TRIES tries in a row without progress."""
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
            print(f"{target.name}: {_host(url)} {why}; trying again in {wait:.0f} s")
            sleep(wait)


def _attempt(url, part, name, size):
    """One request, from where the `.part` ends; returns when it is whole.

    Raises _Absent, _GiveUp or _Again.
    """
    notes = files.read_json(_notes(part)) or {}
    have = _size(part) if notes.get("validator") else 0
    headers = {"Accept-Encoding": "identity"}  # else the lengths are those of a compressed body
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
    except (requests.RequestException, ValueError) as error:  # the latter of http://a..b
        raise _GiveUp(f"cannot be asked ({' '.join(str(error).split())})") from None


def _is_whole(answer, have, notes, part):
    """Judge the answer's head: True where the `.part` is whole, False where a body follows."""
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
    """(first byte, length of the whole) from `bytes 5-9/10` or `bytes */10`; None for a *."""
    header = answer.headers.get("Content-Range", "").strip()
    match = re.fullmatch(r"bytes (?:(\d+)-\d+|\*)/(?:(\d+)|\*)", header)
    numbers = match.groups() if match else (None, None)
    return tuple(None if text is None else int(text) for text in numbers)


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
    """Append the body to the `.part` of `have` bytes, if length, start and disk allow it."""
    length = answer.headers.get("Content-Length", "")
    total = _content_range(answer)[1] or (int(length) + have if length.isdecimal() else None)
    if size and total not in (None, size):
        raise _GiveUp(f"has {total:,} bytes of it, expected {size:,}")
    chunks = answer.iter_content(CHUNK)
    first = next(chunks, b"")
    if not have:
        if wrong := _wrong_start(first, name):  # a login page must not cost the 2 GB of before
            raise _GiveUp(f"sends {wrong} in its place")
        _drop(part)
        etag = answer.headers.get("ETag")
        strong = etag if etag and not etag.startswith("W/") else None  # If-Range takes no weak ETag
        validator = strong or answer.headers.get("Last-Modified")
        files.write_json(_notes(part), {"etag": etag, "validator": validator, "total": total})
    files.check_room(part.parent, (total or 0) - have)
    options = dict(unit="B", unit_scale=True, unit_divisor=1024)
    bar = progress.bar(total=total, initial=have, desc=name, **options)
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
