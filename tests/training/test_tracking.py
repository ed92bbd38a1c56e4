"""tracker=tensorboard, read back with TensorBoard's own reader."""

import dataclasses
import io
import shutil

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from test_loop import equal

from dermai_utils import config, pipeline
from dermai_utils.config import UserError
from dermai_utils.report import evaluate
from dermai_utils.training import loop, tracking


@pytest.fixture
def tracked(made, small, tmp_path):
    """A config with the fixture's table, split and pixels, no run yet, and the tracker on."""
    pytest.importorskip("tensorboard")
    folders = dict(cache_dir=tmp_path / "cache", work_dir=tmp_path / "work")

    def make(**given):
        cfg = config.load(env={}, tracker="tensorboard", **(folders | small | given))
        for name in ("table_file", "split_file", "pixels_file"):
            target = getattr(cfg, name)
            target.parent.mkdir(exist_ok=True)
            shutil.copy(getattr(made, name), target)
        return cfg

    return make


def read(cfg):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(cfg.tracker_dir), size_guidance={"scalars": 0, "images": 0})
    return events.Reload()


def curve(cfg, tag):
    return {event.step: event.value for event in read(cfg).Scalars(tag)}


def picture_of(cfg, tag):
    (event,) = read(cfg).Images(tag)
    return np.asarray(Image.open(io.BytesIO(event.encoded_image_string)))


def test_the_curves_are_those_of_the_history(tracked):
    cfg = tracked(epochs=3)
    loop.run(cfg)
    history = pd.read_csv(cfg.run_dir / "history.csv")
    steps = [5, 10, 15]  # 5 an epoch
    tags = {"val/loss": "val_loss", "train/loss": "loss"}
    tags |= {f"val/{name}": name for name in ("balanced_accuracy", "macro_f1", "macro_auc")}
    for tag, column in tags.items():
        values = curve(cfg, tag)
        assert [values[step] for step in steps] == pytest.approx(history[column].tolist())
    rates = [list(curve(cfg, f"train/learning_rate{of}").values()) for of in ("", "_of_head")]
    assert rates[1] == pytest.approx([cfg.head_rate * rate for rate in rates[0]])
    assert rates[0][-1] < rates[0][0] <= cfg.learning_rate


def test_the_sheet_shows_what_the_first_step_saw(tracked, monkeypatch):
    """Augmented, without normalisation; the first tile, inside a border of two pixels."""
    seen, plain = [], loop.Run.train_step
    monkeypatch.setattr(
        loop.Run, "train_step", lambda self, *given: (seen.append(given[0]), plain(self, *given))[1]
    )
    cfg = tracked(epochs=1)
    loop.run(cfg)
    tile = picture_of(cfg, "first batch")[2:34, 2:34] / 255
    image = seen[0][0].permute(1, 2, 0).numpy()
    span = [(x - x.mean((0, 1))) / x.std((0, 1)) for x in (tile, image)]  # no scale, no offset
    inside = (tile > 0.02) & (tile < 0.98)  # not clipped
    np.testing.assert_allclose(span[0][inside], span[1][inside], atol=0.1)


def test_a_run_is_the_same_with_and_without(tracked, weights_of):
    on = tracked(run_name="on")
    off = dataclasses.replace(on, run_name="off", tracker="none")
    loop.run(on)
    loop.run(off)
    assert equal(weights_of(on), weights_of(off)) and not off.tracker_dir.exists()


def test_after_a_stop_no_step_is_there_twice_and_a_new_run_hides_the_old_one(tracked, stop):
    cfg = tracked(run_name="stopped")
    stop(cfg, 5)
    loop.run(cfg)
    assert list(curve(cfg, "val/loss")) == [5, 10]
    for path in cfg.run_dir.glob("*.pt"):
        path.unlink()
    loop.run(dataclasses.replace(cfg, epochs=1))
    assert [event.step for event in read(cfg).Scalars("val/loss")] == [5]


def test_every_figure_of_the_report_is_there(made, tmp_path):
    pytest.importorskip("tensorboard")
    cfg = dataclasses.replace(made, tracker="tensorboard", cache_dir=str(tmp_path))
    tracking.log_figures(cfg)
    names = {path.stem for path in cfg.report_dir.glob("*.png")}
    assert {f"report/{name}" for name in names} == set(read(cfg).Tags()["images"])
    saved = Image.open(cfg.report_dir / "confusion_official.png").convert("RGB")
    np.testing.assert_array_equal(picture_of(cfg, "report/confusion_official"), saved)


def test_figures_are_logged_whenever_they_are_made(made, monkeypatch, tmp_path):
    shutil.copytree(made.work, tmp_path / "work")
    cfg = dataclasses.replace(made, tracker="tensorboard", work_dir=str(tmp_path / "work"))
    logged = []
    monkeypatch.setattr(evaluate, "run", lambda cfg: None)
    monkeypatch.setattr(tracking, "log_figures", lambda cfg: logged.append(cfg.run_name))
    pipeline.ensure(cfg, "evaluate")
    assert logged == []  # up to date
    for tracker in ("tensorboard", "none"):
        (cfg.report_dir / ".evaluate.json").unlink()
        pipeline.ensure(dataclasses.replace(cfg, tracker=tracker), "evaluate")
    assert logged == ["baseline"]


def test_where_it_is_missing_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(tracking.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install tensorboard, or give tracker=none"):
        tracking.options(config.load(env={}, tracker="tensorboard"))
    assert tracking.options(config.load(env={})) == {}
