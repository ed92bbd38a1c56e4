"""Is a picture a copy of a training image: resized, saved again, turned or mirrored?

Told by a thumbnail of its central square: 8 x 8 grey means, as a vector of mean 0. Measured with
3,000 images of HAM10000 as 200 x 150 px against all 10,015 as squares of 256 px: the cosine with
the image itself is 0.998 or more. That with an image of another lesion is at most 0.990 in any of
eight orientations, but for one pair that shows one picture under two ids (0.999). Saved again as
JPEG of 64 to 400 px and quality 30 to 90, 200 images kept 0.998. Of other clinics, 819 images of
MSK and 600 of BCN20000 reach 0.991 at most. A crop is not noticed.
"""

import numpy as np
import torch.nn.functional as F

from dermai_utils.inference import dihedral, gather

SIDE = 8  # px
COPY = 0.995  # the least cosine of a copy
AT_ONCE = 64  # pictures
LEARNED = ("train", "val")  # subsets whose images chose weights, thresholds or temperature


def thumbnails(pixels, rows=None):
    """Yield (B, 1, 8, 8) float32 tensors of length 1 for pictures (N, H, W, 3) uint8, of which
    `rows` (default: all), in their order."""
    rows = np.arange(len(pixels)) if rows is None else np.asarray(rows)
    for k in range(0, len(rows), AT_ONCE):
        images = gather(pixels, rows[k : k + AT_ONCE], "cpu")
        height, width = images.shape[2:]  # landscape, see pixels.shape
        left = (width - height) // 2
        grey = images[..., left : left + height].float().mean(1, keepdim=True)
        small = F.adaptive_avg_pool2d(grey, SIDE)
        small = small - small.mean((2, 3), keepdim=True)
        yield small / small.square().sum((1, 2, 3), keepdim=True).sqrt().clamp_min(1)


def stored(table, dataset) -> np.ndarray:
    """(N, 64) int8: the thumbnails of those images of a run's table that it learned from or was
    tuned on, in the table's order; zeros for the others, and for those that are not here."""
    found = np.zeros((len(table), SIDE * SIDE), np.int8)
    learned = table["subset"].isin(LEARNED) & table["image"].isin(dataset.table["image"])
    rows = np.flatnonzero(learned)
    if len(rows):
        small = thumbnails(dataset.pixels, dataset.rows(table["image"].iloc[rows]))
        small = np.concatenate([one.flatten(1).numpy() for one in small])
        most = np.abs(small).max(1, keepdims=True)
        found[rows] = np.round(127 * small / np.maximum(most, 1e-12))
    return found


def copied(pixels, known, rows=None) -> np.ndarray:
    """(N,) the row of `known` (what `stored` returned) whose picture each of these is a copy of;
    -1 for none."""
    known = known.astype(np.float32)
    known /= np.maximum(np.linalg.norm(known, axis=1, keepdims=True), 1)
    found = [np.zeros(0, int)]
    for small in thumbnails(pixels, rows):
        turned = [dihedral(small, k).flatten(1).numpy() @ known.T for k in range(8)]
        cosines = np.max(turned, axis=0)
        found.append(np.where(cosines.max(1) >= COPY, cosines.argmax(1), -1))
    return np.concatenate(found)
