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
# *No Colab button here yet: `make publish REPO=owner/name TAG=v1` makes it, once the repository is on GitHub.*

# %% [markdown]
# # 00 · Run all
#
# From the official ISIC 2018 Task 3 archives to a report whose score you can believe, with one click: choose in the form below,
# then Runtime > Run all (Jupyter: Run > Run All Cells). Disconnected? Run all again: it goes on where it was. The notebooks 01 to 06
# do the same step by step, with explanations.
#
# **Research and education only. Not a medical device: never use it to decide about a person's skin.**

# %% tags=["nbval-ignore-output"] jupyter={"source_hidden": true}
# @title Setup: find the package, or fetch it (Colab, Kaggle); install only what is missing { display-mode: "form" }
import pathlib
import shutil
import subprocess
import sys

REPOSITORY, TAG = "", "main"  # where a machine with only this notebook gets the package: `make publish` writes it
Stop = type("Stop", (Exception,), {"_render_traceback_": lambda self: [f"error: {self}"]})  # one line, no traceback
clone = pathlib.Path.cwd() / f"DermAI-ISIC2018-{TAG}"
near = [*clone.parents, *pathlib.Path(globals().get("__vsc_ipynb_file__", "")).parents, *map(pathlib.Path, sys.path), clone]  # VS Code may work elsewhere
home = next((folder for folder in near if (folder / "dermai_utils" / "config.py").is_file()), None)
if not home and not REPOSITORY:
    raise Stop("no dermai_utils folder near: open this notebook in the repository, or write its https address into REPOSITORY")
if not home:
    shutil.rmtree(part := clone.with_name(f"{clone.name}.part"), ignore_errors=True)  # only a whole clone gets the name that is believed
    try:
        subprocess.run([*"git clone --quiet --depth 1 --branch".split(), TAG, REPOSITORY, str(part)], check=True, capture_output=True, text=True, start_new_session=True)  # no terminal, no password prompt
        home = part.rename(clone)
    except (OSError, subprocess.CalledProcessError) as reason:
        why = (getattr(reason, "stderr", "") or str(reason)).strip().splitlines()[-1]
        raise Stop(f"{REPOSITORY} {TAG} can't be fetched ({why}): check address and network (Kaggle: Internet on), run this again") from None
sys.path.insert(0, str(home))
from dermai_utils import environment

environment.setup()

# %% [markdown]
# **Choose.** `data`: `sample` is made-up pictures that come with the repository (no download), `isic2018` the official archives (2.8 GB), or
# a folder of your own with the archives or the unpacked images and CSVs. An empty field is the default: the sample, or what
# `DERMAI_DATA` says, and the preset that goes with it.
#
# | preset | network | on 2 CPU cores | on a T4 |
# |---|---|---|---|
# | `sample` | a toy at 64 px, 20 epochs | about a minute in all | about a minute in all |
# | `quick` | ResNet18 at 224 px, 10 epochs, eight views | 1.6 hours of training | about 15 minutes in all |
# | `quick_cpu` | EfficientNet-Lite0 at 112 to 160 px, early layers frozen, 10 epochs, eight views | 17 minutes of training on one core | no need for it |
# | `strong` | ResNet18 at 224 px, three runs of 20 epochs, eight views | 9.6 hours of training | about 25 minutes in all |
#
# The times on a processor follow from 14 images/s (ResNet18), measured on two AMD EPYC cores with AVX2, and a whole run (`quick_cpu`) on one with
# AVX-512. Those on a T4 are an estimate: none was at hand. What your machine needs is measured by the cell below. `keep_on_drive` (Colab): results
# and checkpoints go to Google Drive, so that a lost machine costs minutes. Images never go there.

# %% tags=["nbval-ignore-output"]
import numpy as np

from dermai_utils import clean, colab, config, explain, files, machine, pipeline, plots, report

data = ""  # @param ["", "sample", "isic2018"] {allow-input: true}
preset = ""  # @param ["", "sample", "quick", "quick_cpu", "strong"]
keep_on_drive = False  # @param {type: "boolean"}
run_name = preset if preset in ("quick_cpu", "strong") else ""  # beside quick's run, which is the baseline, not in its place
cfg = config.load(data=data, preset=preset, run_name=run_name, **colab.folders(keep_on_drive, data))
machine.check(cfg)

# %% [markdown]
# **Data and training.** Download, cleaning, the lesion-safe split, then training. Whatever is made already says so and is skipped.

# %% tags=["nbval-ignore-output"]
made = pipeline.ensure(cfg, "train")

# %% [markdown]
# The curves: a validation score that falls while the training loss still does is overfitting. The best epoch is kept.

# %% tags=["nbval-ignore-output"]
plots.curves(clean.read_table(cfg.member_dirs[0] / "history.csv"))

# %% [markdown]
# **Evaluation and Grad-CAM**, on images that nothing was chosen on.

# %% tags=["nbval-ignore-output"]
made = pipeline.ensure(cfg, "gradcam")

# %% [markdown]
# **The number to quote** is balanced accuracy, with its interval: where two intervals overlap widely, nobody knows which result is better.

# %% tags=["nbval-ignore-output"]
found = files.read_json(cfg.report_dir / "metrics.json")
part = found["headline"]
score = found["intervals"][part]["balanced_accuracy"]
print("Made-up pictures: this number means nothing." if cfg.data == "sample" else "On images of real lesions:")
print(f"{report.PART_NAMES[part]}, n={found['parts'][part]['n']:,}:")
print(f"balanced accuracy {score['value']:.3f}, 95 % interval {score['low']:.3f} to {score['high']:.3f}")
plots.headline(found["intervals"][part], report.PART_NAMES[part])

# %% [markdown]
# **What is taken for what.** Rows are the true class; a strong cell off the diagonal is a typical confusion.

# %% tags=["nbval-ignore-output"]
plots.confusion(np.array(found["parts"][part]["confusion"]), title=report.PART_NAMES[part])

# %% [markdown]
# **Where it looks.** Images that were called right, wrong and with doubt, each beside its Grad-CAM. A map on a ruler, a hair or the rim of the
# lens is a warning; a map on the lesion is not a proof.

# %% tags=["nbval-ignore-output"]
chosen = explain.choose(report.counting(clean.read_table(cfg.report_dir / "predictions.csv"), part))
plots.pairs(explain.maps_for(cfg, chosen))

# %% [markdown]
# **Where everything lies.** `report.html` is the whole report on one page, to open in a browser. Tick `download_report` to get the report's
# folder as a zip from Colab (or find it in the Files pane on the left).

# %%
lying = {"the report": "report.html", "its numbers": "metrics.json", "every prediction": "predictions.csv", "model card": "model_card.md"}
for what, name in lying.items():
    print(f"{what}: {cfg.show(cfg.report_dir / name)}")
print(f"the model: {', '.join(cfg.show(folder / 'best.pt') for folder in cfg.member_dirs)}")

# %% tags=["nbval-ignore-output"]
download_report = False  # @param {type: "boolean"}
archive = colab.zipped(cfg.report_dir)
print(f"work is {cfg.work}")
print(f"all of the report as one file, {archive.stat().st_size / 1e6:.1f} MB: {archive}")
if download_report:
    colab.download(archive)

# %% [markdown]
# **Next.** 05_evaluate reads these numbers class by class, 06_gradcam shows more maps. After `strong` or `quick_cpu`, give them that name as
# `run_name`.
