"""Does a picture look like the training images? Out-of-distribution (OOD) detection.

The measure is the Mahalanobis distance from the training images half-way through the network (Lee
et al. 2018, arXiv 1807.03888). The last features know seven diagnoses and nothing else: there, a
cat is near one of them.
"""

import numpy as np
import torch

from dermai_utils import inference
from dermai_utils.basics import UserError
from dermai_utils.networks import FeatureMap, feature_maps, hooked

IN_DISTRIBUTION = 0.99  # the share of the validation images that must pass
# Times that distance: no dermoscopic image. Chosen on 54 foreign pictures; with quick_cpu all of 72
# others lie beyond it, and 5 of 819 images of another clinic, MSK.
FOREIGN = 1.3
# Of 2,500 images of HAM10000 and 200 of MSK the least are 12 and 128, of 0 to 255.
COLOURLESS, DARK = 8, 60
HALF_WAY = 16  # a map of 1/16 of the image's side: of EfficientNet-Lite0's, it separates best


def describe(run, pixels, rows=None, tta: int = 1):
    """((N, 7) logits, (N, D) features, (N, 2C) texture) by the run's first network.

    pixels: (N, H, W, 3) uint8, of which `rows` (default: all). Texture is the mean and the standard
    deviation of each channel half-way. A network without maps (a transformer) has no texture: the
    features stand in for it.
    """
    place, textures = half_way(run.net, run.size), []

    def keep(module, inputs, maps):
        maps = place.first(maps).float().flatten(2)
        textures.append(torch.cat([maps.mean(2), maps.std(2)], 1).cpu().numpy())

    with hooked([place.module] if place else [], keep):
        options = dict(rows=rows, tta=tta, precision=run.precision)
        logits, features = inference.predict(
            run.net, pixels, run.size, with_features=True, **options
        )
    # with test-time augmentation every network runs `tta` times, first on the image as it is
    return logits, features, np.concatenate(textures[::tta]) if textures else features


def half_way(net, size: int) -> FeatureMap | None:
    """The last map with at least 1/16 of the image's side whose module runs once; None: no map."""
    try:
        maps = feature_maps(net, size)
    except UserError:
        return None
    modules = [place.module for place in maps]
    large = [place for place in maps if place.side * HALF_WAY >= size]
    return [place for place in large if modules.count(place.module) == 1][-1]


def fit(texture) -> tuple[np.ndarray, np.ndarray]:
    """The centre (D,) and the inverse covariance (D, D) of (M, D), float32.

    Shrunk (Ledoit and Wolf 2004), so that few images are enough.
    """
    from sklearn.covariance import LedoitWolf  # an answer needs no scikit-learn

    estimate = LedoitWolf().fit(texture.astype(np.float64))
    return estimate.location_.astype(np.float32), estimate.precision_.astype(np.float32)


def distance(texture, centre, precision) -> np.ndarray:
    """(N,) float: the Mahalanobis distance of each row of (N, D) from the centre."""
    away = texture.astype(np.float64) - centre
    return np.sqrt(np.maximum(((away @ precision) * away).sum(1), 0))


def thresholds(distances) -> dict:
    """The two thresholds, from the (N,) distances of the validation images.

    Beyond ood_threshold a picture comes from another source; beyond foreign_threshold it is no
    dermoscopic image.
    """
    ood_threshold = float(np.quantile(distances, IN_DISTRIBUTION))
    return {"ood_threshold": ood_threshold, "foreign_threshold": FOREIGN * ood_threshold}


def oddities(image) -> tuple[str, ...]:
    """The faults of a picture (H, W, 3) uint8 itself; each continues "This picture"."""
    lightest, darkest = image.max(2), image.min(2)
    if np.quantile(lightest, 0.95) < DARK:
        return ("is nearly black: there is hardly anything to see",)
    if np.quantile(lightest - darkest, 0.95) < COLOURLESS:
        return ("has no colour: the model learned from colour images only",)
    return ()
