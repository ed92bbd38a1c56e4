"""What the notebooks may use of Colab's own package, for a machine that is not Colab: `make colab` puts it on the path."""

from google.colab import drive, files, userdata  # noqa: F401
