"""DermAI-ISIC2018: the ISIC 2018 Task 3 data -> an honestly evaluated 7-class classifier.

Research and education only: never a medical device.

    basics        the classes, the disclaimer, UserError
    files         whole-or-absent files, tables, checksums, locks
    progress      bars in a terminal and a notebook, lines in a file or a pipe
    copies/       which copy of the data is this? download, unpack, read its tables
    pixels        decode every picture once -> one uint8 array
    image_names   which photograph a file's name stands for
    splits        groups, split, folds, audit: no lesion in two subsets
    split_files   read_split: a split that you edited or somebody else made
    datasets      load(): any copy -> a Dataset: table, pixels, rejected rows
    metrics       the official metric, F1, AUC
    predictions   the table of predictions and its subsets
    intervals     bootstrap intervals by lesion, paired comparison, subgroups
    weights.py    a network's weights, from a file or a hub
    networks      a pretrained network with a new head; normalisation inside
    augmentation  the augmentation of a batch, on the device
    inference     a network and pixels -> logits and features
    saliency      Grad-CAM and its check
    runs          Run, open_run: a run's folder, its networks and predictions
    source        is it the same run? settings, data, a reader's own loss or network
    recipe        a training's options and parts: loss, optimiser, schedule, sampler
    checkpoints   how a training stops and goes on
    training      the loop
    study/        calibration, decision rule, conformal sets, linear probe, leakage effect
    reports/      a run -> report.html, figures, model card
    audits/       anybody's split or predictions -> leaks, score, verdict, a page
    app/          a photo -> an answer; the page, pack, export
    weights/      the model that comes with it, a pack: `pretrained()` opens it
    settings      the settings of the command line
    colab         the setup cell, Drive, what this machine can do
    commands      what each command does
    cli           python -m dermai_utils COMMAND: words -> settings -> a command

The names in `__all__` are the public functions. Each is imported when it is first used, so that
`import dermai_utils` takes no time.
"""

__version__ = "0.3.0"

_MODULES = {
    "basics": "CLASSES UserError",
    "datasets": "load Dataset",
    "splits": "groups split folds audit near_duplicates",
    "split_files": "read_split",
    "networks": "network",
    "augmentation": "augment",
    "training": "train Training",
    "runs": "Run open_run",
    "inference": "predict",
    "intervals": "interval compare",
    "saliency": "gradcam",
    "study.evaluation": "evaluate",
    "study.probe": "linear_probe leakage_effect",
    "reports": "report",
    "app": "answer pretrained",
    "colab": "setup",
}
_HOME = {name: module for module, names in _MODULES.items() for name in names.split()}
__all__ = sorted(_HOME)


def __getattr__(name):
    if name not in _HOME:
        raise AttributeError(f"module 'dermai_utils' has no attribute {name!r}")
    import importlib

    value = getattr(importlib.import_module(f"dermai_utils.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__():
    return sorted([*globals(), *__all__])
