"""fetch.py against a mirror on the loopback address that injects one fault after another."""

import email.utils
import errno
import hashlib
import io
import os
import time

import pytest
import requests
from mirror import (
    ARCHIVE,
    HALF,
    NAME,
    OTHER,
    PAGE,
    USAGE,
    answers,
    ends_early,
    etag,
    good,
    ignores_range,
    press_ctrl_c,
    recorded,
    refusal,
    send,
    silent,
    stalls,
    zipped,
)

from dermai_utils import files
from dermai_utils.data import fetch as fetching
from dermai_utils.data.download import GROUPINGS

pytestmark = pytest.mark.usefixtures("waits")


@pytest.fixture
def target(tmp_path):
    return tmp_path / "archives" / NAME


def fetch(target, *servers, size=None):
    urls = [(server if isinstance(server, str) else server.url) + target.name for server in servers]
    return fetching.fetch(urls, target, size)


def assert_whole(target, content=ARCHIVE):
    """`target` is there, is recorded, and nothing half-done lies beside it."""
    assert target.read_bytes() == content
    assert recorded(target)["sha256"] == hashlib.sha256(content).hexdigest()
    assert sorted(path.name for path in target.parent.iterdir()) == sorted(
        [target.name, "SHA256SUMS.json"]
    )


def part_of(target):
    return target.with_name(NAME + ".part")


def leave_half(target, mirror, monkeypatch):
    """The state that Ctrl-C leaves, pressed while the mirror, having sent half, is waited for."""
    mirror.plan = [ends_early]
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(fetching, "sleep", lambda seconds: press_ctrl_c())
        fetch(target, mirror)
    assert part_of(target).read_bytes() == ARCHIVE[:HALF] and not target.exists()
    mirror.asked.clear()


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
    assert [(head["Range"], head["If-Range"]) for head in mirror.asked] == [
        (f"bytes={HALF}-", etag(ARCHIVE))
    ]


def test_resumes_by_date_where_the_etag_is_weak(target, mirror):
    def weak(handler, body):
        send(
            handler,
            200,
            body[:HALF],
            len(body),
            ETag='W/"1"',
            Last_Modified="Sun, 01 Jul 2018 00:00:00 GMT",
        )

    mirror.plan = [weak]
    fetch(target, mirror)
    assert_whole(target)
    assert mirror.asked[1]["If-Range"] == "Sun, 01 Jul 2018 00:00:00 GMT"


def test_never_resumes_what_it_cannot_recognise(target, mirror):
    # neither ETag nor date
    mirror.plan = [lambda handler, body: send(handler, 200, OTHER[:HALF], len(OTHER))]
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
    # by If-Range; a mirror that doesn't know it gives itself away by another ETag
    assert len(mirror.asked) == 1


