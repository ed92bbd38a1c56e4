"""Stands in for Colab's own package in `make colab`: what the notebooks may use of it."""

import os


class drive:
    def mount(mountpoint):
        """A plain folder in place of the Drive."""
        os.makedirs(os.path.join(mountpoint, "MyDrive"), exist_ok=True)
        print(f"Mounted at {mountpoint}")


class files:
    def upload():
        """As when the user picks nothing."""
        return {}

    def download(filename):
        os.stat(filename)  # FileNotFoundError, as Colab's
        print(f"download: {os.path.basename(filename)}")
