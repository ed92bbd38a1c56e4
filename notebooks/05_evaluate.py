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
# # 05 · Evaluate
#
# The best checkpoint on every held-out part. The number to quote is **balanced accuracy**, the challenge's own metric: the mean, over
# the seven classes, of the share of each that was recognised. Quote it from the official test set where you have it, else from the
# untouched test part, never from validation.

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
import numpy as np
import pandas as pd

from dermai_utils import calibration, clean, colab, config, evaluate, files, pipeline, pixels, plots, report

data = ""  # @param ["", "sample", "isic2018"] {allow-input: true}
run_name = ""  # @param {type: "string"}
keep_on_drive = False  # @param {type: "boolean"}
cfg = config.of_run(data=data, run_name=run_name, **colab.folders(keep_on_drive, data))
made = pipeline.ensure(cfg, "evaluate")

# %% [markdown]
# **What there is.** Every number below stands in `metrics.json`; the cells only look them up and draw them.

# %%
found = files.read_json(cfg.report_dir / "metrics.json")
predictions = clean.read_table(cfg.report_dir / "predictions.csv")
part = found["headline"]
numbers, title = found["parts"][part], report.PART_NAMES[part]
for name in found["parts"]:
    print(f"{report.PART_NAMES[name]}: n={found['parts'][name]['n']:,}")

# %% [markdown]
# **How good is it, and how sure is that?** Intervals of 95 %, by drawing lesions anew. Two results whose intervals overlap widely are not
# known to differ. The smallest class makes them wide: see how much one of its images is worth.

# %% tags=["nbval-ignore-output"]
small = found["smallest_class"]
print(f"One of {small['n']} {small['class']} images is {small['points']:.1f} points of balanced accuracy.")
plots.headline(found["intervals"][part], title)

# %% [markdown]
# **Class by class.** Recall: of the melanomas, how many were called melanoma. Precision: of those called melanoma, how many were.
# With few images in a class each one moves its recall a lot: read the n beside it.

# %% tags=["nbval-ignore-output"]
evaluate.readable(evaluate.report_table(numbers))

# %% tags=["nbval-ignore-output"]
plots.confusion(np.array(numbers["confusion"]), title=title)

# %% [markdown]
# **How well it ranks.** A ROC curve doesn't depend on the threshold: an area of 0.5 is chance, 1 is perfect. It can be high while the
# argmax is poor, which tells that the decision rule, not the features, is the weak part.

# %% tags=["nbval-ignore-output"]
rows = report.counting(predictions, part)
truth, probabilities = report.arrays(rows)
plots.roc(truth, probabilities, title=title)

# %% [markdown]
# **Can its probabilities be believed?** Points below the dotted line are too sure. The temperature was fitted on validation alone; it
# changes how sure a call is, never the call.

# %% tags=["nbval-ignore-output"]
calibrated = found["calibration"]
before, after = (pd.DataFrame(calibrated[when]["reliability"]) for when in ("before", "after"))
print(f"Temperature {calibrated['temperature']:.2f}: expected calibration error "
      f"{calibrated['before']['ece']:.3f} before, {calibrated['after']['ece']:.3f} after.")  # fmt: skip
plots.reliability(before, after, title)

# %% [markdown]
# **What to call?** The same probabilities, four rules. Balanced accuracy wants rare classes called sooner, accuracy wants the common
# nevus: no rule is best at both. `argmax` takes the most probable class; `prior_adjusted` first divides by the classes' shares of the training
# images, `prior_restored` multiplies by them, `prior_tuned` divides by a power of them that was chosen on validation, as the rule to use was.

# %% tags=["nbval-ignore-output"]
rules = found["decisions"]["rules"]
print("chosen on validation:", found["decisions"]["chosen"])
pd.DataFrame({rule: {name: score["value"] for name, score in row["scored"].items()} for rule, row in rules.items()}).T.round(3)

# %% [markdown]
# **Melanoma or not, malignant or not.** Each threshold was chosen on validation so that one rate is as asked (the bar); the dots are what
# came of it on these images. Where a dot falls short of its bar, the threshold didn't carry over.

# %% tags=["nbval-ignore-output"]
plots.operating_points(found["operating_points"], title)

# %% [markdown]
# **If it may say "I don't know".** Answering only the surest images lowers the share of wrong answers. A curve that doesn't fall means
# that its confidence tells nothing.

# %% tags=["nbval-ignore-output"]
plots.risk_coverage(calibration.risk_coverage(truth, probabilities), found["risk_coverage"]["points"], title)

# %% [markdown]
# **For whom?** Hollow dots are groups under 50 images. Groups have different classes in them: compare balanced accuracy only where as many
# of the seven occur.

# %% tags=["nbval-ignore-output"]
groups = found["subgroups"]
plots.subgroups(groups["groups"], report.PART_NAMES[groups["part"]]) if groups["part"] else "no metadata"

# %% [markdown]
# **The most confident mistakes.** Some are the model's, some are hard for anybody, some are labels that deserve a second look. Then those
# that cost most: a malignant lesion called benign.

# %% tags=["nbval-ignore-output"]
images = pixels.load(cfg.pixels_file)
kinds = found["mistakes"]["counts"]
print(f"{kinds['most_confident']} mistakes, {kinds['costly']} of them malignant called benign")
plots.mistakes(report.mistaken(found, rows, "most_confident"), images)

# %% tags=["nbval-ignore-output"]
plots.mistakes(report.mistaken(found, rows, "costly"), images)

# %% [markdown]
# **Does anything leak?** Pairs of images that show one lesion under two ids, and how many of them this split separates. Below, what
# a random split would have added to the score of a simple classifier, where notebook 03 measured it.

# %% tags=["nbval-ignore-output"]
pairs = found["near_duplicates"]
print(f"{pairs['pairs']} pairs are known; this split separates {pairs['in_two_parts']}, and {pairs['with_official']} more reach into the official test set")
leaked = found["inflation"]
plots.inflation(leaked) if leaked else plots.message("Not measured yet: see notebook 03, or python -m dermai_utils inflation")

# %% [markdown]
# **Is it better than another run?** Give that run's name: the difference is taken image by image, on the same drawn lesions. An interval
# that holds zero means: not known.

# %% tags=["nbval-ignore-output"]
other = ""  # @param {type: "string"}
pd.DataFrame(report.compare(cfg, other)).T.round(3) if other else "no other run given"

# %% [markdown]
# **By hand.** Balanced accuracy from the confusion matrix alone: the mean of the diagonal over the row sums.

# %%
confusion = np.array(numbers["confusion"])
n = confusion.sum(axis=1)
by_hand = (confusion.diagonal()[n > 0] / n[n > 0]).mean()
print("agrees with metrics.json:", np.isclose(by_hand, numbers["balanced_accuracy"], atol=1e-12))
print(f"images in the confusion matrix: {confusion.sum():,}, rows of this part that count: {len(rows):,}")

# %% tags=["nbval-ignore-output"]
print(
    f"On the {report.PART_NAMES[part]}: balanced accuracy {numbers['balanced_accuracy']:.3f}, macro F1 {numbers['macro_f1']:.3f},"
)
print(f"weighted F1 {numbers['weighted_f1']:.3f}, accuracy {numbers['accuracy']:.3f}, macro AUC {numbers['macro_auc']:.3f}.")
print("All of it on one page:", cfg.show(cfg.report_dir / "report.html"))
