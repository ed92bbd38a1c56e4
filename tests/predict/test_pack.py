import dataclasses
import hashlib
import io
import json
import shutil
import zipfile

import jupytext
import numpy as np
import pytest
from mirror import zipped
from pictures import encoded, picture
from test_bad_input import Evil

from dermai_utils import files
from dermai_utils.__main__ import main
from dermai_utils.config import ROOT, UserError
from dermai_utils.predict import pack, predictor
from dermai_utils.predict.predictor import Predictor
from dermai_utils.training import checkpoint

PHOTO = encoded(picture(seed=1), "PNG")
NO_UTF8 = zipped({"é": b""}).replace("é".encode(), b"\xff\xff")
STATE, BEST = "report/baseline/predictor.npz", "runs/baseline/best.pt"


def copied(cfg, folder):
    """The config of a copy of the run's small files."""
    shutil.copytree(cfg.work, folder / "work")
    return dataclasses.replace(cfg, work_dir=str(folder / "work"))


@pytest.fixture(scope="module")
def cfg(made, tmp_path_factory):
    return copied(made, tmp_path_factory.mktemp("packed"))


@pytest.fixture(scope="module")
def packed(cfg):
    (path,) = pack.command(Predictor(cfg))
    return path


def contents(path):
    with zipfile.ZipFile(path) as bundle:
        return {name: bundle.read(name) for name in bundle.namelist()}


def rewritten(packed, folder, listed=True, **changes):
    """A pack without a checksum in its name, some of its members changed; None: left out.

    listed: with a list that tells the checksums of what is in it now.
    """
    members = contents(packed)
    members = {name: data for name, data in (members | changes).items() if data is not None}
    if listed:
        about = json.loads(members["pack.json"])
        about["sha256"] = {n: hashlib.sha256(d).hexdigest() for n, d in members.items()}
        members["pack.json"] = json.dumps(about).encode()
    path = folder / "changed.zip"
    path.write_bytes(zipped(members))
    return path


def test_a_pack_answers_as_the_run_did_with_no_data_set_there(cfg, packed, tmp_path):
    loaded = pack.load(packed, work_dir=tmp_path / "w", device="cpu")
    (there,), (here,) = (p.answers(PHOTO) for p in (loaded, Predictor(cfg)))
    assert there.row == here.row and there.similar == here.similar
    np.testing.assert_array_equal(there.gradcam, here.gradcam)
    answered = dataclasses.replace(there, foreign_threshold=np.inf)
    assert len(loaded.figure(answered).axes) == 4  # no similar images
    assert not loaded.cfg.cache.exists()
    assert (loaded.cfg.image_size, loaded.cfg.device) == (cfg.image_size, "cpu")


def test_its_name_tells_its_checksum_and_the_same_run_gives_the_same_file(cfg, packed):
    digest = hashlib.sha256(packed.read_bytes()).hexdigest()
    assert packed.name == f"baseline-{digest[:16]}.zip" and packed.parent == cfg.work / "packs"
    assert pack.command(Predictor(cfg)) == [packed] and len(list(packed.parent.iterdir())) == 1


def test_it_holds_what_an_answer_needs_and_no_image(packed):
    members = contents(packed)
    assert list(members) == [
        "runs/baseline/config.json",
        BEST,
        STATE,
        "report/baseline/predictor.json",
        "report/baseline/model_card.md",
        "LICENCE.md",
        "pack.json",
    ]
    with np.load(io.BytesIO(members[STATE])) as arrays:
        assert all(arrays[name].ndim < 3 for name in arrays)
    listed = json.loads(members.pop("pack.json"))["sha256"]
    assert listed == {n: hashlib.sha256(data).hexdigest() for n, data in members.items()}


def test_data_of_ones_own_gets_a_warning_and_paths_stay_at_home(cfg, tmp_path, capsys):
    own = copied(cfg, tmp_path)
    path = own.run_dir / "config.json"
    paths = {"data": "/home/me/clinic", "weights": "C:\\me\\net.pth"}
    files.write_json(path, files.read_json(path) | paths)
    (packed,) = pack.command(Predictor(dataclasses.replace(own, data="/home/me/clinic")))
    said, members = capsys.readouterr().out, contents(packed)
    assert "training images and their lesions: give it away only where" in said
    assert not any(b"/me" in data or b"\\me" in data for data in members.values())
    assert b'"clinic"' in members["LICENCE.md"] and b"CC BY-NC 4.0" in members["LICENCE.md"]
    assert pack.load(packed, work_dir=tmp_path / "w").cfg.data == "clinic"


