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
# # 03 · Split
#
# Images of one lesion look alike. If one is trained on and another is tested on, the score says how well the model remembers that
# lesion, not how well it would do on a new patient. Here whole lesions are dealt to the parts, class by class, so that none is on
# two sides; the random split, which many notebooks use, is made beside it to show what it leaks.

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
# **Settings.** `split`: `lesion` (the default) or `random`, for comparison only. `folds`: empty for one validation part, or 2 to 20.
# A split that exists is reused; change a setting and it is made again, and the old one is kept beside it.
# `keep_on_drive`: as in 02_clean.

# %% tags=["nbval-ignore-output"]
import pandas as pd

from dermai_utils import colab, config, files, pipeline, plots, split

data = ""  # @param ["", "sample", "isic2018"] {allow-input: true}
strategy = ""  # @param ["", "lesion", "random"]
folds = ""  # @param ["", "5", "8"] {allow-input: true}
keep_on_drive = False  # @param {type: "boolean"}
cfg = config.load(data=data, split=strategy, folds=folds, **colab.folders(keep_on_drive, data))
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
# **What leakage is worth.** Two simple classifiers on frozen ImageNet features, trained and tested under both splits: the same images,
# the same features, only dealt differently. Look at the images of which another view exists: there a random split gives the answer
# away. (The features of 10,000 images take a minute or two without a GPU; later stages use them again. On the sample, 60 made-up pictures,
# the difference may have either sign.)

# %% tags=["nbval-ignore-output"]
made = pipeline.ensure(cfg, "inflation")
plots.inflation(files.read_json(cfg.inflation_file))

# %% [markdown]
# **Check it by hand**, without the package: no lesion id may occur in two parts.

# %%
parts_of_lesion = table.groupby("lesion_id")["part"].nunique()
print(f"{len(parts_of_lesion):,} lesions, {(parts_of_lesion > 1).sum()} of them in more than one part")
leaked = audit["random"]["images_of_such_lesions"]
print(f"A random split would have put {leaked:,} images of {len(table):,} beside another view of their own lesion.")
