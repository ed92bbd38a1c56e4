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
# <!-- button of 02_clean -->

# %% [markdown]
# # 02 · Clean
#
# Real data has faults: files that are cut off, rows without a label, one picture under two names. A fault that nobody sees becomes a
# wrong number at the end. So every row that is left out is listed with its reason, and everything that is not known stays "not known".

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
# `data` is `sample`, `isic2018`, or a folder with any copy of the data; empty means the default. `size` is the side, in pixels, of the
# square that a network will see; empty means the preset's.

# %%
from dermai_utils import settings

data = ""  # @param ["", "sample", "isic2018"] {allow-input: true}
size = ""  # @param ["", "128", "224", "320"] {allow-input: true}
s = settings.read(data=data, size=size)
print(f"data: {s.data}, for a network that sees {s.size} x {s.size} px")

# %% tags=["nbval-ignore-output"]
further = dict(test=s.test_sets, extra=s.extra, base_url=s.base_url, leave_out=[s.work])
ds = dermai.load(s.data, s.size, cache=s.cache, **further)
table = ds.table

# %% [markdown]
# ## What was left out?
#
# Look for many rows with one reason: that is a download that broke, or a table that somebody edited, and not bad luck.

# %%
print(f"{len(table):,} usable images, {len(ds.rejected):,} rows left out")
ds.rejected.head(20)

# %% [markdown]
# ## How do you see that a file is broken?
#
# You decode it, whole. A file may have the right name, the right first bytes and even a size in pixels, and still end in the middle. Here
# we damage a picture on purpose, in three ways.

# %%
import io

from PIL import Image

from dermai_utils import pixels


def readable(data):
    try:
        Image.open(io.BytesIO(data)).load()  # open() alone reads only the first bytes
    except (OSError, SyntaxError):
        return False
    return True

