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
# <!-- make publish puts the Colab button of 01_download here -->

# %% [markdown]
# # 01 · Download
#
# Gets the official ISIC 2018 Task 3 archives (2.8 GB) whole, from the first mirror that answers, and unpacks them. A stopped
# download goes on where it was; a file that exists is not fetched again. The sample needs no download: it is a made-up data set that
# comes with the package and has every fault that real data has.
#
# Research and education only. Not a medical device.

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
# Empty means the default: the sample, or what the environment says (`DERMAI_DATA=isic2018`). `data` is `sample`,
# `isic2018`, or a folder of your own with any copy of the data (docs/data.md lists the layouts). `base_url` replaces the official
# mirrors.

# %% tags=["nbval-ignore-output"]
from pathlib import Path

from dermai_utils import config, files, pipeline
from dermai_utils.report import figures

data = ""  # @param ["", "sample", "isic2018"] {allow-input: true}
base_url = ""  # @param {type: "string"}
cfg = config.load(data=data, base_url=base_url)
made = pipeline.ensure(cfg, "download")

# %% [markdown]
# ## What was downloaded
#
# The training images come with labels, lesion groupings (which images show the same lesion) and metadata. The official test
# images have been public with their labels since 2023; where a mirror lacks them, they are skipped. Look for `not there`, and for a
# table that is missing.

# %%
sources, rows = files.read_json(cfg.sources_file), files.read_table(cfg.rows_file)
print("layout:", sources["layout"])
for name in ("train", "test"):
    images = (rows["source"] == name) & (rows["reason"] == "")
    print(f"{name}: {images.sum():,} images with a label" if images.any() else f"{name}: not there")

# %%
for what, table in sources["tables"].items():
    print(f"{what}: {Path(table).name}")
figures.class_legend()

# %% [markdown]
# ## Next
#
# Nothing has been looked into yet: a file may still be broken, and a label may be missing. 02_clean finds that out.
