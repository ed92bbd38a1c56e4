"""A Hugging Face Space that answers about a photo, by the model that comes with the package.

Its files: this one, requirements.txt, and a README.md that docs/share.md shows. Space and visitors
share one machine: uploads are deleted within twenty minutes.
"""

import os
import tempfile

os.environ.setdefault("GRADIO_TEMP_DIR", tempfile.mkdtemp(prefix="dermai-app-"))

from dermai_utils import pretrained
from dermai_utils.app import page
from dermai_utils.app.predictor import Predictor

demo = page.page(Predictor(pretrained()), private=False)

if __name__ == "__main__":
    demo.queue().launch(**page.look(), max_file_size=page.LARGEST)
