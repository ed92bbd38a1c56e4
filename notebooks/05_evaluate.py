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
# <!-- button of 05_evaluate -->

# %% [markdown]
# # 05 · Evaluate
#
# How good is the network? One number needs a table of predictions, a metric, and an interval that says how far to trust the number. This
# notebook computes each by hand from the table, and checks it against the helper that makes the report.

# %% tags=["nbval-ignore-output"] jupyter={"source_hidden": true}
# @title Setup: get the package where it is missing, print the versions { display-mode: "form" }
REPO = ""  # `make publish` fills in the address of this project
if not __import__("importlib.util").util.find_spec("dermai_utils"):
    if not REPO: raise SystemExit("Fill in REPO: https://github.com/OWNER/NAME@TAG, this project")
    get_ipython().run_line_magic("pip", f"install -q --no-deps git+{REPO}")
import dermai_utils as dermai; dermai.setup()

# %% [markdown]
# ## Settings
#
# `data` and `run_name`: as in 04_train; empty means the default. `test`: a folder with labelled images of your own, from another clinic if
# you have some. `keep_on_drive` (Colab): the run lies on Google Drive.

# %%
from dermai_utils import colab, commands, settings

data = ""  # @param ["", "sample", "isic2018"] {allow-input: true}
run_name = ""  # @param {type: "string"}
test = ""  # @param {type: "string"}
keep_on_drive = False  # @param {type: "boolean"}
drive = colab.drive_folders(keep_on_drive, settings.read(data=data).name)
s = settings.read(data=data, run_name=run_name, test=test, **drive)
print(f"data: {s.data}, run: {s.run_name}")

# %% [markdown]
# The run is opened, or trained first if it does not exist yet.

# %% tags=["nbval-ignore-output"]
run, ds = commands.finished(s)

# %% [markdown]
# ## What does the network say?
#
# A prediction is one row: the true class, and seven probabilities. Every image here was held out: the network did not learn from it. `val`
# was held out too, but thresholds are chosen on it, so the number to quote comes from another subset.
#
# Training gives slightly different numbers on each processor. **So that you can compare your numbers with those below, the run `first` on
# the sample is replaced by one that comes with the package**; any other run or data is your own. The report at the end is always
# about your own run.

# %%
from dermai_utils import basics, predictions
from dermai_utils.reports import folder

table, rows = folder.known(run, ds)  # also predicts test sets that are newer than the run
if s.data == "sample" and s.run_name == "first":
    run_of_package = dermai.open_run(settings.PACKAGE / "sample_run")
    table, rows = run_of_package.table, run_of_package.predictions
classes = list(dermai.CLASSES)
rows = rows[rows["image"] != basics.ZERO_WEIGHT]  # the official scorer does not count this image
rows = rows.assign(prediction=rows[classes].idxmax(axis=1))  # the most probable class

subset = predictions.primary_subset(rows["subset"])
scored, val = (rows[rows["subset"] == name].reset_index(drop=True) for name in (subset, "val"))
print(rows["subset"].value_counts(sort=False).to_dict())
print("to quote:", predictions.subset_name(subset, s.name))
scored[["image", "truth", "prediction", *classes]].head().round(3)

# %% [markdown]
# ## How many are right?
#
# Count how often each class (row) was predicted as each class (column): this is the confusion matrix. The share on the diagonal of a row
# is the recall of that class. **Balanced accuracy** is the mean of the seven recalls, so that a rare class counts as much as a common one.

# %%
import numpy as np
import pandas as pd

confusion = pd.crosstab(scored["truth"], scored["prediction"])
confusion = confusion.reindex(index=classes, columns=classes, fill_value=0)
recall = pd.Series(np.diag(confusion), classes) / confusion.sum(axis=1)
balanced, plain = recall.mean(), (scored["truth"] == scored["prediction"]).mean()

found = dermai.evaluate(rows, table)  # the helper: every number of the report
helper = found["argmax"]["subsets"][subset]
assert helper["confusion"] == confusion.to_numpy().tolist()
assert np.allclose([balanced, plain], [helper["balanced_accuracy"], helper["accuracy"]])
print(f"balanced accuracy {balanced:.3f}, plain accuracy {plain:.3f}")
confusion

