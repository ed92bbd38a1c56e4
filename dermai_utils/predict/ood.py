"""Does a picture look like what the model was trained on? Out-of-distribution (OOD) detection.

The Mahalanobis distance to the training images half-way through the network (Lee et al. 2018, arXiv
1807.03888): the last features know seven diagnoses and nothing else, and a cat is near one of them.
"""

import contextlib

import numpy as np
import torch
from sklearn.covariance import LedoitWolf

from dermai_utils.config import UserError
from dermai_utils.training.feature_maps import FeatureMap, feature_maps
from dermai_utils.training.inference import softmax

IN_DISTRIBUTION = 0.99  # of the validation images, the share that is to pass
# Times that distance: no dermoscopic image. Chosen on 54 foreign pictures; with quick_cpu all of 72
# others lie beyond it, and 5 of 819 images of another clinic, MSK (docs/results.md).
FOREIGN = 1.3
# Of 2,500 images of HAM10000 and 200 of MSK the least are 12 and 128, of 0 to 255.
COLOURLESS, DARK = 8, 60
HALF_WAY = 16  # a map of 1/16 of the image's side: of EfficientNet-Lite0's the one that tells best


def describe(run, rows, tta: int = 1):
    """((N, 7) probabilities, (N, D) features, (N, 2C) texture) of rows of a LoadedRun's images.

    Probabilities are the mean of its networks', features and texture (the mean and the standard
    deviation of each channel half-way) of its first one. A network without maps (a transformer) has
    no texture: then the features stand in for it.
    """
    first, textures, hook = run.networks[0], [], None
    with contextlib.suppress(UserError):
        place = half_way(first, run.cfg.image_size)
        hook = place.module.register_forward_hook(
            lambda *args: textures.append(_texture(place.first(args[2])))
        )
    try:
        logits, features = run.logits(rows, with_features=True, tta=tta)
    finally:
        if hook:
            hook.remove()
    others = [softmax(run.logits(rows, network, tta=tta)) for network in run.networks[1:]]
    texture = np.concatenate(textures[::tta]) if textures else features
    return np.mean([softmax(logits), *others], axis=0), features, texture


def half_way(network, size: int) -> FeatureMap:
    """The last one that runs once and has at least 1/16 of the image's side."""
    maps = feature_maps(network, size)
    modules = [place.module for place in maps]
    large = [place for place in maps if place.side * HALF_WAY >= size]
    return [place for place in large if modules.count(place.module) == 1][-1]


def _texture(maps):
    maps = maps.float().flatten(2)
    return torch.cat([maps.mean(2), maps.std(2)], 1).cpu().numpy()


def fit(texture) -> tuple[np.ndarray, np.ndarray]:
    """The centre (D,) and the inverse covariance (D, D) of (M, D), float32.

    Shrunk (Ledoit and Wolf 2004), so that few images are enough.
    """
    estimate = LedoitWolf().fit(texture.astype(np.float64))
    return estimate.location_.astype(np.float32), estimate.precision_.astype(np.float32)


def distance(texture, centre, precision) -> np.ndarray:
    """(N,) float: the Mahalanobis distance of each row of (N, D) from the centre."""
    away = texture.astype(np.float64) - centre
    return np.sqrt(np.maximum(((away @ precision) * away).sum(1), 0))


def thresholds(distances) -> dict:
    """The two distances that PredictorState keeps, from those of the validation images.

    Beyond ood_threshold a picture comes from another source; beyond foreign_threshold it is no
    dermoscopic image.
    """
    ood_threshold = float(np.quantile(distances, IN_DISTRIBUTION))
    return {"ood_threshold": ood_threshold, "foreign_threshold": FOREIGN * ood_threshold}


def oddities(image) -> tuple[str, ...]:
    """What is wrong with a picture (H, W, 3) uint8 as such; each goes on from "this picture"."""
    lightest, darkest = image.max(2), image.min(2)
    found = []
    if np.quantile(lightest, 0.95) < DARK:
        found.append("is nearly black: there is hardly anything to see")
    elif np.quantile(lightest - darkest, 0.95) < COLOURLESS:
        found.append("has no colour: the model has learned from colour images alone")
    return tuple(found)
