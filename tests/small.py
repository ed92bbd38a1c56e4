"""Settings of a run that takes seconds."""

SMALL = {
    "data": "sample",
    "size": 32,
    "backbone": "timm:test_resnet",
    "weights": "none",
    "epochs": 2,
    "batch_size": 16,
    "device": "cpu",
}
