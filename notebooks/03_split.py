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
# <!-- make publish puts the Colab button of 03_split here -->

# %% [markdown]
# # 03 · Split
#
# Images of one lesion look alike. If one is trained on and another is tested on, the score says how well the model remembers that
# lesion, not how well it would do on a new patient. A grouped stratified split assigns whole lesions to the subsets, class by class, so
# that no lesion is in two of them; the random split, which many notebooks use, is made beside it to show what it leaks.

# %% tags=["nbval-ignore-output"] jupyter={"source_hidden": true}
# @title Setup: get the package where it is missing, print the versions { display-mode: "form" }
from importlib.util import find_spec

if not find_spec("dermai_utils"):
    get_ipython().run_line_magic("pip", "install -q --no-deps git+@main")
from dermai_utils import environment

environment.setup()

# %% [markdown]
# ## Settings
#
# `strategy`: `lesion` (the default) or `random`, for comparison only. `folds`: empty for one validation subset, or 2 to 20.
# A split that exists is reused; change a setting and it is made again, and the old one is kept beside it.
# `keep_on_drive`: as in 02_clean.

# %% tags=["nbval-ignore-output"]
import pandas as pd

from dermai_utils import config, files, pipeline, runtime
from dermai_utils.data import split
from dermai_utils.report import figures

data = ""  # @param ["", "sample", "isic2018"] {allow-input: true}
strategy = ""  # @param ["", "lesion", "random"]
folds = ""  # @param ["", "5", "8"] {allow-input: true}
keep_on_drive = False  # @param {type: "boolean"}
cfg = config.load(data=data, split=strategy, folds=folds, **runtime.drive_folders(keep_on_drive, data))
made = pipeline.ensure(cfg, "split")

# %% [markdown]
# ## Subsets
#
# Every class is in every subset, in the same proportion. On `val` decision rule, temperature and thresholds are chosen; `test` is used by the evaluation alone;
# `official` is the challenge's own test set, where it was downloaded.

# %%
table = split.read(cfg)
counts = split.counts(table)
counts

# %% tags=["nbval-ignore-output"]
figures.draw(cfg, "split_counts")

# %% [markdown]
# ## Leakage audit
#
# How much each way of splitting shares between subsets. The lesion-safe column must be all zeros, or the split is refused.

# %%
audit = files.read_json(cfg.audit_file)
pd.DataFrame({"random": audit["random"], "lesion-safe": audit["lesion"]})

# %% tags=["nbval-ignore-output"]
figures.draw(cfg, "leakage")

# %% [markdown]
# What every two subsets share. `NaN` is "not known": no such ids are given. Training images that would leak into a test set from
# outside are left out, and counted in `left_out`.

# %%
print("left out:", audit["left_out"] or "nothing")
pd.DataFrame(audit["pairs"]).T

# %% [markdown]
# ## Leakage effect
#
# How much leakage adds to a score: two simple classifiers on frozen ImageNet features, trained and tested under both splits, on the same
# images and features. Look at the images of a lesion that has several: there a random split gives the answer
# away. (The features of 10,000 images take a minute or two without a GPU; later stages use them again. On the sample, 60 made-up pictures,
# the difference may have either sign.)

# %% tags=["nbval-ignore-output"]
made = pipeline.ensure(cfg, "leakage_effect")
figures.draw(cfg, "leakage_effect")

# %% [markdown]
# ## Check it by hand
#
# Without the package: no lesion id may occur in two subsets.

# %%
subsets_of_lesion = table.groupby("lesion_id")["subset"].nunique()
print(f"{len(subsets_of_lesion):,} lesions, {(subsets_of_lesion > 1).sum()} of them in more than one subset")
leaked = audit["random"]["images_of_such_lesions"]
what = "not known how many" if leaked is None else f"{leaked:,}"
print(f"A random split would have put {what} of {len(table):,} images in another subset than an image of the same lesion.")
