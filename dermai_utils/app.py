"""A page on this machine: drop a photo, read the answer. Nothing leaves the machine; what was uploaded is deleted at the end.

`python -m dermai_utils app`, or `make app`. Needs requirements-app.txt (Gradio), which nothing else does.
"""

import io
import os
import signal
import tempfile
from pathlib import Path

from PIL import Image

from dermai_utils import pixels, plots, predict
from dermai_utils.config import CLASS_NAMES, CLASSES, DISCLAIMER, UserError

PRIVATE = {"GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_RUN_HISTORY": "False", "HF_HUB_OFFLINE": "1"}
FORGET = 600  # seconds after which an uploaded picture is deleted, at the latest
HELP = """# What would the model say about this picture?
One picture of a skin lesion, taken through a dermatoscope (JPEG, PNG, WebP, TIFF, BMP or GIF). It stays on this machine."""
FOREIGN = "Is it one lesion, close up, sharp, and taken through a dermatoscope? The model knows nothing else."
FONT = ("system-ui", "sans-serif")  # the bold letters of Gradio's own have gaps


def page(cfg):
    """The page as gradio.Blocks, not served yet; UserError where Gradio isn't installed."""
    os.environ.update(PRIVATE)  # Gradio reads them when it is imported
    try:
        import gradio as gr
    except ImportError:
        raise UserError("the page needs Gradio: pip install -r requirements-app.txt") from None
    predictor = predict.Predictor(cfg)

    def answer(path):
        text, picture = "", None
        try:
            text, picture = told(predictor, path) if path else (text, picture)
        except UserError as reason:
            text = f"### No answer\n\n{reason}"
        return text, gr.Image(picture, visible=picture is not None)

    with gr.Blocks(title="DermAI-ISIC2018", analytics_enabled=False, delete_cache=(FORGET, FORGET)) as blocks:
        gr.Markdown("\n\n".join(filter(None, [HELP, f"**{DISCLAIMER}**", predict.toy(cfg)])))
        with gr.Row():
            with gr.Column(scale=2):
                photo = gr.File(label="Your photo", type="filepath", height=150)
                words = gr.Markdown(elem_id="answer")
            with gr.Column(scale=3):
                figure = gr.Image(show_label=False, type="pil", format="png", interactive=False, buttons=["fullscreen"],
                                  visible=False)  # fmt: skip
        photo.change(answer, photo, [words, figure], api_name=False, concurrency_limit=1)
    return blocks


def told(predictor, path):
    """(Markdown, PIL image): the answer about the picture at `path`. UserError where it can't be read."""
    path = Path(path)
    found = predictor.answers({path.name: predict.content(path)})[0]
    images = predictor.cfg.pixels_file
    figure = plots.answer(found, pixels.load(images) if images.exists() else None)
    return words(found), Image.open(io.BytesIO(figure.encoded("png", 110)))


def words(found) -> str:
    """The answer as Markdown: what the figure says, for reading aloud and for copying. No diagnosis where there is none."""
    title = f"### {'' if found.familiar else '⚠ '}{found.text[0].upper()}{found.text[1:]}"
    return "\n\n".join([title, *(_diagnoses(found) if found.familiar else [FOREIGN]), f"**{DISCLAIMER}**"])


def _diagnoses(found):
    lines = ["| diagnosis | probability |", "|---|---|"]
    for c, p in sorted(zip(CLASSES, found.probabilities, strict=True), key=lambda pair: -pair[1]):
        bold = "**" if c in found.possible else ""
        lines.append(f"| {bold}{CLASS_NAMES[c]} ({c}){bold} | {bold}{p:.1%}{bold} |")
    near = ", ".join(f"{one['image']} ({one['label']}, {one['similarity']:.2f})" for one in found.similar)
    yield "\n".join(lines)
    yield "Bold: can't be ruled out; each diagnosis has its own threshold, fixed on validation."
    yield f"Most similar training images (cosine): {near}"


def command(cfg) -> list:
    """Serve the page on 127.0.0.1 alone until it is stopped by Ctrl-C."""
    with tempfile.TemporaryDirectory(prefix="dermai-app-") as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder  # uploads go with it
        blocks = page(cfg)
        import gradio

        blocks.launch(server_name="127.0.0.1", share=False, max_file_size=predict.LARGEST, footer_links=[], quiet=True,
                      theme=gradio.themes.Default(font=FONT), prevent_thread_lock=True)  # fmt: skip
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # a kill deletes the uploads too
        print(f"app: open {blocks.local_url} in a browser on this machine; Ctrl-C ends it", flush=True)
        blocks.block_thread()
    return []
