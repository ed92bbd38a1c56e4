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
# <!-- button of 01_download -->

# %% [markdown]
# # 01 · Download
#
# Whatever copy of the data you have, it becomes one table and one array: row k of the table describes picture k of the array.
# All other notebooks start from these two. Nothing here needs a GPU.
#
# The data is that of the ISIC 2018 challenge, task 3: photographs of skin lesions through a dermatoscope, each with one of seven
# diagnoses. Without a download you get the sample, a small made-up data set that has every fault of the real one.

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
# `data` is `sample`, `isic2018` (the official archives, 2.8 GB, which are downloaded first), or a folder with any copy of the data.
# An empty field means the default. `base_url` is for those who have a mirror of their own.

# %%
from dermai_utils import settings

data = ""  # @param ["", "sample", "isic2018"] {allow-input: true}
base_url = ""  # @param {type: "string"}
s = settings.read(data=data, base_url=base_url)
print(f"data: {s.data}, for a network that sees {s.size} x {s.size} px")

# %% [markdown]
# ## Load
#
# `load` finds the files, or downloads them. It decodes each picture once and keeps the result in a cache: a second call takes a second.
# It prints what it found, and what it left out.

# %% tags=["nbval-ignore-output"]
further = dict(test=s.test_sets, extra=s.extra, base_url=s.base_url, leave_out=[s.work])
ds = dermai.load(s.data, s.size, cache=s.cache, **further)

# %% [markdown]
# ## Which copy is this?
#
# The same pictures go around in many forms: the official archives, HAM10000 on Kaggle, a folder for each class. We call such a form a
# layout. `load` tries each of them, and takes the one that finds most usable pictures. docs/data.md shows them all.

# %%
import pandas as pd

from dermai_utils import copies

layouts = pd.DataFrame(copies.LAYOUTS)[["name", "table", "needs"]]
layouts["name"] = layouts["name"].str.replace("label table {table}", "any label table")
layouts["table"] = layouts["table"].fillna("none: the folder's name is the label").replace("", "of any name")
layouts["needs"] = layouts["needs"].map(", ".join)
print(f"this is: {ds.layout}")
layouts.rename(columns={"name": "layout", "table": "its label table", "needs": "columns that it must have"})

# %% [markdown]
# ## What is a row?
#
# One picture. The first row, turned on its side:

# %%
ds.table.drop(columns="path").head(1).T

# %% [markdown]
# Four columns need a word. `source` says where the picture comes from: `train`, `official` (the challenge's own test set) or the name
# of a further test set. `lesion_id` says which lesion the picture shows; several pictures may show one lesion, and notebook 03 is
# about that. `given` is the subset, such as test, that the copy itself puts a picture in, where it comes with a split. `pixel_hash` is a
# number made from the pixels, so that equal pictures have equal numbers.
#
# **An empty text or a `NaN` means "not known".** It never means "no" or zero.
#
# How many pictures have each source?

# %%
ds.table.groupby("source", sort=False).size().to_frame("images")

# %% [markdown]
# ## What is a picture?
#
# `ds.pixels` is one NumPy array: (pictures, height, width, colours), whole numbers from 0 to 255. It lies on the disk, and only what
# you use is read. Look at the two pictures: left is the file, right is the row of the array.

# %%
from PIL import Image

from dermai_utils.reports import pictures

print(f"{len(ds.table):,} rows; array {ds.pixels.shape}, {ds.pixels.dtype}")
assert len(ds.table) == len(ds.pixels)
k = 0
with Image.open(ds.table["path"][k]) as file:
    left = file.convert("RGB")
height, width = ds.pixels[k].shape[:2]
titles = [f"the file: {left.width} x {left.height} px", f"ds.pixels[{k}]: {width} x {height} px"]
pictures.sheet([left, ds.pixels[k]], titles, columns=2)

# %% [markdown]
# Both show the same lesion. The array is hardly larger than the network needs (it has the shape of a
# photograph, 4 to 3), so training never waits for a decoder.

# %% [markdown]
# ## How many of each class?
#
# We count the training pictures in four lines of pandas. We also count the lesions: a picture without a lesion id counts as a lesion
# of its own. Then the helper counts, and both must agree.

# %%
from dermai_utils import datasets

training = ds.table[ds.table["source"] == "train"]
lesion = training["lesion_id"].where(training["lesion_id"] != "", training["image"])
counts = lesion.groupby(training["label"]).agg(["size", "nunique"]).reindex(dermai.CLASSES, fill_value=0)
counts.columns = ["images", "lesions"]

helper = datasets.class_counts(training)
assert (counts.to_numpy() == helper[["images", "lesions"]].to_numpy()).all()
helper.rename_axis("class")

