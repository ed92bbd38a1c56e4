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
# <!-- button of 06_gradcam -->

# %% [markdown]
# # 06 · Grad-CAM
#
# Where in the image does a network find its evidence? Grad-CAM answers with a map, and the map looks convincing: so this notebook
# also shows how to test it. You build the map by hand, put it beside the map of a network that has learned nothing, and measure
# what happens when the marked places are taken away.

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
# The run is the one of notebook 04. Empty fields mean the defaults.

# %%
from dermai_utils import colab, commands, settings

data = ""  # @param ["", "sample", "isic2018"] {allow-input: true}
run_name = ""  # @param {type: "string"}
keep_on_drive = False  # @param {type: "boolean"}
drive = colab.drive_folders(keep_on_drive, settings.read(data=data).name)
s = settings.read(data=data, run_name=run_name, **drive)
print(f"data: {s.data}, run {s.run_name}")

# %% [markdown]
# ## A trained network
#
# `finished` opens the run and loads its data. Where there is no such run, it trains one, as notebook 04 does.

# %% tags=["nbval-ignore-output"]
run, ds = commands.finished(s)

# %% [markdown]
# ## Which images?
#
# From the test images: four right answers of four classes, and four wrong answers; of each, those that the network was surest of.
# Each map will be for the class that the network **predicted**, because the question is what it saw there.

# %% tags=["nbval-ignore-output"]
import pandas as pd
import torch
from dermai_utils import predictions
from dermai_utils.reports import maps, pictures

rows = predictions.unseen_by_first(predictions.primary_rows(run.predictions))
rows = rows.sort_values("confidence", ascending=False, kind="stable")
right = rows["prediction"] == rows["truth"]
chosen = pd.concat([rows[right].drop_duplicates("truth").head(4), rows[~right].head(4)], ignore_index=True)
images = maps.squares(run, ds, chosen)  # (N, 3, S, S), 0 to 1: what the network sees
targets = torch.tensor([dermai.CLASSES.index(c) for c in chosen["prediction"]], device=run.device)
chosen[["image", "truth", "prediction", "confidence"]].round(3)

# %% [markdown]
# ## How do you look into a network?
#
# With a **forward hook**: a function that PyTorch calls each time a layer has computed its output. We hang one on the last layer
# whose output is still a map of the image. After that layer the network takes the mean over all places, and "where" is lost.

# %%
from dermai_utils import networks

all_maps = networks.feature_maps(run.net, run.size)  # of layers whose output is a map
layer, seen = all_maps[-1].module, []

def hook(module, inputs, output):
    seen.append(tuple(output.shape))

handle = layer.register_forward_hook(hook)
logits = run.net(images)
handle.remove()  # or it is called for ever
name = next(name for name, module in run.net.named_modules() if module is layer)
print("sides of the maps, from the first layer to the last:", *dict.fromkeys(m.side for m in all_maps))
print(f"output of {name}: {seen[0][1:]} for an image; logits: {tuple(logits.shape[1:])}")

# %% [markdown]
# So each image has many small maps, the channels: one may answer to dark dots, another to a sharp border. Grad-CAM is their
# **weighted sum**. The weight of a channel: how much would the logit of the class (its output, before the softmax) grow, if the
# whole channel grew? That is the mean of the gradient.

# %%
import numpy as np
import torch.nn.functional as F

def gradcam_by_hand(net, images, targets, which=-1):
    place, kept = networks.feature_maps(net, images.shape[-1])[which], []
    handle = place.module.register_forward_hook(lambda module, inputs, output: kept.append(output))
    logits = net(images.clone().requires_grad_())
    handle.remove()
    wanted = logits.gather(1, targets[:, None]).sum()  # of each image the logit of its class
    (gradient,) = torch.autograd.grad(wanted, kept[0])
    channels, gradient = place.first(kept[0]), place.first(gradient)  # both (N, channels, h, w)
    weight = gradient.mean((2, 3), keepdim=True)  # one number for each channel
    coarse = (weight * channels).sum(1, keepdim=True).relu()  # only evidence for the class
    fine = F.interpolate(coarse, images.shape[2:], mode="bilinear")[:, 0].detach()
    low, high = fine.amin((1, 2), keepdim=True), fine.amax((1, 2), keepdim=True)
    return ((fine - low) / (high - low).clamp_min(1e-12)).cpu().numpy()  # 0 to 1 in each image

