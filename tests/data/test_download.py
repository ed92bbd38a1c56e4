"""Stage download: the command under faults, and the three kinds of `data`."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from mirror import (
    ARCHIVE,
    NAME,
    OTHER,
    PAGE,
    USAGE,
    answers,
    content_of,
    dataset,
    etag,
    good,
    refusal,
    stalls,
    write,
    zipped,
)

from dermai_utils import config, files
from dermai_utils.__main__ import main
from dermai_utils.data import download
from dermai_utils.data.layouts import recognisers

pytestmark = pytest.mark.usefixtures("waits")
NOTHING = answers(200, ARCHIVE[:500], length=len(ARCHIVE))  # under a chunk
FAULTS = {
    "not there": (lambda mirror, _: mirror.files.clear(), "is not at http"),
    "a login page": (
        lambda mirror, _: mirror.files.update(dict.fromkeys(mirror.files, PAGE)),
        "a web page in its place",
    ),
    "busy": (lambda mirror, _: mirror.plan.extend([answers(503)] * 50), "answers 503 (5 tries)"),
    "ends early each time": (
        lambda mirror, _: mirror.plan.extend([NOTHING] * 50),
        "broke off (5 tries)",
    ),
    "another file than last time": (
        lambda mirror, _: mirror.files.update({NAME: OTHER}),
        "as at its first download",
    ),
    "cut off": (
        lambda mirror, _: mirror.files.update({NAME: ARCHIVE[:-30]}),
        "is cut off or damaged",
    ),
    "a full disk": (
        lambda _, patch: patch.setattr(files.shutil, "disk_usage", lambda path: USAGE(0)),
        "not enough room",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_the_command_ends_with_one_line_and_status_2(mirror, tmp_path, monkeypatch, capsys, fault):
    make, message = FAULTS[fault]
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
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("error: ") and message in line
    assert before == (labels.read_bytes(), (tmp_path / "cache" / "sources.json").read_bytes())


# several chunks
LARGE = zipped(
    {f"ISIC2018_Task3_Training_Input/ISIC_{i}.jpg": bytes([i]) * 300_000 for i in range(4)}
)


def test_resumes_in_a_later_process_after_a_kill(mirror, tmp_path):
    mirror.files = dataset() | {NAME: LARGE}
    archives = tmp_path / "cache" / "archives"
    part, folders = (
        archives / f"{NAME}.part",
        [f"--cache-dir={tmp_path / 'cache'}", f"--work-dir={tmp_path / 'work'}"],
    )
    command = [
        sys.executable,
        "-m",
        "dermai_utils",
        "download",
        "--data=isic2018",
        f"--base-url={mirror.url}",
        *folders,
    ]
    # the labels come first
    mirror.plan = [good, lambda handler, body: stalls(handler, body, 800_000)]
    with subprocess.Popen(
        command, cwd=config.ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as killed:
        while not part.exists() or not part.stat().st_size:
            assert killed.poll() is None, killed.stderr.read()
            time.sleep(0.02)
        killed.kill()
    have = part.stat().st_size
    assert 0 < have < len(LARGE) and not (archives / NAME).exists()
    mirror.asked.clear()
    subprocess.run(command, cwd=config.ROOT, check=True, capture_output=True)
    assert (archives / NAME).read_bytes() == LARGE and not part.exists()
    assert (mirror.asked[0]["Range"], mirror.asked[0]["If-Range"]) == (
        f"bytes={have}-",
        etag(LARGE),
    )


# The three kinds of `data`


@pytest.fixture
def settings(tmp_path):
    return lambda data, base_url="", name="cache": config.Config(
        data=str(data),
        base_url=base_url,
        cache_dir=str(tmp_path / name),
        work_dir=str(tmp_path / "work"),
    )


def snapshot(folder):
    return {
        path: (path.stat().st_size, path.stat().st_mtime_ns) for path in Path(folder).rglob("*")
    }


def test_sample_is_used_in_place(settings, tmp_path, monkeypatch, capsys):
    fixture = write(tmp_path / "fixture", dataset())
    monkeypatch.setattr(config, "SAMPLE", fixture)
    before, cfg = snapshot(fixture), settings("sample")
    sources = download.run(cfg)
    assert snapshot(fixture) == before
    train = cfg.cache / "images" / "ISIC2018_Task3_Training_Input"
    assert sources["images"]["train"] == [str(train)]
    assert Path(sources["tables"]["test labels"]).read_bytes().startswith(b"image,MEL")
    assert len(os.listdir(sources["images"]["test"][0])) == 3  # with the licence
    assert sources["tables"][recognisers.GROUPINGS] == str(fixture / download.GROUPINGS)
    assert sources["tables"][recognisers.HAM_METADATA] == str(fixture / download.METADATA)
    assert json.loads(cfg.sources_file.read_text()) == sources
    rows = files.read_table(cfg.rows_file)
    assert rows.loc[rows["path"] != "", "path"].iloc[0] == str(train / "ISIC_1.jpg")
    assert (
        "download: 3 training images, 2 official test images; nothing to fetch"
        in capsys.readouterr().out
    )


def test_second_run_is_one_line_and_writes_nothing(settings, mirror, tmp_path, capsys):
    mirror.files = dataset()
    cfg = settings("isic2018", mirror.url)
    first = download.run(cfg)
    assert (
        "fetched HAM10000_metadata.csv, ISIC2018_Task3_Test_GroundTruth.zip"
        in capsys.readouterr().out
    )
    before = snapshot(tmp_path)
    mirror.asked.clear()
    assert download.run(cfg) == first
    assert (
        capsys.readouterr().out
        == "download: 3 training images, 2 official test images; nothing to fetch\n"
    )
    assert snapshot(tmp_path) == before and mirror.asked == []


def test_what_a_mirror_does_not_have_is_announced_and_not_asked_again(
    settings, mirror, second, capsys
):
    mirror.files = dataset(test=False, groupings=False, metadata=False)
    sources = download.run(settings("isic2018", mirror.url))
    assert set(sources["tables"]) == {"train labels"} and set(sources["images"]) == {"train"}
    output = capsys.readouterr().out
    assert "official-test subset is skipped" in output
    assert f"no {download.GROUPINGS}" in output and f"no {download.METADATA}" in output
    assert "ISIC2018_Task3_Test_Input.zip" not in mirror.paths  # of no use without its labels
    asked = len(mirror.asked)
    download.run(settings("isic2018", mirror.url))
    assert len(mirror.asked) == asked and capsys.readouterr().out.count("\n") == 1
    second.files = dataset()  # another mirror is asked
    assert download.run(settings("isic2018", second.url))["images"]["test"]


def test_test_labels_without_images_are_left_out(settings, mirror):
    mirror.files = dataset()
    del mirror.files["ISIC2018_Task3_Test_Input.zip"]
    assert download.run(settings("isic2018", mirror.url))["images"].keys() == {"train"}


@pytest.mark.parametrize("name", [NAME, "ISIC2018_Task3_Training_GroundTruth.zip"])
def test_mirror_without_the_training_set_is_one_line(settings, mirror, name):
    mirror.files = dataset()
    del mirror.files[name]
    cfg = settings("isic2018", mirror.url)
    line = refusal(download.run, cfg)
    assert name in line and mirror.url in line and not cfg.sources_file.exists()


def test_official_mirrors_must_have_the_official_size(
    settings, mirror, second, monkeypatch, capsys
):
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


@pytest.mark.parametrize(
    "base_url", ["isic.example/2018", "ftp://isic.example", "https://", "file:///tmp"]
)
def test_base_url_that_is_none_is_one_line(settings, base_url):
    assert "expected an address" in refusal(download.run, settings("isic2018", base_url))


@pytest.mark.parametrize("host", ["[", "a..b"])
def test_base_url_that_no_client_takes_is_one_line(settings, host):
    line = refusal(download.run, settings("isic2018", f"http://{host}"))
    assert f"{host} cannot be asked" in line


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
    ids=[
        "archives",
        "unpacked",
        "archives, two levels down",
        "unpacked, one level down",
        "each unpacked on its own",
    ],
)
def test_own_folder_is_used_without_network_or_change(settings, tmp_path, contents):
    folder = write(tmp_path / "my data", contents)
    before = snapshot(folder)
    sources = download.run(settings(folder))
    assert snapshot(folder) == before
    for source, count in (("train", 3), ("test", 2)):
        assert len(list(Path(sources["images"][source][0]).glob("*.jpg"))) == count
        assert Path(sources["tables"][f"{source} labels"]).is_file()
    assert Path(sources["tables"][recognisers.GROUPINGS]).is_file()


def test_own_folder_is_not_searched_deeper_than_three_levels(settings, tmp_path):
    folder = write(tmp_path / "mine", {f"a/b/c/{name}": data for name, data in dataset().items()})
    assert "3 levels" in refusal(download.run, settings(folder))


@pytest.mark.parametrize(
    "contents, says",
    [
        ({"readme.txt": b"empty"}, "no training images"),
        ({"ISIC2018_Task3_Training_Input/LICENSE.txt": b"no image"}, "no training images"),
        ({"ISIC2018_Task3_Training_Input": b"a file, no folder"}, "no training images"),
        ({"ISIC2018_Task3_Training_Input/ISIC_1.jpg": b"1"}, "no table of labels"),
        (
            {NAME: ARCHIVE, "ISIC2018_Task3_Training_GroundTruth.zip": zipped({"other.csv": b"1"})},
            "no training labels",
        ),
        ({NAME: zipped({"flat.jpg": b"1"})}, "no table of labels"),
    ],
)
def test_own_folder_without_what_is_needed_is_one_line(settings, tmp_path, contents, says):
    folder, cfg = write(tmp_path / "mine", contents), settings(tmp_path / "mine")
    line = refusal(download.run, cfg)
    assert (
        says in line
        and str(folder) in line
        and "ISIC2018_Task3_Training" in line
        and not cfg.sources_file.exists()
    )


def test_missing_folder_and_file_in_place_of_a_folder_are_one_line(settings, tmp_path):
    (tmp_path / "file.zip").write_bytes(ARCHIVE)
    assert "does not exist" in refusal(download.run, settings(tmp_path / "nowhere"))
    assert "is a file" in refusal(download.run, settings(tmp_path / "file.zip"))


def test_digest_follows_the_content_and_not_the_place(settings, tmp_path):
    folder = write(tmp_path / "mine", dataset())
    first = download.run(settings(folder))
    second = download.run(settings(folder, name="fresh machine"))
    assert first["digest"] == second["digest"]
    assert first["images"] != second["images"]
    digests = [first["digest"]]
    Path(first["images"]["train"][0], "ISIC_1.jpg").write_bytes(b"\1" * 49 + b"x")
    digests.append(download.run(settings(folder))["digest"])
    (folder / download.GROUPINGS).write_bytes(b"image,lesion_id\nISIC_1,HAM_2\n")
    digests.append(download.run(settings(folder))["digest"])
    labels = Path(first["tables"]["test labels"])
    labels.write_bytes(labels.read_bytes().replace(b"0,1,0", b"1,0,0"))
    digests.append(download.run(settings(folder))["digest"])
    images = content_of(dataset()["ISIC2018_Task3_Test_Input.zip"])
    # same names, sizes and dates, another pixel
    images["ISIC2018_Task3_Test_Input/ISIC_0.jpg"] = b"\7" * 50
    (folder / "ISIC2018_Task3_Test_Input.zip").write_bytes(zipped(images))
    digests.append(download.run(settings(folder))["digest"])
    assert len(set(digests)) == 5


def test_after_a_move_the_images_are_listed_anew_and_what_was_made_from_them_stands(
    settings, tmp_path
):
    folder = write(tmp_path / "mine", dataset())
    cfg, moved = settings(folder), settings(tmp_path / "new" / "mine", name="moved")
    download.run(cfg)
    before = cfg.sources_file.read_bytes()
    (tmp_path / "new").mkdir()
    folder.rename(moved.data)
    cfg.cache.rename(moved.cache)
    download.run(moved)
    assert moved.sources_file.read_bytes() == before
    paths = files.read_table(moved.rows_file)["path"]
    assert all(Path(path).is_file() for path in paths[paths != ""])


def test_cache_that_is_a_file_is_one_line(settings, tmp_path):
    folder = write(tmp_path / "mine", dataset())
    (tmp_path / "cache").write_text("mine")
    refusal(download.run, settings(folder))
    assert (tmp_path / "cache").read_text() == "mine"
