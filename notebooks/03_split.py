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
# <!-- button of 03_split -->

# %% [markdown]
# # 03 · Split
#
# A model is tested on images that it has not seen. But several images may show one lesion, and they look alike: if the model has seen one,
# it has almost seen the others. So not the image has to be new, but the lesion. This notebook counts what a random split leaks, makes a
# split that leaks nothing, and measures how much the leak flatters a score.

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
# `data` is `sample`, `isic2018`, or a folder with any copy of the data; empty means the default. `seed` is for the shuffling: the same
# seed makes the same split again, on each machine.

# %%
from dermai_utils import settings, splits

data = ""  # @param ["", "sample", "isic2018"] {allow-input: true}
seed = ""  # @param ["", "1", "2"] {allow-input: true}
s = settings.read(data=data, split_seed=seed)
print(f"data: {s.data}, split with seed {s.split_seed}, {s.val_fraction:.0%} of the training images for val")

# %% tags=["nbval-ignore-output"]
further = dict(test=s.test_sets, extra=s.extra, base_url=s.base_url, leave_out=[s.work])
ds = dermai.load(s.data, s.size, cache=s.cache, **further)
table = ds.table

# %% [markdown]
# ## What does a random split leak?
#
# Many notebooks shuffle the images and cut off a part of them. We do this here with NumPy, and then ask pandas for the lesions
# that are on both sides. The helper `audit` counts the same lesions, and further things that two subsets may share.

# %%
import numpy as np
import pandas as pd

home = table[table["source"] == "train"]
known = home["lesion_id"] != ""
lesion = home["lesion_id"].where(known, home["image"])  # not known: a lesion of its own

shuffled = np.random.default_rng(s.split_seed).permutation(home.index)
random = pd.Series("train", home.index)
random[shuffled[: round(s.val_fraction * len(home))]] = "val"
on_both_sides = random.groupby(lesion).transform("nunique") > 1

leaked = lesion[on_both_sides].nunique()
if known.any():
    print(f"{leaked:,} of {lesion.nunique():,} lesions are in train and in val")
    print(f"{on_both_sides[random == 'val'].mean():.0%} of the val images show a lesion of a train image")

audit = dermai.audit(home, random)  # the helper
assert audit.loc["train/val", "lesions"] is pd.NA or audit.loc["train/val", "lesions"] == leaked
audit

# %% [markdown]
# For these val images the model needs no medicine: it needs a good memory.
#
# `images`, `lesions`, `patients` and `copies` (equal pixels) are the ids that both sides have. `near_duplicates` are pairs of images that
# show one lesion under two lesion ids. **`<NA>` means "not known"**: where no image has a patient id, nobody can say that no patient leaks.

# %% [markdown]
# ## What must stay together?
#
# Images of one lesion, of one patient, with equal pixels, or in the list of pairs. These links form chains: if a and b show one lesion
# and b and c have one patient, then a and c must stay together as well. In the language of graphs, images are nodes, and each
# connected component is a group.

# %%
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components


def groups_by_hand(table, pairs):
    row = {image: k for k, image in enumerate(table["image"])}
    links = [(row[a], row[b]) for a, b in pairs if a in row and b in row]
    keys = table[["image", "lesion_id", "patient_id", "pixel_hash"]].reset_index(drop=True)
    keys["made from"] = splits.families(keys["image"])  # X for X_aug0, if X is in the table
    keys["base id"] = keys["image"].map(splits.base_id)  # X for X_downsampled
    for column in keys:
        rows = keys.index[keys[column] != ""].to_series()  # numbers of the rows where it is known
        first = rows.groupby(keys[column]).transform("first")  # the first row with the same value
        links += zip(rows, first, strict=True)
    i, j = np.array(links).T
    graph = coo_array((np.ones(len(i)), (i, j)), shape=(len(table), len(table)))
    return connected_components(graph, directed=False)[1]

# %% [markdown]
# Try it on eight made-up images. Go along the chain with your finger: a and b have lesion L1, b and c have equal pixels, c and e have one
# patient, and e and f are a listed pair. d_aug0 was made from d, as its name says. Only g stands alone.

