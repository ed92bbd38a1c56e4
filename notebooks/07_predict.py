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
# # 07 · Your own photo
#
# A dermoscopic picture of yours, and what the model makes of it: seven calibrated probabilities, an answer or "unsure", where the evidence
# lies, and the training images that it resembles.
#
# > **Research and education only. Not a medical device: never use it to decide about a person's skin.** The model knows seven diagnoses and
# > nothing else: whatever you show it, it answers with one of them. It learned from dermoscopic images of two clinics, with hardly any dark skin.

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
# **Your photo.** A file, a folder, or a web address in `photo`, or tick `upload` (Colab). With neither, a picture of the test part is shown,
# which the model never saw. The picture stays on this machine. A run that isn't there yet is made first. `keep_on_drive`: as in 02_clean.

# %% tags=["nbval-ignore-output"]
from dermai_utils import colab, config, files, pixels, plots, predict, report

data = ""  # @param ["", "sample", "isic2018"] {allow-input: true}
run_name = ""  # @param {type: "string"}
photo = ""  # @param {type: "string"}
upload = False  # @param {type: "boolean"}
keep_on_drive = False  # @param {type: "boolean"}
export_model = False  # @param {type: "boolean"}
photo = (upload and colab.upload()) or photo
cfg = config.of_run(data=data, run_name=run_name, **colab.folders(keep_on_drive, data))
predictor = predict.Predictor(cfg)

# %% [markdown]
# **The answer.** Solid bars are the diagnoses that can't be ruled out. One or two of them are the answer; more are "unsure". An orange line
# instead of an answer says that the picture does not look like what the model was trained on. Look at the Grad-CAM: is the evidence on the lesion?
# Look at the similar images: would you agree that they are alike?

# %% tags=["nbval-ignore-output"]
from IPython.display import display

answers = predictor.answers(photo or predict.example(cfg))
images = pixels.load(cfg.pixels_file) if cfg.pixels_file.exists() else None
for answer in answers[:8]:
    display(plots.answer(answer, images))

# %% tags=["nbval-ignore-output"]
predict.frame(answers).round(3)

# %% [markdown]
# **How far to trust that.** The bars that stay solid are a conformal set: thresholds fixed on validation so that, of each class, 90 % of the
# images keep their true diagnosis in the set. Here is what came of it on the images that the report quotes: `held` should be near 0.9 for each
# class (with few images it can't be exact), `size` is how many diagnoses a set has, `answered` the share that isn't "unsure", `answered_held` how
# often such an answer holds the true diagnosis (the 90 % are promised for all sets together, not for the short ones), `unfamiliar` the share
# of good pictures that get the warning.

# %% tags=["nbval-ignore-output"]
import pandas as pd

found = files.read_json(cfg.report_dir / "reference.json")
names = ("held", "size", "answered", "answered_held", "unfamiliar")
print(f"{report.PART_NAMES[found['part']]}, n={found['n']:,}: " + ", ".join(f"{name} {found[name] or 0:.3g}" for name in names))
pd.DataFrame(found["by_class"]).T.astype({"n": int}).round(3)

# %% [markdown]
# **What is no picture** gets one line and nothing else.

# %%
for name, data in {"notes.txt": b"hello", "empty.jpg": b""}.items():
    print(predict.decoded(name, data, *pixels.shape(cfg.image_size)))
print("the seven probabilities of each picture sum to 1:", all(abs(answer.probabilities.sum() - 1) < 1e-6 for answer in answers))

# %% [markdown]
# **To take away.** With `export_model` ticked, the model is written as `model.pt2` (torch.export) and, with `requirements-export.txt` installed,
# as `model.onnx`: stored pixels in, calibrated probabilities out, checked against the model.

# %% tags=["nbval-ignore-output"]
from dermai_utils import export

print(*export.command(cfg) if export_model else ["not asked for: tick export_model"], sep="\n")

# %% tags=["nbval-ignore-output"]
for answer in answers[:8]:
    print(f"{answer.name}: {answer.text}")
print(*filter(None, [predict.toy(cfg), config.DISCLAIMER]), sep="\n")
