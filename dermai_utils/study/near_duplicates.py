"""The same lesion filed under two lesion ids: candidates by similarity, evidence by geometry.

A similar look proves nothing, since most nevi look alike; dozens of small marks in the same
arrangement do. So the nearest pairs by a network's features are only candidates, and a pair counts
when SIFT keypoints of one image (Lowe, IJCV 2004) fall on those of the other under one similarity
transform: shift, rotation, scale. Mirror images are not looked for. Our own, because no library
that we know of asks for such evidence: 39,937 of 40,000 pairs that look alike have none.
"""

import os
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pandas as pd
from sklearn.decomposition import PCA
from sklearn.preprocessing import normalize

from dermai_utils import progress, splits

HEIGHT = 150  # px: every image is brought to it, so that lengths mean the same
KEYPOINTS = 250  # with 150, a quarter of the weak pairs is lost; 400 take twice as long for no more
RATIO = 0.8  # nearest to second-nearest descriptor distance (Lowe's own value)
TOLERANCE = 3.0  # px of 150, RANSAC
SCALES = (0.4, 2.5)  # a zoom beyond this was a chance agreement of a few points
SPREAD = (2.0, 0.1)  # least width of the inliers: px of 150, and share of their length (no ruler)
INLIERS = 5  # of 40,000 candidates 39,937 score below; pairs of 5 and 6 were looked at one by one


def search(table, pixels, features) -> pd.DataFrame:
    """image_a, image_b, score: pairs of images that show one lesion under two ids, best first.

    `table` (N rows, see datasets.COLUMNS), `pixels` (N, H, W, 3) uint8 and `features` (N, D) in one
    order. Pairs of training images of different lesions, and of images of different sets. With
    EfficientNet-Lite0's features at 128 px 16 of 18 known pairs of HAM10000 are found.
    """
    described = describe(pixels)
    pairs = candidates(features, comparable_groups(table), described, 2 * len(table))
    a, b = table["image"].to_numpy()[pairs].T
    found = pd.DataFrame({"image_a": a, "image_b": b, "score": verify(described, pairs)})
    found = found[found["score"] >= INLIERS]
    return found.sort_values("score", ascending=False, kind="stable", ignore_index=True)


def comparable_groups(table) -> np.ndarray:
    """(N,) numbers: two images can be a pair where these differ.

    Lesions, but all images of one test set share one number: a pair of two of them leaks nothing.
    """
    groups = splits.groups(table)
    for source in table["source"].unique():
        if source not in ("train", "extra"):
            groups = np.where(table["source"] == source, groups.max() + 1, groups)
    return groups


