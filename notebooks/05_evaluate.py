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
# <!-- make publish puts the Colab button of 05_evaluate here -->

# %% [markdown]
# # 05 · Evaluate
#
# The trained model on every held-out subset. The number to quote is **balanced accuracy**, the challenge's own metric: the mean
# recall of the seven classes. Quote it from the official test set where you have it, else from the
# untouched test subset, never from validation; and say by which decision rule.

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
# A run keeps the settings it was trained with: its name is enough. Empty means `baseline`. `test`: a folder with labelled
# images of your own, in any layout of docs/data.md. `keep_on_drive`: as in 02_clean.

# %% tags=["nbval-ignore-output"]
import numpy as np

from dermai_utils import config, files, pipeline, runtime
from dermai_utils.report import figures

data = ""  # @param ["", "sample", "isic2018"] {allow-input: true}
run_name = ""  # @param {type: "string"}
test = ""  # @param {type: "string"}
keep_on_drive = False  # @param {type: "boolean"}
cfg = config.of_run(data=data, run_name=run_name, test=test, **runtime.drive_folders(keep_on_drive, data))
made = pipeline.ensure(cfg, "evaluate")

# %% [markdown]
# ## Held-out subsets
#
# Nearly every number below stands in `metrics.json`; curves, a threshold chosen anew and the comparison are computed from `predictions.csv`. The decision rule, chosen on validation, says which
# class is called, given the seven probabilities: it is the one of `submission.csv`, and all figures follow it that don't say argmax.

# %%
metrics = files.read_json(cfg.report_dir / "metrics.json")
subset = metrics["primary_subset"]
scores = metrics["subsets"][subset]
for name, row in metrics["subsets"].items():
    print(f"{figures.subset_name(metrics, name)}: n={row['n']:,}")

# %% [markdown]
# ## Metrics and their uncertainty
#
# Intervals of 95 %, by a bootstrap over lesions. Two results whose intervals overlap widely are not
# known to differ. The smallest class makes them wide: look at how much one of its images changes the score.

# %% tags=["nbval-ignore-output"]
small = metrics["smallest_class"]
print(figures.headline(metrics))
print(f"One of {small['n']} {small['class']} images changes balanced accuracy by {small['one_image']:.3f}.")
figures.draw(cfg, "metrics")

# %% [markdown]
# ## Class by class
#
# Recall: of the melanomas, how many were predicted as melanoma. Precision: of those predicted as melanoma, how many were.
# With few images in a class each one moves its recall a lot: read the n beside it.

# %% tags=["nbval-ignore-output"]
figures.class_table(metrics)

# %% tags=["nbval-ignore-output"]
figures.draw(cfg, "confusion")

# %% [markdown]
# The same images by argmax, the most probable class:

# %% tags=["nbval-ignore-output"]
figures.draw(cfg, "confusion_argmax")

# %% [markdown]
# ## Ranking
#
# A ROC curve doesn't depend on the threshold: an area of 0.5 is chance, 1 is perfect. A high area with a poor recall tells that the
# decision rule, not the features, is the weak part. In the precision-recall curves the rare classes show what they cost: how many of
# those called one are one.

# %% tags=["nbval-ignore-output"]
figures.draw(cfg, "roc")

# %% tags=["nbval-ignore-output"]
figures.draw(cfg, "precision_recall")

# %% [markdown]
# ## Calibration
#
# Can its probabilities be believed? Points below the dotted line are overconfident. The temperature was fitted on validation alone; it
# changes the confidence of a prediction, never the predicted class.

# %% tags=["nbval-ignore-output"]
calibrated = metrics["calibration"]
print(f"Temperature {calibrated['temperature']:.2f}: expected calibration error "
      f"{calibrated['before']['ece']:.3f} before, {calibrated['after']['ece']:.3f} after.")
figures.draw(cfg, "calibration")

# %% [markdown]
# ## Decision rules
#
# The same probabilities, four rules. Balanced accuracy wants rare classes predicted sooner, accuracy wants the common
# nevus: no rule is best at both. `argmax` takes the most probable class; `prior_adjusted` first divides by the class frequencies of the training
# images, `prior_restored` multiplies by them, `prior_tuned` divides by their power `tau`. Validation fits `tau`, and `prior_tuned` is used
# (with `tau` = 0 it is argmax); the other two are there to compare.

