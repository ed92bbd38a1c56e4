"""A page on this machine: drop photos, read the answers. Nothing leaves the machine; what was
uploaded is deleted at the end.

`python -m dermai_utils app`, or `make app`. Needs requirements-app.txt (Gradio), which nothing else
does.
"""

import base64
import io
import os
import signal
import tempfile
from itertools import chain, count
from pathlib import Path

import numpy as np
from PIL import Image

from dermai_utils.config import CLASSES, UserError
from dermai_utils.data import pixels
from dermai_utils.predict import description, pictures
from dermai_utils.predict.predictor import frame, sample_warning
from dermai_utils.report import photographs, render

PRIVATE = {
    "GRADIO_ANALYTICS_ENABLED": "False",
    "GRADIO_RUN_HISTORY": "False",
    "HF_HUB_OFFLINE": "1",
}
FORGET = 600  # seconds after which an uploaded picture is deleted, at the latest
FONT = ("system-ui", "sans-serif")  # the bold letters of Gradio's own have gaps
# What Gradio's parts lack: a live region for the status, a name for the file input.
ON_LOAD = """() => {
  document.querySelector('#status').setAttribute('role', 'status');
  document.querySelector('#photos input[type=file]')?.setAttribute('aria-label', 'Photos');
}"""
TO_THE_ANSWER = "() => document.querySelector('#answers h2')?.focus()"


def page(predictor):
    """The page as gradio.Blocks, not served yet; UserError where Gradio isn't installed."""
    gr = gradio()

    def reply(paths):
        for status, html in replies(predictor, named(paths)):
            yield status, html, gr.File(value=None)

    with gr.Blocks(
        title="DermAI-ISIC2018", analytics_enabled=False, delete_cache=(FORGET, FORGET)
    ) as blocks:
        gr.HTML(intro(predictor.cfg), elem_id="intro")
        upload = gr.File(
            label="Photos", file_count="multiple", type="filepath", height=150, elem_id="photos"
        )
        with gr.Row():
            examples = [
                (gr.Button(f"Try {name}", size="md"), name, data)
                for name, data in pictures.examples(predictor.cfg).items()
            ]
        status = gr.HTML(elem_id="status")
        answers = gr.HTML(elem_id="answers")
        shown = [status, answers, upload]
        options = dict(api_name=False, concurrency_id="model", show_progress="hidden")
        upload.upload(reply, upload, shown, **options).then(None, js=TO_THE_ANSWER)
        for button, name, data in examples:

            def show(name=name, data=data):
                yield from replies(predictor, {name: data})

            button.click(show, None, shown[:2], **options).then(None, js=TO_THE_ANSWER)
        blocks.load(None, js=ON_LOAD)
    return blocks


def named(paths) -> dict:
    """{name: path} of uploads, a second photo.jpg as "photo (2).jpg": some telephones name every
    picture the same."""
    names = {}
    for path in map(Path, paths):
        numbered = (f"{path.stem} ({k}){path.suffix}" for k in count(2))
        names[next(name for name in chain([path.name], numbered) if name not in names)] = path
    return names


def gradio():
    """The module, its calls home switched off; UserError where it isn't installed."""
    os.environ.update(PRIVATE)  # Gradio reads them when it is imported
    try:
        import gradio
    except ImportError:
        raise UserError("the page needs Gradio: pip install -r requirements-app.txt") from None
    return gradio


def intro(cfg) -> str:
    """The head of the page: what it is for, and which run answers, how old and how good."""
    about = description.text(cfg)
    return render.fill("app_intro.html.j2", warning=sample_warning(cfg), about=about)


def replies(predictor, sources: dict):
    """Yields (status, HTML) for {name: a path or the bytes of a picture}: all of them as previews
    at once, then one answer after another, at the end with a CSV."""
    height, width = pixels.shape(predictor.cfg.image_size)
    cards, results = [], []
    for name, source in sources.items():
        cards.append({"name": name} | _decoded(name, source, height, width))
    total = len(cards)
    for number, card in enumerate(cards, 1):
        yield f"Looking at picture {number} of {total} …", answers_html(cards)
        if "image" in card:
            results += predictor([card["name"]], card["image"][None])
            card |= _answered(predictor, results[-1])
    yield counts(results, total), answers_html(cards, results)


def counts(results, total: int) -> str:
    """ "1 of 3 answered, 2 refused.": what could not be read is refused, too."""
    came = [answer.outcome for answer in results] + ["refused"] * (total - len(results))
    others = [f", {came.count(name)} {name}" for name in ("unsure", "refused") if name in came]
    return f"{came.count('answered')} of {total} answered{''.join(others)}."


def answers_html(cards, results=()) -> str:
    """The cards as HTML, and `results` as a CSV to download."""
    csv = frame(results).to_csv(index=False).encode() if results else b""
    source = f"data:text/csv;base64,{base64.b64encode(csv).decode()}" if csv else ""
    return render.fill("app_answers.html.j2", cards=cards, csv=source)


def _decoded(name, source, height, width):
    try:
        data = source if isinstance(source, bytes) else pictures.content(source)
    except UserError as reason:
        return {"reason": reason}
    image = pictures.decoded(name, data, height, width)
    if isinstance(image, UserError):
        return {"reason": image}
    return {"image": image, "square": embedded(image)}


def _answered(predictor, answer):
    similar = predictor.similar_images(answer)
    for row, image in zip(answer.similar, similar, strict=True):
        row["source"] = "" if image is None else embedded(image)
    ranked = sorted(zip(CLASSES, answer.probabilities, strict=True), key=lambda pair: -pair[1])
    shown = answer.gradcam is not None and not answer.foreign
    overlay = embedded(photographs.overlay(answer.square, answer.gradcam)) if shown else ""
    square = embedded(answer.square)
    return {"answer": answer, "diagnoses": ranked, "square": square, "map": overlay}


def embedded(image: np.ndarray) -> str:
    """An image (H, W, 3) uint8 as the source of an <img>."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=88)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def serve(predictor):
    """The page on 127.0.0.1 alone, as gradio.Blocks that are being served."""
    blocks = page(predictor)
    blocks.launch(
        server_name="127.0.0.1",
        share=False,
        max_file_size=pictures.LARGEST,
        footer_links=[],
        quiet=True,
        theme=gradio().themes.Default(font=FONT),
        css=render.fill("app.css", colours=", ".join(photographs.overlay_colours())),
        prevent_thread_lock=True,
    )
    return blocks


def command(predictor) -> list:
    """Serve the page until it is stopped by Ctrl-C."""
    with tempfile.TemporaryDirectory(prefix="dermai-app-") as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder  # uploads go with it
        blocks = serve(predictor)
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # a kill deletes the uploads too
        print(
            f"app: open {blocks.local_url} in a browser on this machine; Ctrl-C ends it", flush=True
        )
        blocks.block_thread()
    return []
