"""Downloads from a mirror on the loopback address that injects one fault after another."""

import errno
import io
import os
import socket
import subprocess
import sys
import time
from collections import namedtuple
from pathlib import Path

import pytest
from mirror import (
    ARCHIVE,
    HALF,
    NAME,
    OTHER,
    PAGE,
    answers,
    ends_early,
    etag,
    good,
    official,
    refusal,
    send,
    serving,
    silent,
    stalls,
    zipped,
)

from dermai_utils import files
from dermai_utils.copies import fetch as fetching

GROUPINGS, METADATA = "ISIC2018_Task3_Training_LesionGroupings.csv", "HAM10000_metadata.csv"
REST = f"bytes={HALF}-"


@pytest.fixture
def mirror():
    with serving({NAME: ARCHIVE}) as server:
        yield server


@pytest.fixture
def second():
    with serving({NAME: ARCHIVE, GROUPINGS: b"image,lesion_id\n"}) as server:
        yield server


@pytest.fixture
def refused():
    """An address whose port is taken, so that nobody else gets it, but not listened on."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}/"


@pytest.fixture
def target(tmp_path):
    return tmp_path / "archives" / NAME


def fetch(target, *servers, size=None, **options):
    mirrors = [server if isinstance(server, str) else server.url for server in servers]
    return fetching.fetch(mirrors, target, size, **{"wait": 0} | options)


def assert_whole(target, content=ARCHIVE):
    """`target` is there, and nothing half-done lies beside it."""
    assert target.read_bytes() == content
    assert {path.name for path in target.parent.iterdir()} == {target.name}


def part_of(target):
    return next(target.parent.glob("*.part"), None)


def leave_half(target, mirror):
    """The state that a mirror leaves which sends half, and then is busy."""
    mirror.plan = [ends_early] + [answers(503)] * fetching.TRIES
    assert "answers 503" in refusal(fetch, target, mirror)
    assert part_of(target).read_bytes() == ARCHIVE[:HALF] and not target.exists()
    mirror.asked.clear()
    mirror.plan.clear()


# One file, and what becomes of a part


def test_a_file_is_fetched_once_then_needs_no_network(target, mirror):
    assert fetch(target, mirror)
    assert_whole(target)
    assert fetch(target, mirror) and len(mirror.asked) == 1


def ranged(first, body, tag):
    """An answer to a Range with `body`, from byte `first` on, of the version `tag`."""
    content_range = f"bytes {first}-{first + len(body) - 1}/{len(OTHER)}"
    return answers(206, body, ETag=tag, Content_Range=content_range)


def chunked(handler, body):
    """Half of the body, without its length, and no end."""
    handler.protocol_version = "HTTP/1.1"
    handler.send_response(200)
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    handler.wfile.write(b"%x\r\n%s" % (len(body), body[:HALF]))
    handler.close_connection = True


def whole(handler, body):
    send(handler, 200, body, ETag=etag(body))


# {what: (the part that lies there, what the mirror answers first, the Range of each request)}
RESUMED = {
    "the rest of the file": (ARCHIVE[:HALF], [], [REST]),
    "an answer with the whole file": (ARCHIVE[:HALF], [whole], [REST]),
    "a part that is too long": (ARCHIVE + b"more", [], [f"bytes={len(ARCHIVE) + 4}-", None]),
    "another version": (ARCHIVE[:HALF], [ranged(HALF, OTHER[HALF:], etag(OTHER))], [REST, None]),
    "another range": (ARCHIVE[:HALF], [ranged(9, OTHER[HALF:], etag(ARCHIVE))], [REST, None]),
    "a shorter range": (
        ARCHIVE[:HALF],
        [ranged(HALF, ARCHIVE[HALF:][:1500], etag(ARCHIVE))],
        [REST, f"bytes={HALF + 1500}-"],
    ),
    "a body that ends early": (ARCHIVE[:HALF], [ends_early], [REST, f"bytes={2 * HALF}-"]),
    "a chunked body that ends early": (ARCHIVE[:HALF], [chunked], [REST, REST, None]),
}


@pytest.mark.parametrize("part, plan, asked", RESUMED.values(), ids=RESUMED)
def test_whatever_the_mirror_answers_the_file_is_whole(target, mirror, part, plan, asked):
    leave_half(target, mirror)
    part_of(target).write_bytes(part)
    mirror.plan = list(plan)
    fetch(target, mirror)
    assert_whole(target)
    assert [headers["Range"] for headers in mirror.asked] == asked


def test_a_part_without_a_version_is_not_resumed(target, mirror, capsys):
    unnamed = ranged(HALF, ARCHIVE[HALF:], "")
    mirror.plan = [lambda handler, body: send(handler, 200, OTHER[:HALF], len(OTHER)), unnamed]
    fetch(target, mirror)
    assert_whole(target)
    assert "broke off or stalled; trying again in" in capsys.readouterr().out


def test_a_mirror_that_always_answers_416_is_given_up(target, mirror):
    leave_half(target, mirror)
    mirror.plan = [answers(416)] * 50
    assert "another version" in refusal(fetch, target, mirror)
    assert len(mirror.asked) == fetching.TRIES


def test_a_changed_file_starts_over(target, mirror):
    leave_half(target, mirror)
    mirror.files[NAME] = OTHER
    fetch(target, mirror)
    assert_whole(target, OTHER)


def test_a_mirror_without_progress_is_given_up_and_progress_renews_the_tries(target, mirror):
    mirror.plan = [answers(200, ARCHIVE[:500], length=len(ARCHIVE))] * 50
    assert f"({fetching.TRIES} tries)" in refusal(fetch, target, mirror)
    assert len(mirror.asked) == fetching.TRIES and not target.exists()
    mirror.asked.clear()
    mirror.plan = [lambda handler, body: good(handler, body, cut=fetching.CHUNK + 1)] * 4
    mirror.files[NAME] = larger = zipped({"X/a.jpg": bytes(6 * fetching.CHUNK)})
    fetch(target, mirror)
    assert_whole(target, larger)
    assert len(mirror.asked) == 5


@pytest.mark.parametrize("fault, asked", [(stalls, REST), (silent, None)])
def test_a_stall_is_tried_again(target, mirror, fault, asked):
    mirror.plan = [fault]
    fetch(target, mirror, timeout=(10, 0.3))
    assert_whole(target)
    assert mirror.asked[1]["Range"] == asked


# Another mirror


def undeclared(handler, body):
    """Another archive, without its length."""
    handler.send_response(200)
    handler.end_headers()
    handler.wfile.write(OTHER + b"junk")
    handler.close_connection = True


# {what: what the first mirror always answers}
ELSEWHERE = {str(code): answers(code, b"") for code in (204, 301, 400, 401)}
ELSEWHERE |= {f"busy {code}": answers(code, Retry_After=86400) for code in (429, 500, 503)}
ELSEWHERE |= {
    "a web page": answers(200, PAGE),
    "another size": answers(200, zipped({"a.jpg": b"1"})),
    "another size, not declared": undeclared,
}


@pytest.mark.parametrize("what", ELSEWHERE)
def test_what_is_no_help_means_the_next_mirror(target, mirror, second, what):
    mirror.plan = [ELSEWHERE[what]] * 50
    fetch(target, mirror, second, size=len(ARCHIVE))
    assert_whole(target)
    assert len(mirror.asked) == (fetching.TRIES if "busy" in what else 1)


def test_without_a_network_the_part_is_kept_for_the_next_mirror(target, mirror, refused):
    leave_half(target, mirror)
    assert "broke off or stalled (5 tries)" in refusal(fetch, target, refused)
    fetch(target, refused, mirror)
    assert_whole(target)
    assert mirror.asked[0]["Range"] == REST


def test_a_web_page_is_no_table_and_does_not_cost_the_part(target, mirror, second):
    mirror.files[GROUPINGS] = PAGE
    fetch(target.with_name(GROUPINGS), mirror, second)
    assert target.with_name(GROUPINGS).read_bytes() == second.files[GROUPINGS]
    leave_half(target, mirror)
    mirror.plan = [answers(200, PAGE)]
    assert "a web page in its place" in refusal(fetch, target, mirror)
    assert part_of(target).read_bytes() == ARCHIVE[:HALF]


BROKEN = {"no zip archive": b"plain text" * 99, "cut off or damaged": ARCHIVE[:-30]}
BROKEN |= {"0 bytes": b"", "a web page": PAGE}


@pytest.mark.parametrize("why", BROKEN)
def test_what_is_no_archive_never_gets_its_name_and_is_replaced(target, mirror, why):
    mirror.plan = [answers(200, BROKEN[why])]
    assert why in refusal(fetch, target, mirror)
    assert list(target.parent.iterdir()) == []
    target.write_bytes(BROKEN[why])  # a user's own
    fetch(target, mirror, size=len(ARCHIVE))
    assert_whole(target)


def test_a_file_that_no_mirror_has_is_false(target, mirror, second, refused):
    target = target.with_name(METADATA)
    assert not fetch(target, mirror, second) and list(target.parent.iterdir()) == []
    assert len(second.asked) == 1
    assert "cannot be reached" in refusal(fetch, target, mirror, refused)  # it may have the file


# The disk, and kills


def test_a_disk_without_room_is_seen_before(target, mirror, monkeypatch):
    usage = namedtuple("usage", "free")(files.SPARE + len(ARCHIVE) - 1)
    monkeypatch.setattr(files.shutil, "disk_usage", lambda path: usage)
    assert "not enough room" in refusal(fetch, target, mirror)
    assert list(target.parent.iterdir()) == []


class FullDisk(io.FileIO):
    def write(self, data):
        if self.tell() + len(data) > HALF:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return super().write(data)


def test_a_disk_that_fills_up_keeps_the_part(target, mirror, monkeypatch):
    def full(path, mode="r", **options):
        return FullDisk(path, "a") if mode == "ab" else open(path, mode, **options)

    with monkeypatch.context() as patch:
        patch.setattr(fetching, "open", full, raising=False)
        assert "not enough room" in refusal(fetch, target, mirror)
    assert part_of(target).read_bytes() == ARCHIVE[:HALF] and not target.exists()
    fetch(target, mirror)
    assert_whole(target)
    assert mirror.asked[1]["Range"] == REST


def test_files_and_folders_in_the_way_are_one_line(tmp_path, target, mirror):
    target.mkdir(parents=True)
    assert NAME in refusal(fetch, target, mirror) and target.is_dir()
    (tmp_path / "file").write_text("mine")
    refusal(fetch, tmp_path / "file" / NAME, mirror)
    assert (tmp_path / "file").read_text() == "mine"


def test_a_later_process_resumes_after_a_kill(target):
    with serving(official() | {NAME: ARCHIVE}) as mirror:
        code = "import sys; from dermai_utils import copies; copies.fetch_official(*sys.argv[1:])"
        command = [sys.executable, "-c", code, str(target.parent), mirror.url]
        mirror.plan = [good, stalls]  # the labels come first
        options = dict(cwd=Path(__file__).parents[1], stderr=subprocess.DEVNULL)
        with subprocess.Popen(command, **options) as killed:
            while not (part := part_of(target)) or part.stat().st_size < HALF:
                assert killed.poll() is None
                time.sleep(0.02)
            killed.kill()
        assert not target.exists()
        mirror.asked.clear()
        subprocess.run(command, check=True, **options)
        assert target.read_bytes() == ARCHIVE and not part_of(target)
        assert mirror.asked[0]["Range"] == REST


# The official files


def get(folder, *servers, base_url="", **options):
    mirrors = [server.url for server in servers]
    return fetching.fetch_official(folder, base_url, mirrors, **{"wait": 0} | options)


def without(*words):
    return {n: data for n, data in official().items() if not any(word in n for word in words)}


def test_all_files_are_fetched_once(tmp_path):
    with serving(official()) as mirror:
        assert get(tmp_path, mirror, sizes={}) == sorted(official())
        asked = len(mirror.asked)
        assert get(tmp_path, mirror, sizes={}) == [] and len(mirror.asked) == asked


def test_what_a_mirror_lacks_is_not_asked_for_again(tmp_path):
    with serving(without("_Test_GroundTruth", METADATA)) as mirror, serving(official()) as second:
        assert len(get(tmp_path, base_url=mirror.url)) == 3
        assert "ISIC2018_Task3_Test_Input.zip" not in mirror.paths  # of no use without its labels
        asked = len(mirror.asked)
        assert get(tmp_path, base_url=mirror.url) == [] and len(mirror.asked) == asked
        assert len(get(tmp_path, base_url=second.url)) == 3  # another mirror is asked


@pytest.mark.parametrize("name", fetching.NEEDED)
def test_a_mirror_without_the_training_set_is_one_line(tmp_path, name):
    with serving(without(name)) as mirror:
        line = refusal(get, tmp_path, base_url=mirror.url)
        assert f"{name} is not at {mirror.url}" in line


def test_official_mirrors_must_have_the_official_size(tmp_path, capsys):
    with serving(official() | {NAME: OTHER}) as mirror, serving(official()) as second:
        size = len(second.files[NAME])
        get(tmp_path, mirror, second, sizes={NAME: size})
        assert f"bytes of it, expected {size:,}" in capsys.readouterr().out
        get(tmp_path, mirror, sizes={NAME: size + 1})
        assert f"{NAME} is from another base_url" in capsys.readouterr().out


ADDRESSES = dict.fromkeys(["isic.example/2018", "ftp://isic.example", "https://"], "an address")
ADDRESSES |= dict.fromkeys(["http://[", "http://a..b"], "cannot be asked")


@pytest.mark.parametrize("base_url", ADDRESSES)
def test_a_base_url_that_is_no_address_is_one_line(tmp_path, base_url):
    assert ADDRESSES[base_url] in refusal(get, tmp_path, base_url=base_url)
