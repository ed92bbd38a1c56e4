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
# <!-- button of 08_audit -->

# %% [markdown]
# # 08 · Audit
#
# Somebody writes: "0.95 on HAM10000". On which images? And had the model seen their lesions? Give a table of predictions, a split, or both.
# This notebook counts what test images share with training, computes the score, and says what the number may be called. It needs no GPU, no
# images and no training. Labels and lesions of the 10,015 official training images come with the package.

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
# `files`: paths with a comma between them; or tick `upload` (Colab). Each is a table of predictions (an image and seven probabilities), a
# split (an image and its subset, or one table for each subset), or a folder. Names of columns hardly matter. With neither, you see
# predictions of made-up pictures, and a split that leaks.

# %%
from dermai_utils import colab, settings

files = ""  # @param {type: "string"}
upload = False  # @param {type: "boolean"}
s = settings.read()
folder = s.work / "audits" / "notebook"
folder.mkdir(parents=True, exist_ok=True)
paths = [name.strip() for name in files.split(",") if name.strip()]
for name, data in (colab.upload() if upload else {}).items():
    (folder / name).write_bytes(data)
    paths.append(folder / name)
print(f"{len(paths)} files given")

# %% [markdown]
# Without files, we take the predictions of a small network for its `val` images. It did not learn from these. Now we write a careless
# split beside them: half of the `val` images are called `test`, and everything else is called `train`.

# %%
import numpy as np

if not paths:
    paths = [folder / "predictions.csv", folder / "split.csv"]
    run = dermai.open_run(settings.PACKAGE / "sample_run")
    val = run.predictions[run.predictions["subset"] == "val"]
    val[["image", *dermai.CLASSES]].to_csv(paths[0], index=False)
    home = run.table[run.table["source"] == "train"]
    half = np.random.default_rng(0).random(len(home)) < 0.5
    subset = np.where(home["image"].isin(val["image"]) & half, "test", "train")
    home[["image", "label", "lesion_id"]].assign(subset=subset).to_csv(paths[1], index=False)

# %% [markdown]
# ## What is in the files?
#
# `read_files` finds out by the content which file is which. `facts` is what is known of each image: from the official tables, else from the
# files themselves. `placed` puts it beside the subset of each image.

# %%
from dermai_utils import audits
from dermai_utils.audits import auditing, sharing

tables, about = audits.read_files(paths, cache=s.cache)
facts, predicted = tables["facts"], tables["predicted"]
table = auditing.placed(facts, predicted, tables["split"])
learnt = sharing.training_side(table["subset"])
scored = auditing.scored_subset(table, predicted)
for line in about["notes"]:
    print(line)
print(f"learnt from: {learnt or 'not known'}; scored on: {scored}")
table.groupby("subset").agg(images=("image", "nunique"), labels=("label", "nunique"), lesions=("lesion_id", "nunique"))

# %% [markdown]
# Without a list of training images, the official images that are not in your file are set beside it: they may have been learnt from.
#
# ## Which lesions are on both sides?
#
# Three lines of pandas: the lesions of one side, the images of the other side, and which of these show such a lesion.

# %%
lesions = set(table.loc[table["subset"] == learnt, "lesion_id"]) - {""}
test = table[table["subset"] == scored]
seen = test["lesion_id"].isin(lesions)
by_hand = f"{seen.sum():,} of {len(test):,} {scored} images show a lesion that is also in {learnt}."

shared = sharing.sharing(table, table["subset"], dermai.near_duplicates())  # the helper
sentence = sharing.sentence(shared, learnt, scored)
in_subsets = bool(lesions) and scored in set(table["subset"])  # not so with folds
assert not in_subsets or by_hand.lower() in sentence.lower()
print(sentence)
shared[["a", "b", "kind", "shared", "images", "of", "complete"]]

# %% [markdown]
# `shared` counts ids, and `images` counts the images of `b` that have one. `<NA>` means "not known", which is not zero. `complete` is
# False where some image has no known id: the count may then be too low.
#
# The sample is small. What does a random split of the real data leak? One image in five becomes a test image:

# %%
from dermai_utils.audits import known

official = known.training()
is_test = np.random.default_rng(0).random(len(official)) < 0.2
leaked = official["lesion_id"][is_test].isin(official["lesion_id"][~is_test])
print(f"{leaked.sum():,} of {is_test.sum():,} test images ({leaked.mean():.0%}) show a lesion that is also in train")
print(f"{official['lesion_id'].nunique():,} lesions have {len(official):,} images")

# %% [markdown]
# ## How high is the score?
#
# The predicted class has the largest probability. Balanced accuracy is the mean of the seven recalls. Then the same again on the images
# whose lesion was seen, and on the others, over the classes that both have.

