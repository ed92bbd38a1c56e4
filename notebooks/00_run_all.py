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
# <!-- button of 00_run_all -->

# %% [markdown]
# # 00 · Run all
#
# From a folder of pictures to a report whose score you can believe, with one click: fill in the form, then Runtime > Run all (Jupyter:
# Run > Run All Cells). Was the connection lost? Run all again: it goes on where it was. The notebooks 01 to 07 show how each step works.
#
# **Research and education only. Not a medical device: never use it to decide about a person's skin.**

# %% tags=["nbval-ignore-output"] jupyter={"source_hidden": true}
# @title Setup: get the package where it is missing, print the versions { display-mode: "form" }
REPO = ""  # `make publish` fills in the address of this project
if not __import__("importlib.util").util.find_spec("dermai_utils"):
    if not REPO: raise SystemExit("Fill in REPO: https://github.com/OWNER/NAME@TAG, this project")
    get_ipython().run_line_magic("pip", f"install -q --no-deps git+{REPO}")
import dermai_utils as dermai; dermai.setup()

# %% [markdown]
# ## Choose
#
# `data`: `sample` is made-up pictures that come with the package, `isic2018` the official archives (a download of 2.8 GB), or give a folder
# with any copy of the data. `test`: a folder with labelled images of your own, to be tested on as well. An empty field means the default.
#
# | preset | network |
# |---|---|
# | `sample` | a tiny network at 64 px: a minute or two, on any machine |
# | `baseline` | ResNet18 at 224 px |
# | `quick` | EfficientNetV2-S at 384 px, for a machine with a GPU |
# | `quick_cpu` | EfficientNet-Lite0 at 144 to 224 px with its first layers frozen, for a machine without one |
# | `strong`, `strong_cpu` | five networks of `quick` or `quick_cpu`, each tested on another fold: five times as long |
#
# The first lines under *Run* say how long it takes on your machine. A run is one folder: for another preset, give another
# `run_name`. `keep_on_drive` (Colab) keeps that folder on Google Drive, so that a lost machine costs minutes. The images never go there.

# %%
from dermai_utils import colab, commands, settings

data = ""  # @param ["", "sample", "isic2018"] {allow-input: true}
test = ""  # @param {type: "string"}
preset = ""  # @param ["", "sample", "baseline", "quick", "quick_cpu", "strong", "strong_cpu"]
run_name = ""  # @param {type: "string"}
keep_on_drive = False  # @param {type: "boolean"}
download_report = False  # @param {type: "boolean"}
drive = colab.drive_folders(keep_on_drive, settings.read(data=data).name)
s = settings.read(data=data, test=test, preset=preset, run_name=run_name, **drive)
print(f"data: {s.data}, preset: {s.preset}, run: {s.run_name}")
print(f"{s.backbone} at {s.size} px, {s.epochs} epochs, {s.folds or 'no'} folds")

# %% [markdown]
# ## Run
#
# Load the data, split it so that no lesion is in two subsets, train, and write the report. This is `python -m dermai_utils run`, call for
# call. What is finished already is not done again.

# %% tags=["nbval-ignore-output"]
report = commands.run(s)

# %% [markdown]
# ## Does anything leak?
#
# Images of each class in each subset, and then what every two subsets share. All numbers should be 0; `<NA>` means "not known".

# %%
from dermai_utils import files, splits

table = files.read_table(s.work / "table.csv")
splits.counts(table, table["subset"])

# %%
import pandas as pd

pd.DataFrame(files.read_json(s.work / "audit.json")).T.astype("Int64")

# %% [markdown]
# ## The number to quote
#
# Balanced accuracy with its 95 % interval, by the decision rule that was chosen on `val`. If the intervals of two results overlap widely,
# nobody knows which is better. On the sample the number means nothing: its pictures are painted.

# %% tags=["nbval-ignore-output"]
from dermai_utils.study import text
from IPython.display import Image

run = dermai.open_run(s.run_folder)
print(text.headline(run.metrics))
Image(run.folder / "confusion.png")

# %% [markdown]
# ## Which classes does it mix up?
#
# Rows are the true class. Look for dark fields off the diagonal.

# %% tags=["nbval-ignore-output"]
Image(run.folder / "confusion.png")

# %% [markdown]
# ## Did it learn too long, or too little?
#
# Look for a validation loss that rises while the training loss still falls: from there on, the network learns its training images by heart.

# %% tags=["nbval-ignore-output"]
Image(run.folder / "learning_curves.png")

# %% [markdown]
# ## Where does it look?
#
# Each picture, then its Grad-CAM map and its saliency map (how much each pixel moves the answer). A map on a ruler, a hair or the rim is a
# warning. A map on the lesion is not a proof. The percentage is the probability of the predicted class. It can be small, where the decision
# rule names a rare class. Notebook 06 makes such maps by hand.

# %% tags=["nbval-ignore-output"]
import io
import PIL.Image

smaller = io.BytesIO()  # fewer bytes, for the page; the file in the folder stays as it is
PIL.Image.open(run.folder / "gradcam.jpg").convert("RGB").save(smaller, "JPEG", quality=50)
Image(smaller.getvalue())

# %% [markdown]
# ## Files
#
# `report.html` is the whole report on one page: open it in a browser. With `download_report` ticked, Colab saves the run's folder as a zip.

# %%
for name in ("report.html", "metrics.json", "predictions.csv", "model_card.md", "best.pt"):
    print(name, "is there" if list(run.folder.rglob(name)) else "is missing")

# %% tags=["nbval-ignore-output"]
archive = colab.zip_folder(run.folder)
print(f"report: {report}")
print(f"the folder as one file, without the weights: {archive}, {archive.stat().st_size / 1e6:.1f} MB")
if download_report:
    colab.download(archive)

# %% [markdown]
# ## Change this
#
# Each is another `run_name` in the form, so that the first run stays; `index.html` in the work folder then shows both.
#
# 1. In the settings cell, add `epochs=5` to the second `settings.read(...)`. By argmax, the score is near one seventh: the network says
#    "nevus" to almost everything. How much of that does the decision rule put right?
# 2. Add `split="random"`. The audit is no longer all zeros. In the lines that the run prints, compare the score by argmax on `val` and on
#    the test images with that of your first run: which of the two has become better?
# 3. Add `imbalance="class_weights"`. Look at tau in the headline: it is nearer to 0 than before. The loss has done already what the
#    rule would do.
#
# Next: 05_evaluate computes these numbers by hand.