def candidates(features, groups, described, n_pairs: int) -> np.ndarray:
    """The most similar pairs of rows from different groups, likeliest first: (P, 2) int, a < b.

    features: (N, D) float. groups: (N,). described: what `describe` returns for the same rows: it
    adds texture to the look. P <= n_pairs. Similarity is the cosine of whitened features and VLAD.
    Pairs are ordered by rank among a row's neighbours before similarity, because a global list is
    filled by the plainest nevi. Of the 18 known pairs of HAM10000, 20,000 candidates hold 17
    (EfficientNet-Lite0 at 128 px); the globally nearest by Euclidean distance of standardised
    features hold 5. Of the 77 pairs that all our searches together confirmed by geometry they hold
    48 without texture, and 61 with it.
    """
    look, texture = _whitened(np.asarray(features, np.float64)), _vlad([d for _, d in described])
    unit = np.hstack([look, texture])
    k = min(len(unit) - 1, -(-2 * n_pairs // len(unit)))  # about half are met from both images
    nearest, cosine = _neighbours(unit, np.asarray(groups), k)
    row, rank = np.divmod(np.arange(nearest.size), k)
    pairs = np.sort(np.stack([row, nearest.ravel()], axis=1), axis=1)
    order = np.lexsort((-cosine.ravel(), rank))
    order = order[np.isfinite(cosine.ravel()[order])]
    _, first = np.unique(pairs[order], axis=0, return_index=True)
    return pairs[order][np.sort(first)][:n_pairs]


def _neighbours(unit, groups, k):
    """(N, k) nearest rows of other groups to each row, and their cosines; -inf where too few."""
    nearest, cosine = np.empty((len(unit), k), np.int64), np.empty((len(unit), k), np.float32)
    for start in range(0, len(unit), 500):  # for 10,000 images 20 MB at a time, not 400
        rows = slice(start, start + 500)
        block = unit[rows] @ unit.T
        block[groups[rows, None] == groups[None]] = -np.inf
        largest = np.argpartition(-block, k - 1, axis=1)[:, :k]
        order = np.argsort(-np.take_along_axis(block, largest, axis=1), axis=1)
        nearest[rows] = np.take_along_axis(largest, order, axis=1)
        cosine[rows] = np.take_along_axis(block, nearest[rows], axis=1)
    return nearest, cosine


def describe(images) -> list:
    """Each image's SIFT keypoints: [(points (K, 2) px of 150, descriptors (K, 128) uint8)].

    images: N of (H, W, 3) uint8 RGB, perhaps a memory map. K <= 250. 12 ms an image and core,
    0.3 GB for 10,000 images.
    """
    return _parallel(_describe, images, "keypoints")


def verify(described, pairs) -> np.ndarray:
    """Each pair's score, (P,) int: the keypoints that agree on one similarity transform.

    described: what `describe` returns. pairs: (P, 2) int. A score is 0 where there are under 5
    such keypoints or they are on a line. Two photographs of one lesion usually score 10 and more.
    """
    scores = _parallel(lambda pair: _inliers(*(described[row] for row in pair)), pairs, "pairs")
    return np.array(scores, np.int64)


def _parallel(function, items, what):
    """[`function` of each item], in a pool that uses every core, with a progress bar."""
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)  # the pool uses every core; cv2 works outside Python's lock
    try:
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            return list(progress.bar(pool.map(function, items), what, len(items), mininterval=0.5))
    finally:
        cv2.setNumThreads(threads)


def _whitened(features, dimensions: int = 512, floor: float = 1e-6) -> np.ndarray:
    """(N, d) float32 rows of unit length, after PCA whitening (Jégou & Chum, ECCV 2012).

    Measured on 2,434 pairs of one lesion's images in HAM10000: the other one is among the 5 nearest
    for 44.6 %, with features that are only standardised for 37.9 %.
    """
    pca = PCA(min(dimensions, *features.shape), whiten=True, svd_solver="full")
    white = pca.fit_transform(features)
    variance = pca.explained_variance_
    return normalize(white[:, variance > floor * variance[0]]).astype(np.float32)


def _vlad(descriptors, words: int = 16) -> np.ndarray:
    """(N, words × 128) float32, one vector an image: VLAD (Jégou et al., CVPR 2010).

    descriptors: N of (K, 128) uint8.
    """
    everything = np.concatenate(descriptors).astype(np.float32)
    vlad = np.zeros((len(descriptors), words, 128), np.float32)
    if len(everything) >= words:
        sample = everything[np.random.default_rng(0).permutation(len(everything))[:40_000]]
        cv2.setRNGSeed(0)
        stop = (cv2.TERM_CRITERIA_MAX_ITER, 10, 0)
        centres = cv2.kmeans(sample, words, None, stop, 1, cv2.KMEANS_PP_CENTERS)[2]
        for row, vectors in enumerate(descriptors):
            word = (vectors @ centres.T - (centres**2).sum(1) / 2).argmax(1)
            for w in np.unique(word):
                vlad[row, w] = (vectors[word == w] - centres[w]).sum(0)
    each = normalize(vlad.reshape(-1, 128)).reshape(len(vlad), -1)
    return normalize(each)


def _describe(image):
    """Keypoints (K, 2) px of 150 and their descriptors (K, 128) uint8: RootSIFT × 512.

    RootSIFT: Arandjelović & Zisserman, CVPR 2012.
    """
    height, width = image.shape[:2]
    gray = cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2GRAY)
    size = (round(width * HEIGHT / height), HEIGHT)
    gray = cv2.resize(gray, size, interpolation=cv2.INTER_AREA)
    skin = _skin(gray)
    # Dividing by the surroundings flattens the rim's shadow too: of 648 pairs without a common
    # lesion, 1 scores 4 and more instead of 48.
    around = cv2.GaussianBlur(gray.astype(np.float32), (0, 0), 25)
    flat = np.clip(gray / (around + 8) * 128, 0, 255).astype(np.uint8)
    flat = cv2.createCLAHE(2.0, (8, 8)).apply(flat)
    # with SIFT's default contrast a blurred lesion has no keypoint at all
    sift = cv2.SIFT_create(KEYPOINTS, contrastThreshold=0.02)
    keypoints, descriptors = sift.detectAndCompute(flat, skin)
    if not keypoints:
        return np.zeros((0, 2), np.float32), np.zeros((0, 128), np.uint8)
    root = np.sqrt(descriptors / np.maximum(descriptors.sum(1, keepdims=True), 1e-9))
    return cv2.KeyPoint.convert(keypoints), np.minimum(root * 512, 255).astype(np.uint8)


