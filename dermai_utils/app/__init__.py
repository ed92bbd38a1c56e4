"""A model answers about new pictures: in Python, on a page, as a pack, as an exported file.

state.py      what an answer needs of a run, computed once by `prepare`
predictor.py  `Predictor` and `answer`: pictures -> answers
answers.py    the words of one answer, and how often such answers are wrong
ood.py        is a picture like the training images?
thumbnails.py is it a copy of one?
pictures.py   files, folders, web addresses, uploads -> decoded pictures
page.py       the page on this machine        pack.py    a run as one file; the shipped model
export.py     the network as .pt2 and ONNX    lite0.py   EfficientNet-Lite0 without timm
clinic.py     a pack on somebody's test sets
"""

from dermai_utils.app.pack import pretrained
from dermai_utils.app.predictor import Predictor, answer
from dermai_utils.app.state import prepare

__all__ = ["Predictor", "answer", "prepare", "pretrained"]
