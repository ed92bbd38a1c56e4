import contextlib
import errno
import math
import signal
import subprocess
import sys
from pathlib import Path

import filelock
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dermai_utils import files
from dermai_utils.basics import UserError


def test_an_interrupted_write_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), files.atomic(path) as file:
        file.write("half")
        raise KeyboardInterrupt
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_a_file_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    path, seen = tmp_path / "a.txt", []
    monkeypatch.setattr(files.os, "fsync", lambda number: seen.append(path.exists()))
    with files.atomic(path) as file:
        file.write("x" * 10**6)
    assert seen == [False] and path.stat().st_size == 10**6


FAULTS = dict.fromkeys([errno.ENOSPC, errno.EDQUOT], "not enough room in")
FAULTS |= dict.fromkeys([errno.EACCES, errno.EIO], "expected to read and write there")


@pytest.mark.parametrize("code", FAULTS, ids=errno.errorcode.get)
def test_a_disk_that_fails_is_one_line_with_the_file(tmp_path, code):
    with pytest.raises(UserError, match=FAULTS[code]) as caught, files.disk_errors(tmp_path):
        with files.atomic(tmp_path / "a.txt") as file:
            file.write("x")
            raise OSError(code, "the reason")  # a failed write does not say which file
    assert f"{tmp_path / 'a.txt'}: the reason" in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_folder_is_tried_by_writing_into_it(tmp_path):
    files.try_write(tmp_path / "new")
    assert not list((tmp_path / "new").iterdir())
    (tmp_path / "file").touch()
    with pytest.raises(OSError):
        files.try_write(tmp_path / "file")


def test_room_is_checked_with_some_to_spare(tmp_path):
    files.check_room(tmp_path, 0)
    with pytest.raises(UserError, match="not enough room in .* GB needed, .* GB free"):
        files.check_room(tmp_path, 10**18)


# JSON, tables, checksums


def test_json_refuses_what_json_has_not_and_another_value_than_an_object_reads_as_none(tmp_path):
    path = tmp_path / "a.json"
    with pytest.raises(ValueError):
        files.write_json(path, {"auc": math.nan})
    assert not path.exists() and files.read_json(path) is None
    for text in ('{"a": ', "[1]", "", "null"):
        path.write_text(text)
        assert files.read_json(path) is None


def test_a_table_keeps_its_letters_and_its_blanks(tmp_path):
    words = ["007", "", "nan", "1e3", 'a "b", c', "é"]
    table = pd.DataFrame({"image": words, "lesion_id": words, "subset": ["0", "1"] * 3})
    table = table.assign(origin="NA", patient_id="", other=[*"abcde", ""], fold=range(6))
    table = table.assign(age=[50.0, math.nan, 0.5, 80, 1, 2])
    files.write_table(table, tmp_path / "t.csv")
    read = files.read_table(tmp_path / "t.csv")
    assert read.drop(columns="age").to_dict("list") == table.drop(columns="age").to_dict("list")
    assert read["age"].equals(table["age"]) and read["fold"].dtype == int


@settings(deadline=None)  # a busy machine is no fault
@given(st.lists(st.floats(allow_infinity=False), min_size=1))
def test_a_table_keeps_its_numbers_bit_for_bit(tmp_path_factory, numbers):
    path = tmp_path_factory.mktemp("table") / "t.csv"
    table = pd.DataFrame({"image": "a", "MEL": numbers})
    files.write_table(table, path)
    assert files.read_table(path)["MEL"].astype(float).equals(table["MEL"])


def test_the_checksum_of_a_file_is_the_digest_of_its_bytes(tmp_path):
    (tmp_path / "a").write_bytes(b"abc" * 10**5)
    assert files.checksum(tmp_path / "a") == files.digest(b"abc" * 10**5).hex()


# Locks


@contextlib.contextmanager
def another_process(folder, then="print('held', flush=True); time.sleep(60)"):
    """A process that holds `folder` until the end of the block."""
    code = "import time; from dermai_utils import files\n"
    code += f"with files.locked({str(folder)!r}): {then}"
    options = dict(cwd=Path(__file__).parents[1], stdout=subprocess.PIPE, text=True)
    with subprocess.Popen([sys.executable, "-c", code], **options) as process:
        try:
            yield process
        finally:
            process.kill()


def test_a_second_process_waits_then_stops_with_one_line_or_goes_on_after_a_kill(tmp_path, capsys):
    busy = pytest.raises(UserError, match=f"{tmp_path}: another process is at work there; wait")
    with another_process(tmp_path) as other:
        assert other.stdout.readline() == "held\n"
        with busy, files.locked(tmp_path, patience=0.2):
            pytest.fail("two processes in one folder")
        assert capsys.readouterr().out.count("waiting up to") == 1
        with another_process(tmp_path, "print('in')") as waits:
            assert "waiting up to" in waits.stdout.readline()
            other.send_signal(signal.SIGKILL)
            assert waits.communicate()[0] == "in\n"
    with files.locked(tmp_path):
        assert not capsys.readouterr().out


def test_a_process_may_lock_twice_and_keeps_the_folder_until_the_outer_end(tmp_path):
    with files.locked(tmp_path):
        with files.locked(tmp_path):
            pass
        with another_process(tmp_path, "print('in')") as waits:
            assert "waiting up to" in waits.stdout.readline()
    with another_process(tmp_path, "print('in')") as free:
        assert free.communicate()[0] == "in\n"


def test_a_disk_without_locks_is_announced_and_no_obstacle(tmp_path, monkeypatch, capsys):
    def refuse(lock, timeout):
        raise OSError(errno.ENOTSUP, "Operation not supported")

    monkeypatch.setattr(filelock.FileLock, "acquire", refuse)
    with files.locked(tmp_path):
        pass
    assert f"{tmp_path}: this disk has no locks" in capsys.readouterr().out


def test_remains_of_killed_processes_are_swept_and_nothing_else(tmp_path):
    others = [".stage.json", "a.txt", "a.tmp", ".lock"]
    for name in [*others, ".a.txt.123.tmp"]:
        (tmp_path / name).write_text("x")
    (tmp_path / ".X.tmp" / "inside").mkdir(parents=True)
    files.sweep(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(others)
