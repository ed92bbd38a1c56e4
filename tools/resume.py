"""A run of the sample that moves between the devices and precisions of this machine, and back:
python tools/resume.py [--epochs 4]

On a CUDA machine: CPU fp32, and the GPU in fp32, bf16 and fp16; else the CPU in fp32 and bf16. No
network. For each pair the run begins on the first, is stopped in the middle of an epoch, goes on on
the second, is stopped again, and ends on the first. One line a pair; exit status 1 where one fails.
"""

import contextlib
import io
import itertools
import math
import os
import signal
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
import torch  # noqa: E402

from dermai_utils import config, files, pipeline  # noqa: E402
from dermai_utils.__main__ import command, read_words  # noqa: E402
from dermai_utils.training import checkpoint, loop  # noqa: E402

ON_CPU = [("cpu", "fp32")] if torch.cuda.is_available() else [("cpu", "fp32"), ("cpu", "bf16")]
ON_GPU = [("cuda", p) for p in ("fp32", "bf16", "fp16")] if torch.cuda.is_available() else []
TOLERANCE = 0.25  # of the last epoch's loss on the first machine alone; rounding adds up


def train(cfg, epoch=None) -> str:
    """Train to the end, or until a Ctrl-C in step 3 of `epoch`; returns what was printed."""
    plain, printed = loop.Run.train_step, io.StringIO()

    def step(self, *batch):
        if (self.epoch, self.step) == (epoch, 2):
            os.kill(os.getpid(), signal.SIGINT)
        return plain(self, *batch)

    loop.Run.train_step = step
    try:
        with contextlib.redirect_stdout(printed), contextlib.suppress(loop.Interrupted):
            loop.run(cfg)
    finally:
        loop.Run.train_step = plain
    return printed.getvalue()


def fault(cfg, first, second, alone, printed) -> str:
    """What is wrong with a run that went from `first` to `second` and back; "" for nothing."""
    for text, here, there in ((printed[1], second, first), (printed[2], first, second)):
        change = f"{' '.join(there)} before, {' '.join(here)} now"
        if change not in text:
            return f"it does not say {change!r}: {text}"
    history = files.read_table(cfg.run_dir / "history.csv")
    loss = history["loss"].iloc[-1]
    weights = checkpoint.load(cfg.run_dir / "best.pt")["model"].values()
    if len(history) != cfg.epochs or not all(torch.isfinite(x).all() for x in weights):
        return f"{len(history)} epochs, or weights that are not finite"
    if not math.isclose(loss, alone, rel_tol=TOLERANCE):
        return f"its last loss is {loss:.3f}, that of {' '.join(first)} alone {alone:.3f}"
    return ""


def pair(settings, first, second, alone):
    """Train on `first`, `second`, `first`; prints a line, and returns whether all is well."""
    name = "-".join(first + second)
    cfgs = [
        config.load(env={}, **settings, run_name=name, device=device, precision=precision)
        for device, precision in (first, second, first)
    ]
    epochs = (0, cfgs[0].epochs // 2, None)
    try:
        printed = [train(cfg, epoch) for cfg, epoch in zip(cfgs, epochs, strict=True)]
        wrong = fault(cfgs[0], first, second, alone, printed)
    except Exception as reason:  # each kind is a result here
        wrong = f"{type(reason).__name__}: {reason}"
    print(f"{' '.join(first)} -> {' '.join(second)} -> back: {wrong or 'goes on'}", flush=True)
    return not wrong


@command
def main(words):
    given, own = read_words(words, epochs=4)
    if given:
        raise config.UserError(f"--{next(iter(given))}: expected --epochs")
    with tempfile.TemporaryDirectory() as folder:
        folders = dict(cache_dir=f"{folder}/cache", work_dir=f"{folder}/work")
        settings = dict(data="sample", epochs=own["epochs"], **folders)
        pipeline.ensure(config.load(env={}, **settings), "split")
        alone = {}
        for device, precision in ON_CPU + ON_GPU:
            options = dict(run_name=f"{device}-{precision}", device=device, precision=precision)
            cfg = config.load(env={}, **settings, **options)
            train(cfg)
            alone[device, precision] = files.read_table(cfg.run_dir / "history.csv")["loss"].iloc[
                -1
            ]
        pairs = itertools.combinations(ON_CPU + ON_GPU, 2)
        return 0 if all([pair(settings, a, b, alone[a]) for a, b in pairs]) else 1


if __name__ == "__main__":
    sys.exit(main())
