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
# <!-- make publish puts the Colab button of 06_gradcam here -->

# %% [markdown]
# # 06 · Grad-CAM
#
# Where in the image does the evidence for the predicted class lie? Grad-CAM weighs the last feature map by its gradient: coarse,
# but tied to what the last layers use. Saliency is the gradient at each pixel: fine, and noisy. A map on the skin around the lesion,
# on a ruler, a hair or the rim of the lens is a warning. A map on the lesion is not a proof.

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
# A run keeps the settings it was trained with: its name is enough. Empty means `baseline`. `keep_on_drive`: as in 02_clean.

# %% tags=["nbval-ignore-output"]
from dermai_utils import config, files, pipeline, runtime
from dermai_utils.report import figures

data = ""  # @param ["", "sample", "isic2018"] {allow-input: true}
run_name = ""  # @param {type: "string"}
keep_on_drive = False  # @param {type: "boolean"}
cfg = config.of_run(data=data, run_name=run_name, **runtime.drive_folders(keep_on_drive, data))
made = pipeline.ensure(cfg, "gradcam")

# %% [markdown]
# ## Three images of each class
#
# Where they exist: the most confident correct one, the most confident wrong one, and the one with the
# lowest confidence. The maps are for the predicted class. Look whether the evidence lies on the lesion.

# %% tags=["nbval-ignore-output"]
metrics = files.read_json(cfg.report_dir / "metrics.json")
chosen = figures.gradcam_examples(cfg)
chosen[["image", "kind", "truth", "prediction", "confidence"]].round(2)

# %% tags=["nbval-ignore-output"]
figures.draw(cfg, "explanations")

# %%
print(f"from the {figures.subset_name(metrics, metrics['primary_subset'])}")
print(f"each image once: {chosen['image'].is_unique}; classes with an example: {chosen['truth'].nunique()} of 7")