# %% [markdown]
# Somebody who always says "nevus" has the plain accuracy of the share of nevi, and a balanced accuracy of one seventh. This is why the
# challenge ranks by balanced accuracy.
#
# scikit-learn's report has the same recalls. It also has the **precision**: of the images predicted as a class, how many are. In the figure,
# look for dark fields off the diagonal: there the network takes the class of the row for that of the column.

# %%
from dermai_utils.reports import plots
from sklearn.metrics import classification_report

present = [name for name in classes if name in set(scored["truth"])]
options = dict(labels=present, zero_division=0)
as_dict = classification_report(scored["truth"], scored["prediction"], output_dict=True, **options)
assert np.isclose(as_dict["macro avg"]["recall"], balanced)
print(classification_report(scored["truth"], scored["prediction"], digits=3, **options))
plots.confusion_matrix(scored["truth"], scored["prediction"], "The most probable class")

# %% [markdown]
# A class is often taken for one that looks like it, or for a common one: the network has seen more of these, so in doubt it says them.

# %% [markdown]
# ## How far can you trust the number?
#
# Other patients would have given another number. We cannot invite them, so we imitate them: draw from the images that we have, with
# repetition, and compute the number again, many times. Its spread is the uncertainty. This is the bootstrap.
#
# Two images of one lesion are almost one piece of evidence. So we draw whole lesions, class by class; an image then counts as often as
# its lesion was drawn. We draw one lesion fewer than there are, because the spread of a small class would otherwise come out too small.

# %%
def how_often(label, lesion, draws, seed=0):
    """(draws, images): how often each image counts in each draw."""
    rng, counts = np.random.default_rng(seed), np.empty((draws, len(label)))
    stratum = label.map(classes.index).groupby(lesion).transform("first")  # a lesion has one class
    for _, ids in lesion.groupby(stratum):
        number, lesions = pd.factorize(ids, sort=True)
        m, drawn = len(lesions), max(len(lesions) - 1, 1)
        times = rng.multinomial(drawn, np.full(m, 1 / m), draws)  # how often each lesion is drawn
        counts[:, ids.index] = times[:, number] * m / drawn  # 1 on average
    return counts

def balanced_accuracy(counts, label, prediction):
    """(draws,): the mean recall, where each image counts as often as `counts` says."""
    right, of = np.array(label == prediction), [np.array(label == name) for name in set(label)]
    return np.mean([counts[:, k] @ right[k] / counts[:, k].sum(axis=1) for k in of], axis=0)

lesion = pd.Series(predictions.lesions(scored))  # the image itself, where no lesion is known
counts = how_often(scored["truth"], lesion, 2000)
low, high = np.quantile(balanced_accuracy(counts, scored["truth"], scored["prediction"]), [0.025, 0.975])
print(f"{balanced:.3f}; 95 % of the draws lie between {low:.3f} and {high:.3f}")

# %% [markdown]
# With few lesions in a class, even the spread is not known well, so this interval is a little too narrow. Student's t distribution says
# how much less to cut off at both ends; `freedom`, the degrees of freedom, is about the number of lesions in the small classes. The helper
# `interval` draws and cuts in the same way, so both must be equal. (`strata`: draw class by class; `vectorised`: all draws in one call.)
#
# In the table, compare the interval by lesion with the one that takes each image as new evidence.

# %%
from functools import partial
from scipy.stats import norm, t
def cut(scores, label, lesion):
    m = label.groupby(lesion).first().value_counts()  # lesions of each class
    m = m[m > 1]
    freedom = (1 / m).sum() ** 2 / (1 / m**2 / (m - 1)).sum()  # Satterthwaite's formula
    share = norm.cdf(t.ppf(0.025, freedom))  # a little under 0.025
    return np.quantile(scores, [share, 1 - share])
