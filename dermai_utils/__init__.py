"""DermAI-ISIC2018: the ISIC 2018 Task 3 data -> an honestly evaluated 7-class classifier.

Research and education only: never a medical device.

    config       every setting: type, default, what is allowed, help
    environment  what is installed here; the version line for a bug report
    progress     bars in a terminal and a notebook, lines in a file or a pipe
    files        whole-or-absent files, tables, checksums, locks, stage markers
    metrics      arrays in, numbers out; no files, no torch
    data         a copy of the data -> one table, one pixel array, one split
    training     a split -> a trained run, and what its network says of images
    report       a run -> metrics, figures, report.html and model card
    predict      a run -> an answer about your own photo
    runtime      this machine: Colab, Drive, GPU, memory, disk, the time to expect
    pipeline     the order of the stages; ensure(cfg, stage) makes what is missing
    __main__     python -m dermai_utils STAGE [--field value ...]

Each of them imports from those above it, never from one below (a test reads this list).
"""

import os

__version__ = "0.2.0"

# Threads that wait for another one sleep after some microseconds. By default they spin, and where
# other programs use the cores, they spin for a thread that isn't running: a training takes 2.8
# times as long beside one busy program, 2 times with this, and as long as before alone
# (docs/speed.md). Read once, when torch loads its OpenMP: so here, before torch.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "5000")  # GNU's, on Linux: turns
    os.environ.setdefault("KMP_BLOCKTIME", "1")  # LLVM's and Intel's: milliseconds
