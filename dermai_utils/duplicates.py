"""The same lesion filed under two lesion ids: candidates by similarity, evidence by geometry.

A similar look proves nothing (most nevi look alike); dozens of small marks in the same arrangement do. So the nearest pairs
by a network's features are only candidates, and a pair counts when SIFT keypoints of one image (Lowe, IJCV 2004) fall on
those of the other under one similarity transform: shift, rotation, scale. Mirror images are not looked for.
"""

import os
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
from tqdm.auto import tqdm

HEIGHT = 150  # px: images are brought to this height, so that the lengths below mean the same for every stored size
KEYPOINTS = 250  # an image: 150 lose a quarter of the weak pairs, 400 double the matching time and win none
RATIO = 0.8  # nearest to second-nearest descriptor distance (Lowe's own value)
TOLERANCE = 3.0  # px of 150, RANSAC
SCALES = (0.4, 2.5)  # a zoom beyond this was a chance agreement of a few points
SPREAD = 2.0, 0.1  # the inliers' smaller standard deviation: px of 150, and share of the larger. A printed ruler is a line
INLIERS = 5  # of 40,000 candidates 39,937 score below; pairs of 5 and 6 were looked at one by one


def candidates(features, groups, n_pairs: int = 20_000, described=None) -> np.ndarray:
    """The most similar pairs of rows from different groups, (P, 2) int with a < b, P <= n_pairs, the likeliest first.

    `features` (N, D) float, `groups` (N,); `described`, what `describe` returns for the same rows, adds texture to the look.
    Similarity is the cosine of whitened features (plus VLAD). Pairs are ordered by rank among a row's neighbours before
    similarity, because a global list is filled by the plainest nevi. Of the 18 known pairs of HAM10000 20,000 candidates hold
    17 (EfficientNet-Lite0 at 128 px); the globally nearest by Euclidean distance of standardised features hold 5.
    Of the 77 pairs that all our searches together confirmed by geometry they hold 48, and with `described` 61.
    """
    unit, groups = _whitened(np.asarray(features, np.float64)), np.asarray(groups)
    if described is not None:
        unit = np.hstack([unit, _vlad([descriptors for _, descriptors in described])])
    n = len(unit)
    k = min(n - 1, -(-2 * n_pairs // n))  # about half of these are met twice, once from each side
    nearest, similarity = np.empty((n, k), np.int64), np.empty((n, k), np.float32)
    for start in range(0, n, 500):  # 500 rows: 20 MB at a time for 10,000 images, in place of 400 MB
        rows = slice(start, start + 500)
        block = unit[rows] @ unit.T
        block[groups[rows, None] == groups[None]] = -np.inf
        some = np.argpartition(-block, k - 1, axis=1)[:, :k]
        order = np.argsort(-np.take_along_axis(block, some, axis=1), axis=1)
        nearest[rows] = np.take_along_axis(some, order, axis=1)
        similarity[rows] = np.take_along_axis(block, nearest[rows], axis=1)
    a, rank = np.divmod(np.arange(n * k), k)
    pairs, cosine = np.sort(np.stack([a, nearest.ravel()], axis=1), axis=1), similarity.ravel()
    order = np.lexsort((-cosine, rank))
    order = order[np.isfinite(cosine[order])]  # -inf: a row with fewer than k rows outside its group
    _, first = np.unique(pairs[order], axis=0, return_index=True)
    return pairs[order][np.sort(first)][:n_pairs]


def describe(images, workers: int = 0) -> list:
    """Each image's SIFT keypoints: a list of (points (K, 2) px of 150, RootSIFT descriptors (K, 128) uint8), K <= 250.

    `images`: N of (H, W, 3) uint8 RGB, perhaps a memory map. 12 ms an image and core, 0.3 GB for 10,000 images.
    """
    cv2.setNumThreads(1)  # the pool uses every core; cv2 works outside Python's lock
    with ThreadPoolExecutor(workers or os.cpu_count()) as pool:
        return list(tqdm(pool.map(_describe, images), "keypoints", len(images), unit="image"))


def verify(described, pairs, workers: int = 0) -> np.ndarray:
    """Each pair's score, (P,) int: keypoints that agree on one similarity transform, 0 where they are under 5 or on a line.

    `described`: what `describe` returns; `pairs` (P, 2) int. Two photographs of one lesion usually score 10 and more.
    """
    cv2.setNumThreads(1)
    with ThreadPoolExecutor(workers or os.cpu_count()) as pool:
        scores = pool.map(lambda pair: _inliers(described[pair[0]], described[pair[1]]), pairs)
        return np.fromiter(tqdm(scores, "pairs", len(pairs), mininterval=0.5), np.int64, len(pairs))


def find(images, features, groups, n_pairs: int = 20_000, inliers: int = INLIERS, workers: int = 0) -> np.ndarray:
    """Rows (i, j, score) of images that show one lesion under two groups, (M, 3) int, best score first.

    Between training and test images: stack both, and give 0 or 1 as each row's group.
    """
    described = describe(images, workers)
    pairs = candidates(features, groups, n_pairs, described)
    scores = verify(described, pairs, workers)
    found = np.column_stack([pairs, scores])[scores >= inliers]
    return found[np.argsort(-found[:, 2], kind="stable")]


def join(groups, pairs) -> np.ndarray:
    """Each row's joined group, (N,) int: groups that `pairs` (rows i, j, and perhaps more columns) link become one.

    Connected components: with a-b and b-c linked, a and c share a group too. Joined groups are numbered from 0.
    """
    names, group = np.unique(np.asarray(groups), return_inverse=True)
    parent = np.arange(len(names))

    def root(g):
        while parent[g] != g:
            g = parent[g]
        return g

    for i, j, *_ in pairs:
        parent[root(group[i])] = root(group[j])
    return np.unique([root(g) for g in group], return_inverse=True)[1]


def _whitened(features, dimensions: int = 512, floor: float = 1e-6) -> np.ndarray:
    """Rows of unit length after PCA whitening (Jégou & Chum, ECCV 2012), (N, d) float32.

    Measured on 2,434 pairs of one lesion's images in HAM10000: the other one is among the 5 nearest for 44.6 %,
    with features that are only standardised for 37.9 %.
    """
    centred = features - features.mean(0)
    values, vectors = np.linalg.eigh(centred.T @ centred / len(centred))
    keep = np.flatnonzero(values > floor * values[-1])[-dimensions:]
    white = centred @ (vectors[:, keep] / np.sqrt(values[keep]))
    return (white / np.maximum(np.linalg.norm(white, axis=1, keepdims=True), 1e-12)).astype(np.float32)


def _vlad(descriptors, words: int = 16) -> np.ndarray:
    """One vector an image from its (K, 128) uint8 descriptors: VLAD (Jégou et al., CVPR 2010), (N, words × 128) float32."""
    everything = np.concatenate(descriptors).astype(np.float32)
    vlad = np.zeros((len(descriptors), words, 128), np.float32)
    if len(everything) >= words:
        sample = everything[np.random.default_rng(0).permutation(len(everything))[:40_000]]
        cv2.setRNGSeed(0)
        centres = cv2.kmeans(sample, words, None, (cv2.TERM_CRITERIA_MAX_ITER, 10, 0), 1, cv2.KMEANS_PP_CENTERS)[2]
        for row, some in enumerate(descriptors):
            word = (some @ centres.T - (centres**2).sum(1) / 2).argmax(1)
            for w in np.unique(word):
                rest = (some[word == w] - centres[w]).sum(0)
                vlad[row, w] = rest / max(np.linalg.norm(rest), 1e-9)
    vlad = vlad.reshape(len(vlad), -1)
    return vlad / np.maximum(np.linalg.norm(vlad, axis=1, keepdims=True), 1e-9)


def _describe(image):
    """Keypoints (K, 2) px of 150 and their descriptors (K, 128) uint8: RootSIFT (Arandjelović & Zisserman, CVPR 2012) × 512."""
    height, width = image.shape[:2]
    size = (round(width * HEIGHT / height), HEIGHT)
    gray = cv2.resize(cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2GRAY), size, interpolation=cv2.INTER_AREA)
    blurred = cv2.GaussianBlur(gray, (0, 0), 3)
    dark = cv2.connectedComponents((blurred < 0.6 * np.median(blurred)).astype(np.uint8))[1]
    corners = dark[[0, 0, -1, -1], [0, -1, 0, -1]]  # dark there: the dermoscope's rim, which looks alike everywhere
    skin = (~np.isin(dark, corners[corners > 0])).astype(np.uint8)
    skin = cv2.erode(skin, np.ones((9, 9), np.uint8), borderValue=1)
    # Dividing by the surroundings flattens the rim's shadow too: 48 false scores of 4 and more among 648 pairs become 1.
    around = cv2.GaussianBlur(gray.astype(np.float32), (0, 0), 25)
    flat = np.clip(gray / (around + 8) * 128, 0, 255).astype(np.uint8)
    flat = cv2.createCLAHE(2.0, (8, 8)).apply(flat)  # with SIFT's default contrast a blurred lesion has no keypoint at all
    keypoints, descriptors = cv2.SIFT_create(KEYPOINTS, contrastThreshold=0.02).detectAndCompute(flat, skin)
    if not keypoints:
        return np.zeros((0, 2), np.float32), np.zeros((0, 128), np.uint8)
    root = np.sqrt(descriptors / np.maximum(descriptors.sum(1, keepdims=True), 1e-9))
    return cv2.KeyPoint.convert(keypoints), np.minimum(root * 512, 255).astype(np.uint8)


def _inliers(one, other) -> int:
    """How many of one image's keypoints agree with the other's on a similarity transform; 0 where they lie on a line."""
    (points, descriptors), (points2, descriptors2) = one, other
    if min(len(points), len(points2)) < INLIERS:
        return 0
    # cv2's product, not numpy's: BLAS threads inside a pool of threads cost 8 times as much (5.4 against 0.67 ms)
    likeness = cv2.gemm(descriptors.astype(np.float32), descriptors2.astype(np.float32), 512**-2, None, 0, flags=cv2.GEMM_2_T)
    rows, match = np.arange(len(points)), likeness.argmax(1)
    mutual, best = likeness.argmax(0)[match] == rows, likeness[rows, match]
    likeness[rows, match] = -1
    clear = 1 - best < RATIO**2 * (1 - likeness.max(1))  # squared distances of unit vectors, halved
    source = np.flatnonzero(mutual & clear)
    if len(source) < INLIERS:
        return 0
    points, points2 = points[source], points2[match[source]]
    transform, kept = cv2.estimateAffinePartial2D(points, points2, ransacReprojThreshold=TOLERANCE)
    if transform is None or not SCALES[0] < np.hypot(*transform[:, 0]) < SCALES[1]:
        return 0
    places = np.unique(np.round(points[kept.ravel() > 0]), axis=0)  # a point with two orientations counts once
    return 0 if len(places) < INLIERS or _on_a_line(places) else len(places)


def _on_a_line(places) -> bool:
    """Whether all (K, 2) places but one lie on a line: five marks on a ruler and one stray point are no lesion either."""
    for one in range(len(places)):
        narrow, wide = np.sqrt(np.maximum(np.linalg.eigvalsh(np.cov(np.delete(places, one, axis=0).T)), 0))
        if narrow < max(SPREAD[0], SPREAD[1] * wide):
            return True
    return False
