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
# <!-- make publish puts the Colab button of 02_clean here -->

# %% [markdown]
# # 02 · Clean
#
# One table with one row for each usable image, and a list of everything that was left out, with the reason. The pass that detects
# the broken files also decodes every image, once, into one array on disk (the image cache) that all later notebooks read.

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
# `image_size` is the side, in pixels, of the square that the model will see; the stored images are 4:3, with that short
# side, rounded up to a multiple of 75. Empty means the preset's (64 for the sample, 260 else). `keep_on_drive` (Colab): the table, and the results of
# later notebooks, are kept on Google Drive; tick it in all of them or in none. The image files never go there.

# %% tags=["nbval-ignore-output"]
from dermai_utils import config, files, pipeline, runtime
from dermai_utils.report import figures

data = ""  # @param ["", "sample", "isic2018"] {allow-input: true}
image_size = ""  # @param ["", "128", "224", "320"] {allow-input: true}
keep_on_drive = False  # @param {type: "boolean"}
cfg = config.load(data=data, image_size=image_size, **runtime.drive_folders(keep_on_drive, data))
made = pipeline.ensure(cfg, "clean")

# %% [markdown]
# ## What was left out
#
# Look for many rows with one reason: that is a download that broke or a table that was edited, not bad luck.

# %%
table, rejected = files.read_table(cfg.table_file), files.read_table(cfg.rejected_file)
print(f"{len(table):,} usable images, {len(rejected):,} rows left out")
rejected

# %% [markdown]
# ## Classes
#
# Nevi are two thirds of the real data. A model that always answers "nevus" is right two times out of three and
# useless: this is why the challenge uses the mean recall of the classes, and so do we. The second column matters as much: several
# images show one lesion. (Training images; the official test set is apart.)

# %%
counts = figures.class_counts(cfg)
counts

# %% tags=["nbval-ignore-output"]
figures.draw(cfg, "class_counts")

# %% [markdown]
# ## Images
#
# Eight of each class, as the model will get them before cropping.

# %% tags=["nbval-ignore-output"]
figures.draw(cfg, "contact_sheet")

# %% [markdown]
# ## Duplicates
#
# Images with the same pixels under two ids. Look at the labels: where they differ, one of the two must be wrong.

# %%
duplicates = table[table["duplicate_of"] != ""]
duplicates[["image", "duplicate_of", "label", "lesion_id", "conflict"]].reset_index(drop=True)

# %% [markdown]
# ## In short
#
# Lesions are fewer than images: this is what makes a random split leak (03_split). The rarest class limits how precise any score can be.

# %%
lesions = table["lesion_id"].value_counts()
print(f"{len(table):,} images show {len(lesions):,} lesions; {(lesions > 1).sum():,} lesions have several images.")
print(f"The rarest class is {counts['images'].idxmin()}, with {counts['images'].min()} images.")