# %% [markdown]
# Both maps, yours and the helper's, must be equal. Then look at yours: the bright places have most of the evidence for the
# predicted class. Are they on the lesion, on its border, or on something that is no lesion at all: a ruler, a hair, a dark corner?

# %%
by_hand = gradcam_by_hand(run.net, images, targets)
assert np.allclose(by_hand, dermai.gradcam(run.net, images, targets), atol=0.01)
height, width = by_hand.shape[1:]
print(f"a map has {height} x {width} places, from {by_hand.min():.0f} to {by_hand.max():.0f}")
pictures.gradcam(images, by_hand, pictures.verdicts(chosen), columns=2)

# %% [markdown]
# The spots are large because the layer's maps are coarse: each of their places stands for a square of the image. And the scale
# begins anew in each image, so the brightest spot of an image without much evidence is as bright as any other.
#
# ## What would a network show that has learned nothing?
#
# The same network with random weights has nothing to explain. If its map were the same, then the map would only show the image:
# what is dark, what is in the middle, where edges are. So we give every layer new weights and draw its map, beside the map of the
# trained network.

# %%
import copy

from dermai_utils import saliency

random_net = copy.deepcopy(run.net)
torch.manual_seed(0)
for module in random_net.modules():
    if hasattr(module, "reset_parameters"):
        module.reset_parameters()

helper = saliency.randomised(run.net, seed=0)
assert all(torch.equal(a, b) for a, b in zip(random_net.parameters(), helper.parameters()))
random_maps = gradcam_by_hand(random_net, images, targets)
print(f"is it the map of the trained network? {np.allclose(by_hand, random_maps)}")

# %% [markdown]
# One number says how alike two maps are: Spearman's correlation. It is 1 where both maps put all places in the same order, 0 where
# the orders have nothing to do with each other, and -1 where one is the reverse of the other. Pandas computes it:

# %%
def rank_correlation(a, b):
    return pd.Series(a.ravel()).corr(pd.Series(b.ravel()), method="spearman")

alike = [rank_correlation(a, b) for a, b in zip(by_hand, random_maps)]
assert np.allclose(alike, saliency.rank_correlation(by_hand, random_maps), equal_nan=True)
one = by_hand[0]
print(f"a map and itself: {rank_correlation(one, one):.0f}")
print(f"a map and its negative: {rank_correlation(one, 1 - one):.0f}")

# %% [markdown]
# Look at the two maps of each image: is the map of the trained network another one, or only a sharper one? The number above the
# right map is their correlation.

# %% tags=["nbval-ignore-output"]
shown, titles = [], []
for k in dict.fromkeys([0, 1, len(images) - 1]):  # two right answers, a wrong one
    shown += [images[k], pictures.overlay(images[k], by_hand[k]), pictures.overlay(images[k], random_maps[k])]
    titles += [chosen["image"].iloc[k], "trained", f"random weights: {alike[k]:.2f}"]
pictures.sheet(shown, titles, columns=3)

# %% [markdown]
# Numbers near 1 are bad news: then a lesion that stands out from the skin is marked by any network, and the map says little about
# what this one has learned. Near 0, or below, is what you hope for.

# %% [markdown]
# ## Does the network need the marked places?
#
# A second test: take the marked places away, the most marked first, and watch the probability of the predicted class. "Away" means
# blurred, because a black patch would be a new object. For comparison, take away random spots.

# %%
def deletion(net, images, targets, maps, steps=10):
    marked_first = torch.as_tensor(maps, device=images.device).flatten(1).argsort(1, descending=True)
    rank = marked_first.argsort(1).view(len(images), 1, *images.shape[2:])  # 0: the most marked place
    blurred, curve = saliency.blur(images), []
    for step in range(steps + 1):
        away = rank < rank[0].numel() * step / steps
        with torch.inference_mode():
            probabilities = net(torch.where(away, blurred, images)).softmax(1)
        curve.append(probabilities.gather(1, targets[:, None])[:, 0])
    return torch.stack(curve, 1).cpu().numpy()  # (N, steps + 1)


