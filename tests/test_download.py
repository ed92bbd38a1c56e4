"""download.py against a mirror on the loopback address that injects one fault after another. No test waits for real."""

import email.utils
import errno
import hashlib
import http.server
import io
import json
import os
import socket
import stat
import struct
import subprocess
import sys
import threading
import time
import zipfile
from collections import namedtuple
from pathlib import Path

import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st

from dermai_utils import config, download
from dermai_utils.__main__ import main

UserError = config.UserError
NAME = "ISIC2018_Task3_Training_Input.zip"


def zipped(members, compression=zipfile.ZIP_STORED):
    """The bytes of a zip of {name: bytes}."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as bundle:
        for name, content in members.items():
            bundle.writestr(zipfile.ZipInfo(name), content, compression)
    return buffer.getvalue()


ARCHIVE = zipped({f"ISIC2018_Task3_Training_Input/ISIC_{i}.jpg": bytes([i]) * 3000 for i in range(4)})  # about 12 kB
OTHER = zipped({f"ISIC2018_Task3_Training_Input/ISIC_{i}.jpg": bytes([9 - i]) * 3000 for i in range(4)})
HALF = 6000  # whole chunks, of 1000 bytes in these tests
USAGE = namedtuple("usage", "free")
PAGE = b"\n<!DOCTYPE html><title>Log in to the hotel</title>" * 300


# The mirror: well-behaved as S3 is, but for the faults in `plan`, one a request.


class Mirror(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.plan, self.asked, self.paths, self.release = {}, [], [], [], threading.Event()
        self.url = f"http://127.0.0.1:{self.server_port}/"
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def stop(self):
        self.release.set()
        self.shutdown()
        self.server_close()


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.asked.append(self.headers)
        self.server.paths.append(self.path[1:])
        body = self.server.files.get(self.path[1:])
        fault = self.server.plan.pop(0) if self.server.plan else good
        if body is None:
            return send(self, 403, b"<Error><Code>AccessDenied</Code></Error>")  # as S3 does for a missing key
        fault(self, body)

    def log_message(self, *args):
        pass


def send(handler, code, body, length=None, **headers):
    handler.send_response(code)
    for name, value in {"Content_Length": len(body) if length is None else length, **headers}.items():
        handler.send_header(name.replace("_", "-"), str(value))
    handler.end_headers()
    handler.wfile.write(body)
    handler.wfile.flush()
    handler.close_connection = True


def etag(body):
    return f'"{hashlib.md5(body).hexdigest()}"'


def good(handler, body, cut=None):
    start = handler.headers.get("Range", "bytes=0-").removeprefix("bytes=").removesuffix("-")
    start = int(start) if handler.headers.get("If-Range", etag(body)) == etag(body) else 0
    if start and start >= len(body):
        return send(handler, 416, b"<Error/>", Content_Range=f"bytes */{len(body)}")
    part = {"Content_Range": f"bytes {start}-{len(body) - 1}/{len(body)}"} if start else {}
    send(handler, 206 if start else 200, body[start:][:cut], len(body) - start, ETag=etag(body), **part)


def ends_early(handler, body):
    good(handler, body, cut=HALF)


def stalls(handler, body, after=HALF):
    good(handler, body, cut=after)
    handler.server.release.wait(20)  # until the test is over


def silent(handler, body):
    handler.server.release.wait(20)


def ignores_range(handler, body):
    send(handler, 200, body, ETag=etag(body))


def answers(code, body=b"<Error/>", **headers):
    return lambda handler, _: send(handler, code, body, **headers)


@pytest.fixture
def mirror():
    server = Mirror()
    server.files[NAME] = ARCHIVE
    yield server
    server.stop()


@pytest.fixture
def second():
    server = Mirror()
    server.files[NAME] = ARCHIVE
    yield server
    server.stop()


@pytest.fixture
def refused():
    """A URL whose port is taken, so that nobody else gets it, but not listened on."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}/"


@pytest.fixture
def target(tmp_path):
    return tmp_path / "archives" / NAME


@pytest.fixture(autouse=True)
def waits(monkeypatch):
    """The waits that were asked for; none is waited. Small chunks, so that a small file has several."""
    asked = []
    monkeypatch.setattr(download, "sleep", asked.append)
    monkeypatch.setattr(download, "CHUNK", 1000)
    return asked


