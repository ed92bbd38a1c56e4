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
# # 04 · Train
#
# Transfer learning: a backbone that learned from ImageNet gets a new last layer of seven outputs, and all of it is trained on.
# The images lie decoded in one array, so the processor never waits for JPEGs. After each epoch the validation part is scored; the
# best checkpoint by balanced accuracy is kept. Stop it, or lose the machine, and running the cell again goes on from the last
# checkpoint.

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
# **Settings.** Empty means the preset's. `backbone`: a torchvision classifier, or `timm:NAME`. `weights`: `imagenet`, `none` or a file.
# Without a GPU everything works, slower: ten epochs of the real data at 224 px are hours on two cores; take `image_size` 128 and
# `timm:tf_efficientnet_lite0` there.

# %% tags=["nbval-ignore-output"]
from dermai_utils import clean, config, pipeline, plots

data = ""  # @param ["", "sample", "isic2018"] {allow-input: true}
backbone = ""  # @param ["", "resnet18", "resnet50", "efficientnet_b0", "timm:tf_efficientnet_lite0"] {allow-input: true}
weights = ""  # @param ["", "imagenet", "none"] {allow-input: true}
image_size = ""  # @param ["", "128", "224", "320"] {allow-input: true}
imbalance = ""  # @param ["", "none", "class_weights", "sampler"]
epochs = ""  # @param ["", "3", "10", "30"] {allow-input: true}
learning_rate = ""  # @param ["", "1e-4", "5e-4", "1e-3"] {allow-input: true}
cfg = config.load(data=data, backbone=backbone, weights=weights, image_size=image_size, imbalance=imbalance,
                  epochs=epochs, learning_rate=learning_rate)  # fmt: skip

# %% tags=["nbval-ignore-output"]
made = pipeline.ensure(cfg, "train")

# %% [markdown]
# **The curves.** Training loss is weighted by class and measured on augmented images, so it is not to be set beside the validation
# loss: look at the shape. A validation score that falls while the training loss still does is overfitting.

# %% tags=["nbval-ignore-output"]
history = clean.read_table(cfg.run_dir / "history.csv")
plots.curves(history)

# %% tags=["nbval-ignore-output"]
history.round(3)

# %% tags=["nbval-ignore-output"]
best = history.loc[history["balanced_accuracy"].idxmax()]
print(f"Best of {len(history)} epochs: {best['epoch']:.0f}, balanced accuracy {best['balanced_accuracy']:.3f} on validation.")
print(f"{history['images_per_second'].median():.0f} images/s in training.")

# %%
print(f"{len(history)} epochs of {cfg.epochs} done; the checkpoint is {cfg.show(cfg.run_dir / 'best.pt')}")

# %% [markdown]
# **Read back.** The best epoch was chosen on the validation part, so its score there is a little too good. The honest number is on
# images that nothing was chosen on: 05_evaluate.
