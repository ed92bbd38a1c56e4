import hashlib
import io
import json
import shutil
import zipfile

import numpy as np
import photos
import pytest
import safetensors.torch
import torch
from mirror import serving

from dermai_utils import files, runs
from dermai_utils.app import pack, predictor, state
from dermai_utils.basics import UserError

PHOTO = photos.encoded(photos.tinted("MEL", 999), "PNG")  # no training image
WEIGHTS, STATE = "weights.safetensors", "answers.safetensors"


def copied(run, folder, **settings):
    """The run in a folder of its own, with other settings."""
    shutil.copytree(run.folder, folder / run.name)
    path = folder / run.name / "settings.json"
    files.write_json(path, files.read_json(path) | settings)
    return runs.Run(folder / run.name, device="cpu")


@pytest.fixture(scope="module")
def packed(run, tmp_path_factory):
    return pack.pack(copied(run, tmp_path_factory.mktemp("packed")))


def contents(path):
    with zipfile.ZipFile(path) as bundle:
        return {name: bundle.read(name) for name in bundle.namelist()}


def zipped(members) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as bundle:
        for name, data in members.items():
            bundle.writestr(name, data)
    return buffer.getvalue()


def rewritten(packed, folder, listed=True, **changes):
    """A pack without a checksum in its name, with some members changed; None: left out.

    listed: its list has the checksums of what is in it now.
    """
    members = contents(packed) | changes
    members = {name: data for name, data in members.items() if data is not None}
    if listed:
        about = json.loads(members.pop("pack.json"))
        about["sha256"] = {n: hashlib.sha256(d).hexdigest() for n, d in members.items()}
        members["pack.json"] = json.dumps(about).encode()
    path = folder / "changed.zip"
    path.write_bytes(zipped(members))
    return path


def test_a_pack_answers_as_the_run_did_with_no_data_set_there(run, packed, tmp_path):
    opened = pack.open_pack(packed, tmp_path, device="cpu")
    (there,), (here,) = predictor.answer(opened, PHOTO), predictor.answer(run, PHOTO)
    assert there.row | {"similar": ""} == here.row | {"similar": ""} and there.similar == []
    np.testing.assert_array_equal(there.gradcam, here.gradcam)
    again = pack.open_pack(packed, tmp_path)
    assert again.folder == opened.folder and again.name == packed.stem
    said = predictor.description(opened).replace(packed.stem, "baseline")
    assert said == predictor.description(run)
    assert opened.predictions.equals(run.predictions) and opened.table.equals(run.table)


def test_folds_are_packed_with_all_their_networks(folds, tmp_path):
    opened = pack.open_pack(pack.pack(copied(folds, tmp_path)), tmp_path, device="cpu")
    assert len(opened.networks) == 3
    there, here = (predictor.answer(each, PHOTO)[0] for each in (opened, folds))
    np.testing.assert_array_equal(there.probabilities, here.probabilities)


def test_a_pack_has_what_an_answer_needs_no_image_and_the_same_bytes_each_time(
    run, packed, tmp_path
):
    members = contents(packed)
    assert sorted(members) == sorted([*pack.NEEDED, WEIGHTS, "LICENCE.md", "pack.json"])
    assert set(safetensors.torch.load(members[STATE])) == {"centre", "precision", "thumbnails"}
    listed = json.loads(members.pop("pack.json"))["sha256"]
    assert listed == {n: hashlib.sha256(data).hexdigest() for n, data in members.items()}
    assert json.loads(members["answers.json"])["similar"] == {}
    assert b"made-up pictures" in members["LICENCE.md"]
    assert packed.stem == f"baseline-{hashlib.sha256(packed.read_bytes()).hexdigest()[:16]}"
    again = copied(run, tmp_path)
    assert pack.pack(again).name == packed.name
    (again.folder / "metrics.json").unlink()
    with pytest.raises(UserError, match="metrics.json is missing; .* report --run-name baseline"):
        pack.pack(again)


def test_data_of_ones_own_gets_a_warning_and_paths_and_persons_stay_at_home(run, tmp_path, capsys):
    paths = {"data": "/home/me/clinic", "weights": "C:\\me\\net.pth", "test": ["/home/me/other"]}
    own = copied(run, tmp_path, **paths)
    table = own.table.assign(patient_id="Smith", age=71.25, sex="female")
    files.write_table(table, own.folder / "table.csv")
    own = runs.Run(own.folder, device="cpu")
    packed, said = pack.pack(own), capsys.readouterr().out
    assert "ids of 147 images and of their lesions, and a grey thumbnail" in said
    assert "give it away only where" in said
    members = contents(packed)
    for word in (b"/me", b"\\me", b"Smith", b"71.25", b"female"):
        assert not any(word in members[n] for n in ("settings.json", "table.csv")), word
    assert b'"clinic"' in members["LICENCE.md"] and b"CC BY-NC 4.0" in members["LICENCE.md"]
    opened = pack.open_pack(packed, tmp_path)
    assert opened.settings["data"] == "clinic" and opened.settings["test"] == ["other"]
    assert opened.table["lesion_id"].equals(own.table["lesion_id"])


