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
# # 06 · Grad-CAM
#
# Where in the image does the evidence for the predicted class lie? Grad-CAM weighs the last feature map by its gradient: coarse,
# but tied to what the last layers use. Saliency is the gradient at each pixel: fine, and noisy. A map on the skin around the lesion,
# on a ruler, a hair or the rim of the lens is a warning. A map on the lesion is not a proof.

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
# **Settings.** A run keeps the settings it was trained with: its name is enough. Empty means `baseline`.

# %% tags=["nbval-ignore-output"]
from dermai_utils import clean, config, explain, files, pipeline, plots, report

data = ""  # @param ["", "sample", "isic2018"] {allow-input: true}
run_name = ""  # @param {type: "string"}
cfg = config.of_run(data=data, run_name=run_name)
made = pipeline.ensure(cfg, "gradcam")

# %% [markdown]
# **Three images of each class**, where there are such: the most confident correct one, the most confident wrong one, and the one the
# model was least sure of. The maps are for the class that it predicted.

# %% tags=["nbval-ignore-output"]
predictions = clean.read_table(cfg.report_dir / "predictions.csv")
part = files.read_json(cfg.report_dir / "metrics.json")["headline"]
chosen = explain.choose(report.counting(predictions, part))
chosen[["image", "kind", "truth", "prediction", "confidence"]].round(2)

# %% tags=["nbval-ignore-output"]
plots.explanations(explain.maps_for(cfg, chosen))

# %%
print(f"from the {report.PART_NAMES[part]}")
print(f"each image once: {chosen['image'].is_unique}; classes with an example: {chosen['truth'].nunique()} of 7")
