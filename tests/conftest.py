import os

# spinning threads starve each other where cores are shared
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"  # the workers share the cores already
for name in [key for key in os.environ if key.startswith("DERMAI_")]:
    del os.environ[name]  # the tests say themselves what they want

import socket  # noqa: E402

import pytest  # noqa: E402
from small import SMALL  # noqa: E402


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


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """Settings of a run on the sample, made once by `run`; tests only read its files."""
    from dermai_utils import cli, settings

    folder = tmp_path_factory.mktemp("made")
    given = SMALL | {"cache_dir": folder / "cache", "work_dir": folder / "work"}
    words = [f"--{name.replace('_', '-')}={value}" for name, value in given.items()]
    assert cli.main(["run", *words]) == 0
    return settings.read({}, **given)
