import os
import signal

import pytest

from dermai_utils import config
from dermai_utils.training import checkpoint, loop


@pytest.fixture
def fresh(made, small, tmp_path):
    """A config with the fixture's table, split and pixels, and no run yet."""

    def make(**given):
        for name in ("table.csv", "split.csv"):
            (tmp_path / name).write_bytes((made.work / name).read_bytes())
        return config.load(env={}, cache_dir=made.cache, work_dir=tmp_path, **(small | given))

    return make


@pytest.fixture
def state_of(monkeypatch):
    """The last checkpoint of a run that a step could go on from: a finished run keeps none."""
    states, plain = {}, checkpoint.save

    def save(path, state):
        plain(path, state)
        if "optimizer" in state:
            states[path.parent] = checkpoint.load(path)

    monkeypatch.setattr(checkpoint, "save", save)
    return lambda cfg: states[cfg.pending_dir]


@pytest.fixture
def weights_of(state_of):
    """The weights after the last step of a run."""
    return lambda cfg: state_of(cfg)["model"]


@pytest.fixture
def stop(monkeypatch):
    """stop(cfg, steps): train until a signal, as Ctrl-C sends it, in step number `steps`."""

    def run(cfg, steps):
        plain, count = loop.Run.train_step, [0]

        def counted(self, *batch):
            count[0] += 1
            if count[0] == steps:
                os.kill(os.getpid(), signal.SIGINT)
            return plain(self, *batch)

        with monkeypatch.context() as patch, pytest.raises(loop.Interrupted, match="to go on"):
            patch.setattr(loop.Run, "train_step", counted)
            loop.run(cfg)

    return run
