"""Your own photo -> seven calibrated probabilities, an answer or "unsure", Grad-CAM, similar
training images, and a warning where the picture is out of distribution.

A picture goes through the decoder and the preprocessing of training, nothing else.
"""

import dataclasses
import os
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, count, islice
from pathlib import Path

import numpy as np
import pandas as pd

from dermai_utils import files
from dermai_utils.config import CLASSES, DISCLAIMER, UserError
from dermai_utils.data import clean, pixels
from dermai_utils.metrics import calibration, conformal
from dermai_utils.predict import description, export, ood, state
from dermai_utils.predict.answer import Answer
from dermai_utils.predict.pictures import decoded, example, pictures
from dermai_utils.report import gradcam, photographs
from dermai_utils.training.inference import LoadedRun

__all__ = ["Answer", "Predictor", "decoded", "example", "frame", "pictures", "sample_warning"]
SIMILAR = 4  # training images that are shown, each of another lesion
AT_ONCE = 32  # pictures for the network at a time; as many more are decoded meanwhile


class Predictor:
    """A run's best checkpoint, or an ensemble's, ready for pictures: `cfg`, `state`, `run`.

    UserError where what `state.run` makes is missing; `pipeline.predictor` makes it first.
    """

    def __init__(self, cfg):
        self.cfg, self.state = cfg, state.load(cfg)
        if self.state is None:
            raise UserError(
                f"run {cfg.run_name}: what an answer is compared with isn't there yet; "
                "python -m dermai_utils predictor makes it"
            )
        self.run, self.same_threshold = LoadedRun(cfg), self.state.same_threshold()
        self.scores = files.read_json(cfg.report_dir / "predictor.json")
        self.gradcam_note = gradcam.note(cfg)

    def __call__(self, names, images, maps: bool = True) -> list[Answer]:
        """An Answer for each of `images` (N, H, W, 3) uint8, at the stored size (pixels.decode),
        with Grad-CAM if `maps`."""
        rows, run, fixed = np.arange(len(images)), self.run.with_images(images), self.state
        probabilities, features, texture = ood.describe(run, rows, fixed.tta)
        probabilities = calibration.apply_temperature(probabilities, fixed.temperature)
        sets = conformal.prediction_sets(probabilities, fixed.thresholds)
        columns = zip(
            names,
            probabilities,
            sets,
            conformal.is_answer(sets),
            fixed.distance(texture),
            fixed.similarity(features),
            *self._maps(run, rows, probabilities.argmax(1), maps),
            map(ood.oddities, images),
            strict=True,
        )
        return [self._answer(*values) for values in columns]

    def _answer(self, name, p, possible, sure, distance, similarity, square, cam, oddities):
        return Answer(
            name,
            p,
            possible=tuple(CLASSES[k] for k in np.argsort(-p) if possible[k]),
            sure=bool(sure),
            distance=float(distance),
            ood_threshold=self.state.ood_threshold,
            foreign_threshold=self.state.foreign_threshold,
            similar=self._similar(similarity),
            square=square,
            gradcam=cam,
            gradcam_note=self.gradcam_note,
            oddities=oddities,
            scores=self.scores,
            made_up=self.cfg.data == "sample",
            same_threshold=self.same_threshold,
        )

    def _maps(self, run, rows, targets, maps):
        nothing = [None] * len(rows)
        if not maps:
            return nothing, nothing
        inputs = run.inputs(rows)
        try:
            cams = gradcam.gradcam(run.networks[0], inputs, targets)
        except UserError as reason:
            print(f"predict: no Grad-CAM ({reason})")
            cams = nothing
        return run.squares(inputs), cams

    def _similar(self, similarity):
        fixed, order = self.state, np.argsort(-similarity)
        # the nearest of each lesion
        _, first = np.unique(fixed.lesion_id[order], return_index=True)
        return [
            {
                "image": str(fixed.image[k]),
                "label": str(fixed.label[k]),
                "similarity": float(similarity[k]),
            }
            for k in order[np.sort(first)[:SIMILAR]]
        ]

    def answers(self, source, maps: bool = True) -> list[Answer]:
        """An Answer for each picture of `source` (see `pictures`).

        Those that can't be read are left out, and named in one line with their reasons. UserError
        where none can be read.
        """
        results = list(self._each(source, maps))
        wrong = [result for result in results if isinstance(result, UserError)]
        if len(wrong) == len(results):
            n = len(wrong)
            raise UserError(f"{f'none of {n} pictures can be read: ' if n > 1 else ''}{wrong[0]}")
        if wrong:
            answered = f"{len(results) - len(wrong)} of {len(results)} files answered"
            reasons = "; ".join(str(reason).partition("; ")[0] for reason in wrong)  # no advice
            print(f"predict: {answered}; left out: {len(wrong)} ({reasons})")
        return [result for result in results if isinstance(result, Answer)]

    def similar_images(self, answer: Answer) -> list:
        """The similar images of an answer, (H, W, 3) uint8; None for each that isn't here.

        Found by their ids: the data may have changed since the run was trained.
        """
        rows = clean.pixel_rows(self.cfg)
        images = pixels.load(self.cfg.pixels_file) if rows else None
        places = [rows.get(one["image"]) for one in answer.similar]
        return [None if place is None else np.array(images[place]) for place in places]

    def figure(self, answer: Answer):
        """The answer as a figure, with the similar images that are here; the picture alone
        where there is no diagnosis."""
        if answer.foreign:
            figure = photographs.answer(dataclasses.replace(answer, gradcam=None))
            figure.axes[2].set_visible(False)  # the bars
            figure.alt = answer.text
            return figure
        return photographs.answer(answer, self.similar_images(answer))

    def export(self) -> list[Path]:
        """Write the model as model.pt2 and model.onnx (see predict.export); returns their paths."""
        return export.command(self)

    def _each(self, source, maps):
        """An Answer or a UserError for each picture, decoded by all cores while the network works
        on those before."""
        waiting, shape = pictures(source), pixels.shape(self.cfg.image_size)

        def one(picture):
            name, data = picture
            return data if isinstance(data, UserError) else decoded(name, data, *shape)

        def following():
            batch = list(islice(waiting, AT_ONCE))
            return [name for name, _ in batch], list(cores.map(one, batch))

        workers = self.cfg.workers or os.cpu_count()
        with ThreadPoolExecutor(workers) as cores, ThreadPoolExecutor(1) as ahead:
            batch = ahead.submit(following)
            while (names_and_images := batch.result())[0]:
                batch = ahead.submit(following)
                yield from self._answers_to(*names_and_images, maps)

    def _answers_to(self, names, images, maps):
        good = [k for k, image in enumerate(images) if not isinstance(image, UserError)]
        if good:
            stack = np.stack([images[k] for k in good])
            for k, answer in zip(good, self([names[k] for k in good], stack, maps), strict=True):
                images[k] = answer
        return images