lines = {}
for name, part in {"val": val, subset: scored}.items():
    label, lesion = part["truth"], pd.Series(predictions.lesions(part))
    score = partial(balanced_accuracy, label=label, prediction=part["prediction"])
    by_lesion = cut(score(how_often(label, lesion, 250)), label, lesion)
    by_image = cut(score(how_often(label, part["image"], 250)), label, part["image"])
    options = dict(strata=label.map(classes.index), n_resamples=250, vectorised=True)
    helper = dermai.interval(score, lesion, **options)
    assert np.allclose(by_lesion, helper)
    lines[name] = [len(part), lesion.nunique(), *by_lesion, *by_image]
names = ["images", "lesions", "low", "high", "by image: low", "by image: high"]
pd.DataFrame(lines, names).T.round(3).astype({"images": int, "lesions": int})

# %% [markdown]
# Where lesions have several images, the interval by image is often too narrow, because it counts the same evidence twice. Where no lesion
# is known, each image counts as a lesion of its own, and both intervals are equal. If the intervals of two results overlap widely, nobody
# knows from these images which is better.
#
# The draws know nothing where (nearly) all or none of a class are right: then all of them give the same. Six of six is no proof of 100 %.
# So the report also computes the **exact limits** of each class's recall (Clopper and Pearson: `found["recalls"]`), and its interval is the
# wider one of both. Of under ten lesions it shows the counts, "6 of 6".

# %% [markdown]
# ## Which class should it name?
#
# The most probable class is best for plain accuracy. For balanced accuracy, it names the common class too often. So we divide each
# probability by the share of its class in training, to a power tau: tau = 0 changes nothing, tau = 1 takes the shares out completely.
#
# In the figure, look at what a larger tau gains in balanced accuracy, and at what it costs in plain accuracy.

# %%
from dermai_utils.study import decisions
from IPython.display import display

trained = table["subset"] == ("val" if "fold" in table else "train")  # each fold is val once
labels = table.loc[trained & (table["source"] != "extra"), "label"]
prior = labels.value_counts(normalize=True).reindex(classes).dropna()  # the share of each class
tau = decisions.tuned_tau(val, prior.reindex(classes, fill_value=0))  # fitted on val
by_rule = (scored[prior.index] / prior**tau).idxmax(axis=1)  # the rule
helper = decisions.prior_corrected(scored[prior.index].to_numpy(), prior, tau)
assert list(by_rule) == list(prior.index[helper.argmax(axis=1)])
assert tau == found["decisions"]["tau"]
def both(label, prediction):
    once = np.ones((1, len(label)))  # each image counts once
    return [balanced_accuracy(once, label, prediction)[0], (label == prediction).mean()]
label, taus, names = scored["truth"], np.linspace(0, 1.5, 16), ["balanced accuracy", "plain accuracy"]
rules = {"argmax": both(label, scored["prediction"]), f"tau = {tau}": both(label, by_rule)}
display(pd.DataFrame(rules, names).T.round(3))
curves = [both(val["truth"], (val[prior.index] / prior**x).idxmax(axis=1)) for x in taus]
ax = pd.DataFrame(curves, taus, names).plot(xlabel="tau", ylabel="score on val", figsize=(6, 3))
line = ax.axvline(tau, color="grey", linestyle=":")

# %% [markdown]
# The dotted line is the tau that `val` asks for. It need not stand at the highest point: the height of the curve hangs on single images of
# the rare classes, so tau is fitted to all probabilities of `val` instead. The report names classes by this rule, and shows the most
# probable class (argmax) beside it.

# %% [markdown]
# ## Can you believe its probabilities?
#
# Of the images where the network is 80 % sure, 80 % should be right. So we sort the images into 15 bins by the largest probability, and
# compare it with the share that is right. The mean gap is the expected calibration error (ECE).
#
# A network may be too sure, or not sure enough. One number repairs much of that: divide the logarithms of the probabilities by a
# **temperature**. We try 400 of them on `val`, and take the one that makes the true classes most probable. In the figure, the network is
# too sure where a point lies below the dotted line.

# %%
from dermai_utils.study import calibration
from scipy.special import log_softmax

sure, right = scored[classes].max(axis=1), scored["truth"] == scored["prediction"]
bins = (right - sure).groupby(pd.cut(sure, np.linspace(0, 1, 16)), observed=True).agg(["mean", "size"])
by_hand = (bins["mean"].abs() * bins["size"]).sum() / len(scored)

