"""DermAI-ISIC2018: from the official ISIC 2018 Task 3 archives to an honestly evaluated 7-class classifier.

Research and education only: never a medical device.

    config      every setting and where every artefact lies        files       atomic writes, checksums, stage markers
    fetch       one file, whole, from the first good mirror        unpack      one archive, into its folder and no other
    download    the official archives, or your own copy            pixels      each image decoded once, into one uint8 array
    clean       one validated table, every reject named            split       lesion-safe parts, leakage audit
    augment     random geometry and colour, a batch at a time      model       backbone + new head
    recipe      loss, balance, rates, averaged weights             train       the training loop
    features    what the frozen backbone says of every image       instant     the baseline before any training
    evaluate    arrays in, numbers out                             report      a run's numbers, figures and page
    explain     Grad-CAM and saliency                              plots       every figure
    machine     GPU, memory, disk; the time to expect              colab       results on Drive, files to the browser
    reference   what an answer to a photo stands on                predict     your own photo
    export      the model as ONNX and .pt2                         app         a page for one photo
    pipeline    ensure(cfg, stage) makes what is missing           __main__    python -m dermai_utils STAGE

Imports point upward in that list, and importing the package loads none of it.
"""

__version__ = "0.1.0"
