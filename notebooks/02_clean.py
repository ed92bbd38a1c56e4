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
# # 02 · Clean
#
# One table with one row for each usable image, and a list of everything that was left out, with the reason. The pass that finds
# the broken files also decodes every image, once, into one array on disk that all later notebooks read.

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
# **Settings.** `image_size` is the side, in pixels, of the square that the model will see; the stored images are 4:3, with a short
# side a little over it. Empty means the preset's (64 for the sample, 224 else).

# %% tags=["nbval-ignore-output"]
from dermai_utils import clean, config, pipeline, pixels, plots

data = ""  # @param ["", "sample", "isic2018"] {allow-input: true}
image_size = ""  # @param ["", "128", "224", "320"] {allow-input: true}
cfg = config.load(data=data, image_size=image_size)
made = pipeline.ensure(cfg, "clean")

# %% [markdown]
# **What was left out.** Look for many rows with one reason: that is a download that broke or a table that was edited, not bad luck.

# %%
table, rejected = clean.read_table(cfg.table_file), clean.read_table(cfg.rejected_file)
print(f"{len(table):,} usable images, {len(rejected):,} rows left out")
rejected

# %% [markdown]
# **The classes.** Nevi are two thirds of the real data. A model that always answers "nevus" is right two times out of three and
# useless: this is why the challenge counts the mean recall of the classes, and so do we. The second column matters as much: several
# images show one lesion. (Training images; the official test set is apart.)

# %%
counts = clean.class_counts(table[table["source"] == "train"])
counts

# %% tags=["nbval-ignore-output"]
plots.class_counts(counts)

# %% [markdown]
# **Look at the pictures.** Eight of each class, as the model will get them before cropping.

# %% tags=["nbval-ignore-output"]
plots.contact_sheet(table, pixels.load(cfg.pixels_file))

# %% [markdown]
# **The same picture twice.** Images with the same pixels under two ids; where their labels differ, one of the two must be wrong.

# %%
twice = table[table["duplicate_of"] != ""]
twice[["image", "duplicate_of", "label", "lesion_id", "conflict"]].reset_index(drop=True)

# %%
largest = table["lesion_id"].value_counts()
print(f"{len(table):,} images show {len(largest):,} lesions; {(largest > 1).sum():,} lesions have several images.")
print(f"The rarest class is {counts['images'].idxmin()}, with {counts['images'].min()} images.")
