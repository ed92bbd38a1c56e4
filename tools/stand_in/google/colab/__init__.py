"""Stands in for Colab's own package in `make colab`: what the notebooks may use of it."""

from google.colab import drive, files, userdata  # noqa: F401