def test_the_precision_of_a_pack_is_what_suits_this_machine(cfg, tmp_path):
    own = copied(cfg, tmp_path)
    path = own.run_dir / "config.json"
    files.write_json(path, files.read_json(path) | {"precision": "bf16"})
    (packed,) = pack.command(Predictor(own))
    assert pack.load(packed, work_dir=tmp_path / "w").cfg.precision == "auto"
    assert pack.load(packed, work_dir=tmp_path / "w", precision="fp32").cfg.precision == "fp32"


def test_an_ensemble_is_packed_with_all_its_members(cfg, tmp_path):
    own = copied(cfg, tmp_path)
    for name in "ab":
        shutil.copytree(own.run_dir, own.run_dir.with_name(name))
    both = dataclasses.replace(own, run_name="both", ensemble="a,b")
    checkpoint.join_members(both)
    shutil.copytree(own.report_dir, both.report_dir)
    with np.load(both.report_dir / "predictor.npz") as arrays:
        arrays = dict(arrays) | {"checkpoints": checkpoint.checksums(both)}
    np.savez(both.report_dir / "predictor.npz", **arrays)
    (packed,) = pack.command(Predictor(both))
    loaded = pack.load(packed, work_dir=tmp_path / "w")
    assert len(loaded.run.networks) == 2 and loaded.cfg.run_name == "both"


# What is refused.


def refused(source, folder, **given):
    with pytest.raises(UserError) as reason:
        pack.load(source, work_dir=folder / "w", **given)
    assert "\n" not in str(reason.value)
    return str(reason.value)


def test_a_changed_byte_is_noticed_by_the_name(packed, tmp_path):
    data = bytearray(packed.read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / packed.name).write_bytes(data)
    assert "as its name says" in refused(tmp_path / packed.name, tmp_path)
    assert not (tmp_path / "w").exists()


@pytest.mark.parametrize("data", [b"other", None], ids=["changed", "missing"])
@pytest.mark.parametrize("name", [BEST, STATE, "runs/baseline/config.json"])
def test_a_file_that_is_not_what_the_list_says(packed, tmp_path, name, data):
    changed = rewritten(packed, tmp_path, listed=False, **{name: data})
    line = refused(changed, tmp_path)
    assert "is not what its list says" in line or "cannot be read as a run's settings" in line


def test_a_file_that_was_edited_after_unpacking(packed, tmp_path):
    loaded = pack.load(packed, work_dir=tmp_path / "w")
    (loaded.cfg.run_dir / "best.pt").write_bytes(b"other")
    assert "best.pt is not what its list says; delete" in refused(packed, tmp_path)


@pytest.mark.parametrize(
    "make, said",
    [
        (lambda path: path.write_bytes(b"hello"), "no whole pack"),
        (lambda path: path.write_bytes(zipped({"a.txt": b""})), "no whole pack"),
        (lambda path: path.write_bytes(zipped({"pack.json": b"[1]"})), "no whole pack"),
        (lambda path: path.write_bytes(NO_UTF8), "no whole pack"),
        (lambda path: path.mkdir(), "no such file; expected a pack"),
        (lambda path: None, "--run-name pack.zip"),
    ],
    ids=["text", "another zip", "another list", "no UTF-8", "a folder", "nothing"],
)
def test_what_is_no_pack_is_refused(tmp_path, make, said):
    make(tmp_path / "pack.zip")
    assert said in refused(tmp_path / "pack.zip", tmp_path)


def test_nothing_leaves_the_folder(packed, tmp_path):
    changed = rewritten(packed, tmp_path, **{"../../evil.txt": b"x"})
    assert "leaves the folder" in refused(changed, tmp_path)
    assert not list(tmp_path.rglob("evil.txt"))


