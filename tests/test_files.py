import contextlib
import errno
import json
import os
import shutil
import signal
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dermai_utils import files
from dermai_utils.config import ROOT, UserError


def test_an_interrupted_write_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), files.atomic(path) as file:
        file.write("half")
        raise KeyboardInterrupt
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    done = []
    for name in ("fsync", "replace"):
        plain = getattr(os, name)
        monkeypatch.setattr(
            os, name, lambda *given, plain=plain, name=name: (plain(*given), done.append(name))[0]
        )
    with files.atomic(tmp_path / "a.txt") as file:
        file.write("x" * 10**6)
    assert done == ["fsync", "replace"]


def test_a_disk_that_fails_is_named_by_its_file(tmp_path):
    with pytest.raises(OSError) as caught, files.atomic(tmp_path / "a.txt") as file:
        file.write("x")
        raise OSError(errno.ENOSPC, "No space left on device")  # a failed write doesn't say where
    assert caught.value.filename == str(tmp_path / "a.txt") and not list(tmp_path.iterdir())


def test_json_refuses_what_json_has_not(tmp_path):
    with pytest.raises(ValueError):
        files.write_json(tmp_path / "a.json", {"auc": float("nan")})
    assert not (tmp_path / "a.json").exists()


def test_half_a_json_file_reads_as_none(tmp_path):
    (tmp_path / "a.json").write_text('{"a": ')
    assert files.read_json(tmp_path / "a.json") is None
    assert files.read_json(tmp_path / "missing.json") is None
    (tmp_path / "a.json").write_text("[1]")
    assert files.read_json(tmp_path / "a.json") is None


def test_a_marker_names_what_changed(tmp_path):
    made, marker = tmp_path / "made.csv", tmp_path / ".stage.json"
    made.write_text("1")
    assert files.changes(marker, {"seed": 0}, [made]) == ["not made yet"]
    files.mark(marker, {"seed": 0}, [made])
    assert files.changes(marker, {"seed": 0}, [made]) == []
    assert files.changes(marker, {"seed": 1}, [made]) == ["seed changed"]
    made.write_text("2")
    assert files.changes(marker, {"seed": 0}, [made]) == ["made.csv was changed since"]
    made.unlink()
    assert files.changes(marker, {"seed": 0}, [made]) == ["made.csv is missing"]


def large_from(monkeypatch, size):
    """Files are large from `size` bytes, and the last 4 bytes their end."""
    monkeypatch.setattr(files, "LARGE", size)
    monkeypatch.setattr(files, "END", 4)


@pytest.mark.parametrize("size", [2**25, 8], ids=["small", "large"])
def test_a_marker_goes_with_its_files_and_looks_at_no_other_place(tmp_path, monkeypatch, size):
    large_from(monkeypatch, size)
    here, copy = tmp_path / "here", tmp_path / "copy"
    here.mkdir()
    (here / "best.pt").write_bytes(b"weights, SUM1")
    files.mark(here / ".train.json", {}, [here / "best.pt"])
    shutil.copytree(here, copy)
    os.utime(copy / "best.pt", (0, 0))
    assert files.changes(copy / ".train.json", {}, [copy / "best.pt"]) == []
    for other in (b"weights, SUM2", b"weights of more, SUM1"):
        (copy / "best.pt").write_bytes(other)
        changed = files.changes(copy / ".train.json", {}, [copy / "best.pt"])
        assert changed == ["best.pt was changed since"]
    (copy / "best.pt").unlink()
    assert files.changes(copy / ".train.json", {}, [copy / "best.pt"]) == ["best.pt is missing"]
    assert files.changes(here / ".train.json", {}, [here / "best.pt"]) == []


@pytest.mark.parametrize("folder", ["/gone/work/runs/a/", "C:\\gone\\work\\runs\\a\\"])
def test_a_marker_of_an_earlier_version_holds_and_from_then_on_in_a_copy_too(
    tmp_path, monkeypatch, folder
):
    """It has whole paths, and of a large file the time of change."""
    large_from(monkeypatch, 8)
    best, history, later = (tmp_path / name for name in ("best.pt", "history.csv", "later.json"))
    best.write_bytes(b"weights, SUM1")
    history.write_text("1")
    outputs, marker = [best, history, later], tmp_path / ".train.json"
    stamp = [best.stat().st_size, best.stat().st_mtime_ns]
    then = {f"{folder}best.pt": stamp, f"{folder}history.csv": files.checksum(history)}
    files.write_json(marker, {"made_from": {"seed": 0}, "outputs": then})
    assert files.changes(marker, {"seed": 0}, outputs) == []
    files.renew(marker, outputs)
    os.utime(best, (0, 0))
    assert files.changes(marker, {"seed": 0}, outputs) == []
    files.write_json(marker, {"made_from": {"seed": 0}, "outputs": then})
    assert files.changes(marker, {"seed": 0}, outputs) == ["best.pt was changed since"]


def test_a_table_of_version_0_1_0_is_read_with_the_words_of_today(tmp_path):
    (tmp_path / "split.csv").write_text("image,part\na,0\nb,test\n")
    table = files.read_table(tmp_path / "split.csv")
    assert table.to_dict("list") == {"image": ["a", "b"], "subset": ["0", "test"]}


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(json_values, json_values)
def test_fingerprints_differ_exactly_when_values_do(a, b):
    same = json.dumps(a, sort_keys=True) == json.dumps(b, sort_keys=True)
    assert (files.fingerprint(a) == files.fingerprint(b)) == same


