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
# <!-- make publish puts the Colab button of 04_train here -->

# %% [markdown]
# # 04 · Train
#
# Transfer learning: a backbone that was trained on ImageNet gets a new last layer of seven outputs, and all of it is trained on (with `quick_cpu` all but the first layers).
# The images lie decoded in one array, so the processor never waits for JPEGs. After each epoch the validation subset is scored,
# to be looked at: the averaged weights of the last epoch are kept, nothing is chosen. Stop it, or lose the machine, and running the cell
# again goes on from the last checkpoint.

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
# Empty means what the run was trained with, or for a new one the preset's. `backbone`: a torchvision classifier, or
# `timm:NAME`. `weights`: `imagenet`, `none` or a file. `run_name`: a new name keeps the earlier run beside it. `keep_on_drive`: as in 02_clean.
# Without a GPU everything works, slower: the lines below the form say how long, measured on this machine.

# %% tags=["nbval-ignore-output"]
from dermai_utils import config, pipeline, runtime
from dermai_utils.report import figures

data = ""  # @param ["", "sample", "isic2018"] {allow-input: true}
backbone = ""  # @param ["", "resnet18", "resnet50", "efficientnet_b0", "timm:tf_efficientnet_lite0"] {allow-input: true}
weights = ""  # @param ["", "imagenet", "none"] {allow-input: true}
image_size = ""  # @param ["", "128", "224", "320"] {allow-input: true}
imbalance = ""  # @param ["", "logit_adjustment", "class_weights", "sampler", "none"] {allow-input: true}
epochs = ""  # @param ["", "3", "10", "30"] {allow-input: true}
learning_rate = ""  # @param ["", "1e-4", "5e-4", "1e-3"] {allow-input: true}
run_name = ""  # @param {type: "string"}
tracker = ""  # @param ["", "none", "tensorboard"]
keep_on_drive = False  # @param {type: "boolean"}
cfg = config.of_run(data=data, backbone=backbone, weights=weights, image_size=image_size, imbalance=imbalance, epochs=epochs,
                    learning_rate=learning_rate, run_name=run_name, tracker=tracker, **runtime.drive_folders(keep_on_drive, data))
runtime.check(cfg)

# %% [markdown]
# ## Linear probe
#
# The baseline before any training: logistic regression on the features of the frozen ImageNet backbone. It takes
# a minute or two for 10,015 images on two cores, and whatever is trained below has to beat it.

# %% tags=["nbval-ignore-output"]
made = pipeline.ensure(cfg, "linear_probe")

# %% [markdown]
# ## Watch it
#
# With `tensorboard` chosen as `tracker`, this line opens TensorBoard here, in Colab as in Jupyter: loss, metrics, learning rate, and the first
# batch as the network sees it. It is empty until the next cell runs; its round arrow reads anew. For the report's figures as well, set
# `DERMAI_TRACKER=tensorboard` in the environment, or give `--tracker tensorboard` to `python -m dermai_utils evaluate`.

# %% tags=["nbval-ignore-output"]
if cfg.tracker == "tensorboard":
    from tensorboard import notebook

    notebook.start(f'--logdir "{cfg.tracker_dir.parent}"')
else:
    print("not asked for: choose tensorboard as tracker")

# %% [markdown]
# ## Training
#
# The run goes on from its last checkpoint, where it has one; the bar shows images, all epochs together.

# %% tags=["nbval-ignore-output"]
made = pipeline.ensure(cfg, "train")

# %% [markdown]
# ## Learning curves
#
# Training loss is measured on augmented images, and with some values of `imbalance` weighted by class, so do not compare its height with
# that of the validation loss: look at the shape. A validation score that falls while the training loss still does is overfitting.

# %% tags=["nbval-ignore-output"]
history = figures.history(cfg)
figures.draw(cfg, "learning_curve")

# %% tags=["nbval-ignore-output"]
history.round(3)

# %% tags=["nbval-ignore-output"]
best = history.set_index("epoch").loc[epoch := figures.kept_epoch(cfg)]
print(f"Kept of {len(history)} epochs: {epoch}, balanced accuracy {best['balanced_accuracy']:.3f} on validation.")
print(f"{history['images_per_second'].median():.0f} images/s in training.")

# %%
print(f"{len(history)} epochs of {cfg.epochs} done; the checkpoint is {cfg.show(cfg.member_dirs[0] / 'best.pt')}")

# %% [markdown]
# ## Next
#
# The decision rule and the thresholds will be chosen on the validation subset. The honest number comes from images that played no role
# in any choice: 05_evaluate.
