import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # spinning threads starve each other where cores are shared
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"  # the workers share the cores already
for name in [key for key in os.environ if key.startswith("DERMAI_")]:
    del os.environ[name]  # the tests say themselves what they want

import pytest  # noqa: E402

from dermai_utils import config, pipeline  # noqa: E402


@pytest.fixture(scope="session")
def small():
    """Settings under which a run on the fixture takes seconds."""
    return dict(image_size=32, backbone="timm:test_resnet", epochs=2, batch_size=16, weights="none", device="cpu", workers=2)


@pytest.fixture(scope="session")
def made(tmp_path_factory, small):
    """The whole way on the fixture, made once; tests only read it."""
    folder = tmp_path_factory.mktemp("made")
    cfg = config.load(env={}, cache_dir=folder / "cache", work_dir=folder / "work", **small)
    pipeline.ensure(cfg, "inflation")
    pipeline.ensure(cfg, "gradcam")
    pipeline.ensure(cfg, "reference")
    return cfg
