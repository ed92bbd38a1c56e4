"""Your own photo -> seven calibrated probabilities, an answer or "unsure", Grad-CAM, similar training images, a warning.

A picture goes through the decoder and the preprocessing of training, nothing else. The rules behind the answer and the
warning are in reference.py.
"""

from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pandas as pd
import requests

from dermai_utils import calibration, clean, explain, files, model, pipeline, pixels, reference, report, split
from dermai_utils.augment import Batches
from dermai_utils.config import CLASS_NAMES, CLASSES, DISCLAIMER, IMAGE_SUFFIXES, UserError

LARGEST = 200 * 10**6  # bytes of an encoded picture; the largest of the data set has under 1 MB
TIMEOUT = (10, 30)  # seconds: to connect; without a byte
SIMILAR = 4  # training images that are shown, each of another lesion
AT_ONCE = 32  # pictures in memory
UNFAMILIAR = "does not look like the dermoscopic images that the model was trained on: its numbers mean nothing here"


@dataclass(frozen=True)
class Answer:
    """About one picture. `seen` and `gradcam` (for the most probable class) are (S, S, 3) uint8 and (S, S) in 0..1, or None."""

    name: str
    probabilities: np.ndarray  # (7,) calibrated
    possible: tuple  # the classes that can't be ruled out, the most probable first
    sure: bool  # whether these are few enough to be an answer
    distance: float  # to the training images
    farthest: float  # beyond it a picture is unlike them
    similar: list  # of dicts: image, label, similarity (cosine, -1..1), row
    seen: np.ndarray | None = None
    gradcam: np.ndarray | None = None

    @property
    def familiar(self) -> bool:
        return self.distance <= self.farthest

    @property
    def text(self) -> str:
        """The answer in words: one or two diagnoses, or unsure; where the picture is unlike the training images, that."""
        if not self.familiar:
            return f"This picture {UNFAMILIAR}."
        if self.sure:
            return " or ".join(CLASS_NAMES[c] for c in self.possible)
        n = len(self.possible)
        return f"unsure: {n} diagnoses cannot be ruled out" if n else "unsure: no diagnosis is as probable as it should be"

    @property
    def row(self) -> dict:
        """A row of the CSV."""
        answer = " or ".join(self.possible) if self.sure else "unsure"
        return {"picture": self.name, "answer": answer if self.familiar else "unlike the training images"} | dict(
            zip(CLASSES, self.probabilities, strict=True),
            possible=" ".join(self.possible), distance=self.distance, farthest=self.farthest,
            similar=" ".join(f"{one['image']}:{one['label']}" for one in self.similar),
        )  # fmt: skip


class Predictor:
    """A run's best checkpoint, or an ensemble's, ready for pictures; features and Grad-CAM are the first one's.

    Makes the run, or what predictions need of it, where that isn't there.
    """

    def __init__(self, cfg):
        self.cfg, self.kept = cfg, ready(cfg)
        self.nets, self.accelerator = reference.opened(cfg)

    def __call__(self, names, images, maps: bool = True) -> list[Answer]:
        """An Answer for each of `images` (N, H, W, 3) uint8, at the stored size (pixels.decode), with Grad-CAM if `maps`."""
        rows = np.arange(len(images))
        batches = [Batches(images, self.cfg.image_size, n.mean, n.std, self.accelerator.device, 1) for n in self.nets]
        with self.accelerator.autocast():
            found = [reference.described(net, some, rows, AT_ONCE, self.kept.views)
                     for net, some in zip(self.nets, batches, strict=True)]  # fmt: skip
        probabilities = np.mean([model.softmax(logits) for logits, *_ in found], axis=0)
        probabilities = calibration.apply_temperature(probabilities, self.kept.temperature)
        sets = reference.possible(probabilities, self.kept.thresholds)
        _, features, texture = found[0]
        similarity, sure = self.kept.similarity(features), reference.answers(sets)
        far = reference.distance(texture, self.kept.centre, self.kept.precision)
        views, cams = self._maps(batches[0](rows), probabilities.argmax(1)) if maps else 2 * [[None] * len(rows)]
        return [
            Answer(
                name, p, tuple(CLASSES[k] for k in np.argsort(-p) if sets[i, k]), bool(sure[i]), float(far[i]),
                self.kept.farthest, self._similar(similarity[i]), views[i], cams[i],
            )
            for i, (name, p) in enumerate(zip(names, probabilities, strict=True))
        ]  # fmt: skip

    def _maps(self, images, targets):
        try:
            cams = explain.gradcam(self.nets[0], images, targets)
        except UserError as reason:
            print(f"predict: no Grad-CAM ({reason})")
            cams = [None] * len(images)
        return explain.seen(images, self.nets[0]), cams

    def _similar(self, similarity):
        order = np.argsort(-similarity)
        _, first = np.unique(self.kept.lesion_id[order], return_index=True)  # the nearest image of each lesion
        nearest = order[np.sort(first)[:SIMILAR]]
        return [{"image": str(self.kept.image[k]), "label": str(self.kept.label[k]), "similarity": float(similarity[k]),
                 "row": int(self.kept.row[k])} for k in nearest]  # fmt: skip

    def answers(self, source, maps: bool = True) -> list[Answer]:
        """An Answer for each picture of `source` (see `pictures`); one that can't be read is told and left out.

        UserError where none can be read.
        """
        found = list(self._each(source, maps))
        wrong = [one for one in found if isinstance(one, UserError)]
        if len(wrong) == len(found):
            raise UserError(f"{f'none of {len(wrong)} pictures can be read: ' if len(wrong) > 1 else ''}{wrong[0]}")
        for reason in wrong:
            print(f"predict: left out: {reason}")
        return [one for one in found if isinstance(one, Answer)]

    def _each(self, source, maps):
        height, width = pixels.shape(self.cfg.image_size)
        waiting = pictures(source)
        while some := list(islice(waiting, AT_ONCE)):
            found = [(name, data if isinstance(data, UserError) else decoded(name, data, height, width)) for name, data in some]
            good = [(name, image) for name, image in found if not isinstance(image, UserError)]
            answers = iter(self([name for name, _ in good], np.stack([image for _, image in good]), maps) if good else [])
            yield from (image if isinstance(image, UserError) else next(answers) for _, image in found)