file = io.BytesIO()
Image.fromarray(ds.pixels[0]).save(file, "JPEG")
whole = file.getvalue()
files = {"whole": whole, "cut off": whole[: len(whole) * 3 // 4]}
files |= {"empty": b"", "a web page": b"<html>Sign in</html>"}
{name: readable(data) for name, data in files.items()}

# %% [markdown]
# The helper `pixels.decode` does this and brings each picture to one size and to RGB. Both must agree about the four files. It also says
# why, in words: these are the reasons in the list above.

# %%
for name, data in files.items():
    try:
        pixels.decode(data, *ds.pixels.shape[1:3])
        reason = ""
    except pixels.UNREADABLE as error:
        reason = pixels.plain(error)
    assert readable(data) == (reason == "")
    print(f"{name}: {reason or 'fine'}")

# %% [markdown]
# ## How do you see that a label is wrong?
#
# The official label table has a row for each picture and a column for each class, with a 1 in one of them. So three things are faults:
# a row without a 1, a row with two, and an id in two rows. We look for them in the table of the sample, which has them all.

# %%
import numpy as np
import pandas as pd

from dermai_utils import datasets

truth = pd.read_csv(datasets.SAMPLE / "ISIC2018_Task3_Training_GroundTruth.zip")
marks = truth[list(dermai.CLASSES)].sum(axis=1)
label = truth[list(dermai.CLASSES)].idxmax(axis=1)
same_id = label.groupby(truth["image"])
reasons = {
    "no label": marks == 0,
    "several labels": marks > 1,
    "duplicate id with different labels": same_id.transform("nunique") > 1,
    "duplicate id (the first row is kept)": truth["image"].duplicated(),
}
truth["reason"] = np.select(list(reasons.values()), list(reasons), "")
faults = truth.loc[truth["reason"] != "", ["image", "reason"]].sort_values(["image", "reason"])
faults.reset_index(drop=True)

# %% [markdown]
# The helper `copies.find` looks for these faults in any copy of the data, and matches labels with files. Two labels for one id contradict
# each other, so neither is used; a second row with the same label does no harm, so the first one stays.

# %%
from dermai_utils import copies

rows = copies.find(datasets.SAMPLE, s.cache / "images").rows
rows = rows[rows["reason"].isin(reasons)].sort_values(["image", "reason"])
assert rows[["image", "reason"]].to_numpy().tolist() == faults.to_numpy().tolist()
print(f"by hand and by the helper: {len(faults)} faulty rows of {len(truth)}")

# %% [markdown]
# ## Which pictures are equal?
#
# To compare each picture with each other one takes millions of comparisons. So we make a short number from the pixels of each, a
# hash: equal pixels have equal hashes, and different pixels practically never do. Four lines, and the helper's hashes must be the same:

# %%
import hashlib

hashes = []
for picture in ds.pixels:
    hashes.append(hashlib.sha256(picture).hexdigest()[:16])
equal = pd.Series(hashes).duplicated(keep=False)

assert hashes == list(table["pixel_hash"])
print(f"{equal.sum():,} of {len(table):,} images have a twin with the same pixels")
table.loc[equal, ["image", "source", "label", "lesion_id"]].sort_values("image").head(20)

# %% [markdown]
# Two images with the same pixels are one photograph. Where their labels differ, one of the two is wrong, and nobody knows which: both
# stay, but notebook 03 keeps them in one subset. Look at the pairs, and see that the eye finds no difference.

# %% tags=["nbval-ignore-output"]
from dermai_utils.reports import pictures

items = []
for _, twins in list(table[equal].groupby(np.array(hashes)[equal], sort=False))[:6]:
    items.append((*ds.pixels[twins.index[:2]], " and ".join(twins["label"][:2])))
pictures.pairs(items)

# %% [markdown]
# A hash finds only what is equal to the last bit. The same lesion photographed twice has other pixels: notebook 03 has a list of such
# pairs, which people looked at one by one.

# %% [markdown]
# ## What is not known?
#
# The share of rows in which each column is known, for each source. Where a share is 0, nothing about that column can be said: a test
# set without lesion ids may share lesions with training, and nobody can count them.

# %%
columns = ["lesion_id", "patient_id", "age", "sex", "localization", "confirmed_by"]
known = table[columns].notna() & (table[columns] != "")
known.groupby(table["source"], sort=False).mean().round(2)

# %% [markdown]
# ## How old are the patients?
#
# Half of the patients of a class lie between the 25 % and the 75 % column. Look for classes that hardly overlap: there the age alone
# says something about the label.

# %%
from IPython.display import display

from dermai_utils.reports import data_plots

ages = table.groupby("label")["age"].describe().reindex(dermai.CLASSES)
display(ages[["count", "min", "25%", "50%", "75%", "max"]].round(1).rename_axis("class"))
data_plots.ages(table, "Line: all; bar: the middle half; dot: the median")

# %% [markdown]
# In data of real patients, most nevi are those of younger people. A network that sees only the skin can still learn this, from wrinkles and
# sun damage: so a score may be worse where the patients have other ages. Notebook 05 counts the mistakes by age.

# %% [markdown]
# ## Where on the body, and how large are the files?
#
# A site that one class prefers is a hint that a network may use. (`unknown` is a word of the data; `not known` is an empty cell.) Files of
# many sizes come from many cameras.

# %%
sites = table["localization"].replace("", "not known")
sites = pd.crosstab(sites, table["label"]).reindex(columns=dermai.CLASSES, fill_value=0)
sites.loc[sites.sum(axis=1).sort_values(ascending=False, kind="stable").index].head(10)

# %%
def size_of(path):
    with Image.open(path) as image:  # reads the first bytes only
        return f"{image.width} x {image.height}"

sizes = table["path"].map(size_of).groupby(table["source"], sort=False).value_counts()
print(f"in the array each picture has {ds.pixels.shape[2]} x {ds.pixels.shape[1]} px")
sizes.rename_axis(["source", "size of the file, px"]).to_frame("images").head(10)

# %% [markdown]
# The array has one size for all. A picture with another shape is made smaller until it fits, and its edge pixels fill the rest; one that
# stands upright is turned, because almost all lie.

# %% [markdown]
# ## Change this
#
# 1. In *How do you see that a file is broken?*, delete `.load()` from `readable`. The file that is cut off now passes, and the assertion in
#    the next cell fails.
# 2. In *Which pictures are equal?*, hash a small copy of each picture: `hashlib.sha256(picture[::25, ::25] // 64)`. More
#    pictures are "equal" now: look at the pairs, is each of them a copy? (Delete the assertion first: the helper hashes all pixels.)
# 3. In *How old are the patients?*, group by `"sex"` or `"localization"` in place of `"label"` (then without `reindex`).
#
# Next: 03_split divides these rows so that no lesion is on both sides.
