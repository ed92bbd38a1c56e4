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
# <!-- button of 04_train -->

# %% [markdown]
# # 04 · Train
#
# Training is a short loop: show the network a batch of images, measure how wrong its answers are, and change each weight a little
# so that they become less wrong. This notebook builds the parts of that loop one by one, and then the loop itself. You can change
# each part.

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
# An empty field means the default. `epochs`: how often each image is shown. `backbone` is a classifier of torchvision, or
# `timm:NAME`. A run is one folder: another `run_name` starts another run beside it. `keep_on_drive` (Colab) keeps that folder on
# Google Drive, so that a lost machine costs minutes.

# %%
from dermai_utils import colab, commands, settings

data = ""  # @param ["", "sample", "isic2018"] {allow-input: true}
backbone = ""  # @param ["", "resnet18", "efficientnet_b0", "timm:tf_efficientnet_lite0"] {allow-input: true}
epochs = ""  # @param ["", "3", "10", "30"] {allow-input: true}
imbalance = ""  # @param ["", "class_weights", "sampler", "logit_adjustment"]
run_name = ""  # @param {type: "string"}
keep_on_drive = False  # @param {type: "boolean"}
drive = colab.drive_folders(keep_on_drive, settings.read(data=data).name)
form = dict(backbone=backbone, epochs=epochs, imbalance=imbalance, run_name=run_name)
s = settings.read(data=data, **form, **drive)
print(f"run {s.run_name}: {s.backbone} at {s.size} px, {s.epochs} epochs, {s.batch_size} images a batch")

# %% [markdown]
# ## Data and split
#
# Two calls do what the notebooks 01 to 03 showed: `load` gives the table and the pixels, `subsets` says for each row whether it is
# in `train`, in `val` or in a test set. The first line measures how long training will take on this machine.

# %% tags=["nbval-ignore-output"]
from dermai_utils import inference

colab.check(s)
ds = commands.load(s)
subset = commands.subsets(s, ds)

# The cells before *Train* use one simple split: with folds, fold 0 is val; images of `extra` wait.
simple = subset.mask(subset.str.isdecimal(), "train").mask(subset == "0", "val")
simple = simple.mask(ds.table["source"] == "extra", "left out")
labels = ds.table["label"].map(dermai.CLASSES.index).to_numpy()  # 0 to 6, for each row
train_rows = ds.table.index[simple == "train"].to_numpy()
device = inference.device(s.device)
simple.value_counts().to_frame("images")

# %% [markdown]
# ## What can be done about rare classes?
#
# The mean of the loss over all images is mostly that of the commonest class, the nevi. Two remedies: **class weights** multiply the
# loss of an image by a number that is large for rare classes; a **balanced sampler** shows rare images more often. Both are a few
# lines of NumPy.

# %%
import numpy as np
import pandas as pd
from dermai_utils import checkpoints, recipe

y = labels[train_rows]
images = np.bincount(y, minlength=7)
present = (images > 0).sum()
weight = np.where(images > 0, len(y) / (present * np.maximum(images, 1)), 0)  # scikit-learn's "balanced"
assert np.allclose(weight, recipe.class_weights(y))

chance = recipe.class_weights(y)[y]  # the chance of an image grows with the weight of its class
drawn = np.random.default_rng((s.seed, 0)).choice(len(y), len(y), p=chance / chance.sum())
assert (drawn == recipe.balanced(y, (s.seed, 0))).all()

table = pd.DataFrame({"images": images, "share of the loss": images / len(y), "weight": weight}, dermai.CLASSES)
table["share, weighted"] = weight * images / len(y)
table["drawn"] = np.bincount(y[drawn], minlength=7)
table["different images drawn"] = np.bincount(y[np.unique(drawn)], minlength=7)
table.round(3)

# %% [markdown]
# With weights, each class has the same share of the loss. With the sampler, each class is drawn about equally often. But compare
# the last column with the first: few images of the rare classes are drawn again and again, and many of the common ones are not
# drawn at all.
#
# Neither brings new information, and a network that was trained so gives rare classes too high probabilities. By default this
# project trains with the classes as they are, and corrects the decision afterwards (notebook 05). The form's `imbalance` chooses
# another way; the third one, `logit_adjustment`, adds the logarithm of each class's share to its logit in the loss.

