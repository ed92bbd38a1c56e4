"""DermAI-ISIC2018: from the official ISIC 2018 Task 3 archives to an honestly evaluated 7-class classifier.

Research and education only: never a medical device.

    config      every setting and where every artefact lies        download    the official archives, whole
    files       atomic writes, checksums, stage markers            clean       one validated table, every reject named
    pixels      each image decoded once, into one uint8 array      split       lesion-safe parts, leakage audit
    augment     random geometry and colour, a batch at a time      model       backbone + new head
    train       the training loop                                  evaluate    arrays in, numbers out
    explain     Grad-CAM and saliency                              plots       every figure
    pipeline    ensure(cfg, stage) makes what is missing           predict     your own photo
    export      the model as ONNX and .pt2                         __main__    python -m dermai_utils STAGE

Imports point upward in that list, and importing the package loads none of it.
"""

__version__ = "0.1.0"