def ready(cfg) -> reference.Reference:
    """What predictions need of a run; only where that is missing is anything downloaded or trained."""
    kept = reference.load(cfg)
    if kept is None:
        print(f"predict: what run {cfg.run_name} is compared with isn't there yet: making it")
        pipeline.ensure(cfg, "reference")
        kept = reference.load(cfg)
    return kept


def toy(cfg) -> str:
    """A sentence about a model that learned from the made-up sample; "" about any other."""
    return "This model learned from made-up pictures: what it says means nothing." if cfg.data == "sample" else ""


# Pictures.


def pictures(source):
    """Yields (name, bytes or a UserError) for each picture that `source` stands for.

    source: a path, a folder, an http(s) URL, bytes, {name: bytes} (what google.colab.files.upload gives), or a list of these.
    """
    if isinstance(source, dict):
        yield from source.items()
    elif isinstance(source, bytes):
        yield "picture", source
    elif isinstance(source, list | tuple):
        for one in source:
            yield from pictures(one)
    elif urlsplit(str(source)).scheme in ("http", "https"):
        yield str(source), _or_error(fetched, str(source))
    elif Path(source).expanduser().is_dir():
        found = [path for path in clean.image_files(Path(source).expanduser()) if not path.name.startswith(".")]
        suffixes = " ".join(sorted(IMAGE_SUFFIXES))
        yield from ((path.name, _or_error(content, path)) for path in found)
        if not found:
            yield str(source), UserError(f"{source}: no image in this folder; expected files ending in {suffixes}")
    else:
        yield Path(source).name, _or_error(content, Path(source).expanduser())


def _or_error(read, source):
    try:
        return read(source)
    except UserError as reason:
        return reason


def content(path) -> bytes:
    """The bytes of a file; UserError where it isn't there, can't be read, or is too large to be a picture."""
    try:
        if path.stat().st_size > LARGEST:
            raise UserError(f"{path}: {path.stat().st_size / 1e6:,.0f} MB; a picture has at most {LARGEST / 1e6:.0f}")
        return path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; give an image file, a folder of them, or an http(s) address") from None
    except OSError as reason:
        raise UserError(f"{path}: cannot be read ({reason.strerror})") from None


def fetched(url: str) -> bytes:
    """The bytes at an http(s) address; UserError where there is no picture: refused, 404, a web page, too large."""
    try:
        with requests.get(url, stream=True, timeout=TIMEOUT, headers={"User-Agent": "DermAI-ISIC2018"}) as answer:
            if not answer.ok:
                raise UserError(f"{url}: the server answers {answer.status_code} {answer.reason}; open it in a browser first")
            if answer.headers.get("Content-Type", "").startswith("text/"):
                raise UserError(f"{url}: a web page, not an image; give the address of the image itself")
            data = bytearray()
            for chunk in answer.iter_content(2**16):
                data += chunk
                if len(data) > LARGEST:
                    raise UserError(f"{url}: more than {LARGEST / 1e6:.0f} MB, too large for a picture")
            return bytes(data)
    except requests.RequestException as reason:
        raise UserError(f"{url}: cannot be fetched ({type(reason).__name__}); is the address right, and this machine "
                        "online?") from None  # fmt: skip


def decoded(name: str, data: bytes, height: int, width: int) -> np.ndarray | UserError:
    """(height, width, 3) uint8 by the project's one decoder, or the UserError that says why not."""
    try:
        return pixels.decode(data, height, width)
    except pixels.UNREADABLE as reason:
        return UserError(f"{name}: {pixels.plain(reason)}; expected a JPEG, PNG, WebP, TIFF, BMP or GIF picture")


def example(cfg) -> Path:
    """The file of an image that the model never saw: the first of the part that the report quotes."""
    found, sources = files.read_json(cfg.report_dir / "metrics.json"), files.read_json(cfg.sources_file)
    if found is None or sources is None:
        raise UserError("no photo was given, and none of the data set is on this machine: give a file, a folder or a URL")
    table, part = split.read(cfg), found["headline"]
    first = report.counting(table, part).iloc[0]
    return clean.images_by_id(sources[first["source"]]["images"])[first["image"]]


# The command.


def frame(answers) -> pd.DataFrame:
    """A row an answer: picture, answer, the seven probabilities, and what they rest on."""
    return pd.DataFrame([answer.row for answer in answers])


def command(cfg, source) -> list[Path]:
    """Predict each picture of `source` (see `pictures`), print a table, write it as CSV; returns the CSV's path."""
    answers = Predictor(cfg).answers(source, maps=False)
    rows, path = frame(answers), cfg.report_dir / "own_predictions.csv"
    print(rows[["picture", "answer", *CLASSES]].to_string(index=False, float_format="{:.2f}".format))
    for answer in answers:
        if not answer.familiar:
            print(f"predict: warning: {answer.name} {UNFAMILIAR}")
    print(*filter(None, [toy(cfg), DISCLAIMER]), sep="\n")
    clean.write_csv(rows, path)
    return [path]