# %% [markdown]
# ## How does one image become many?
#
# A lesion stays the same when the photograph is turned, mirrored, zoomed or a little brighter. So we change each image at random,
# each time it is shown: augmentation. Here is one of your own, from torchvision's transforms `v2`.

# %%
import torch
from torchvision.transforms import v2

def transforms(size):
    return v2.Compose([
        v2.RandomResizedCrop(size, scale=(0.5, 1.0)),
        v2.RandomHorizontalFlip(),
        v2.RandomVerticalFlip(),
        v2.ColorJitter(brightness=0.2, contrast=0.2, saturation=0.2),
        v2.ToDtype(torch.float32, scale=True),  # 0 to 255 -> 0 to 1
    ])

def my_augment(images, size):  # (B, 3, H, W) uint8 -> (B, 3, size, size) float32
    change = transforms(size)
    return torch.stack([change(image) for image in images])

# %% [markdown]
# Why the loop over the images? **`v2` draws its random numbers once for a whole batch**: it would crop and mirror all images in the
# same way. We count this with eight copies of one image. The helper `dermai.augment` has the same form as yours, uint8 in and 0 to
# 1 out; it draws for each image too, and changes the whole batch at once. (Its brightest colours go a little beyond 1, where
# `ColorJitter` cuts them off.)
#
# Then one batch in three rows: as evaluation sees it, with `my_augment`, with `dermai.augment`. Look for a change that goes too
# far: would a doctor still give the same diagnosis?

# %%
from dermai_utils.augmentation import squares
from dermai_utils.reports import pictures

def batch_of(rows):  # (B, H, W, 3) in NumPy -> (B, 3, H, W) in torch
    return torch.from_numpy(ds.pixels[rows]).permute(0, 3, 1, 2)

torch.manual_seed(0)
eight = batch_of(train_rows[:1]).repeat(8, 1, 1, 1)  # one image, eight times
changed = {"v2 on the batch": transforms(s.size)(eight)}
changed |= {"my_augment": my_augment(eight, s.size), "dermai.augment": dermai.augment(eight, s.size)}
for name, batch in changed.items():
    print(f"{name}: {len(torch.unique(batch, dim=0))} different images of 8")
    assert batch.shape == (8, 3, s.size, s.size)

rows = [train_rows[y == k][0] for k in np.unique(y)][:4]  # an image of each of four classes
sheets = [way(batch_of(rows), s.size) for way in (squares, my_augment, dermai.augment)]
titles = [f"{dermai.CLASSES[k]}: {way}" for way in ("plain", *list(changed)[1:]) for k in labels[rows]]
pictures.sheet(torch.cat(sheets), titles, columns=len(rows))

# %% [markdown]
# Turning and mirroring cost nothing and are always right: nobody holds the dermatoscope upright. Colour is riskier, because it is part
# of the diagnosis; but each clinic has another lamp and another camera, and the network should not depend on them.

# %% [markdown]
# ## What is the network?
#
# A stack of convolutions turns the three colours into many maps; then comes the mean of each map, and one linear layer with an
# output for each of the seven classes. These outputs are the **logits**; their softmax are the probabilities. The sample's network
# is small enough to write down. We give it the helper's weights, and both must answer the same. (`eval()` switches off what only
# training does, `train()` switches it on.)

# %%
from torch import nn

def small():
    layers = []
    for before, after, stride in ((3, 24, 2), (24, 48, 2), (48, 72, 2), (72, 96, 1)):
        convolution = nn.Conv2d(before, after, 3, stride, padding=1, bias=False)
        layers += [convolution, nn.BatchNorm2d(after), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(96, 7))

mine, helper = small().eval(), dermai.network("small", "none", 64).eval()
mine.load_state_dict(dict(zip(mine.state_dict(), helper.backbone.state_dict().values())))
pixels = squares(batch_of(rows), 64)
normalised = (pixels - 0.5) / 0.25  # the helper's first layer does this
assert torch.allclose(mine(normalised), helper(pixels), atol=1e-5)
number = sum(weight.numel() for weight in mine.parameters())
print(f"{number:,} weights; logits {tuple(helper(pixels).shape)[1:]}")

# %% [markdown]
# For real photographs one takes a large network that was trained on the million pictures of ImageNet, and replaces only its last
# layer, which has 1,000 outputs, by a new one with seven. This is **transfer learning**: edges, colours and textures need not be
# learned again. From here on, `commands.new_network(s)` makes the network of the form: `dermai.network(s.backbone, s.weights,
# s.size, s.seed)`.

