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
# <!-- button of 07_predict -->

# %% [markdown]
# # 07 · Your own photo
#
# Give a picture, and get an answer: one or two diagnoses, or "unsure". Beside it stands how often such answers were wrong. This notebook
# shows where the answer comes from, and what the network says about a picture that shows no lesion at all.
#
# > **Research and education only. Not a medical device: never use it to decide about a person's skin.** The network knows seven diagnoses and
# > nothing else: another kind of lesion gets one of the seven. It was trained on dermoscopic images with hardly any dark skin.

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
# `photo`: a file, a folder or a web address; or tick `upload` (Colab). With neither, you see pictures that the network was not trained on:
# made-up ones with `data` empty. A picture stays on the machine that computes: with `upload`, that is Google's. `run_name` empty: the
# model that comes with the package answers. Else a run of yours; the other fields are as in 05_evaluate.

# %%
from dermai_utils import colab, commands, settings

data = ""  # @param ["", "sample", "isic2018"] {allow-input: true}
run_name = ""  # @param {type: "string"}
photo = ""  # @param {type: "string"}
upload = False  # @param {type: "boolean"}
keep_on_drive = False  # @param {type: "boolean"}
drive = colab.drive_folders(keep_on_drive, settings.read(data=data).name)
s = settings.read(data=data, run_name=run_name, **drive)
print(f"data: {s.data}, run: {run_name or 'the shipped model'}, photo: {photo or 'none yet'}")

# %% [markdown]
# The shipped model has what an answer needs beside the network: thresholds, and how often answers are wrong. For a run of yours (it is
# trained first, where it is not yet) `prepare` computes that once.

# %% tags=["nbval-ignore-output"]
from dermai_utils import predictions
from dermai_utils.app import pictures, predictor, state

if run_name:
    run, ds = commands.finished(s)
    if not (run.folder / state.FILE).exists():
        state.save(run, state.prepare(run, ds))
else:
    run = dermai.pretrained()
    ds = commands.load(s, run.size)
known = state.load(run)
unseen = ds.table[~ds.table["source"].isin(("train", "extra"))]
unseen = unseen[predictions.weights(unseen["image"]) > 0]  # not the picture of noise
unseen = (unseen if len(unseen) else ds.table).drop_duplicates("label").head(3)
source = (upload and colab.upload()) or photo or list(unseen["path"])
print(predictor.description(run))

# %% [markdown]
# ## The answer
#
# In the figure, look at the bars first: a solid bar is a diagnosis that cannot be ruled out. One or two of them are an answer, more are
# "unsure". A short bar may be solid and a longer one pale, because each class has a threshold of its own, and that of a malignant one is mostly lower. Then look at the map: is the evidence on the lesion? A run of yours also shows similar training images: would you say that they
# are alike? The shipped model refuses the made-up pictures, because they are no dermoscopic images. That is as it should be.

# %% tags=["nbval-ignore-output"]
from IPython.display import display

answers = dermai.answer(run, source)
model = predictor.Predictor(run, ds)  # draws the similar training images, too
for answer in answers[:3]:
    print(f"{answer.name}: {answer.text}")
    display(model.figure(answer))

# %% [markdown]
# The two sentences at the bottom are counted, not computed by the network. A network may say 99 % and be wrong; what was counted on other images
# does not flatter.

# %% [markdown]
# ## From seven probabilities to an answer
#
# Three steps. The network gives seven probabilities. The temperature of 05_evaluate makes them believable. A diagnosis whose probability
# reaches the threshold of its class stays possible, and so does the most probable one.

# %%
import numpy as np
import pandas as pd
from dermai_utils import pixels
from scipy.special import softmax

name, read = next(one for one in pictures.pictures(source) if one[0] == answers[0].name)
picture = pixels.decode(read(), *pixels.shape(run.size))  # as in training
probabilities = run.probabilities(picture[None])[0]
calibrated = softmax(np.log(probabilities.clip(1e-15)) / known.about["temperature"])
possible = (calibrated >= known.thresholds) | (calibrated == calibrated.max())

assert np.allclose(calibrated, answers[0].probabilities, atol=0.01)
assert set(np.array(dermai.CLASSES)[possible]) == set(answers[0].possible)
steps = pd.DataFrame({"network": probabilities, "calibrated": calibrated}, dermai.CLASSES)
steps = steps.assign(threshold=known.thresholds, possible=possible).round(3)
print(f"sum {calibrated.sum():.3f}; by hand and by the helper, the same diagnoses are possible")