# %%
def same_groups(one, other):  # the numbers may differ, but not who is together
    return len(set(zip(one, other, strict=True))) == len(set(one)) == len(set(other))

eight = pd.DataFrame({
    "image": ["a", "b", "c", "d", "d_aug0", "e", "f", "g"],
    "lesion_id": ["L1", "L1", "L2", "L3", "", "", "", ""],
    "patient_id": ["", "", "P1", "", "", "P1", "", ""],
    "pixel_hash": ["10", "20", "20", "30", "40", "50", "60", "70"],
})
eight["group"] = groups_by_hand(eight, [("e", "f")])
assert same_groups(eight["group"], dermai.groups(eight, [("e", "f")]))
eight

# %% [markdown]
# `same_groups` counts pairs of numbers: where both agree, there are as many pairs as there are groups. Now the whole table:

# %%
pairs = dermai.near_duplicates(s.near_duplicates)
groups = dermai.groups(home, pairs)
assert same_groups(groups, groups_by_hand(home, pairs))

print(f"{len(home):,} images, {lesion.nunique():,} lesions, {len(set(groups)):,} groups")
images = pd.Series(groups).value_counts().value_counts().sort_index()
images.rename_axis("images in a group").to_frame("groups")

# %% [markdown]
# ## How does a grouped split work?
#
# Each class in turn: shuffle its groups, take the largest first, and put each into the subset that is furthest from its share. So whole
# groups move, and each subset still gets its share of each class.

# %%
def grouped_split(labels, groups, shares, seed):
    rng = np.random.default_rng(seed)
    images = pd.crosstab(groups, labels).to_numpy()  # a row a group, a column a class
    size, majority = images.sum(axis=1), images.argmax(axis=1)  # of each group
    part = np.zeros(len(images), int)
    for label in range(images.shape[1]):
        filled = np.zeros(len(shares))  # images of this class in each part
        order = rng.permutation(np.flatnonzero(majority == label))
        for group in order[np.argsort(-size[order], kind="stable")]:  # the largest first
            part[group] = np.argmin(filled / shares)  # the part that is furthest from its share
            filled[part[group]] += size[group]
    return part[groups]

# %% [markdown]
# The helper `split` does this, and each test set that the data brings becomes a subset of its own. (Without one, `split` also cuts off a
# `test`.) `val` is for choices, such as a threshold; a test set is only for the last number. Both splits must be the same, image by image. In the figure, look whether the dots of a class lie upon each other.

# %%
from IPython.display import display

from dermai_utils.reports import data_plots

subset = dermai.split(table, s.val_fraction, s.test_share, seed=s.split_seed, pairs=pairs)

val, test = s.val_fraction, 0
if "test" in set(subset):
    test = s.test_share or 0.12
shares = np.array([1 - val - test, val, test])[: 3 if test else 2]
together = splits.training_groups(table, pairs)  # the groups, also linked over `extra` images
part = grouped_split(home["label"], together, shares, s.split_seed)
by_hand = pd.Series(np.array(["train", "val", "test"])[part], home.index)
inside = subset[home.index].loc[lambda names: names != "left out"]  # left out: also in a test set
assert (inside == by_hand[inside.index]).all()

counts = splits.counts(table, subset)
display(counts)
data_plots.split_counts(counts, "Share of each class in each subset")

# %% [markdown]
# `train` and `val` have almost the same share of each class, because the split was made class by class. The test sets are as they were
# collected, so their dots may lie anywhere.

# %% [markdown]
# ## Does it really leak nothing?
#
# We count for all pairs of subsets, not only for train and val. For each of them: which ids does one side have, which the other, and how
# many do they share?

# %%
from itertools import combinations

keys = {
    "images": table["image"].map(splits.base_id),
    "lesions": table["lesion_id"],
    "patients": table["patient_id"],
    "copies": table["pixel_hash"],
}
by_hand = {}
for a, b in combinations(counts.columns.drop("left out", errors="ignore"), 2):
    by_hand[f"{a}/{b}"] = row = {}
    for name, ids in keys.items():
        in_a, in_b = set(ids[subset == a]) - {""}, set(ids[subset == b]) - {""}
        row[name] = len(in_a & in_b) if in_a and in_b else pd.NA