@contextlib.contextmanager
def another_process(folder):
    """A process that holds `folder` until the end of the block."""
    code = f"import time; from dermai_utils import files\nwith files.locked({str(folder)!r}):"
    code += " print('held', flush=True); time.sleep(60)"
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def test_a_second_process_waits_then_stops_with_the_name_of_the_first(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(files, "PATIENCE", 0.3)
    with another_process(tmp_path) as other:
        with (
            pytest.raises(UserError, match=f"process {other.pid} on .* is at work there") as caught,
            files.locked(tmp_path),
        ):
            pytest.fail("two processes in one folder")
        assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)
        assert capsys.readouterr().out.count("waiting up to") == 1


def test_a_kill_lets_go_and_the_one_that_waited_goes_on(tmp_path, capsys):
    with another_process(tmp_path) as other:
        code = f"from dermai_utils import files\nwith files.locked({str(tmp_path)!r}): print('in')"
        waited = subprocess.Popen(
            [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        assert "waiting up to" in waited.stdout.readline()
        other.send_signal(signal.SIGKILL)
        assert waited.communicate()[0] == "in\n"
    with files.locked(tmp_path) as sure:
        assert sure and not capsys.readouterr().out


def test_a_process_may_lock_twice_and_keeps_the_folder_until_the_outer_end(tmp_path):
    def held():
        with open(tmp_path / ".lock", "a+") as file:
            return not files._try_lock(file)

    with files.locked(tmp_path):
        with files.locked(tmp_path):
            assert held()
        assert held()
    assert not held() and (tmp_path / ".lock").read_text() == ""


def test_a_file_system_without_locks_is_announced_and_no_obstacle(tmp_path, monkeypatch, capsys):
    def refuse(file):
        raise OSError(errno.ENOTSUP, "Operation not supported")

    monkeypatch.setattr(files, "_try_lock", refuse)
    with files.locked(tmp_path) as sure:
        assert not sure
    assert (
        f"{tmp_path}: no locks on this file system (Operation not supported)"
        in capsys.readouterr().out
    )


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="Linux's full disk")
def test_a_full_disk_is_locked_all_the_same(tmp_path, capsys):
    (tmp_path / ".lock").symlink_to("/dev/full")
    with files.locked(tmp_path) as sure, open("/dev/full", "a+b") as other:
        assert sure and not files._try_lock(other)
    assert not capsys.readouterr().out


@pytest.mark.parametrize("anew", [False, True], ids=["gone", "another in its place"])
def test_a_folder_that_goes_away_meanwhile_is_told(tmp_path, anew):
    folder = tmp_path / "drive"
    folder.mkdir()
    with (
        pytest.raises(UserError, match="is not the folder that it was when this began"),
        files.locked(folder),
    ):
        folder.rename(tmp_path / "unmounted")
        if anew:
            folder.mkdir()
            (folder / ".lock").touch()


def test_what_a_killed_process_left_is_swept_and_nothing_else(tmp_path):
    others = [".stage.json", "a.txt", ".a.tmp", "pixels_64.npy", "mine.part.npy"]
    for name in [*others, ".a.txt.123.tmp", "pixels_64.part.npy"]:
        (tmp_path / name).write_text("x")
    files.sweep(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(others)


@pytest.mark.parametrize("one_disk", [True, False])
def test_delivery_moves_whole_files_and_keeps_the_checkpoint_before(
    tmp_path, monkeypatch, one_disk
):
    pending, folder = tmp_path / "pending", tmp_path / "drive"
    plain = os.replace

    def replace(source, target):
        if not one_disk and os.path.dirname(source) != os.path.dirname(target):
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        plain(source, target)

    monkeypatch.setattr(files.os, "replace", replace)
    for content in ("old", "new"):
        for name in ("last.pt", "best.pt"):
            with files.atomic(pending / name) as file:
                file.write(content)
        assert files.deliver(pending, folder, create=True) is None and not list(pending.iterdir())
    assert {p.name: p.read_text() for p in folder.iterdir()} == {
        "last.pt": "new",
        "last.previous.pt": "old",
        "best.pt": "new",
    }


def test_delivery_that_fails_says_why_and_loses_nothing(tmp_path):
    (tmp_path / "file").write_text("in the way")
    pending = tmp_path / "pending"
    pending.mkdir()
    (pending / "best.pt").write_text("x")
    assert isinstance(files.deliver(pending, tmp_path / "file"), OSError)
    assert (pending / "best.pt").read_text() == "x"
    assert (tmp_path / "file").read_text() == "in the way"


def test_delivery_makes_no_folder_where_drive_was(tmp_path):
    with files.atomic(tmp_path / "pending" / "best.pt") as file:
        file.write("x")
    run = tmp_path / "drive" / "run"
    assert files.deliver(tmp_path / "pending", run).filename == str(run)
    assert (tmp_path / "pending" / "best.pt").exists() and not (tmp_path / "drive").exists()


EDITED = [
    "[]",
    "{}",
    '{"made_from": {}}',
    '{"made_from": 1, "outputs": {}}',
    '{"made_from": {}, "outputs": []}',
    "half",
]


@pytest.mark.parametrize("text", EDITED)
def test_a_marker_that_was_edited_means_making_it_again(tmp_path, text):
    (tmp_path / ".stage.json").write_text(text)
    assert files.changes(tmp_path / ".stage.json", {"seed": 0}, []) == ["not made yet"]