def loss(temperature):  # the mean of -log p(true class)
    logs = log_softmax(np.log(val[classes].clip(lower=1e-15)) / temperature, axis=1)
    return -logs[np.arange(len(val)), val["truth"].map(classes.index)].mean()
temperatures = np.geomspace(0.05, 20, 400)
best = temperatures[np.argmin([loss(x) for x in temperatures])]
temperature = calibration.fit_temperature(*predictions.arrays(val))
truth, before = predictions.arrays(scored)
after = calibration.apply_temperature(before, temperature)
assert np.isclose(by_hand, calibration.ece(truth, before)) and abs(best / temperature - 1) < 0.02
ece = calibration.ece(truth, after)
print(f"temperature {temperature:.2f}; ECE {by_hand:.3f} before, {ece:.3f} after")
diagrams = {"before": before, "after": after}
plots.calibration({name: calibration.reliability(truth, p) for name, p in diagrams.items()})

# %% [markdown]
# A temperature over 1 makes the probabilities less extreme, one under 1 more extreme. Their order stays, so no prediction changes. With few
# images the bars are long, and the ECE moves by luck: it may even become worse.

# %% [markdown]
# ## How many melanomas does it find?
#
# To find melanomas, seven classes are not needed: one threshold on the probability of melanoma is enough. We want to find 90 % of them
# (the sensitivity), so on `val` we let the least probable tenth go. Then we count on the images to quote: how many melanomas lie over the
# threshold, and how many others lie below it (the specificity)?
#
# In the figure, the black bar is the rate that was asked for. The dot at the same height is the rate that came out, the other dot its price.

# %%
asked = 0.9  # the sensitivity that we want
def lowest(rows):  # the probability from which on enough melanomas count
    melanomas = rows.loc[rows["truth"] == "MEL", "MEL"].sort_values().to_numpy()
    return melanomas[int((1 - asked) * len(melanomas) + 1e-9)] if len(melanomas) else np.nan
def rates(rows, threshold):  # sensitivity and specificity; NaN: not defined
    melanoma, alarm = rows["truth"] == "MEL", rows["MEL"] >= threshold
    return np.array([alarm[melanoma].mean(), 1 - alarm[~melanoma].mean()]) + 0 * threshold
threshold, is_melanoma = lowest(val), scored["truth"] == "MEL"
sensitivity, specificity = rates(scored, threshold)
helper = decisions.threshold_at(val["truth"] == "MEL", val["MEL"], "sensitivity", asked)
assert np.isclose(threshold, helper, equal_nan=True)
helper = decisions.operating_point(is_melanoma, scored["MEL"], threshold)
helper = np.array([helper["sensitivity"], helper["specificity"]], float)  # None becomes NaN
assert np.allclose([sensitivity, specificity], helper, equal_nan=True)
if np.isnan(helper).any():
    print("not defined here: val has no melanoma, or the images to quote have none or nothing else")
else:
    print(f"from {threshold:.3f} on: finds {sensitivity:.1%} of {is_melanoma.sum():,} melanomas")
    print(f"false alarm for {1 - specificity:.1%} of the {(~is_melanoma).sum():,} others")
plots.operating_points(found["operating_points"])

# %% [markdown]
# The dot lies beside its bar, because the threshold comes from other images. A threshold is never chosen on the images that it is judged
# by: there every dot would reach its bar, whatever the threshold is worth.

# %% [markdown]
# ## What happens in another clinic?
#
# Another camera, other light, other patients: the probabilities shift, and a threshold chosen at home loses its meaning. What does it
# help to choose it anew on some labelled images of that clinic? We draw some, choose on them, and count on the rest, 200 times. (Without
# images from elsewhere, the images to quote stand in: give a folder as `test` above.)