# Packs that are refused.


def refused(source, folder):
    with pytest.raises(UserError) as reason:
        predictor.answer(pack.open_pack(source, folder / "c", device="cpu"), PHOTO)
    assert "\n" not in str(reason.value)
    return str(reason.value)


def test_a_changed_byte_is_noticed_by_the_name(packed, tmp_path):
    data = bytearray(packed.read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / packed.name).write_bytes(data)
    assert "as its name says" in refused(tmp_path / packed.name, tmp_path)
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize("now", [b"other", None], ids=["changed", "missing"])
@pytest.mark.parametrize("name", [WEIGHTS, STATE, "settings.json"])
def test_a_file_that_is_not_what_the_list_says(packed, tmp_path, name, now):
    changed = rewritten(packed, tmp_path, listed=False, **{name: now})
    for _ in range(2):  # it is no whole pack the second time either
        assert f"{name} is not what its list says" in refused(changed, tmp_path)
    opened = pack.open_pack(packed, tmp_path / "c", device="cpu")
    (opened.folder / name).write_bytes(b"edited after it was unpacked")
    assert f"{name} is not what its list says" in refused(packed, tmp_path)


@pytest.mark.parametrize(
    "data, said",
    [
        (b"hello", "is damaged"),
        (zipped({"a.txt": b""}), "no pack of this version (made by something else)"),
        (zipped({"pack.json": b"[1]"}), "no pack of this version"),
        (zipped({"pack.json": b'{"form": 1, "sha256": {}, "made_by": "0.2"}'}), "made by 0.2"),
        (zipped({"é": b""}).replace("é".encode(), b"\xff\xff"), "is damaged"),
        (None, "--run-name pack.zip"),
    ],
    ids=["text", "another zip", "another list", "an old pack", "no UTF-8", "nothing"],
)
def test_what_is_no_pack_is_refused(tmp_path, data, said):
    if data is not None:
        (tmp_path / "pack.zip").write_bytes(data)
    assert said in refused(tmp_path / "pack.zip", tmp_path)


@pytest.mark.parametrize("name", ["../../evil.md", "/evil.md", "a/../../../evil.md"])
def test_nothing_leaves_the_folder(packed, tmp_path, name):
    changed = rewritten(packed, tmp_path, **{name: b"x"})
    assert "leaves the folder" in refused(changed, tmp_path)
    assert not list(tmp_path.rglob("evil.md"))
    (tmp_path / "evil.md").write_bytes(b"x")  # a list must not lead out either
    about = json.loads(contents(packed)["pack.json"])
    about["sha256"][str(tmp_path / "evil.md")] = hashlib.sha256(b"x").hexdigest()
    list_ = {"pack.json": json.dumps(about).encode()}
    changed = rewritten(packed, tmp_path, listed=False, **list_)
    assert "is not what its list says" in refused(changed, tmp_path)


class Evil:
    def __reduce__(self):
        return open, ("executed", "w")


def test_code_in_a_pack_is_never_executed(packed, tmp_path, monkeypatch):
    """As a checkpoint, as the weights, and as the texture; all checksums are right."""
    monkeypatch.chdir(tmp_path)
    buffer = io.BytesIO()
    torch.save({"model": Evil()}, buffer)
    names = {"best.pt": "best.pt is not what", WEIGHTS: "weights cannot be read"}
    for name, said in (names | {STATE: f"{STATE} is damaged"}).items():
        changed = rewritten(packed, tmp_path, **{name: buffer.getvalue()})
        assert said in refused(changed, tmp_path)
    assert not (tmp_path / "executed").exists()


# From an address.


def test_an_address_is_fetched_once(packed, tmp_path):
    with serving({"model.zip?download=true": packed.read_bytes()}) as mirror:
        for _ in range(2):
            opened = pack.open_pack(f"{mirror.url}model.zip?download=true", tmp_path, device="cpu")
            assert state.load(opened) and opened.name == "model"
        assert len(mirror.paths) == 1


def test_an_address_without_a_pack_is_one_line(tmp_path):
    with serving({"page": b"<html>log in</html>"}) as mirror:
        assert "is damaged" in refused(f"{mirror.url}page", tmp_path)
    for name in ("~x.zip", "x" * 300):  # a home of nobody, and a name that no system takes
        assert "no such file; expected a pack" in refused(name, tmp_path)
