import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dermai_utils import files


def test_an_interrupted_write_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), files.atomic(path) as file:
        file.write("half")
        raise KeyboardInterrupt
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_json_refuses_what_json_has_not(tmp_path):
    with pytest.raises(ValueError):
        files.write_json(tmp_path / "a.json", {"auc": float("nan")})
    assert not (tmp_path / "a.json").exists()


def test_half_a_json_file_reads_as_none(tmp_path):
    (tmp_path / "a.json").write_text('{"a": ')
    assert files.read_json(tmp_path / "a.json") is None
    assert files.read_json(tmp_path / "missing.json") is None


def test_a_marker_names_what_changed(tmp_path):
    made, marker = tmp_path / "made.csv", tmp_path / ".stage.json"
    made.write_text("1")
    assert files.changes(marker, {"seed": 0}) == ["not made yet"]
    files.mark(marker, {"seed": 0}, [made])
    assert files.changes(marker, {"seed": 0}) == []
    assert files.changes(marker, {"seed": 1}) == ["seed changed"]
    made.write_text("2")
    assert files.changes(marker, {"seed": 0}) == ["made.csv was changed since"]
    made.unlink()
    assert files.changes(marker, {"seed": 0}) == ["made.csv is missing"]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
)


@given(json_values, json_values)
def test_fingerprints_differ_exactly_when_values_do(a, b):
    same = json.dumps(a, sort_keys=True) == json.dumps(b, sort_keys=True)
    assert (files.fingerprint(a) == files.fingerprint(b)) == same