# %%
name = next(iter(predictions.own_test_sets(rows["subset"])), subset)
away = rows[rows["subset"] == name].reset_index(drop=True)
n = min(50, len(away) // 2)  # images to choose on

number, lesions = pd.factorize(predictions.lesions(away), sort=True)
images, random = np.bincount(number), np.random.default_rng(0)
columns = ["threshold", "sensitivity", "specificity"]
def draw():
    order = random.permutation(len(images))  # whole lesions, until they are n images
    few = np.isin(number, order[: np.searchsorted(images[order].cumsum(), n) + 1])
    return {
        "chosen at home": [threshold, *rates(away[~few], threshold)],
        f"chosen anew on {n} images": [x := lowest(away[few]), *rates(away[~few], x)],
    }
draws = pd.concat([pd.DataFrame(draw(), columns).T for _ in range(200)]).groupby(level=0, sort=False)
print(f"{len(away):,} images: {predictions.subset_name(name, s.name)}")
draws.mean().join(draws[columns[1:]].std().add_suffix("_sd")).round(3)

# %% [markdown]
# Each row is a mean over 200 draws, `_sd` is their standard deviation. Which row is nearer to 90 % sensitivity, and what does it pay in
# specificity? Look at `_sd` as well: few images hold few melanomas, so a threshold chosen on them can be far off.

# %% [markdown]
# ## Is it better than something simple?
#
# The linear probe of 04_train is a logistic regression on features: what a network before training computes just before its last layer. Both answered the same images, so we
# can compare image by image. Look at the two cells where only one is right: the others say nothing about the difference.

# %% tags=["nbval-ignore-output"]
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
features = dermai.predict(commands.new_network(s).to(run.device), ds.pixels, with_features=True)[1]
train = table[table["fold"] > 0] if "fold" in table else table[table["subset"] == "train"]
here = predictions.unseen_by_first(scored).reset_index(drop=True)
logistic = LogisticRegression(C=0.003, class_weight="balanced", max_iter=200)
root = FunctionTransformer(lambda x: np.sign(x) * np.sqrt(np.abs(x)))  # as in 04_train
probe = make_pipeline(root, StandardScaler(), logistic).fit(features[ds.rows(train["image"])], train["label"])
q = pd.DataFrame(probe.predict_proba(features[ds.rows(here["image"])]), columns=probe.classes_)
q = q.reindex(columns=classes, fill_value=0)
label, lesion = here["truth"], pd.Series(predictions.lesions(here))
by_run, by_probe = here["prediction"], q.idxmax(axis=1)
draws = how_often(label, lesion, 250)  # the same lesions for both
gains = balanced_accuracy(draws, label, by_run) - balanced_accuracy(draws, label, by_probe)
truth, p = predictions.arrays(here)
helper = dermai.compare(truth, p, q, lesion, n_resamples=250)["balanced_accuracy"]
assert np.allclose(cut(gains, label, lesion), [helper["low"], helper["high"]])
print("run minus probe: {value:.3f}, 95 % interval {low:.3f} to {high:.3f}".format(**helper))
pd.crosstab((by_run == label).rename("run is right"), (by_probe == label).rename("probe is right"))

# %% [markdown]
# If 0 is outside the interval, the difference is more than the luck of these images. It says nothing about the luck of training: with
# another seed, balanced accuracy can move by some hundredths.

# %% [markdown]
# ## The report
#
# `report` writes all of this, and much more, about **your own run** into its folder: intervals of every metric, every mistake as a picture,
# subgroups by age and sex, Grad-CAM, and a model card. Open the page in a browser.

# %% tags=["nbval-ignore-output"]
from dermai_utils.study import text

page = dermai.report(run, ds)
print(text.headline(run.metrics))
print(f"open in a browser: {page}")

# %% [markdown]
# ## Change this
#
# 1. In the cell with `cut`, keep half of the images: `part = part.sample(frac=0.5, random_state=0).reset_index(drop=True)` as the first line
#    of the loop. How much wider does the interval of the second row become? (If a class is left with one lesion, as in a small `val`, it has
#    no spread any more, and this interval comes out too narrow; the report's does not.)
# 2. In *Which class should it name?*, write `tau = 1.5` in the line above the rule. Is the price in plain accuracy worth it?
#    (The second assertion must go: the helper fits its own tau.)
# 3. In *How many melanomas does it find?*, put `asked = 2 / 3`. How many false alarms does that save at home, and how many in the other
#    clinic?
#
# Next: 06_gradcam shows where the network looks.
