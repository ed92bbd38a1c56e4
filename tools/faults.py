"""Kill `python -m dermai_utils run` at random moments, start it again each time, and compare what
it makes in the end:

    python tools/faults.py [--kills 100] [--seed 0]

Each round begins with empty folders and is killed with SIGKILL at random moments, until a start
reaches its end. Each start is a fork of a process that has imported everything: so every kill falls
into the work instead of an import. Exit status 1 where a round ends with other files than a run
without kills. Not on Windows.
"""

import argparse
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
# tiny tensors; and a forked process must not inherit a pool of threads
os.environ["OMP_NUM_THREADS"] = "1"

import dermai_utils as dermai  # noqa: E402
from dermai_utils import cli, files, runs  # noqa: E402

for name in dermai.__all__:
    getattr(dermai, name)  # imports its module

WORDS = "run --data=sample --size=32 --backbone=timm:test_resnet --weights=none --epochs=2"
WORDS += " --batch-size=16 --device=cpu"
# what differs between equal runs: times, and the place
CHANGES = (
    rb'<time>.*?</time>|\| trained [^\n]*|"(date|machine|made_from)": "[^"]*"|/\S*/(whole|round)\d*'
)
SECONDS = ["seconds"]  # of a history


def start(folder, wait) -> bool:
    """Run in `folder`; kill after `wait` seconds, None: never. Whether it reached the end."""
    folder.mkdir(exist_ok=True)
    if not (pid := os.fork()):
        log = os.open(folder.with_suffix(".log"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(log, 1), os.dup2(log, 2)
        words = [*WORDS.split(), f"--cache-dir={folder / 'cache'}", f"--work-dir={folder / 'work'}"]
        os._exit(cli.main(words))  # none of the parent's clean-up
    deadline, status = time.monotonic() + (wait or 1e6), None
    while status is None and time.monotonic() < deadline:
        time.sleep(0.002)
        done, code = os.waitpid(pid, os.WNOHANG)
        status = os.waitstatus_to_exitcode(code) if done else None
    if status is None:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    elif status:
        sys.exit(f"error: a start ended with {status}:\n{folder.with_suffix('.log').read_text()}")
    return status == 0


def content(path) -> bytes:
    """The bytes of a file, without what differs between equal runs."""
    if path.suffix == ".pt":
        tensors = runs.load_checkpoint(path)["model"].items()
        return b"".join(name.encode() + tensor.numpy().tobytes() for name, tensor in tensors)
    if path.name == "history.csv":
        return files.table_text(files.read_table(path).drop(columns=SECONDS)).encode()
    return re.sub(CHANGES, b"", path.read_bytes())


def made(folder) -> dict:
    """{name: content} of what a run leaves; a temporary file is a name, too."""
    paths = [path for path in folder.rglob("*") if path.is_file() and path.name != ".lock"]
    return {str(path.relative_to(folder)): content(path) for path in paths}


def main(home, kills, rng) -> int:
    began, done, rounds = time.monotonic(), 0, 0
    start(home / "whole", None)
    whole, expected = time.monotonic() - began, made(home / "whole")
    while done < kills:
        folder, left = home / f"round{rounds}", whole
        # what is left to do is about half of the time after the kill before
        while done < kills and not start(folder, wait := rng.random() * left):
            done, left = done + 1, max(whole / 8, left - wait / 2)
        start(folder, None)
        got = made(folder)
        if wrong := sorted(k for k in expected | got if expected.get(k) != got.get(k)):
            print(f"round {rounds}: not as in an undisturbed run: {', '.join(wrong)}")
            return 1
        shutil.rmtree(folder)
        rounds += 1
        print(f"round {rounds}: {done} kills so far", flush=True)
    print(
        f"{done} kills in {rounds} rounds, {time.monotonic() - began:.0f} s: each round ended with "
        f"the same {len(expected)} files as an undisturbed run"
    )
    return 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition(":")[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        sys.exit(main(Path(folder), given.kills, random.Random(given.seed)))
