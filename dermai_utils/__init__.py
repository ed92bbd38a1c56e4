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

__version__ = "0.1.0"