def sample_warning(cfg) -> str:
    """A sentence about a model that learned from the made-up sample; "" about any other."""
    if cfg.data != "sample":
        return ""
    return "This model learned from made-up pictures: what it says means nothing."


def frame(answers) -> pd.DataFrame:
    """A row an answer: picture, answer, the seven probabilities (NaN where there is no diagnosis),
    and what they rest on."""
    return pd.DataFrame([answer.row for answer in answers])


def command(predictor: Predictor, source) -> list[Path]:
    """Predict each picture of `source`, print a table, write it as CSV; returns the CSV's path."""
    answers = predictor.answers(source, maps=False)
    rows, path = frame(answers), _csv(predictor.cfg)
    columns = rows[["picture", "answer", "possible", *CLASSES]]
    print(columns.to_string(index=False, float_format="{:.2f}".format, na_rep="-"))
    for answer in answers:
        for warning in filter(None, [answer.refusal, *answer.warnings]):
            print(f"predict: warning: {answer.name} {warning}")
    print(*filter(None, [sample_warning(predictor.cfg), DISCLAIMER]), sep="\n")
    files.write_table(rows, path)
    return [path]


def _csv(cfg) -> Path:
    """Where answers are written: to the run's report; those of a pack, whose folder nobody looks
    into, under a new name to the folder where the user stands."""
    if not description.is_pack(cfg):
        return cfg.report_dir / "own_predictions.csv"
    numbered = (f"own_predictions-{k}.csv" for k in count(2))
    paths = (Path.cwd() / name for name in chain(["own_predictions.csv"], numbered))
    return next(path for path in paths if not path.exists())
