"""Splits that others made: however their files look, each image has its subset."""

import pytest
from copies import folder

from dermai_utils import split_files
from dermai_utils.basics import UserError

ROWS = [["A1", "train"], ["A2", "val"], ["A3", "test"]]
FILES = {
    "a column": {"s.csv": "image,subset\nA1,train\nA2,val\nA3,test\n"},
    "words": {"s.csv": "image_id,split\nA1,Training\nA2,valid\nA3,TESTING\n"},
    "other words": {"s.tsv": "file\tpartition\nA1.jpg\ttrainset\nA2.jpg\tdev\nA3.jpg\ttest set\n"},
    "as DermaMNIST-C": {"s.csv": "lesion_id,image_id,split\nH,A1,train\nH,A2,val\n,A3,test\n"},
    "paths": {"s.csv": "path,set\n/home/x/A1.jpg,train\nC:\\x\\A2.JPG,validation\nA3.png,test\n"},
    "a table a subset": {
        "train.csv": "image,label\nA1,nv\n", "val.csv": "image\nA2\n",
        "my_test_list.csv": "id,x\nA3,1\n",
    },
    "a list a subset": {"train.txt": "A1.jpg\n", "val.txt": "x/A2.jpg\n", "test.txt": "A3\n\n"},
    "a table in each folder": {
        f"{name}/metadata.csv": f"file_name,label\n{image}.jpg,nv\n" for image, name in ROWS
    },
    "images by folder": {
        "labels.csv": "image,label\nA1,mel\n", "Training/nv/A1.jpg": "", "valid/nv/A2.png": "",
        "ISIC_test_v2/mel/A3.jpg": "", "more/A4.jpg": "",
    },
    "a row twice": {"s.csv": "image,subset\nA1,train\nA1.jpg,train\nA2,val\nA3,test\n"},
}  # fmt: skip


@pytest.mark.parametrize("files", FILES.values(), ids=FILES)
def test_each_image_has_its_subset(tmp_path, files):
    folder(tmp_path / "x", files)
    found = split_files.read_subsets(tmp_path / "x")
    assert sorted(found.to_numpy().tolist()) == ROWS
    assert found.columns.tolist() == ["image", "subset"]
    if not any(name.endswith(".jpg") for name in files):
        paths = [tmp_path / "x" / name for name in files]
        assert sorted(split_files.read_subsets(paths).to_numpy().tolist()) == ROWS


def test_what_is_no_known_word_stays_and_an_image_in_two_subsets_has_two_rows(tmp_path):
    (tmp_path / "s.csv").write_text("image,fold\nA1,0\nA1,1\nA2,left out\nA3,\nclinic:A1,clinic\n")
    found = split_files.read_subsets(str(tmp_path / "s.csv")).to_numpy()
    assert found[:, 0].tolist() == ["A1", "A1", "A2", "A3", "clinic:A1"]
    assert found[:, 1].tolist() == ["0", "1", "left out", "", "clinic"]


@pytest.mark.parametrize(
    "files, says",
    [
        ({"s.csv": "image,label\nA1,nv\n"}, "no column of subsets beside image, label; expected a"),
        ({"s.csv": "picture,subset\nA1,train\n"}, "s.csv: no column image; expected it beside"),
        ({"s.csv": "image,subset\n"}, "no image; expected a table with columns image and subset"),
        ({}, "s.csv: no such file; expected a table"),
    ],
)
def test_files_that_tell_no_subsets_are_one_line(tmp_path, files, says):
    folder(tmp_path / "x", files)
    with pytest.raises(UserError) as error:
        split_files.read_subsets([tmp_path / "x" / "s.csv"])
    assert says in str(error.value) and "\n" not in str(error.value)
    with pytest.raises(UserError, match="no image; expected a table"):
        split_files.read_subsets([])
