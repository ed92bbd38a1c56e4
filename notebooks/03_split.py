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

# %% [markdown]
# # 03 · Split
#
# Images of one lesion look alike. If one is trained on and another is tested on, the score says how well the model remembers that
# lesion, not how well it would do on a new patient. Here whole lesions are dealt to the parts, class by class, so that none is on
# two sides; the random split, which most published notebooks use, is made beside it to show what it leaks.

# %% tags=["nbval-ignore-output"]
# @title Setup: find the package, or fetch it (Colab, Kaggle); install only what is missing { display-mode: "form" }
import pathlib
import subprocess
import sys

REPOSITORY, TAG = "", ""  # where a machine with only this notebook on it gets the package from
here = pathlib.Path.cwd()
home = next((folder for folder in (here, *here.parents) if (folder / "dermai_utils").is_dir()), here / "DermAI-ISIC2018")
if not home.exists():
    if not REPOSITORY:
        raise SystemExit("No dermai_utils folder here or above: open this notebook inside the repository, or set REPOSITORY.")
    branch = ["--branch", TAG] if TAG else []
    subprocess.run(["git", "clone", "--quiet", "--depth", "1", *branch, REPOSITORY, str(home)], check=True)
sys.path.insert(0, str(home))
from dermai_utils import environment

environment.install_missing()
print(environment.version_line())

# %% [markdown]
# **Settings.** `split`: `lesion` (the default) or `random`, for comparison only. `folds`: empty for one validation part, or 2 to 20.
# A split that exists is reused; change a setting and it is made again, and the old one is kept beside it.

# %% tags=["nbval-ignore-output"]
import pandas as pd

from dermai_utils import config, files, pipeline, plots, split

data = ""  # @param ["", "sample", "isic2018"] {allow-input: true}
strategy = ""  # @param ["", "lesion", "random"]
folds = ""  # @param ["", "5", "8"] {allow-input: true}
cfg = config.load(data=data, split=strategy, folds=folds)
made = pipeline.ensure(cfg, "split")

# %% [markdown]
# **Every class in every part, in the same proportion.** `val` chooses the checkpoint; `test` is touched by the evaluation alone;
# `official` is the challenge's own test set, where it was downloaded.

# %%
table = split.read(cfg)
counts = split.counts(table)
counts

# %% tags=["nbval-ignore-output"]
plots.split_counts(counts)

# %% [markdown]
# **The leakage audit.** What each way of splitting puts on both sides. The lesion-safe column must be all zeros, or the split is
# refused.

# %%
audit = files.read_json(cfg.audit_file)
pd.DataFrame({"random": audit["random"], "lesion-safe": audit["lesion"]})

# %% tags=["nbval-ignore-output"]
plots.leakage(audit)

# %% [markdown]
# **Check it by hand**, without the package: no lesion id may occur in two parts.

# %%
parts_of_lesion = table.groupby("lesion_id")["part"].nunique()
print(f"{len(parts_of_lesion):,} lesions, {(parts_of_lesion > 1).sum()} of them in more than one part")
leaked = audit["random"]["images_of_such_lesions"]
print(f"A random split would have put {leaked:,} images of {len(table):,} beside another view of their own lesion.")
