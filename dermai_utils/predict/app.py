"""A page on this machine: drop a photo, read the answer. Nothing leaves the machine; what was
uploaded is deleted at the end.

`python -m dermai_utils app`, or `make app`. Needs requirements-app.txt (Gradio), which nothing else
does.
"""

import io
import os
import signal
import tempfile
from pathlib import Path

from PIL import Image

from dermai_utils.config import CLASSES, UserError
from dermai_utils.predict import pictures
from dermai_utils.predict.predictor import sample_warning
from dermai_utils.report import render

PRIVATE = {
    "GRADIO_ANALYTICS_ENABLED": "False",
    "GRADIO_RUN_HISTORY": "False",
    "HF_HUB_OFFLINE": "1",
}
FORGET = 600  # seconds after which an uploaded picture is deleted, at the latest
FONT = ("system-ui", "sans-serif")  # the bold letters of Gradio's own have gaps


def page(predictor):
    """The page as gradio.Blocks, not served yet; UserError where Gradio isn't installed."""
    gr = gradio()
    intro = render.fill("app_intro.md.j2", warning=sample_warning(predictor.cfg))

    def reply(path):
        text, figure = "", None
        try:
            text, figure = answer(predictor, path) if path else (text, figure)
        except UserError as reason:
            text = f"### No answer\n\n{reason}"
        return text, gr.Image(figure, visible=figure is not None)

    with gr.Blocks(
        title="DermAI-ISIC2018", analytics_enabled=False, delete_cache=(FORGET, FORGET)
    ) as blocks:
        gr.Markdown(intro)
        with gr.Row():
            with gr.Column(scale=2):
                upload = gr.File(label="Your photo", type="filepath", height=150)
                text = gr.Markdown(elem_id="answer")
            with gr.Column(scale=3):
                figure = gr.Image(
                    show_label=False,
                    type="pil",
                    format="png",
                    interactive=False,
                    buttons=["fullscreen"],
                    visible=False,
                )
        upload.change(reply, upload, [text, figure], api_name=False, concurrency_limit=1)
    return blocks


def gradio():
    """The module, its calls home switched off; UserError where it isn't installed."""
    os.environ.update(PRIVATE)  # Gradio reads them when it is imported
    try:
        import gradio
    except ImportError:
        raise UserError("the page needs Gradio: pip install -r requirements-app.txt") from None
    return gradio


def answer(predictor, path):
    """(Markdown, PIL image): the answer for the picture at `path`. UserError where it can't be
    read."""
    path = Path(path)
    result = predictor.answers({path.name: pictures.content(path)})[0]
    figure = predictor.figure(result).encoded("png", 110)
    return as_markdown(result), Image.open(io.BytesIO(figure))


def as_markdown(result) -> str:
    """A predictor.Answer in words, the most probable diagnosis first; none where the picture is
    foreign."""
    ranked = sorted(zip(CLASSES, result.probabilities, strict=True), key=lambda pair: -pair[1])
    return render.fill("app_answer.md.j2", answer=result, diagnoses=ranked)


def command(predictor) -> list:
    """Serve the page on 127.0.0.1 alone until it is stopped by Ctrl-C."""
    with tempfile.TemporaryDirectory(prefix="dermai-app-") as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder  # uploads go with it
        blocks = page(predictor)
        blocks.launch(
            server_name="127.0.0.1",
            share=False,
            max_file_size=pictures.LARGEST,
            footer_links=[],
            quiet=True,
            theme=gradio().themes.Default(font=FONT),
            prevent_thread_lock=True,
        )
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # a kill deletes the uploads too
        print(
            f"app: open {blocks.local_url} in a browser on this machine; Ctrl-C ends it", flush=True
        )
        blocks.block_thread()
    return []
