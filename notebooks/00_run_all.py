# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#       jupytext_version: 1.19.6
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown] tags=["badge"]
# <!-- make publish puts the Colab button of 00_run_all here -->

# %% [markdown]
# # 00 · Run all
#
# From the official ISIC 2018 Task 3 archives to a report whose score you can believe, with one click: choose in the form below,
# then Runtime > Run all (Jupyter: Run > Run All Cells). Disconnected? Run all again: it goes on where it was. The notebooks 01 to 06
# do the same step by step, with explanations.
#
# **Research and education only. Not a medical device: never use it to decide about a person's skin.**

# %% tags=["nbval-ignore-output"] jupyter={"source_hidden": true}
# @title Setup: get the package where it is missing, print the versions { display-mode: "form" }
from importlib.util import find_spec

if not find_spec("dermai_utils"):
    get_ipython().run_line_magic("pip", "install -q --no-deps git+@main")
from dermai_utils import environment

environment.setup()

# %% [markdown]
# ## Choose
#
# `data`: `sample` is made-up pictures that come with the package (no download), `isic2018` the official archives (2.8 GB), or
# a folder of your own with the archives or the unpacked images and CSVs. An empty field is the default: the sample, or what
# `DERMAI_DATA` says, and the preset that goes with it.
#
# | preset | network | on 2 CPU cores | on a T4 |
# |---|---|---|---|
# | `sample` | a tiny network at 64 px, 20 epochs | a minute or two in all | a minute or two in all |
# | `quick` | EfficientNet-Lite2 at 260 px, 10 epochs | hours | not measured |
# | `quick_cpu` | EfficientNet-Lite0 at 144 to 224 px, early layers frozen, 10 epochs | about an hour on **one** core | no need for it |
# | `strong`, `strong_cpu` | five folds of `quick` or `quick_cpu`, as one run | five times as long | not measured |
# | `baseline` | ResNet18 at 224 px, 10 epochs | about two hours of training | about 15 minutes in all |
#
# All but `sample` and `baseline` use 4-fold test-time augmentation. On an H100 an epoch of `quick_cpu` takes 4 to 7 s and one of `quick` 7 s.
# The time of `baseline` follows from 9 and 14 images/s, measured on two machines with two AMD EPYC cores each; that on a T4 is an estimate: none was at hand. The cell below
# measures what your machine needs. `keep_on_drive` (Colab): results and checkpoints go to Google Drive, so that a lost machine costs
# minutes. The image files never go there.

# %% tags=["nbval-ignore-output"]
from dermai_utils import config, files, pipeline, runtime
from dermai_utils.report import figures

data = ""  # @param ["", "sample", "isic2018"] {allow-input: true}
preset = ""  # @param ["", "sample", "quick", "quick_cpu", "strong", "strong_cpu", "baseline"]
keep_on_drive = False  # @param {type: "boolean"}
# a run beside that of quick, which is called baseline, not in its place
run_name = {"sample": "", "quick": "", "baseline": "resnet18"}.get(preset, preset)
cfg = config.load(data=data, preset=preset, run_name=run_name, **runtime.drive_folders(keep_on_drive, data))
runtime.check(cfg)

# %% [markdown]
# ## Data and training
#
# Download, cleaning, the lesion-safe split, then training. What exists already says so and is skipped.

# %% tags=["nbval-ignore-output"]
made = pipeline.ensure(cfg, "train")

# %% [markdown]
# ## Learning curves
#
# Look for a validation score that falls while the training loss still does: that is overfitting. The averaged weights of the last epoch are kept.

# %% tags=["nbval-ignore-output"]
figures.draw(cfg, "learning_curve")

# %% [markdown]
# ## Evaluation and Grad-CAM
#
# On images that played no role in training, nor in choosing the decision rule.

# %% tags=["nbval-ignore-output"]
made = pipeline.ensure(cfg, "gradcam")

# %% [markdown]
# ## The number to quote
#
# Balanced accuracy by the decision rule that validation chose, the one of `submission.csv`, with its interval; argmax beside it.
# Where two intervals overlap widely, nobody knows which result is better.

# %% tags=["nbval-ignore-output"]
metrics = files.read_json(cfg.report_dir / "metrics.json")
print("Made-up pictures: this number means nothing." if cfg.data == "sample" else "On images of real lesions:")
print(figures.headline(metrics))
figures.draw(cfg, "metrics")

# %% [markdown]
# ## Confusion matrix
#
# Rows are the true class; look for strong cells off the diagonal: typical confusions.

# %% tags=["nbval-ignore-output"]
figures.draw(cfg, "confusion")

# %% [markdown]
# ## Where the network looks
#
# Correct, wrong and uncertain predictions, each beside its Grad-CAM. A map on a ruler, a hair or the rim of the
# lens is a warning; a map on the lesion is not a proof.

# %% tags=["nbval-ignore-output"]
figures.draw(cfg, "gradcam")

# %% [markdown]
# ## Files
#
# `report.html` is the whole report on one page, to open in a browser. Tick `download_report` to get the report's
# folder as a zip from Colab (or find it in the Files pane on the left).

# %%
for name in ("report.html", "metrics.json", "predictions.csv", "model_card.md"):
    print(cfg.show(cfg.report_dir / name))
print(f"checkpoints: {', '.join(cfg.show(folder / 'best.pt') for folder in cfg.member_dirs)}")

# %% tags=["nbval-ignore-output"]
download_report = False  # @param {type: "boolean"}
archive = runtime.zip_folder(cfg.report_dir)
print(f"work is {cfg.work}")
print(f"the report's folder as one file, {archive.stat().st_size / 1e6:.1f} MB: {archive}")
if download_report:
    runtime.download(archive)

# %% [markdown]
# ## Next
#
# 05_evaluate reads these numbers class by class, 06_gradcam shows more maps. After `strong` or `quick_cpu`, give them that name as
# `run_name`.
