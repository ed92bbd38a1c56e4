"""Kill the pipeline at random moments, start it again each time, and compare what it makes in the
end: python tools/faults.py [--kills 100] [--seed 0]

Each round begins with empty folders, is killed with SIGKILL once or twice in each stage, at a
random moment of it, and ends with a start that nobody disturbs. Each start is the command in a fork
of a process that has imported torch and done nothing else: so it takes no four seconds, and every
kill falls into a stage instead of an import. Exit status 1 where a round ends with anything else
than a run without kills. Not on Windows.
"""

import importlib
import os
import random
import re
import select
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
# tiny tensors; and a forked process must not inherit a pool of threads
os.environ["OMP_NUM_THREADS"] = "1"
from dermai_utils import config, pipeline  # noqa: E402
from dermai_utils.__main__ import command, read_words  # noqa: E402

STAGES = tuple(pipeline.order("gradcam"))
TIMES = rb"<time>.*?</time>|\| trained [^\n]*"  # in the report and the model card
SETTINGS = {
    "data": "sample",
    "image_size": 32,
    "backbone": "timm:test_resnet",
    "weights": "none",
    "epochs": 2,
    "batch_size": 16,
    "device": "cpu",
    "checkpoint_minutes": 0,  # a checkpoint after every step
}


def words(folder):
    settings = SETTINGS | {"cache_dir": folder / "cache", "work_dir": folder / "work"}
    return ["gradcam", *(f"--{name}={value}" for name, value in settings.items())]


def start(folder):
    """A forked process at work in `folder`: its pid, and a pipe on which it names each stage that
    it begins."""
    folder.mkdir(exist_ok=True)
    reader, writer = os.pipe()
    if pid := os.fork():
        os.close(writer)
        return pid, reader
    status = 1
    try:
        log = os.open(folder.with_suffix(".log"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(log, 1), os.dup2(log, 2)
        make = pipeline._make

        def announced(cfg, name):
            os.write(writer, bytes([STAGES.index(name)]))
            make(cfg, name)

        pipeline._make = announced
        status = importlib.import_module("dermai_utils.__main__").main(words(folder))
        sys.stdout.flush()
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)  # none of the parent's clean-up


def one_start(folder, stage=None, wait=0.0):
    """Run to the end, or kill it `wait` seconds after `stage` begins: (the stage it was killed in
    or None, moments)."""
    pid, reader = start(folder)
    moments, deadline = {}, None
    while True:
        left = None if deadline is None else max(0.0, deadline - time.monotonic())
        ready = select.select([reader], [], [], left)[0]
        word = os.read(reader, 1) if ready else None
        if word:
            moments[STAGES[word[0]]] = time.monotonic()
            if STAGES[word[0]] == stage:
                deadline = time.monotonic() + wait
        if not ready:
            os.kill(pid, signal.SIGKILL)
        if not word:
            break
    os.close(reader)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if status not in (0, -signal.SIGKILL):
        log = folder.with_suffix(".log").read_text()[-3000:]
        sys.exit(f"error: a start after {stage} ended with status {status}:\n{log}")
    moments["end"] = time.monotonic()
    return (list(moments)[-2] if status else None), moments


def durations(moments):
    return {
        stage: after - moment
        for (stage, moment), after in zip(moments.items(), [*moments.values()][1:], strict=False)
    }


def made(folder):
    """{name: content} of what a run leaves, without the times and markers in which equal runs
    differ. A temporary file is a name too."""
    import numpy as np
    import pandas as pd

    from dermai_utils.training import checkpoint

    cfg = config.load(env={}, **SETTINGS, cache_dir=folder / "cache", work_dir=folder / "work")
    paths = [cfg.table_file, cfg.rejected_file, cfg.split_file, cfg.audit_file, cfg.pixels_file]
    paths += (path for path in cfg.report_dir.rglob("[!.]*") if path.is_file())
    contents = {path: re.sub(TIMES, b"", path.read_bytes()) for path in paths}
    history = pd.read_csv(cfg.run_dir / "history.csv")
    history = history.drop(columns=["seconds", "images_per_second"])
    contents[cfg.run_dir / "history.csv"] = history.to_csv().encode()
    tensors = checkpoint.load(cfg.run_dir / "best.pt")["model"].items()
    contents[cfg.run_dir / "best.pt"] = b"".join(
        key.encode() + tensor.numpy().tobytes() for key, tensor in tensors
    )
    # all but the checksum of best.pt, in which the seconds of an epoch stand
    with np.load(cfg.report_dir / "predictor.npz") as arrays:
        contents[cfg.report_dir / "predictor.npz"] = b"".join(
            name.encode() + arrays[name].tobytes() for name in arrays if name != "checkpoints"
        )
    for path in cfg.run_dir.glob("last*"):  # which one is there, and that it is the short one
        contents[path] = str(sorted(checkpoint.load(path))).encode()
    names = {str(path.relative_to(folder)): content for path, content in contents.items()}
    temporary = (".tmp", ".part", ".part.npy")
    left = [path for path in folder.rglob("*") if path.is_file() and path.name.endswith(temporary)]
    left += (folder / "cache" / "pending").glob("*/*")
    return names | {f"left over: {path.relative_to(folder)}": b"" for path in left}


def differences(expected, got):
    return sorted(name for name in expected | got if expected.get(name) != got.get(name))


@command
def main(words):
    settings, own = read_words(words, kills=100, seed=0)
    if settings:
        raise config.UserError(f"--{next(iter(settings))}: expected --kills or --seed")
    with tempfile.TemporaryDirectory() as home:
        return test(Path(home), own["kills"], random.Random(own["seed"]))


def test(home, kills, rng):
    began = time.monotonic()
    for stage in pipeline.STAGES.values():
        importlib.import_module(f"dermai_utils.{stage.module}")
    lasts = durations(one_start(home / "whole")[1])
    expected = made(home / "whole")
    done, rounds = Counter(), 0
    while done.total() < kills:
        folder = home / f"round{rounds}"
        one_round(folder, rng, lasts, done, kills)
        if wrong := differences(expected, made(folder)):
            print(f"round {rounds}: not as in an undisturbed run: {', '.join(wrong)}")
            return 1
        shutil.rmtree(folder)
        rounds += 1
        by_stage = ", ".join(f"{stage} {done[stage]}" for stage in STAGES)
        print(f"round {rounds}: {done.total()} kills so far ({by_stage})", flush=True)
    print(
        f"{done.total()} kills ({by_stage}) in {rounds} rounds, {time.monotonic() - began:.0f} s: "
        f"each round ended with the same {len(expected)} files as an undisturbed run"
    )
    return 0


def one_round(folder, rng, lasts, done, kills):
    """Kill each stage once or twice, count the kills in `done`, then start undisturbed.

    `lasts`, the seconds of each stage, follows: else a short stage would be over before its kill.
    """
    finished = {}
    for stage in [stage for stage in STAGES for _ in range(rng.choice((1, 2)))]:
        if stage not in finished and done.total() < kills:
            killed, moments = one_start(folder, stage, rng.random() * lasts[stage])
            done.update([killed] if killed else [])
            whole = {name: took for name, took in durations(moments).items() if name != killed}
            finished = whole | finished
    lasts |= finished
    one_start(folder)


if __name__ == "__main__":
    sys.exit(main())
