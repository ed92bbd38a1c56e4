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
# <!-- make publish puts the Colab button of 07_predict here -->

# %% [markdown]
# # 07 · Your own photo
#
# A dermoscopic picture of yours, and the model's answer: seven calibrated probabilities, a diagnosis or "unsure", where the evidence
# lies, and the training images that it resembles.
#
# > **Research and education only. Not a medical device: never use it to decide about a person's skin.** The model knows seven diagnoses and
# > nothing else: a picture that looks unlike a dermoscopic image is refused, but a lesion of any other kind gets one of the seven. It was trained on dermoscopic images of two clinics, with hardly any dark skin.

# %% tags=["nbval-ignore-output"] jupyter={"source_hidden": true}
# @title Setup: get the package where it is missing, print the versions { display-mode: "form" }
from importlib.util import find_spec

if not find_spec("dermai_utils"):
    get_ipython().run_line_magic("pip", "install -q --no-deps git+@main")
from dermai_utils import environment

environment.setup()

# %% [markdown]
# ## Your photo
#
# A file, a folder, or a web address in `photo`, or tick `upload` (Colab). With neither, a picture of the test subset is shown,
# which the model never saw. The picture stays on the machine that computes: with Colab's `upload`, that is Google's. A run that doesn't exist yet is made first. `keep_on_drive`: as in 02_clean.
#
# `packed_run`: a run in one file, or the address of one, as `python -m dermai_utils pack` makes it. Then nothing is trained and no data set is
# needed; give a photo of your own.

# %% tags=["nbval-ignore-output"]
from dermai_utils import config, files, pipeline, runtime
from dermai_utils.predict import description, pack, predictor
from dermai_utils.report import figures

data = ""  # @param ["", "sample", "isic2018"] {allow-input: true}
run_name = ""  # @param {type: "string"}
packed_run = ""  # @param {type: "string"}
photo = ""  # @param {type: "string"}
upload = False  # @param {type: "boolean"}
keep_on_drive = False  # @param {type: "boolean"}
export_model = False  # @param {type: "boolean"}
photo = (upload and runtime.upload()) or photo
if packed_run:
    model = pack.load(packed_run)
else:
    cfg = config.of_run(data=data, run_name=run_name, **runtime.drive_folders(keep_on_drive, data))
    model = pipeline.predictor(cfg)
cfg = model.cfg
print(description.text(cfg))

# %% [markdown]
# ## The answer
#
# Solid bars are the diagnoses that can't be ruled out. One or two of them are the answer; more are "unsure". Below stands what was counted
# on other images: how many melanomas were answered without melanoma and, beside an answer, how often one of this kind held the truth. A warning
# says that the picture comes from another source than the training images (expect less), is (nearly) one of them, or has no colour or hardly any
# light; an orange title, that it is no dermoscopic image at all: then no probabilities are shown. Look at the Grad-CAM: is the evidence on the lesion, and does the run's own check say that maps can be
# believed? Look at the similar images: would you agree that they are alike?

# %% tags=["nbval-ignore-output"]
from IPython.display import display

answers = model.answers(photo or predictor.example(cfg))
for answer in answers[:8]:
    display(model.figure(answer))

# %% tags=["nbval-ignore-output"]
predictor.frame(answers).round(3)

# %% [markdown]
# ## How far to trust it
#
# The bars that stay solid are a conformal set: thresholds fixed on the lesions of validation so that the true diagnosis stays in the set for
# 97 % of malignant and 90 % of benign lesions. Malignant ones are held to that among the short sets too, which are the ones that are believed.
# Classes with too few lesions share a threshold with the class most like them; nothing under 1 % is ever named. The table is counted on
# images that chose nothing: `held` by class, `size` is how many diagnoses a set has, `answered` the share that isn't "unsure",
# `answered_held` how often such an answer holds the true diagnosis, `out_of_distribution` the share of these good pictures that get the
# warning, and `foreign` the share that gets no answer for it. "not known": no such images are left.

# %% tags=["nbval-ignore-output"]
import pandas as pd

from dermai_utils.predict.answer import error_rates

scores = files.read_json(cfg.report_dir / "predictor.json")
print(f"{figures.SUBSET_NAMES[scores['subset']]}, n={scores['n']:,}:")
for name in ("held", "size", "answered", "answered_held", "out_of_distribution", "foreign"):
    print(name, "not known" if scores.get(name) is None else f"{scores[name]:.3g}")
print(error_rates(scores, ())[-1])
pd.DataFrame(scores["by_class"]).T.astype({"n": int}).round(3)

# %% [markdown]
# ## Files that are no picture
#
# Each gets one line and nothing else.

# %%
for name, content in {"notes.txt": b"hello", "empty.jpg": b""}.items():
    print(predictor.decoded(name, content, 75, 100))
print("the seven probabilities of each picture sum to 1:", all(abs(answer.probabilities.sum() - 1) < 1e-6 for answer in answers))

# %% [markdown]
# ## Export
#
# With `export_model` ticked, the model is written as `model.pt2` (torch.export) and, with `requirements-export.txt` installed,
# as `model.onnx`: stored pixels in, calibrated probabilities out, checked against the model.

# %% tags=["nbval-ignore-output"]
print(*model.export() if export_model else ["not asked for: tick export_model"], sep="\n")

# %% [markdown]
# ## In short
#
# Each answer in words, with what it must not be used for.

# %% tags=["nbval-ignore-output"]
for answer in answers[:8]:
    print(f"{answer.name}: {answer.text}", *answer.error_rates, sep="\n  ")
print(*filter(None, [predictor.sample_warning(cfg), config.DISCLAIMER]), sep="\n")