# %%
from torchvision import models

mine = models.resnet18(weights=None)  # weights="DEFAULT": those of ImageNet, 45 MB
print("the old last layer:", mine.fc)
mine.fc = nn.Linear(mine.fc.in_features, len(dermai.CLASSES))
print("the new last layer:", mine.fc)

helper = dermai.network("resnet18", "none", 64).eval()
mine.eval().load_state_dict(helper.backbone.state_dict())
normalise = v2.Normalize(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225])  # as in its training
assert torch.allclose(mine(normalise(pixels)), helper(pixels), atol=1e-4)

# %% [markdown]
# ## The loop, by hand
#
# One step: compute the **loss** of a batch (cross-entropy, scikit-learn's `log_loss`), go **backward** (how does the loss grow with
# each weight?), let the **optimiser** change the weights (AdamW: against the gradient, with a step size for each weight), let the
# **schedule** change the learning rate (up, then down), and set the gradients to **zero**. All batches once are an **epoch**. Here
# are three steps, without augmentation:

# %%
import torch.nn.functional as F

order = np.random.default_rng((s.seed, 0)).permutation(train_rows)  # each image once: an epoch
batch_size = min(s.batch_size, len(order))
batches = order[: len(order) // batch_size * batch_size].reshape(-1, batch_size)
net = commands.new_network(s).to(device).train()
optimizer = torch.optim.AdamW(net.parameters(), lr=s.learning_rate)
schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, s.learning_rate, total_steps=len(batches) + 1)
by_hand = []
for k, rows in enumerate(batches[:3]):
    checkpoints.seed((s.seed, 0, k))  # for networks with dropout: seed, epoch, batch
    images, targets = batch_of(rows).to(device), torch.from_numpy(labels[rows]).to(device)
    logits = net(squares(images, s.size))
    loss = F.cross_entropy(logits, targets)
    loss.backward()
    optimizer.step()
    schedule.step()
    optimizer.zero_grad()
    by_hand.append(loss.item())
print(f"the first loss is about that of guessing, ln 7: {abs(by_hand[0] - np.log(7)) < 0.2}")

# %% [markdown]
# What if the machine is lost in step 3,000? `dermai.Training` remembers for you: it keeps weights, optimiser, schedule and random
# numbers in the run's folder. `run.batches()` gives augmented images and labels on the device (without a DataLoader: the pixels are
# one array already). The loop stays yours. Here are the same three steps with the same parts: the losses must be equal. Optimiser
# and schedule are given as functions that make them, so that a stopped run can make them again.

# %% tags=["nbval-ignore-output"]
import tempfile

def optimizer_of(net):
    return torch.optim.AdamW(net.parameters(), lr=s.learning_rate)

def schedule_of(optimizer, steps):
    return torch.optim.lr_scheduler.OneCycleLR(optimizer, s.learning_rate, total_steps=steps + 1)

parts = dict(augment=squares, optimizer=optimizer_of, schedule=schedule_of, average=0, epochs=1)
parts |= dict(batch_size=s.batch_size, seed=s.seed, device=s.device, precision="fp32")
losses = []
with dermai.Training(tempfile.mkdtemp(), ds, simple, commands.new_network(s), **parts) as run:
    for epoch in run.epochs():
        for images, targets in run.batches():
            losses.append(run.loss(run.net(images), targets))
            run.step(losses[-1])
            if len(losses) == len(by_hand):
                break
assert np.allclose([loss.item() for loss in losses], by_hand, rtol=1e-3)

# %% [markdown]
# So `run.step(loss)` is the four lines from `backward` to `zero_grad`. One thing more: it moves a slow average of the weights
# towards the new ones, and at the end this average is kept, because it jumps less. (Here `average=0` switched that off.)
#
# ## Which number is to beat?
#
# The numbers that go into the last layer are the features of an image. Before any training, we fit scikit-learn's logistic
# regression on them: a **linear probe**. If the network does not beat it, training was for nothing. (10,000 photographs take some
# minutes on two cores.)

# %% tags=["nbval-ignore-output"]
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

features = dermai.predict(commands.new_network(s).to(device), ds.pixels, with_features=True)[1]