# %% [markdown]
# Look whether the line of Grad-CAM falls faster than that of the random spots. Both begin at the same height, with the whole image,
# and end at the same height, with nothing but blur.

# %%
from dermai_utils.reports import canvas

spots = saliency.random_maps(len(images), run.size, seed=0)
with_map, with_spots = (deletion(run.net, images, targets, m) for m in (by_hand, spots))
assert np.allclose(with_map, saliency.curves(run.net, images, targets, by_hand)["deletion"], atol=0.01)
assert np.allclose(with_map[:, [0, -1]], with_spots[:, [0, -1]], atol=0.01)

figure, [[ax]] = canvas.axes(6, 3)
for name, curves, style in (("Grad-CAM", with_map, "-"), ("random spots", with_spots, "--")):
    ax.plot(range(0, 101, 10), curves.mean(0), style, label=name)
ax.set(xlabel="places blurred (%)", ylabel="probability of the class", ylim=(0, 1))
ax.legend(frameon=False)
figure

# %% [markdown]
# Why the random spots? Any network becomes unsure when half of its image is gone. Only the gap between the lines says that the map
# marks places that matter more than others.
#
# The helper `saliency.check` does both tests. Its `insertion` goes the other way: it begins with the blurred image and puts the
# marked places back. With a good map the mean of the deletion curve is **small**, and that of the insertion curve **large**.

# %% tags=["nbval-ignore-output"]
check = saliency.check(run.net, images, targets, seed=0)
assert np.allclose(check["deletion"], with_map.mean(1), atol=0.01)
assert np.allclose(check["randomised_correlation"], alike, atol=0.05, equal_nan=True)

gains = {"deletion": check["deletion_random"] - check["deletion"]}
gains["insertion"] = check["insertion"] - check["insertion_random"]
for name, gain in gains.items():
    clear = gain.mean() > 2 * gain.std() / len(gain) ** 0.5  # twice the standard error
    print(f"{name}: Grad-CAM is {'better' if clear else 'not clearly better'} than random spots")
check.round(2).set_index(chosen["image"])

# %% [markdown]
# ## Right and wrong, in each class
#
# The report shows for each class the surest right answer, the surest wrong one, and the image that the network was least sure of.
# (A small percentage beside a right answer is no misprint: the decision rule of notebook 05 may name a rare class that is not the most
# probable one.) Look at the wrong ones: is the evidence somewhere else than in the right ones?

# %% tags=["nbval-ignore-output"]
each = maps.choose(rows)
seen = maps.squares(run, ds, each)
classes = torch.tensor([dermai.CLASSES.index(c) for c in each["prediction"]], device=run.device)
titles = [f"{text}, {kind}" for text, kind in zip(pictures.verdicts(each), each["kind"])]
pictures.gradcam(seen, dermai.gradcam(run.net, seen, classes), titles, columns=3)

# %% [markdown]
# **What a map can say:** evidence on a ruler, a hair or the rim of the picture is a warning that the network may have learned the
# clinic and not the disease. **What it cannot say:** that a diagnosis is right, or why. The maps of wrong answers often lie on the
# lesion as well as those of right ones, and where a test above failed, the maps of this network say nothing at all.
#
# ## Change this
#
# **1. Another layer.** Earlier layers have finer maps. Do they mark the class, or every edge? Draw the map of the fourth layer in a
# new cell, and compare it with that of the random network:
#
# ```python
# fine, nothing = (gradcam_by_hand(net, images, targets, which=3) for net in (run.net, random_net))
# print(np.round([rank_correlation(a, b) for a, b in zip(fine, nothing)], 2))
# pictures.gradcam(images, fine, pictures.verdicts(chosen), columns=2)
# ```
#
# **2. Another class.** Write `targets[:] = dermai.CLASSES.index("NV")` at the end of *Which images?*, and run the cells below. Now
# the question is: what in this image is evidence for a nevus? Where a map is dark everywhere, nothing is.
#
# **3. A blurred image.** Write these two lines there:
#
# ```python
# from torchvision.transforms import v2
# images = v2.functional.gaussian_blur(images, 15)
# ```
#
# The details are gone. Do the maps move, or were they about large shapes all along?
#
# Next: 07_predict answers about a photograph of your own.