# %% tags=["nbval-ignore-output"]
steps

# %% [markdown]
# ## Where do the thresholds come from?
#
# From `val`: the threshold is set so low that it keeps the true class for 90 % of the lesions of this class (97 % for a malignant one).
# This is called a **conformal** set. A class with too few lesions for that (under 9, of a malignant class under 33) gets the lowest threshold, 1 %. Here is that of nevi by hand: sort
# what the network gave to the true class, and go down until 90 % of the lesions are kept.
#
# What is counted must not have chosen anything. Where the run has no test set, such as the shipped model, half of the lesions of `val`
# choose here, and the others count. So these thresholds differ a little from those above, which all of `val` chose.

# %%
from dermai_utils import splits
from dermai_utils.study import calibration, conformal
val = predictions.scored_rows(run.predictions, "val")
scored = predictions.primary_rows(run.predictions)
if len(val) == len(run.predictions):  # no test set
    half = splits.stratified(predictions.lesions(val), val["truth"], [1, 1], seed=0)
    val, scored = val[half == 0], val[half == 1]
(truth, p), lesions = predictions.arrays(val), predictions.lesions(val)
temperature = calibration.fit_temperature(truth, p)
p = calibration.apply_temperature(p, temperature)
thresholds = conformal.class_thresholds(truth, p, lesions)
nevus = dermai.CLASSES.index("NV")
here = truth == nevus
own, lesion = pd.Series(p[here, nevus]), pd.Series(lesions[here])
own = own.sort_values(ascending=False)  # what the network gave to the true class
weight = 1 / lesion.groupby(lesion).transform("size")  # the images of a lesion share its weight
share = weight[own.index].cumsum() / (lesion.nunique() + 1)  # + 1: the lesion of your photo
by_hand = next(iter(own[share > 0.9 - 1e-9]), 0)
assert np.isclose(max(by_hand, conformal.FLOOR), thresholds[nevus])
pd.Series(thresholds, dermai.CLASSES, name="threshold").round(3).to_frame().T

# %% [markdown]
# A low threshold means: even with a small probability, this diagnosis is not ruled out. No threshold is under 1 %.

# %% [markdown]
# ## How often is such an answer wrong?
#
# We count on images that chose nothing. A set **holds** when the true class is in it; it is an **answer** when it has at most two classes.
# Read the table by class: which truth is lost most often, and on how few images does the number rest?

# %%
truth, p = predictions.arrays(scored)
p = calibration.apply_temperature(p, temperature)
sets = (p >= thresholds) | (p == p.max(axis=1, keepdims=True))
counted = pd.DataFrame({
    "truth": scored["truth"].to_numpy(),
    "holds": sets[np.arange(len(sets)), truth],
    "answer": sets.sum(axis=1) <= 2,
})
counted["wrong answer"] = counted["answer"] & ~counted["holds"]
by_class = counted.groupby("truth").sum()
by_class.insert(0, "images", counted["truth"].value_counts())
by_class = by_class.reindex(dermai.CLASSES, fill_value=0)

helper = conformal.scores(truth, p, thresholds)
assert np.isclose(counted["holds"].mean(), helper["held"])
held = sum(row["held"] for row in helper["answers"].values())
assert held == (counted["answer"] & counted["holds"]).sum()
print(f"{counted['answer'].mean():.0%} of the images get an answer")
print(f"{counted['wrong answer'].sum()} of these {counted['answer'].sum()} answers are wrong")
by_class

# %% [markdown]
# ## Which training images are like it?
#
# Just before its last layer, the network describes each picture by a row of numbers, its features. Two pictures are alike for the
# network when the rows point in the same direction: the cosine of the angle between them is then near 1. We look for the nearest images, one
# for each lesion, among 300 training images of the data that is here: the shipped model has none with it, and no features of any.

# %% tags=["nbval-ignore-output"]
table = ds.table[ds.table["source"] == "train"]
table = table.sample(min(len(table), 300), random_state=0)
features = dermai.predict(run.net, picture[None], run.size, with_features=True)[1][0]
there = dermai.predict(run.net, ds.pixels, run.size, rows=table.index, with_features=True)[1]
cosine = there @ features / np.linalg.norm(there, axis=1) / np.linalg.norm(features)
alike = table.assign(cosine=cosine).sort_values("cosine", ascending=False)
alike = alike.drop_duplicates("lesion_id").head(4)[["image", "label", "lesion_id", "cosine"]]

