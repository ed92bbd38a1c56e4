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
# # 01 · Download
#
# Gets the official ISIC 2018 Task 3 archives (2.8 GB) whole, from the first mirror that answers, and unpacks them. A stopped
# download goes on where it was; what is there is not fetched again. The sample needs no download: it is a made-up dataset that
# comes with the repository and has every fault that real data has.
#
# Research and education only. Not a medical device.

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
# **Settings.** Empty means the default: the sample, or what the environment says (`DERMAI_DATA=isic2018`). `data` is `sample`,
# `isic2018`, or a folder of your own with the archives or the unpacked images and CSVs in it. `base_url` replaces the official
# mirrors.

# %% tags=["nbval-ignore-output"]
from dermai_utils import clean, config, files, pipeline, plots

data = ""  # @param ["", "sample", "isic2018"] {allow-input: true}
base_url = ""  # @param {type: "string"}
cfg = config.load(data=data, base_url=base_url)
made = pipeline.ensure(cfg, "download")

# %% [markdown]
# **What is there now.** The training images come with labels, lesion groupings (which images show the same lesion) and metadata.
# The official test images have been public with their labels since 2023; where a mirror lacks them, that part is skipped.

# %%
sources = files.read_json(cfg.sources_file)
for name in ("train", "test"):
    if sources[name]:
        found = clean.image_files(sources[name]["images"])
        print(f"{name}: {len(found):,} image files, labels: {pathlib.Path(sources[name]['labels']).name}")
    else:
        print(f"{name}: not there")

# %%
for name in ("groupings", "metadata"):
    print(f"{name}: {pathlib.Path(sources[name]).name if sources[name] else 'not there'}")
plots.class_legend()

# %% [markdown]
# **Read back.** Nothing has been looked into yet: a file that is there may still be broken, and a label may be missing. That is
# what 02_clean finds out.
