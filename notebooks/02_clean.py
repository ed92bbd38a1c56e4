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
# # 02 · Clean
#
# One table with one row for each usable image, and a list of everything that was left out, with the reason. The pass that finds
# the broken files also decodes every image, once, into one array on disk that all later notebooks read.

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
# **Settings.** `image_size` is the side, in pixels, of the square that the model will see; the stored images are 4:3, with a short
# side a little over it. Empty means the preset's (64 for the sample, 224 else). `keep_on_drive` (Colab): the table, and what later
# notebooks make, is kept on Google Drive; tick it in all of them or in none. Images never go there.

# %% tags=["nbval-ignore-output"]
from dermai_utils import clean, colab, config, pipeline, pixels, plots

data = ""  # @param ["", "sample", "isic2018"] {allow-input: true}
image_size = ""  # @param ["", "128", "224", "320"] {allow-input: true}
keep_on_drive = False  # @param {type: "boolean"}
cfg = config.load(data=data, image_size=image_size, **colab.folders(keep_on_drive, data))
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