# %% tags=["nbval-ignore-output"]
print("chosen on validation:", metrics["decisions"]["chosen"])
figures.rule_table(metrics)

# %% [markdown]
# ## Melanoma or not, malignant or not
#
# Each threshold was chosen on validation so that one rate is as asked (the bar); the dots are the rates on these images. Where a dot
# falls short of its bar, the threshold did not generalise.

# %% tags=["nbval-ignore-output"]
figures.draw(cfg, "operating_points")

# %% [markdown]
# ## With labelled images of another clinic: choose the threshold anew
#
# On images from elsewhere a threshold chosen at home loses its sensitivity. With `test` set in the form above to labelled images of your own, this draws
# 50 of them, chooses the threshold for 90 % sensitivity to melanoma on those, and counts both thresholds on the rest; 200 times, because
# other 50 images would give another threshold: `_sd` is the standard deviation over the draws.

# %% tags=["nbval-ignore-output"]
figures.rechosen(cfg, images=50)

# %% [markdown]
# ## Selective prediction
#
# If the model may say "I don't know": answering only where it is most confident lowers the share of wrong answers. A curve that doesn't
# fall means that its confidence tells nothing.

# %% tags=["nbval-ignore-output"]
figures.draw(cfg, "risk_coverage")

# %% [markdown]
# ## Subgroups
#
# Hollow dots are groups under 50 images. Groups have different classes in them: compare balanced accuracy only where as many
# of the seven occur.

# %% tags=["nbval-ignore-output"]
figures.draw(cfg, "subgroups")

# %% [markdown]
# ## Mistakes
#
# The most confident ones first: some are the model's, some are hard for anybody, some are labels that deserve a second look. Then those
# that cost most: a malignant lesion predicted as benign.

# %% tags=["nbval-ignore-output"]
counts = metrics["mistakes"]["counts"]
print(f"{counts['most_confident']} mistakes, {counts['costly']} of them malignant predicted as benign")
figures.draw(cfg, "mistakes")

# %% tags=["nbval-ignore-output"]
figures.draw(cfg, "costly")

# %% [markdown]
# ## Leakage
#
# Pairs of images that show one lesion under two ids, and how many of them this split separates. Below it, how much a random split
# would have added to the score of a simple classifier, where notebook 03 measured it.

# %% tags=["nbval-ignore-output"]
pairs = metrics["near_duplicates"]
print(f"{pairs['pairs']} pairs are known; this split separates {pairs['in_two_subsets']}, and {pairs['with_official']} more reach into the official test set")
figures.draw(cfg, "leakage_effect")

# %% [markdown]
# ## Comparison with another run
#
# Give that run's name: the table is this run minus the other, so over 0 this run is better. The difference is taken image by image, on
# the same bootstrap samples of lesions; an interval that contains 0 means: not known which is better. Each run by its own decision rule,
# then by argmax. The luck of training is not in the interval: another seed moves balanced accuracy by up to 0.05.

# %% tags=["nbval-ignore-output"]
other = ""  # @param {type: "string"}
figures.compare(cfg, other).round(3) if other else "no other run given"

# %% [markdown]
# ## Check it by hand
#
# Balanced accuracy from the confusion matrix alone: the mean of the diagonal over the row sums.

# %%
confusion = np.array(scores["confusion"])
n = confusion.sum(axis=1)
by_hand = (confusion.diagonal()[n > 0] / n[n > 0]).mean()
print("agrees with metrics.json:", np.isclose(by_hand, scores["balanced_accuracy"], atol=1e-12))
print(f"images in the confusion matrix: {confusion.sum():,}, scored rows of this subset: {scores['n']:,}")

# %% [markdown]
# ## In short
#
# The numbers to quote, all of one subset; say which one.

# %% tags=["nbval-ignore-output"]
print(f"On the {figures.subset_name(metrics, subset)}, decision rule {figures.rule_name(metrics['decisions'])}:")
for name in ("balanced_accuracy", "macro_f1", "weighted_f1", "accuracy", "macro_auc"):
    print(f"{name} {scores[name]:.3f}")
print("All of it on one page:", cfg.show(cfg.report_dir / "report.html"))