# %% [markdown]
# MEL is melanoma, NV a nevus (a mole), BCC basal cell carcinoma, AKIEC actinic keratosis, BKL benign keratosis, DF dermatofibroma,
# VASC a vascular lesion. In the figure, look at two distances: from the rarest class to the commonest, and from each dot to the
# diamond beside it.

# %% tags=["nbval-ignore-output"]
from dermai_utils.reports import data_plots

data_plots.class_counts(helper, "Training pictures")

# %% [markdown]
# The classes differ so much that the scale has to be logarithmic. So a model that always says "nevus" is often right, and useless:
# this is why the challenge takes the mean of the seven recalls (balanced accuracy). Where the diamond lies left of the dot, some
# lesions have several pictures.

# %% [markdown]
# ## What do they look like?
#
# The first eight training pictures of each class, a row a class. Look for what the classes have in common: hairs, rulers, dark
# corners. A network may learn these instead of the lesion.

# %% tags=["nbval-ignore-output"]
rows = training.groupby("label").head(8)
pictures.by_class(rows["label"], ds.pixels[rows.index])

# %% [markdown]
# Some neighbours look like twins: they are pictures of one lesion. Some rows look like other rows: these classes will be confused.

# %% [markdown]
# ## How does a download survive a broken line?
#
# The large archive has 2.8 GB, and connections break. HTTP has an answer to that: the header `Range` asks for the bytes from a place
# on. To try it without a network, here is a small web server on this machine that hangs up after 300,000 bytes each time.

# %%
import http.server
import threading

ARCHIVE = bytes(range(256)) * 4_000  # about 1 MB

class Mirror(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        start = int(self.headers.get("Range", "bytes=0-")[6:-1])  # "bytes=300000-" -> 300000
        self.send_response(206 if start else 200)  # 206: a part of the file
        self.send_header("ETag", '"version 1"')  # this version of the file
        self.send_header("Content-Length", len(ARCHIVE) - start)
        self.send_header("Content-Range", f"bytes {start}-{len(ARCHIVE) - 1}/{len(ARCHIVE)}")
        self.end_headers()
        self.wfile.write(ARCHIVE[start : start + 300_000])  # too little: the line breaks

    def log_message(self, *_):
        pass  # no line for each request

server = http.server.HTTPServer(("127.0.0.1", 0), Mirror)
threading.Thread(target=server.serve_forever, daemon=True).start()

# %% [markdown]
# Now the client. It counts the bytes that it has, asks for the rest and appends what comes. The file gets its own name only when it is
# whole: until then it is called `.part`, and nobody takes half an archive for an archive.

# %%
import os
import tempfile
from pathlib import Path

import requests

os.environ.setdefault("NO_PROXY", "127.0.0.1")  # a proxy cannot reach a server on this machine
def resume(url, part):
    have = part.stat().st_size if part.exists() else 0
    answer = requests.get(url, headers={"Range": f"bytes={have}-"}, stream=True)
    with open(part, "ab") as file:
        try:
            file.writelines(answer.iter_content(100_000))
        except requests.RequestException:
            print(f"the line broke after {file.tell():,} of {len(ARCHIVE):,} bytes")
    return part.stat().st_size == len(ARCHIVE)
folder, url = Path(tempfile.mkdtemp()), f"http://127.0.0.1:{server.server_port}"
while not resume(url, folder / "by_hand.part"):
    pass
by_hand = (folder / "by_hand.part").rename(folder / "by_hand")

# %% [markdown]
# The helper that `load` uses does the same, and checks more: that the file did not change between two parts (`ETag`), that its length
# is right, that a zip is a whole zip, that the disk has room.

# %% tags=["nbval-ignore-output"]
import hashlib

assert copies.fetch.fetch([url], folder / "archive", len(ARCHIVE), wait=0.1)
server.shutdown()
both = [hashlib.sha256(path.read_bytes()).hexdigest() for path in (by_hand, folder / "archive")]
assert both[0] == both[1] == hashlib.sha256(ARCHIVE).hexdigest()

# %% [markdown]
# ## Change this
#
# 1. In *What is a picture?*, set `k` to another number, or `k = ds.rows(["ISIC_9000010"])[0]` for an image by its id.
# 2. In *How many of each class?*, count the rows of another source: replace `"train"` by `"official"`. Are the classes as common there?
# 3. In the web server, let the line break after 150,000 bytes. By hand it still works. The helper writes pieces of 262,144 bytes: it
#    gets none of them, gives up after five tries, and says so in one line.
#
# Next: 02_clean looks at what was left out, and at what the table does not know.
