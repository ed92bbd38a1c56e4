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
# # 06 · Grad-CAM
#
# Where in the image does the evidence for the predicted class lie? Grad-CAM weighs the last feature map by its gradient: coarse,
# but tied to what the last layers use. Saliency is the gradient at each pixel: fine, and noisy. A map on the skin around the lesion,
# on a ruler, a hair or the rim of the lens is a warning. A map on the lesion is not a proof.

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
# **Settings.** A run keeps the settings it was trained with: its name is enough. Empty means `baseline`. `keep_on_drive`: as in 02_clean.

# %% tags=["nbval-ignore-output"]
from dermai_utils import clean, colab, config, explain, files, pipeline, plots, report

data = ""  # @param ["", "sample", "isic2018"] {allow-input: true}
run_name = ""  # @param {type: "string"}
keep_on_drive = False  # @param {type: "boolean"}
cfg = config.of_run(data=data, run_name=run_name, **colab.folders(keep_on_drive, data))
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