def _skin(gray) -> np.ndarray:
    """(H, W) uint8: 0 on the dermoscope's rim, which is dark, at a corner, and always alike."""
    blurred = cv2.GaussianBlur(gray, (0, 0), 3)
    dark = cv2.connectedComponents((blurred < 0.6 * np.median(blurred)).astype(np.uint8))[1]
    corners = dark[[0, 0, -1, -1], [0, -1, 0, -1]]
    skin = (~np.isin(dark, corners[corners > 0])).astype(np.uint8)
    return cv2.erode(skin, np.ones((9, 9), np.uint8), borderValue=1)


def _inliers(image, other) -> int:
    """How many keypoints of two images agree on a similarity transform; 0 if on a line."""
    if min(len(image[0]), len(other[0])) < INLIERS:
        return 0
    points, points2 = _matches(image, other)
    if len(points) < INLIERS:
        return 0
    transform, agree = cv2.estimateAffinePartial2D(points, points2, ransacReprojThreshold=TOLERANCE)
    if transform is None or not SCALES[0] < np.hypot(*transform[:, 0]) < SCALES[1]:
        return 0
    # a point with two orientations counts once
    places = np.unique(np.round(points[agree.ravel() > 0]), axis=0)
    return 0 if len(places) < INLIERS or _on_a_line(places) else len(places)


def _matches(image, other):
    """The points of each image, (M, 2) and (M, 2), that are each other's one clear match."""
    (points, descriptors), (points2, descriptors2) = image, other
    vectors, vectors2 = descriptors.astype(np.float32), descriptors2.astype(np.float32)
    # cv2's product takes 0.67 ms; numpy's, with BLAS threads inside a pool of threads, 5.4 ms
    cosine = cv2.gemm(vectors, vectors2, 512**-2, None, 0, flags=cv2.GEMM_2_T)
    rows, match = np.arange(len(points)), cosine.argmax(1)
    mutual, best = cosine.argmax(0)[match] == rows, cosine[rows, match]
    cosine[rows, match] = -1
    clear = 1 - best < RATIO**2 * (1 - cosine.max(1))  # squared distances of unit vectors, halved
    source = np.flatnonzero(mutual & clear)
    return points[source], points2[match[source]]


def _on_a_line(places) -> bool:
    """Whether all (K, 2) places but one are on a line, as marks of a ruler and a stray point."""
    for row in range(len(places)):
        variances = np.linalg.eigvalsh(np.cov(np.delete(places, row, axis=0).T))
        width, length = np.sqrt(np.maximum(variances, 0))
        if width < max(SPREAD[0], SPREAD[1] * length):
            return True
    return False