@pytest.mark.parametrize(
    "tag, first, total",
    [
        (etag(OTHER), HALF, len(OTHER)),
        (etag(ARCHIVE), HALF + 1, len(ARCHIVE)),
        (etag(ARCHIVE), HALF, len(ARCHIVE) + 1),
    ],
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
    mirror.plan = [
        answers(200, ARCHIVE[:500], length=len(ARCHIVE))
    ] * 50  # under a chunk: no progress
    assert "broke off (5 tries)" in refusal(fetch, target, mirror) and not target.exists()
    assert len(mirror.asked) == fetching.TRIES and waits == [1, 2, 4, 8]


def test_shorter_range_than_asked_for_is_continued(target, mirror, monkeypatch):
    leave_half(target, mirror, monkeypatch)
    content_range = f"bytes {HALF}-{HALF + 1499}/{len(ARCHIVE)}"
    mirror.plan = [
        answers(206, ARCHIVE[HALF:][:1500], ETag=etag(ARCHIVE), Content_Range=content_range)
    ]
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
    monkeypatch.setattr(fetching, "TIMEOUT", (10, 0.5))
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


def test_retry_after_as_a_date_is_obeyed(target, mirror, waits, monkeypatch):
    monkeypatch.setattr(time, "time", lambda: 1_500_000_000)
    mirror.plan = [answers(503, Retry_After=email.utils.formatdate(1_500_000_100, usegmt=True))]
    fetch(target, mirror)
    assert_whole(target)
    assert waits == [100]


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
    assert len(mirror.asked) == fetching.TRIES and waits == [1, 2, 4, 8]


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


@pytest.mark.parametrize("name", [NAME, GROUPINGS])
def test_web_page_in_place_of_the_file_means_the_next_mirror(tmp_path, mirror, second, name):
    target, content = (
        tmp_path / "archives" / name,
        ARCHIVE if name == NAME else b"image,lesion_id\nISIC_1,HAM_1\n",
    )
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
    "body, says",
    [
        (b"plain text" * 99, "no zip archive"),
        (ARCHIVE[:-30], "cut off or damaged"),
        (b"", "0 bytes"),
    ],
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


@pytest.mark.parametrize(
    "content", ["", "{", "[1]", f'{{"{NAME}": 3}}', f'{{"{NAME}": {{"sha256": "1"}}}}']
)
def test_record_that_was_broken_by_hand_is_one_line_and_trusts_nothing(target, mirror, content):
    fetch(target, mirror)
    record = target.parent / "SHA256SUMS.json"
    record.write_text(content)
    assert str(record) in refusal(fetch, target, mirror)
    assert (
        record.read_text() == content and target.read_bytes() == ARCHIVE and len(mirror.asked) == 1
    )


def test_disk_without_room_is_seen_before(target, mirror, monkeypatch):
    monkeypatch.setattr(
        files.shutil, "disk_usage", lambda path: USAGE(files.SPARE + len(ARCHIVE) - 1)
    )
    assert "not enough room" in refusal(fetch, target, mirror)
    assert not target.exists() and not part_of(target).exists()
    monkeypatch.setattr(files.shutil, "disk_usage", lambda path: USAGE(files.SPARE + len(ARCHIVE)))
    fetch(target, mirror)
    assert_whole(target)


class FullDisk(io.FileIO):
    def write(self, data):
        if self.tell() + len(data) > 5000:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return super().write(data)


def test_disk_that_fills_up_keeps_the_part(target, mirror, monkeypatch):
    def full(path, mode="r", **rest):
        return FullDisk(path, "a") if mode == "ab" else open(path, mode, **rest)

    with monkeypatch.context() as patch:
        patch.setattr(fetching, "open", full, raising=False)
        assert "filled up" in refusal(fetch, target, mirror)
    assert part_of(target).read_bytes() == ARCHIVE[:5000] and not target.exists()
    fetch(target, mirror)
    assert_whole(target)
    assert mirror.asked[1]["Range"] == "bytes=5000-"


def test_ctrl_c_inside_the_body_keeps_the_part(target, mirror, monkeypatch):
    plain = fetching.progress.bar

    def bar(**options):
        made = plain(**options)
        update = made.update
        made.update = lambda n: press_ctrl_c() if made.n >= 3000 else update(n)
        return made

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(fetching.progress, "bar", bar)
        fetch(target, mirror)
    assert part_of(target).read_bytes() == ARCHIVE[:4000] and not target.exists()
    fetch(target, mirror)
    assert_whole(target)
    assert mirror.asked[1]["Range"] == "bytes=4000-"


def test_killed_between_record_and_rename_is_finished(target, mirror, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        record = fetching._record
        patch.setattr(fetching, "_record", lambda *args: record(*args) or press_ctrl_c())
        fetch(target, mirror)
    assert not target.exists()
    fetch(target, mirror)
    assert_whole(target)


def test_missing_on_every_mirror_is_none(tmp_path, mirror, second):
    assert fetch(tmp_path / "archives" / "HAM10000_metadata.csv", mirror, second) is None
    assert list((tmp_path / "archives").iterdir()) == [] and len(second.asked) == 1


def test_missing_here_but_unknown_there_is_an_error(tmp_path, mirror, refused):
    assert "cannot be reached" in refusal(
        fetch, tmp_path / "archives" / "HAM10000_metadata.csv", mirror, refused
    )


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


@pytest.mark.parametrize(
    "content", [ARCHIVE[:-30], PAGE, OTHER + b"x"], ids=["cut off", "web page", "wrong size"]
)
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
