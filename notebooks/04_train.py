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
# # 04 · Train
#
# Transfer learning: a backbone that learned from ImageNet gets a new last layer of seven outputs, and all of it is trained on.
# The images lie decoded in one array, so the processor never waits for JPEGs. After each epoch the validation part is scored; the
# best checkpoint by balanced accuracy is kept. Stop it, or lose the machine, and running the cell again goes on from the last
# checkpoint.

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
# **Settings.** Empty means what the run was trained with, or for a new one the preset's. `backbone`: a torchvision classifier, or
# `timm:NAME`. `weights`: `imagenet`, `none` or a file. `run_name`: a new name keeps the earlier run beside it. `keep_on_drive`: as in 02_clean.
# Without a GPU everything works, slower: the lines below the form say how long, measured on this machine.

# %% tags=["nbval-ignore-output"]
from dermai_utils import clean, colab, config, machine, pipeline, plots

data = ""  # @param ["", "sample", "isic2018"] {allow-input: true}
backbone = ""  # @param ["", "resnet18", "resnet50", "efficientnet_b0", "timm:tf_efficientnet_lite0"] {allow-input: true}
weights = ""  # @param ["", "imagenet", "none"] {allow-input: true}
image_size = ""  # @param ["", "128", "224", "320"] {allow-input: true}
imbalance = ""  # @param ["", "logit_adjustment", "class_weights", "sampler", "none"] {allow-input: true}
epochs = ""  # @param ["", "3", "10", "30"] {allow-input: true}
learning_rate = ""  # @param ["", "1e-4", "5e-4", "1e-3"] {allow-input: true}
run_name = ""  # @param {type: "string"}
keep_on_drive = False  # @param {type: "boolean"}
cfg = config.of_run(data=data, backbone=backbone, weights=weights, image_size=image_size, imbalance=imbalance, epochs=epochs,
                    learning_rate=learning_rate, run_name=run_name, **colab.folders(keep_on_drive, data))  # fmt: skip
machine.check(cfg)

# %% [markdown]
# **The instant baseline**, before any training: logistic regression on what the frozen ImageNet backbone says of each image. It takes
# a minute or two for 10,015 images on two cores, and whatever is trained below has to beat it.

# %% tags=["nbval-ignore-output"]
made = pipeline.ensure(cfg, "instant")

# %% [markdown]
# **Training.** The last checkpoint is found by itself; the bar shows images, all epochs together.

# %% tags=["nbval-ignore-output"]
made = pipeline.ensure(cfg, "train")

# %% [markdown]
# **The curves.** Training loss is measured on augmented images, and with some values of `imbalance` weighted by class, so it is not to be set
# beside the validation loss: look at the shape. A validation score that falls while the training loss still does is overfitting.

# %% tags=["nbval-ignore-output"]
history = clean.read_table(cfg.member_dirs[0] / "history.csv")
plots.curves(history)

# %% tags=["nbval-ignore-output"]
history.round(3)

# %% tags=["nbval-ignore-output"]
best = history.loc[history["balanced_accuracy"].idxmax()]
print(f"Best of {len(history)} epochs: {best['epoch']:.0f}, balanced accuracy {best['balanced_accuracy']:.3f} on validation.")
print(f"{history['images_per_second'].median():.0f} images/s in training.")

# %%
print(f"{len(history)} epochs of {cfg.epochs} done; the checkpoint is {cfg.show(cfg.member_dirs[0] / 'best.pt')}")

# %% [markdown]
# **Read back.** The best epoch was chosen on the validation part, so its score there is a little too good. The honest number is on
# images that nothing was chosen on: 05_evaluate.