@pytest.fixture(autouse=True)
def loopback_only(monkeypatch):
    """Any look-up or connection beyond 127.0.0.1 fails the test."""
    monkeypatch.setenv("NO_PROXY", "*")
    look_up = socket.getaddrinfo

    def checked(host, *args, **kwargs):
        if host != "127.0.0.1":
            pytest.fail(f"a test asked for {host}")
        return look_up(host, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", checked)


def fetch(target, *servers, size=None):
    urls = [(server if isinstance(server, str) else server.url) + target.name for server in servers]
    return download.fetch(urls, target, size)


def assert_whole(target, content=ARCHIVE):
    """`target` is there, is recorded, and nothing half-done lies beside it."""
    assert target.read_bytes() == content
    assert recorded(target)["sha256"] == hashlib.sha256(content).hexdigest()
    assert sorted(path.name for path in target.parent.iterdir()) == sorted([target.name, "SHA256SUMS.json"])


def recorded(target):
    return json.loads((target.parent / "SHA256SUMS.json").read_text())[target.name]


def refusal(call, *args, **kwargs):
    """The one line with which `call` refuses."""
    with pytest.raises(UserError) as caught:
        call(*args, **kwargs)
    line = str(caught.value)
    assert line and "\n" not in line and "expected" in line or "not enough room" in line
    return line


def part_of(target):
    return target.with_name(NAME + ".part")


def leave_half(target, mirror, monkeypatch):
    """The state that Ctrl-C leaves, pressed while the mirror, having sent half, is waited for."""
    mirror.plan = [ends_early]
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(download, "sleep", lambda seconds: press_ctrl_c())
        fetch(target, mirror)
    assert part_of(target).read_bytes() == ARCHIVE[:HALF] and not target.exists()
    mirror.asked.clear()


def press_ctrl_c():
    raise KeyboardInterrupt


# Fetching


def test_the_guard_catches_a_test_that_leaves_loopback():
    with pytest.raises(pytest.fail.Exception):
        requests.get("http://isic.example/", timeout=1)


def test_fetches_once_then_needs_no_network(target, mirror):
    assert fetch(target, mirror) == target
    assert_whole(target)
    assert fetch(target, mirror) == target and len(mirror.asked) == 1


def test_resumes_in_a_later_call_over_range_with_if_range(target, mirror, monkeypatch):
    leave_half(target, mirror, monkeypatch)
    fetch(target, mirror)
    assert_whole(target)
    assert [(head["Range"], head["If-Range"]) for head in mirror.asked] == [(f"bytes={HALF}-", etag(ARCHIVE))]


LARGE = zipped({f"ISIC2018_Task3_Training_Input/ISIC_{i}.jpg": bytes([i]) * 300_000 for i in range(4)})  # several chunks


def test_resumes_in_a_later_process_after_a_kill(mirror, tmp_path):
    mirror.files = dataset() | {NAME: LARGE}
    archives = tmp_path / "cache" / "archives"
    part, folders = archives / f"{NAME}.part", [f"--cache-dir={tmp_path / 'cache'}", f"--work-dir={tmp_path / 'work'}"]
    command = [sys.executable, "-m", "dermai_utils", "download", "--data=isic2018", f"--base-url={mirror.url}", *folders]
    mirror.plan = [good, lambda handler, body: stalls(handler, body, 800_000)]  # the labels come first
    with subprocess.Popen(command, cwd=config.ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as killed:
        while not part.exists() or not part.stat().st_size:
            assert killed.poll() is None, killed.stderr.read()
            time.sleep(0.02)
        killed.kill()
    have = part.stat().st_size
    assert 0 < have < len(LARGE) and not (archives / NAME).exists()
    mirror.asked.clear()
    subprocess.run(command, cwd=config.ROOT, check=True, capture_output=True)
    assert (archives / NAME).read_bytes() == LARGE and not part.exists()
    assert (mirror.asked[0]["Range"], mirror.asked[0]["If-Range"]) == (f"bytes={have}-", etag(LARGE))


def test_resumes_by_date_where_the_etag_is_weak(target, mirror):
    def weak(handler, body):
        send(handler, 200, body[:HALF], len(body), ETag='W/"1"', Last_Modified="Sun, 01 Jul 2018 00:00:00 GMT")

    mirror.plan = [weak]
    fetch(target, mirror)
    assert_whole(target)
    assert mirror.asked[1]["If-Range"] == "Sun, 01 Jul 2018 00:00:00 GMT"


def test_never_resumes_what_it_cannot_recognise(target, mirror):
    mirror.plan = [lambda handler, body: send(handler, 200, OTHER[:HALF], len(OTHER))]  # neither ETag nor date
    fetch(target, mirror)
    assert_whole(target)
    assert mirror.asked[1]["Range"] is None


def test_200_instead_of_206_starts_over(target, mirror, monkeypatch):
    leave_half(target, mirror, monkeypatch)
    mirror.plan = [ignores_range]
    fetch(target, mirror)
    assert_whole(target)
    assert mirror.asked[0]["Range"] and len(mirror.asked) == 1


def test_416_on_a_part_that_is_whole_finishes_it(target, mirror, monkeypatch):
    leave_half(target, mirror, monkeypatch)
    part_of(target).write_bytes(ARCHIVE)
    fetch(target, mirror)
    assert_whole(target)
    assert [head["Range"] for head in mirror.asked] == [f"bytes={len(ARCHIVE)}-"]


def test_416_on_a_stale_part_starts_over(target, mirror, monkeypatch):
    leave_half(target, mirror, monkeypatch)
    part_of(target).write_bytes(ARCHIVE + b"more than the mirror has")
    fetch(target, mirror)
    assert_whole(target)
    assert [head["Range"] for head in mirror.asked][1:] == [None]


def test_416_without_an_end_is_bounded(target, mirror, monkeypatch):
    leave_half(target, mirror, monkeypatch)
    mirror.plan = [answers(416)] * 50
    assert "answers 416" in refusal(fetch, target, mirror)
    assert len(mirror.asked) == 2


def test_changed_file_starts_over(target, mirror, monkeypatch):
    leave_half(target, mirror, monkeypatch)
    mirror.files[NAME] = OTHER
    fetch(target, mirror)
    assert_whole(target, OTHER)


@pytest.mark.parametrize(
    "tag, first, total",
    [(etag(OTHER), HALF, len(OTHER)), (etag(ARCHIVE), HALF + 1, len(ARCHIVE)), (etag(ARCHIVE), HALF, len(ARCHIVE) + 1)],
    ids=["another ETag", "another start", "another length"],
)
def test_206_that_does_not_fit_the_part_starts_over(target, mirror, monkeypatch, tag, first, total):
    leave_half(target, mirror, monkeypatch)
    content_range = f"bytes {first}-{total - 1}/{total}"
    mirror.plan = [answers(206, OTHER[first:], ETag=tag, Content_Range=content_range)]
    fetch(target, mirror)
    assert_whole(target)


def test_body_that_ends_early_is_resumed(target, mirror, waits):
    mirror.plan = [ends_early]
    fetch(target, mirror)
    assert_whole(target)
    assert mirror.asked[1]["Range"] == f"bytes={HALF}-" and waits == [1]


def test_chunked_body_that_ends_early_is_tried_again(target, mirror):
    def chunked(handler, body):
        handler.protocol_version = "HTTP/1.1"
        handler.send_response(200)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        handler.wfile.write(b"%x\r\n%s" % (len(body), body[:HALF]))
        handler.close_connection = True

    mirror.plan = [chunked]
    fetch(target, mirror)
    assert_whole(target)


def test_body_that_always_ends_early_is_given_up(target, mirror, waits):
    mirror.plan = [answers(200, ARCHIVE[:500], length=len(ARCHIVE))] * 50  # under a chunk: no progress
    assert "broke off (5 tries)" in refusal(fetch, target, mirror) and not target.exists()
    assert len(mirror.asked) == download.TRIES and waits == [1, 2, 4, 8]


def test_shorter_range_than_asked_for_is_continued(target, mirror, monkeypatch):
    leave_half(target, mirror, monkeypatch)
    content_range = f"bytes {HALF}-{HALF + 1499}/{len(ARCHIVE)}"
    mirror.plan = [answers(206, ARCHIVE[HALF:][:1500], ETag=etag(ARCHIVE), Content_Range=content_range)]
    fetch(target, mirror)
    assert_whole(target)
    assert mirror.asked[1]["Range"] == f"bytes={HALF + 1500}-"


def test_progress_renews_the_tries(target, mirror):
    mirror.plan = [lambda handler, body: good(handler, body, cut=1100)] * 9
    fetch(target, mirror)
    assert_whole(target)
    assert len(mirror.asked) == 10


@pytest.mark.parametrize("fault", [stalls, silent], ids=["inside the body", "before the answer"])
def test_stall_is_tried_again(target, mirror, monkeypatch, capsys, fault):
    monkeypatch.setattr(download, "TIMEOUT", (10, 0.5))
    mirror.plan = [fault]
    fetch(target, mirror)
    assert_whole(target)
    assert "sent nothing for 0.5 s; trying again in 1 s" in capsys.readouterr().out
    resumed = mirror.asked[1]["Range"]
    assert resumed == (f"bytes={HALF}-" if fault is stalls else None)


@pytest.mark.parametrize("code", [429, 503])
def test_retry_after_in_seconds_is_obeyed(target, mirror, waits, code):
    mirror.plan = [answers(code, Retry_After=7)]
    fetch(target, mirror)
    assert_whole(target)
    assert waits == [7]


def test_retry_after_as_a_date_is_obeyed(target, mirror, waits):
    mirror.plan = [answers(503, Retry_After=email.utils.formatdate(time.time() + 100, usegmt=True))]
    fetch(target, mirror)
    assert_whole(target)
    assert 8 < waits[0] <= 100  # less what this machine took; the back-off would be 1


def test_retry_after_that_is_too_long_means_the_next_mirror(target, mirror, second, waits):
    mirror.plan = [answers(429, Retry_After=86400)]
    fetch(target, mirror, second)
    assert_whole(target)
    assert waits == [] and len(second.asked) == 1


@pytest.mark.parametrize("code", [429, 500, 503])
def test_back_off_is_bounded_then_the_next_mirror(target, mirror, second, waits, code):
    mirror.plan = [answers(code)] * 50
    fetch(target, mirror, second)
    assert_whole(target)
    assert len(mirror.asked) == download.TRIES and waits == [1, 2, 4, 8]


def test_refused_connection_means_the_next_mirror(target, refused, mirror, waits):
    fetch(target, refused, mirror)
    assert_whole(target)
    assert waits == []


def test_network_that_goes_away_is_waited_for(target, mirror, refused, monkeypatch, waits):
    leave_half(target, mirror, monkeypatch)
    assert "cannot be reached (5 tries)" in refusal(fetch, target, refused)
    assert waits == [1, 2, 4, 8] and part_of(target).read_bytes() == ARCHIVE[:HALF]
    fetch(target, mirror)
    assert_whole(target)


@pytest.mark.parametrize("name", [NAME, download.GROUPINGS])
def test_web_page_in_place_of_the_file_means_the_next_mirror(tmp_path, mirror, second, name):
    target, content = tmp_path / "archives" / name, ARCHIVE if name == NAME else b"image,lesion_id\nISIC_1,HAM_1\n"
    mirror.files[name], second.files[name] = PAGE, content
    fetch(target, mirror, second)
    assert_whole(target, content)


def test_web_page_does_not_cost_the_part(target, mirror, monkeypatch):
    leave_half(target, mirror, monkeypatch)
    mirror.plan = [answers(200, PAGE)]
    assert "a web page in its place" in refusal(fetch, target, mirror)
    fetch(target, mirror)
    assert_whole(target)
    assert mirror.asked[1]["Range"] == f"bytes={HALF}-"


@pytest.mark.parametrize(
    "body, says", [(b"plain text" * 99, "no zip archive"), (ARCHIVE[:-30], "cut off or damaged"), (b"", "0 bytes")]
)
def test_what_is_no_archive_never_gets_its_name(target, mirror, body, says):
    mirror.files[NAME] = body
    assert says in refusal(fetch, target, mirror)
    assert list(target.parent.iterdir()) == []


def test_wrong_size_means_the_next_mirror(target, mirror, second):
    mirror.files[NAME] = zipped({"a.jpg": b"another archive"})
    fetch(target, mirror, second, size=len(ARCHIVE))
    assert_whole(target)


def test_wrong_size_everywhere_is_one_line(target, mirror):
    line = refusal(fetch, target, mirror, size=5)
    assert f"has {len(ARCHIVE):,} bytes of it, expected 5" in line and not target.exists()


def test_wrong_size_is_seen_without_a_declared_length(target, mirror, second):
    def undeclared(handler, body):
        handler.send_response(200)
        handler.end_headers()
        handler.wfile.write(OTHER + b"junk")
        handler.close_connection = True

    mirror.plan = [undeclared]
    fetch(target, mirror, second, size=len(ARCHIVE))
    assert_whole(target)


def test_wrong_hash_on_a_second_run_is_refused_until_accepted(target, mirror):
    fetch(target, mirror)
    target.unlink()
    mirror.files[NAME] = OTHER
    line = refusal(fetch, target, mirror)
    assert hashlib.sha256(OTHER).hexdigest() in line and hashlib.sha256(ARCHIVE).hexdigest() in line
    assert "SHA256SUMS.json" in line and not target.exists()
    (target.parent / "SHA256SUMS.json").write_text("{}")
    fetch(target, mirror)
    assert_whole(target, OTHER)


@pytest.mark.parametrize("content", ["", "{", "[1]", f'{{"{NAME}": 3}}', f'{{"{NAME}": {{"sha256": "1"}}}}'])
def test_record_that_was_broken_by_hand_is_one_line_and_trusts_nothing(target, mirror, content):
    fetch(target, mirror)
    record = target.parent / "SHA256SUMS.json"
    record.write_text(content)
    assert str(record) in refusal(fetch, target, mirror)
    assert record.read_text() == content and target.read_bytes() == ARCHIVE and len(mirror.asked) == 1


def test_disk_without_room_is_seen_before(target, mirror, monkeypatch):
    monkeypatch.setattr(download.shutil, "disk_usage", lambda path: USAGE(download.SPARE + len(ARCHIVE) - 1))
    assert "not enough room" in refusal(fetch, target, mirror)
    assert not target.exists() and not part_of(target).exists()
    monkeypatch.setattr(download.shutil, "disk_usage", lambda path: USAGE(download.SPARE + len(ARCHIVE)))
    fetch(target, mirror)
    assert_whole(target)


class FullDisk(io.FileIO):
    def write(self, data):
        if self.tell() + len(data) > 5000:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return super().write(data)


def test_disk_that_fills_up_keeps_the_part(target, mirror, monkeypatch):
    with monkeypatch.context() as patch:
        full = lambda path, mode="r", **rest: FullDisk(path, "a") if mode == "ab" else open(path, mode, **rest)  # noqa: E731
        patch.setattr(download, "open", full, raising=False)
        assert "filled up" in refusal(fetch, target, mirror)
    assert part_of(target).read_bytes() == ARCHIVE[:5000] and not target.exists()
    fetch(target, mirror)
    assert_whole(target)
    assert mirror.asked[1]["Range"] == "bytes=5000-"


def test_ctrl_c_inside_the_body_keeps_the_part(target, mirror, monkeypatch):
    class Bar(download.tqdm):
        def update(self, n):
            return press_ctrl_c() if self.n >= 3000 else super().update(n)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(download, "tqdm", Bar)
        fetch(target, mirror)
    assert part_of(target).read_bytes() == ARCHIVE[:4000] and not target.exists()
    fetch(target, mirror)
    assert_whole(target)
    assert mirror.asked[1]["Range"] == "bytes=4000-"


def test_killed_between_record_and_rename_is_finished(target, mirror, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        record = download._record
        patch.setattr(download, "_record", lambda *args: record(*args) or press_ctrl_c())
        fetch(target, mirror)
    assert not target.exists()
    fetch(target, mirror)
    assert_whole(target)


def test_missing_on_every_mirror_is_none(tmp_path, mirror, second):
    assert fetch(tmp_path / "archives" / "HAM10000_metadata.csv", mirror, second) is None
    assert list((tmp_path / "archives").iterdir()) == [] and len(second.asked) == 1


def test_missing_here_but_unknown_there_is_an_error(tmp_path, mirror, refused):
    assert "cannot be reached" in refusal(fetch, tmp_path / "archives" / "HAM10000_metadata.csv", mirror, refused)


@pytest.mark.parametrize("code", [204, 301, 400, 401])
def test_other_answers_mean_the_next_mirror(target, mirror, second, code):
    mirror.plan = [answers(code, b"")]
    fetch(target, mirror, second)
    assert_whole(target)


def test_no_url_is_one_line(target):
    assert "cannot be asked" in refusal(fetch, target, "no-url")


def test_file_in_place_of_the_folder_is_one_line(tmp_path, mirror):
    (tmp_path / "archives").write_text("mine")
    refusal(fetch, tmp_path / "archives" / NAME, mirror)
    assert (tmp_path / "archives").read_text() == "mine" and mirror.asked == []


def test_folder_in_place_of_the_file_is_one_line(target, mirror):
    target.mkdir(parents=True)
    refusal(fetch, target, mirror)
    assert target.is_dir()


def test_file_put_there_by_hand_is_taken(target, mirror):
    target.parent.mkdir()
    target.write_bytes(ARCHIVE)
    fetch(target, mirror, size=len(ARCHIVE))
    assert_whole(target)
    assert mirror.asked == []


@pytest.mark.parametrize("content", [ARCHIVE[:-30], PAGE, OTHER + b"x"], ids=["cut off", "web page", "wrong size"])
def test_broken_file_put_there_by_hand_is_replaced(target, mirror, content):
    target.parent.mkdir()
    target.write_bytes(content)
    fetch(target, mirror, size=len(ARCHIVE))
    assert_whole(target)


def test_file_that_was_copied_is_known_by_its_hash(target, mirror):
    fetch(target, mirror)
    os.utime(target, ns=(0, 0))
    fetch(target, mirror)
    assert len(mirror.asked) == 1 and recorded(target)["mtime_ns"] == 0


def test_file_that_rotted_is_fetched_again(target, mirror):
    fetch(target, mirror)
    target.write_bytes(OTHER)
    fetch(target, mirror)
    assert_whole(target)
    assert len(mirror.asked) == 2


# Unpacking


@pytest.fixture
def archive(tmp_path):
    path = tmp_path / "in" / NAME
    path.parent.mkdir()
    path.write_bytes(ARCHIVE)
    return path


def tree(folder):
    """{path: content} of the files below a folder, markers aside."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in Path(folder).rglob("*")
        if path.is_file() and path.parent != Path(folder)
    }


def content_of(data):
    with zipfile.ZipFile(io.BytesIO(data)) as bundle:
        return {name: bundle.read(name) for name in bundle.namelist()}


def assert_refused(archive, tmp_path, says):
    before = sorted(path for path in tmp_path.rglob("*") if path.is_file())
    line = refusal(download.unpack, archive, tmp_path / "out")
    assert says in line and str(archive) in line
    assert sorted(path for path in tmp_path.rglob("*") if path.is_file()) == before


@pytest.mark.parametrize(
    "name",
    [
        "../evil.jpg",
        "a/../../evil.jpg",
        "/evil.jpg",
        "C:/evil.jpg",
        "C:evil.jpg",
        "a\\..\\..\\evil.jpg",
        "\\evil.jpg",
        "a//b.jpg",
        "../",
    ],
)
def test_names_that_leave_the_folder_are_refused(archive, tmp_path, name):
    archive.write_bytes(zipped({"a/fine.jpg": b"1", name: b"" if name.endswith("/") else b"evil"}))
    assert_refused(archive, tmp_path, "a name that leaves the folder")


@given(st.text(alphabet="ab./\\:\0C", min_size=1, max_size=12))
def test_any_name_is_refused_or_inside(name):
    if download._refusal(zipfile.ZipInfo("x"), name) is None:
        assert os.path.normpath(f"/top/folder/{name}").startswith("/top/folder/")


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR])
def test_links_and_devices_are_refused(archive, tmp_path, kind):
    link = zipfile.ZipInfo("a/link.jpg")
    link.external_attr = (kind | 0o777) << 16
    with zipfile.ZipFile(archive, "w") as bundle:
        bundle.writestr(link, "/etc/passwd")
    assert_refused(archive, tmp_path, "a link or device")


def test_link_that_is_already_in_the_folder_is_not_followed(archive, tmp_path):
    (tmp_path / "outside").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "ISIC2018_Task3_Training_Input").symlink_to(tmp_path / "outside")
    assert "leads out of" in refusal(download.unpack, archive, tmp_path / "out")
    assert list((tmp_path / "outside").iterdir()) == []


def test_name_given_twice_is_refused(archive, tmp_path):
    archive.write_bytes(zipped({"a/ISIC_1.jpg": b"1", "a/isic_1.JPG": b"2"}))
    assert_refused(archive, tmp_path, "a name given twice")


def directory_entry(data, offset, form, value):
    """`data` with one field of the first entry of the zip's directory overwritten."""
    data = bytearray(data)
    struct.pack_into(form, data, data.index(b"PK\x01\x02") + offset, value)
    return bytes(data)


def test_encrypted_member_is_refused(archive, tmp_path):
    archive.write_bytes(directory_entry(ARCHIVE, 8, "<H", 1))
    assert_refused(archive, tmp_path, "an encrypted file")


def test_bomb_is_refused(archive, tmp_path):
    archive.write_bytes(zipped({"a/zeros.jpg": bytes(3_000_000)}, zipfile.ZIP_DEFLATED))
    assert_refused(archive, tmp_path, "would unpack to 3,000,000")


def damage(fault):
    data = zipped({"a/ISIC_1.jpg": bytes(range(256)) * 20, "a/ISIC_2.jpg": b"2" * 500}, zipfile.ZIP_DEFLATED)
    stored = zipped({"a/ISIC_1.jpg": b"1" * 500})
    return {
        "more bytes than declared": directory_entry(data, 24, "<I", 5000),
        "fewer bytes than declared": directory_entry(data, 24, "<I", 5300),
        "a member longer than the file": directory_entry(directory_entry(stored, 20, "<I", 5000), 24, "<I", 5000),
        "bad CRC": stored.replace(b"1" * 500, b"1" * 499 + b"2"),
        "broken stream": data[:60] + b"\xff" * 40 + data[100:],
        "unknown compression": directory_entry(data, 10, "<H", 77),
        "cut off": ARCHIVE[:HALF],
        "a web page": PAGE,
        "empty": b"",
    }[fault]


@pytest.mark.parametrize(
    "fault",
    [
        "more bytes than declared",
        "fewer bytes than declared",
        "bad CRC",
        "broken stream",
        "unknown compression",
        "a member longer than the file",
        "cut off",
        "a web page",
        "empty",
    ],
)
def test_damaged_archive_is_one_line_and_leaves_no_image(archive, tmp_path, fault):
    archive.write_bytes(damage(fault))
    line = refusal(download.unpack, archive, tmp_path / "out")
    assert "is damaged" in line and str(archive) in line and "delete it" in line
    assert not list((tmp_path / "out").rglob("ISIC_1.jpg"))
    archive.write_bytes(ARCHIVE)
    assert tree(download.unpack(archive, tmp_path / "out")).items() >= content_of(ARCHIVE).items()


def test_interrupted_unpacking_continues(archive, tmp_path, monkeypatch):
    out, extracted, extract = tmp_path / "out", [], download._extract

    def interrupted(bundle, info, path):
        extracted.append(info.filename)
        return extract(bundle, info, path) if len(extracted) != 3 else press_ctrl_c()

    monkeypatch.setattr(download, "_extract", interrupted)
    with pytest.raises(KeyboardInterrupt):
        download.unpack(archive, out)
    assert len(tree(out)) == 2
    download.unpack(archive, out)
    assert tree(out) == content_of(ARCHIVE)
    assert extracted[2] == extracted[3] and len(extracted) == 5  # 2 done, 1 interrupted, 2 more


def test_member_gets_its_name_only_when_whole(archive, tmp_path, monkeypatch):
    def half(source, file):
        file.write(source.read(100))
        press_ctrl_c()

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(download.shutil, "copyfileobj", half)
        download.unpack(archive, tmp_path / "out")
    assert [Path(name).suffix for name in tree(tmp_path / "out")] == [".tmp"]
    assert tree(download.unpack(archive, tmp_path / "out")) == content_of(ARCHIVE)


def test_done_unpacking_does_not_open_the_archive(archive, tmp_path, monkeypatch):
    download.unpack(archive, tmp_path / "out")
    monkeypatch.setattr(download.zipfile, "ZipFile", None)
    assert download.unpack(archive, tmp_path / "out") == tmp_path / "out"


def test_deleted_image_comes_back(archive, tmp_path):
    out = download.unpack(archive, tmp_path / "out")
    next(out.rglob("*.jpg")).unlink()
    assert tree(download.unpack(archive, out)) == content_of(ARCHIVE)


def test_changed_archive_replaces_what_it_gave_and_nothing_else(archive, tmp_path):
    out = download.unpack(archive, tmp_path / "out")
    (out / "ISIC2018_Task3_Test_Input").mkdir()
    (out / "ISIC2018_Task3_Test_Input" / "other.jpg").write_bytes(b"of another archive")
    top = "ISIC2018_Task3_Training_Input"
    newer = zipped({f"{top}/ISIC_0.jpg": b"N" * 3000, f"{top}/new.jpg": b"1"})
    archive.write_bytes(newer)
    download.unpack(archive, out)
    assert tree(out) == content_of(newer) | {"ISIC2018_Task3_Test_Input/other.jpg": b"of another archive"}


def test_unpacking_needs_room(archive, tmp_path, monkeypatch):
    monkeypatch.setattr(download.shutil, "disk_usage", lambda path: USAGE(download.SPARE + 11_999))
    assert "not enough room" in refusal(download.unpack, archive, tmp_path / "out")
    assert tree(tmp_path / "out") == {}


def test_disk_that_fills_up_while_unpacking_is_one_line(archive, tmp_path, monkeypatch):
    def full(source, file):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(download.shutil, "copyfileobj", full)
    assert "filled up" in refusal(download.unpack, archive, tmp_path / "out")


# The command


NOTHING = answers(200, ARCHIVE[:500], length=len(ARCHIVE))  # under a chunk
FAULTS = {
    "not there": (lambda mirror, _: mirror.files.clear(), "is not at http"),
    "a login page": (lambda mirror, _: mirror.files.update(dict.fromkeys(mirror.files, PAGE)), "a web page in its place"),
    "busy": (lambda mirror, _: mirror.plan.extend([answers(503)] * 50), "answers 503 (5 tries)"),
    "ends early each time": (lambda mirror, _: mirror.plan.extend([NOTHING] * 50), "broke off (5 tries)"),
    "another file than last time": (lambda mirror, _: mirror.files.update({NAME: OTHER}), "as at its first download"),
    "cut off": (lambda mirror, _: mirror.files.update({NAME: ARCHIVE[:-30]}), "is cut off or damaged"),
    "a full disk": (lambda _, patch: patch.setattr(download.shutil, "disk_usage", lambda path: USAGE(0)), "not enough room"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_the_command_ends_with_one_line_and_status_2(mirror, tmp_path, monkeypatch, capsys, fault):
    make, said = FAULTS[fault]
    mirror.files = dataset()
    folders = [f"--cache-dir={tmp_path / 'cache'}", f"--work-dir={tmp_path / 'work'}"]
    command = ["download", "--data=isic2018", f"--base-url={mirror.url}", *folders]
    assert main(command) == 0
    (tmp_path / "cache" / "archives" / NAME).unlink()
    labels = tmp_path / "cache" / "archives" / "ISIC2018_Task3_Training_GroundTruth.zip"
    before = labels.read_bytes(), (tmp_path / "cache" / "sources.json").read_bytes()
    make(mirror, monkeypatch)
    capsys.readouterr()
    assert main(command) == 2
    told = capsys.readouterr().err.splitlines()[-1]
    assert told.startswith("error: ") and said in told
    assert before == (labels.read_bytes(), (tmp_path / "cache" / "sources.json").read_bytes())


# The three kinds of `data`


def dataset(test=True, groupings=True, metadata=True):
    """{name: bytes} of a tiny copy of the official files."""
    labels = b"image,MEL,NV,BCC,AKIEC,BKL,DF,VASC\nISIC_1,0,1,0,0,0,0,0\n"
    made = {}
    for part, count in (("Training", 3), ("Test", 2)):
        top = f"ISIC2018_Task3_{part}"
        images = {f"{top}_Input/ISIC_{i}.jpg": bytes([i]) * 50 for i in range(count)}
        made[f"{top}_Input.zip"] = zipped({f"{top}_Input/LICENSE.txt": b"CC BY-NC", **images})
        made[f"{top}_GroundTruth.zip"] = zipped({f"{top}_GroundTruth/{top}_GroundTruth.csv": labels})
    made[download.GROUPINGS] = b"image,lesion_id\nISIC_1,HAM_1\n"
    made[download.METADATA] = b"lesion_id,image_id,dx\nHAM_1,ISIC_1,nv\n"
    keep = {"_Test_": test, "Groupings": groupings, "metadata": metadata}
    return {name: data for name, data in made.items() if all(kept for word, kept in keep.items() if word in name)}


def write(folder, contents):
    for name, data in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


@pytest.fixture
def settings(tmp_path):
    return lambda data, base_url="", name="cache": config.Config(
        data=str(data), base_url=base_url, cache_dir=str(tmp_path / name), work_dir=str(tmp_path / "work")
    )


def snapshot(folder):
    return {path: (path.stat().st_size, path.stat().st_mtime_ns) for path in Path(folder).rglob("*")}


def test_sample_is_used_in_place(settings, tmp_path, monkeypatch, capsys):
    fixture = write(tmp_path / "fixture", dataset())
    monkeypatch.setattr(config, "FIXTURE", fixture)
    before, cfg = snapshot(fixture), settings("sample")
    sources = download.run(cfg)
    assert snapshot(fixture) == before
    assert sources["train"]["images"] == str(cfg.cache / "images" / "ISIC2018_Task3_Training_Input")
    assert Path(sources["test"]["labels"]).read_bytes().startswith(b"image,MEL")
    assert len(os.listdir(sources["test"]["images"])) == 3  # with the licence
    assert sources["groupings"] == str(fixture / download.GROUPINGS)
    assert sources["metadata"] == str(fixture / download.METADATA)
    assert json.loads(cfg.sources_file.read_text()) == sources
    assert "download: 3 training images, 2 official test images; nothing to fetch" in capsys.readouterr().out


def test_second_run_is_one_line_and_writes_nothing(settings, mirror, tmp_path, capsys):
    mirror.files = dataset()
    cfg = settings("isic2018", mirror.url)
    first = download.run(cfg)
    assert "fetched HAM10000_metadata.csv, ISIC2018_Task3_Test_GroundTruth.zip" in capsys.readouterr().out
    before = snapshot(tmp_path)
    mirror.asked.clear()
    assert download.run(cfg) == first
    assert capsys.readouterr().out == "download: 3 training images, 2 official test images; nothing to fetch\n"
    assert snapshot(tmp_path) == before and mirror.asked == []


def test_what_a_mirror_does_not_have_is_announced_and_not_asked_again(settings, mirror, second, capsys):
    mirror.files = dataset(test=False, groupings=False, metadata=False)
    sources = download.run(settings("isic2018", mirror.url))
    assert (sources["test"], sources["groupings"], sources["metadata"]) == (None, None, None)
    said = capsys.readouterr().out
    assert "official-test part is skipped" in said
    assert f"no {download.GROUPINGS}" in said and f"no {download.METADATA}" in said
    assert "ISIC2018_Task3_Test_Input.zip" not in mirror.paths  # of no use without its labels
    asked = len(mirror.asked)
    download.run(settings("isic2018", mirror.url))
    assert len(mirror.asked) == asked and capsys.readouterr().out.count("\n") == 1
    second.files = dataset()  # another mirror is asked
    assert download.run(settings("isic2018", second.url))["test"]


def test_test_labels_without_images_are_left_out(settings, mirror):
    mirror.files = dataset()
    del mirror.files["ISIC2018_Task3_Test_Input.zip"]
    assert download.run(settings("isic2018", mirror.url))["test"] is None


@pytest.mark.parametrize("name", [NAME, "ISIC2018_Task3_Training_GroundTruth.zip"])
def test_mirror_without_the_training_set_is_one_line(settings, mirror, name):
    mirror.files = dataset()
    del mirror.files[name]
    cfg = settings("isic2018", mirror.url)
    line = refusal(download.run, cfg)
    assert name in line and mirror.url in line and not cfg.sources_file.exists()


def test_official_mirrors_must_have_the_official_size(settings, mirror, second, monkeypatch, capsys):
    mirror.files, second.files = dataset() | {NAME: OTHER}, dataset()
    monkeypatch.setattr(download, "MIRRORS", (mirror.url, second.url))
    monkeypatch.setattr(download, "OFFICIAL_SIZES", {NAME: len(second.files[NAME])})
    download.run(settings("isic2018"))
    assert f"expected {len(second.files[NAME]):,}" in capsys.readouterr().out
    assert len(second.asked) == 1


def test_files_from_another_base_url_are_announced(settings, mirror, monkeypatch, capsys):
    mirror.files = dataset()
    download.run(settings("isic2018", mirror.url))
    monkeypatch.setattr(download, "MIRRORS", (mirror.url,))
    download.run(settings("isic2018"))
    assert f"{NAME} is from another base_url, not the official one" in capsys.readouterr().out


def test_official_size_and_addresses():
    assert download.OFFICIAL_SIZES[NAME] == 2_771_732_744
    assert download._urls(download.MIRRORS, "a.zip") == [
        "https://isic-archive.s3.amazonaws.com/challenges/2018/a.zip",
        "https://isic-challenge-data.s3.amazonaws.com/2018/a.zip",
    ]


@pytest.mark.parametrize("base_url", ["isic.example/2018", "ftp://isic.example", "https://", "file:///tmp"])
def test_base_url_that_is_none_is_one_line(settings, base_url):
    assert "expected an address" in refusal(download.run, settings("isic2018", base_url))


def unpacked(contents):
    """The same dataset with the archives unpacked."""
    packed = [data for name, data in contents.items() if name.endswith(".zip")]
    return {name: data for name, data in contents.items() if name.endswith(".csv")} | {
        name: data for archive in packed for name, data in content_of(archive).items()
    }


@pytest.mark.parametrize(
    "contents",
    [
        dataset(),
        unpacked(dataset()),
        {f"deep/er/{name}": data for name, data in dataset().items()},
        {f"data/{name}": data for name, data in unpacked(dataset()).items()},
        {f"{name.split('/')[0]}/{name}": data for name, data in unpacked(dataset()).items()},
    ],
    ids=["archives", "unpacked", "archives, two levels down", "unpacked, one level down", "each unpacked on its own"],
)
def test_own_folder_is_used_without_network_or_change(settings, tmp_path, contents):
    mine = write(tmp_path / "my data", contents)
    before = snapshot(mine)
    sources = download.run(settings(mine))
    assert snapshot(mine) == before
    assert len(list(Path(sources["train"]["images"]).glob("*.jpg"))) == 3 and Path(sources["train"]["labels"]).is_file()
    assert len(list(Path(sources["test"]["images"]).glob("*.jpg"))) == 2 and Path(sources["groupings"]).is_file()


def test_own_folder_is_not_searched_deeper_than_three_levels(settings, tmp_path):
    mine = write(tmp_path / "mine", {f"a/b/c/{name}": data for name, data in dataset().items()})
    assert "3 levels" in refusal(download.run, settings(mine))


@pytest.mark.parametrize(
    "contents, says",
    [
        ({"readme.txt": b"empty"}, "no training images"),
        ({"ISIC2018_Task3_Training_Input/LICENSE.txt": b"no image"}, "no training images"),
        ({"ISIC2018_Task3_Training_Input": b"a file, no folder"}, "no training images"),
        ({"ISIC2018_Task3_Training_Input/ISIC_1.jpg": b"1"}, "no training labels"),
        ({NAME: ARCHIVE, "ISIC2018_Task3_Training_GroundTruth.zip": zipped({"other.csv": b"1"})}, "no training labels"),
        ({NAME: zipped({"flat.jpg": b"1"})}, "no training images"),
    ],
)
def test_own_folder_without_what_is_needed_is_one_line(settings, tmp_path, contents, says):
    mine, cfg = write(tmp_path / "mine", contents), settings(tmp_path / "mine")
    line = refusal(download.run, cfg)
    assert says in line and str(mine) in line and "ISIC2018_Task3_Training" in line and not cfg.sources_file.exists()


def test_missing_folder_and_file_in_place_of_a_folder_are_one_line(settings, tmp_path):
    (tmp_path / "file.zip").write_bytes(ARCHIVE)
    assert "does not exist" in refusal(download.run, settings(tmp_path / "nowhere"))
    assert "is a file" in refusal(download.run, settings(tmp_path / "file.zip"))


def test_digest_follows_the_content_and_not_the_place(settings, tmp_path):
    mine = write(tmp_path / "mine", dataset())
    one, two = download.run(settings(mine)), download.run(settings(mine, name="fresh machine"))
    assert one["digest"] == two["digest"] and one["train"]["images"] != two["train"]["images"]
    digests = [one["digest"]]
    Path(one["train"]["images"], "ISIC_1.jpg").write_bytes(b"\1" * 49 + b"x")
    digests.append(download.run(settings(mine))["digest"])
    (mine / download.GROUPINGS).write_bytes(b"image,lesion_id\nISIC_1,HAM_2\n")
    digests.append(download.run(settings(mine))["digest"])
    Path(one["test"]["labels"]).write_bytes(b"image,MEL\n")
    digests.append(download.run(settings(mine))["digest"])
    images = content_of(dataset()["ISIC2018_Task3_Test_Input.zip"])
    images["ISIC2018_Task3_Test_Input/ISIC_0.jpg"] = b"\7" * 50  # same names, sizes and dates, another pixel
    (mine / "ISIC2018_Task3_Test_Input.zip").write_bytes(zipped(images))
    digests.append(download.run(settings(mine))["digest"])
    assert len(set(digests)) == 5


def test_cache_that_is_a_file_is_one_line(settings, tmp_path):
    mine = write(tmp_path / "mine", dataset())
    (tmp_path / "cache").write_text("mine")
    refusal(download.run, settings(mine))
    assert (tmp_path / "cache").read_text() == "mine"
