import dataclasses

import numpy as np
import pytest
import torch

from dermai_utils import files
from dermai_utils.config import UserError
from dermai_utils.data import pixels
from dermai_utils.training import features, inference, model
from dermai_utils.training.augment import Batches


@pytest.fixture
def own(made, tmp_path):
    """The fixture's table and pixels, with an empty cache."""
    (tmp_path / made.pixels_file.name).symlink_to(made.pixels_file)
    return dataclasses.replace(made, cache_dir=str(tmp_path))


def no_network(*_, **__):
    raise AssertionError("computed again")


def test_each_row_is_the_heads_input_for_that_image(own):
    found, table = features.features(own), files.read_table(own.table_file)
    net = model.build(own.backbone, own.weights, own.image_size).eval()
    batches = Batches(pixels.load(own.pixels_file), own.image_size, net.mean, net.std, "cpu", 1)
    assert found.dtype == np.float32 and len(found) == len(table)
    with torch.inference_mode():
        for k in (0, len(table) // 2, len(table) - 1):
            pooled = net.forward_head(
                net.forward_features(batches(table["row"].to_numpy()[[k]])), pre_logits=True
            )
            np.testing.assert_allclose(found[k], pooled[0].numpy(), rtol=1e-4, atol=1e-5)
    assert found.std(axis=0).max() > 0


def test_a_second_time_they_are_read_from_the_cache(own, monkeypatch, capsys):
    first = features.features(own)
    monkeypatch.setattr(inference, "predict", no_network)
    np.testing.assert_array_equal(features.features(own), first)
    assert (
        "features: up to date, cache/sample/features_timm_test_resnet_32.npz"
        in capsys.readouterr().out
    )


@pytest.mark.parametrize("change", ["images", "broken file", "half a file", "weights"])
def test_whatever_changed_makes_them_anew(own, monkeypatch, tmp_path, change):
    features.features(own)
    path = features.file(own)
    if change == "images":
        table = files.read_table(own.table_file)
        monkeypatch.setattr(files, "read_table", lambda _: table.iloc[::-1])
    elif change == "broken file":
        path.write_bytes(path.read_bytes()[:200] + b"\x00\x01" + path.read_bytes()[202:])
    elif change == "half a file":
        path.write_bytes(path.read_bytes()[:1000])
    else:
        torch.save(model.build(own.backbone).state_dict(), tmp_path / "w.pth")
        own = dataclasses.replace(own, weights=str(tmp_path / "w.pth"))
    monkeypatch.setattr(inference, "predict", no_network)
    with pytest.raises(AssertionError, match="computed again"):
        features.features(own)


def test_weights_that_are_not_there_are_one_line(own):
    with pytest.raises(UserError, match="no such file"):
        features.features(dataclasses.replace(own, weights="/no/such.pth"))