root = FunctionTransformer(lambda x: np.sign(x) * np.sqrt(np.abs(x)))  # so that few values are very large
probe = make_pipeline(root, StandardScaler(), LogisticRegression(C=0.003, class_weight="balanced", max_iter=200))
probe.fit(features[train_rows], y)
val = (simple == "val").to_numpy()
to_beat = balanced_accuracy_score(labels[val], probe.predict(features[val]))
print(f"linear probe: balanced accuracy {to_beat:.3f} on val")

if present == len(dermai.CLASSES):  # the helper refuses data that lacks a class
    found = dermai.linear_probe(features, ds.table, simple)["subsets"]
    assert np.isclose(found["val"]["balanced_accuracy"]["value"], to_beat)

# %% [markdown]
# ## Train
#
# The whole loop, with the settings of the form. After each epoch `validate` scores the val images, only for you to look at: the
# weights at the end are kept, whatever these scores say. **Stop it whenever you like and run the cell again: it goes on where it
# was, and ends with the same weights, bit for bit.** A finished run is opened at once. `python -m dermai_utils train` is this loop
# too, with the same folder.
#
# TensorBoard is one line away: delete the `#` in the second line. To see it here, run `%load_ext tensorboard` and `%tensorboard
# --logdir {s.runs}` in a cell above.

# %% tags=["nbval-ignore-output"]
options = settings.training_options(s)
# options["tracker"] = "tensorboard"
if s.folds:  # cross-validation: the loop below, once for each fold
    from dermai_utils import training

    run = training.train_folds(ds, subset, lambda: commands.new_network(s), s.run_folder, **options)
else:
    with dermai.Training(s.run_folder, ds, subset, commands.new_network(s), **options) as run:
        for epoch in run.epochs():
            for images, targets in run.batches():
                run.step(run.loss(run.net(images), targets))
            run.validate()

# %% [markdown]
# ## Did it learn?
#
# Look left first: both losses should fall. Where the training loss goes on falling and the validation loss rises, the network
# learns its images by heart. Compare the shapes and not the heights: the training loss is that of augmented images, which are
# harder.

# %% tags=["nbval-ignore-output"]
from dermai_utils.reports import plots

history = (run.members[0] if s.folds else run).history
plots.learning_curves(history)

# %% [markdown]
# Why do the scores on the right jump? The balanced accuracy is the mean of seven recalls, and a rare class has few val images: one
# of them moves its recall by a large step. So the epoch that looks best is often only lucky, and choosing it would flatter the
# score.
#
# `run.predictions` has one row for each image that was not trained on. We compute the balanced accuracy by hand, from its rows of
# val:

# %%
val = run.predictions[run.predictions["subset"] == "val"]
recall = (val["prediction"] == val["truth"]).groupby(val["truth"]).mean()
score = recall.mean()
assert np.isclose(score, balanced_accuracy_score(val["truth"], val["prediction"]))
print(f"better than the linear probe: {score > to_beat}")
print(f"better than guessing, 1/7: {score > 1 / 7}")

# %% [markdown]
# This is no result yet: notebook 05 gives it an interval, and takes test images that nothing was chosen on.
#
# ## Change this
#
# Give each of these runs a `run_name` of its own in the form, so that it lies beside the first one. (In the folder of a run with
# other parts, `Training` refuses to go on and says which part differs.) Functions go into a cell above *Train*.
#
# **1. Another loss.** Focal loss cares less about images that the network is already sure of. Write `loss=focal` before
# `**options`:
#
# ```python
# def focal(logits, labels):
#     each = F.cross_entropy(logits, labels, reduction="none")  # -ln p of each image
#     return ((1 - torch.exp(-each)) ** 2 * each).mean()
# ```
#
# **2. Your augmentation.** Write `augment=my_augment` before `**options`. Stop the cell in the middle, and run it again: it goes on
# with the random numbers that `v2` would have drawn.
#
# **3. Another network, optimiser and schedule.** Any network with seven outputs will do. Choose 10 `epochs`, write `net` in place
# of `commands.new_network(s)`, and `optimizer=sgd, schedule=cosine` before `**options`. Does it beat the small network in so few
# steps?
#
# ```python
# net = dermai.network("timm:convnext_atto", "none", s.size)
#
# def sgd(net):
#     return torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9)
#
# def cosine(optimizer, steps):
#     return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
# ```
#
# Then `dermai.report(run, ds)` writes a report that names what you replaced. Next: 05_evaluate finds out how good the network is.