def evil_state(packed, **changes):
    with np.load(io.BytesIO(contents(packed)[STATE])) as arrays:
        arrays = dict(arrays) | changes
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def test_code_in_a_pack_is_never_executed(packed, tmp_path, monkeypatch):
    """In the weights, where all checksums are right, and in the features."""
    trap = tmp_path / "executed"
    monkeypatch.setenv("EVIL", str(trap))
    checkpoint.save(tmp_path / "evil.pt", {"model": Evil()})
    best = (tmp_path / "evil.pt").read_bytes()
    state = evil_state(packed, checkpoints=hashlib.sha256(best).hexdigest())
    changed = rewritten(packed, tmp_path, **{BEST: best, STATE: state})
    assert "holds no checkpoint" in refused(changed, tmp_path)
    state = evil_state(packed, image=np.array([Evil()], object))
    changed = rewritten(packed, tmp_path, **{STATE: state})
    assert "does not understand" in refused(changed, tmp_path)
    assert not trap.exists()


def test_a_setting_of_the_run_cannot_be_changed(packed, tmp_path, monkeypatch):
    assert "image_size: a pack brings its" in refused(packed, tmp_path, image_size=64)
    monkeypatch.setenv("DERMAI_IMAGE_SIZE", "64")
    assert pack.load(packed, work_dir=tmp_path / "w").cfg.image_size == 32


# From an address, and by the command.


def test_an_address_is_fetched_once(mirror, packed, tmp_path):
    mirror.files["v1/model.zip?download=true"] = packed.read_bytes()
    folders = dict(work_dir=tmp_path / "w", cache_dir=tmp_path / "c")
    for _ in range(2):
        loaded = pack.load(f"{mirror.url}v1/model.zip?download=true", **folders)
        assert len(loaded.answers(PHOTO, maps=False)) == 1
    assert len(mirror.paths) == 1


def test_an_address_without_a_pack_is_one_line(mirror, tmp_path):
    given = dict(cache_dir=tmp_path / "c")
    assert "nothing is there" in refused(f"{mirror.url}none.zip", tmp_path, **given)
    mirror.files["page"] = b"<html>log in</html>"
    assert "a web page" in refused(f"{mirror.url}page", tmp_path, **given)
    assert "[ cannot be asked" in refused("http://[", tmp_path, **given)
    for name in ("~x.zip", "x" * 300):  # a home of nobody, and a name that no system takes
        assert "no such file; expected a pack" in refused(name, tmp_path)


def test_answers_of_a_pack_lie_where_the_user_stands_and_replace_nothing(
    packed, tmp_path, monkeypatch, capsys
):
    model = pack.load(packed, work_dir=tmp_path / "w")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    names = ["own_predictions.csv", "own_predictions-2.csv", "own_predictions-3.csv"]
    for name in names:
        assert predictor.command(model, {name: PHOTO}) == [tmp_path / "here" / name]
    for name in names:
        assert files.read_table(name)["picture"].tolist() == [name]
    assert not list((tmp_path / "w").rglob("*.csv"))


def test_the_commands_pack_and_predict(cfg, packed, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folders = ["--cache-dir", cfg.cache_dir, "--work-dir", cfg.work_dir]
    assert main(["pack", *folders]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(packed)
    (tmp_path / "mine.png").write_bytes(PHOTO)
    words = ["predict", "--run", str(packed), "--image", str(tmp_path / "mine.png")]
    assert main([*words, "--work-dir", str(tmp_path / "w")]) == 0
    table = files.read_table(capsys.readouterr().out.splitlines()[-1])
    assert table["picture"].tolist() == ["mine.png"]
    assert main([*words, "--data", "sample"]) == main(["evaluate", *words[1:3]]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 2 and "evaluate takes --run-name" in errors[1]


def test_notebook_07_answers_from_a_pack(packed, tmp_path, monkeypatch, capsys):
    """Its code cells, in this process: a kernel takes seconds to start."""
    (tmp_path / "mine.png").write_bytes(PHOTO)
    for name in ("WORK_DIR", "CACHE_DIR"):
        monkeypatch.setenv(f"DERMAI_{name}", str(tmp_path / name))
    cells = jupytext.read(ROOT / "notebooks" / "07_predict.py").cells
    code = "\n".join(cell.source for cell in cells if cell.cell_type == "code")
    fields = {"packed_run": packed, "photo": tmp_path / "mine.png"}
    for name, value in fields.items():
        code = code.replace(f'\n{name} = ""', f"\n{name} = {str(value)!r}")
    exec(code, {})
    said = capsys.readouterr().out
    assert "\nmine.png: " in said and "\nRun baseline, trained on 20" in said
    assert "Balanced accuracy 0." in said and not (tmp_path / "CACHE_DIR").exists()