# %%
classes, score = list(dermai.CLASSES), {}
if predicted is not None and in_subsets:
    rows = test.assign(seen=seen).merge(predicted[["image", "truth", *classes]], on="image")
    truth = rows["label"].where(rows["label"] != "", rows["truth"])
    rows = rows.assign(truth=truth)[(truth != "") & (rows["image"] != "ISIC_0035068")]
    right = rows[classes].idxmax(axis=1) == rows["truth"]
    recall = right.groupby(rows["truth"]).mean()
    score["balanced accuracy"] = recall.mean()
    places = right.groupby([rows["truth"], rows["seen"]]).mean().unstack().dropna()
    score |= {f"lesion {'seen' if place else 'new'}": value for place, value in places.mean().items()}
print({name: round(float(value), 3) for name, value in score.items()})

# %% [markdown]
# Networks name the common classes too often. So the audit also divides each probability by the share of its class in training:

# %%
if score:
    prior, whose = auditing.prior_of(table, learnt)
    trained = prior[prior > 0]
    named = (rows[trained.index] / trained).idxmax(axis=1)
    by_rule = (named == rows["truth"]).groupby(rows["truth"]).mean().mean()
    print(f"{score['balanced accuracy']:.3f} by argmax, {by_rule:.3f} after prior correction")
    print(f"shares of {whose}: {prior.round(3).to_dict()}")

# %% [markdown]
# ## What may the number be called?
#
# The helper `audit` does all of this, draws whole lesions for its intervals, and gives a verdict: official test set, lesion-safe, leaking,
# or unknown. Nothing is guessed.

# %%
found = about | audits.audit(**tables)
if score:
    argmax, corrected = (found["scores"][name]["balanced_accuracy"] for name in ("argmax", "prior_corrected"))
    assert np.isclose(argmax["value"], score["balanced accuracy"])
    assert np.isclose(corrected["value"], by_rule)
    where = found["scores"].get("where", {"shared": {"value": np.nan}})
    assert np.isclose(where["shared"]["value"], score.get("lesion seen", np.nan), equal_nan=True)
print("\n".join(audits.lines(found)))

# %% [markdown]
# The interval is wide where a class has few lesions. The two places hold different images, so a leak is not the only reason for a
# difference between them.
#
# ## What could a leak do?
#
# Imagine a model that remembers: where the lesion was seen, it gives the right answer. On the other images it is the same model.

# %%
from dermai_utils.audits.scores import compared

if score and rows["seen"].any():
    memory = rows[["image", *classes]].copy()
    memory.loc[rows["seen"], classes] = np.eye(7)[[classes.index(name) for name in rows["truth"][rows["seen"]]]]
    difference = compared(rows.assign(**memory[classes]), rows, prior)["minus"]["balanced_accuracy"]
    with_memory = memory[classes].idxmax(axis=1) == rows["truth"]
    gain = with_memory.groupby(rows["truth"]).mean().mean() - score["balanced accuracy"]
    assert np.isclose(difference["value"], gain)
    print(f"memory alone adds {gain:.3f} [{difference['low']:.3f}, {difference['high']:.3f}]")

# %% [markdown]
# `compared` pairs two models on the same images. No new patient has a lesion that the model has seen, so this gain is worth nothing.
#
# ## Which class is number 3?
#
# Many files have `class_0` to `class_6`. By the images whose class is known, each column goes to the class whose images it ranks highest.
# We mix the columns at random and let the helper find the order. With too few images it refuses.

# %%
from dermai_utils.audits import numbering

order = np.random.default_rng(1).permutation(7)
truth = official["label"].map(classes.index).to_numpy()
noisy = np.random.default_rng(2).dirichlet(np.ones(7), len(truth)) + np.eye(7)[truth]
names = numbering.from_probabilities(noisy[:, order], official["label"], range(7))
assert names == {k: classes[c] for k, c in enumerate(order)}
print(names)
try:
    numbering.from_probabilities(noisy[:20, order], official["label"][:20], range(7))
except dermai.UserError as reason:
    print(f"twenty images: {reason}")

# %% [markdown]
# ## The page
#
# One file, for a reviewer or a colleague. `python -m dermai_utils audit FILE ...` writes the same.

# %% tags=["nbval-ignore-output"]
page = audits.save(found, folder)
print(f"open in a browser: {page}")
if colab.host():
    colab.download(page)

# %% [markdown]
# ## Change this
#
# 1. In *Which lesions are on both sides?*, put `table.loc[table["subset"] == scored, "subset"] = "train"` for half of the test images
#    first: `table.loc[test.index[::2], "subset"] = "train"` above `lesions`. How many of the other half are leaked now?
# 2. In the cell with the real data, put `< 0.5` in place of `< 0.2`. Fewer test images have a sister in train: why?
# 3. In *Which class is number 3?*, put `0.05 * np.eye(7)` in place of `np.eye(7)`. From which strength on does the helper refuse?
#
# Next: 00_run_all trains on a split that does not leak.
