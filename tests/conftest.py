import os

# spinning threads starve each other where cores are shared
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"  # the workers share the cores already
for name in [key for key in os.environ if key.startswith("DERMAI_")]:
    del os.environ[name]  # the tests say themselves what they want

import socket  # noqa: E402

import pytest  # noqa: E402
from mirror import ARCHIVE, NAME, Mirror  # noqa: E402

from dermai_utils import config, pipeline  # noqa: E402
from dermai_utils.data import fetch  # noqa: E402


@pytest.fixture(scope="session")
def small():
    """Settings under which a run on the fixture takes seconds."""
    return dict(
        image_size=32,
        backbone="timm:test_resnet",
        epochs=2,
        batch_size=16,
        weights="none",
        device="cpu",
        workers=2,
    )


@pytest.fixture(scope="session")
def made(tmp_path_factory, small):
    """The whole way on the fixture, made once; tests only read it."""
    folder = tmp_path_factory.mktemp("made")
    cfg = config.load(env={}, cache_dir=folder / "cache", work_dir=folder / "work", **small)
    pipeline.ensure(cfg, "leakage_effect")
    pipeline.ensure(cfg, "gradcam")
    pipeline.ensure(cfg, "predictor")
    return cfg


@pytest.fixture(autouse=True)
def loopback_only(monkeypatch):
    """Any look-up or connection beyond 127.0.0.1 fails the test."""
    monkeypatch.setenv("NO_PROXY", "*")
    look_up = socket.getaddrinfo

    def checked(host, *args, **kwargs):
        if host != "127.0.0.1":
            pytest.fail(f"a test asked for {host}")
        return look_up(host, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", checked)


def serving():
    server = Mirror()
    server.files[NAME] = ARCHIVE
    yield server
    server.stop()


@pytest.fixture
def mirror():
    yield from serving()


@pytest.fixture
def second():
    yield from serving()


@pytest.fixture
def refused():
    """A URL whose port is taken, so that nobody else gets it, but not listened on."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}/"


@pytest.fixture
def waits(monkeypatch):
    """The waits that were asked for; none is waited. Small chunks, so that a small file has
    several."""
    asked = []
    monkeypatch.setattr(fetch, "sleep", asked.append)
    monkeypatch.setattr(fetch, "CHUNK", 1000)
    return asked
