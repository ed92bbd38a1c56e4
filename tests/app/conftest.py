import photos
import pytest

from dermai_utils.app import predictor, state


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    return photos.dataset(tmp_path_factory.mktemp("photos"))


@pytest.fixture(scope="session")
def run(data, tmp_path_factory):
    """A run that can answer; tests only read it."""
    made = photos.run(tmp_path_factory.mktemp("runs") / "baseline", data)
    state.save(made, state.prepare(made, data))
    return made


@pytest.fixture(scope="session")
def folds(data, tmp_path_factory):
    """The same with three folds."""
    made = photos.run(tmp_path_factory.mktemp("runs") / "folds", data, folds=3)
    state.save(made, state.prepare(made, data))
    return made


@pytest.fixture(scope="session")
def model(run, data):
    """A Predictor of `run`, which has the pictures."""
    return predictor.Predictor(run, data)