helper = state.nearest(table[["image", "label", "lesion_id"]], cosine, 4)
assert list(alike["image"]) == [one["image"] for one in helper]
print(f"by hand and by the helper: {len(alike)} images of {alike['lesion_id'].nunique()} lesions")

# %% tags=["nbval-ignore-output"]
alike.round(4)

# %% [markdown]
# ## A picture that is no lesion
#
# A network with seven outputs always gives seven probabilities, also for a cat. So before it answers, the helper asks a second question: is
# the picture like the training images at all? Half-way through the network, it takes the mean and the spread of each channel, and measures
# how far they are from those of the training images. Further than almost all of `val`: a warning. Much further: no answer.

# %% tags=["nbval-ignore-output"]
from dermai_utils.app import ood
from dermai_utils.reports import pictures as sheets

rng, (high, wide) = np.random.default_rng(0), picture.shape[:2]
made = {
    "bare skin": np.array([224, 172, 140]) + rng.normal(0, 6, (high, wide, 3)),
    "a gradient": np.linspace(0, 255, wide)[None, :, None] * np.ones((high, 1, 1)) * [1, 0.7, 0.4],
    "noise": rng.integers(0, 256, (high, wide, 3)),
    "a dark room": rng.integers(0, 30, (high, wide, 3)),
}
images = np.stack([image.clip(0, 255).astype(np.uint8) for image in made.values()])
answered = model(list(made), images)
texture = ood.describe(run, images, tta=run.tta)[2]  # mean and spread of each channel
away = texture - known.centre
distance = np.sqrt(((away @ known.precision) * away).sum(axis=1))  # Mahalanobis' distance
assert np.allclose(distance, [answer.distance for answer in answered], rtol=1e-3)
limits = "from a distance of {ood_threshold:.1f} on, a warning; from {foreign_threshold:.1f} on, no answer"
print(limits.format(**known.about))
sheets.sheet(images, [f"{a.name}: {a.outcome}\ndistance {a.distance:.1f}" for a in answered])

# %% [markdown]
# This is no proof that a picture shows a lesion. Bare skin looks like the background of each training image, so it may pass: then the
# network names one of its seven diagnoses, or is "unsure". What a network was never shown, it cannot tell apart.

# %% [markdown]
# ## A folder, and a table for a spreadsheet
#
# A folder gives one row for each picture. A file that is no picture is left out, and named with its reason.

# %%
from dermai_utils.app.answers import table
from PIL import Image

own_pictures = s.work / "own_pictures"
own_pictures.mkdir(parents=True, exist_ok=True)
for name, image in made.items():
    Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(own_pictures / f"{name}.png")
(own_pictures / "notes.txt").write_text("hello")
(own_pictures / "empty.jpg").write_bytes(b"")

frame = table(dermai.answer(run, own_pictures, maps=False))
frame.to_csv(s.work / "own_pictures.csv", index=False)
frame[["picture"]]

# %% tags=["nbval-ignore-output"]
frame.drop(columns=["how_often_wrong", "similar"]).set_index("picture").T.head(9)

# %% [markdown]
# The table has the answer, the seven probabilities, the reasons for a refusal and the error rates of each picture. `python -m dermai_utils
# predict --image FOLDER` writes the same table, `app` opens a page for photos, and `pack` makes one file of the run to give away.

# %%
from dermai_utils import basics

print(basics.DISCLAIMER)

# %% [markdown]
# ## Change this
#
# 1. In *A picture that is no lesion*, add two lines to `made`: `"a negative": 255.0 - ds.pixels[0]`, and `"red and blue swapped":
#    ds.pixels[0][..., ::-1]`. Both show a lesion, in colours that skin never has. Which is refused? Then give a photo of your desk.
# 2. In *From seven probabilities to an answer*, divide by `3 * known.about["temperature"]`, and delete the two assertions. All
#    probabilities come nearer to each other, and more diagnoses become possible: the thresholds belong to one temperature.
# 3. In *How often is such an answer wrong?*, put `p >= 0.1` in place of `p >= thresholds` (the helper takes `np.full(7, 0.1)`). More
#    images get an answer. Which class pays for it?
#
# Next: 00_run_all does all of this with one click, on data of your own.