audit = dermai.audit(table, subset, pairs)
assert audit[list(keys)].equals(pd.DataFrame.from_dict(by_hand, "index", dtype="Int64"))
audit

# %% [markdown]
# Zeros, and `<NA>` where nobody knows. `dermai.read_split("theirs.csv", table)` reads a split that somebody else made: audit it in the same
# way. Beside the random split:

# %%
def images_on_both_sides(subset):
    return int((subset.groupby(lesion).transform("nunique") > 1).sum())

bars = {"random": images_on_both_sides(random), "lesion-safe": images_on_both_sides(inside)}
assert bars["lesion-safe"] == 0
print(bars if known.any() else "not known: no image has a lesion id")
data_plots.leakage(bars if known.any() else {"both": None})

# %% [markdown]
# ## How much does the leak flatter a score?
#
# We take a network that never saw these labels and let it turn each picture into a row of numbers, its features. Then scikit-learn's
# nearest neighbour predicts each image from images of other folds: once with random folds, once with folds that keep groups together. We
# score only images whose group has several, because only these can leak.

# %% tags=["nbval-ignore-output"]
from sklearn.metrics import recall_score
from sklearn.model_selection import PredefinedSplit, cross_val_predict
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from dermai_utils import inference

net = dermai.network(s.backbone, s.weights, s.size).to(inference.device(s.device))
features = dermai.predict(net, ds.pixels, rows=home.index, with_features=True)[1]
truth, several = home["label"].map(dermai.CLASSES.index).to_numpy(), np.bincount(groups)[groups] > 1

def score(together):
    folds = PredefinedSplit(splits.stratified(together, truth, np.ones(4), seed=0))
    model = make_pipeline(StandardScaler(), KNeighborsClassifier(1))
    predicted = cross_val_predict(model, features, truth, cv=folds)
    seen = np.unique(truth[several])  # balanced accuracy is the mean recall of these classes
    return recall_score(truth[several], predicted[several], labels=seen, average="macro")
by_hand = {"random": score(np.arange(len(home))), "lesion-safe": score(groups)} if several.any() else {}
by_hand

# %% [markdown]
# The same classifier, the same features, the same images: only the folds differ. The helper `leakage_effect` repeats this with three
# shuffles and a second classifier, and draws whole lesions anew many times for an interval. Look how far the orange dot lies right
# of the green square, and whether the interval of the difference contains 0.

# %% tags=["nbval-ignore-output"]
try:
    effect = dermai.leakage_effect(features, home, pairs)
    first = effect["classifiers"]["nearest neighbour"]["by_seed"][0]
    assert np.isclose(first, by_hand["random"] - by_hand["lesion-safe"])
except dermai.UserError as reason:  # such as: no lesion has two images
    effect = {"classifiers": {}}
    print(f"not possible here: {reason}")
data_plots.leakage_effect(effect)

# %%
for name, row in effect["classifiers"].items():
    print(f"{name}: a random split scores higher, the whole interval is above 0: {(row['low'] or 0) > 0}")

# %% [markdown]
# Why? In random folds, most of these images have a second image of their lesion in the training folds. Its features are almost the same
# and its label is the same, so the classifier only has to recognise the lesion. A new patient brings a lesion that nobody has seen: the
# lower number is the honest one. Where the interval contains 0, the data has too few such images to tell.

# %% [markdown]
# ## Change this
#
# 1. Break the split: give `grouped_split` the argument `np.arange(len(home))` in place of `groups`. The assertion fails; print how many
#    images are elsewhere, `(by_hand != subset[home.index]).sum()`.
# 2. Move one image: put `subset[inside.index[lesion.duplicated(keep=False)][0]] = "val"` before the audit. By hand and by the helper, train
#    and val now share a lesion.
# 3. In `score`, use `KNeighborsClassifier(15)`. With 15 votes, a second image of the same lesion counts less: what becomes of the gap, and of
#    the score? (The assertion in the next cell fails: the helper still asks one neighbour.)
#
# Next: 04_train trains a network on `train`, and chooses on `val`.
