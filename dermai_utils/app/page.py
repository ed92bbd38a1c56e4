"""A page on this machine: drop photos, read the answers. Nothing leaves the machine; uploads are
deleted at the end.

It needs requirements-app.txt (Gradio), which nothing else does.
"""

import base64
import io
import os
import signal
import tempfile
from functools import partial

from PIL import Image

from dermai_utils.app.answers import SAMPLE_WARNING, Answer, table
from dermai_utils.app.pictures import LARGEST, examples, numbered
from dermai_utils.app.predictor import Predictor, description
from dermai_utils.basics import UserError, counted
from dermai_utils.reports.page import fill
from dermai_utils.reports.pictures import overlay, overlay_colours

PRIVATE = ("GRADIO_ANALYTICS_ENABLED", "GRADIO_RUN_HISTORY")  # Gradio's calls home
FORGET = 600  # seconds after which an uploaded picture is deleted, at the latest
FONT = ("system-ui", "sans-serif")  # the bold letters of Gradio's own have gaps
# What Gradio's parts lack: a live region for the status, a name for the file input.
ON_LOAD = """() => {
  document.querySelector('#status').setAttribute('role', 'status');
  document.querySelector('#photos input[type=file]')?.setAttribute('aria-label', 'Photos');
}"""
TO_THE_ANSWER = "() => document.querySelector('#answers h2')?.focus()"


def serve(predictor: Predictor) -> None:
    """Serve the page on 127.0.0.1 until Ctrl-C; uploads are deleted then, and after a kill."""
    with tempfile.TemporaryDirectory(prefix="dermai-app-") as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder
        blocks = launched(predictor)
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        where = f"open {blocks.local_url} in a browser on this machine"
        print(f"app: {where}; Ctrl-C ends it", flush=True)
        blocks.block_thread()


def launched(predictor):
    """The page as gradio.Blocks, served on 127.0.0.1 only."""
    blocks = page(predictor)
    options = dict(server_name="127.0.0.1", share=False, max_file_size=LARGEST)
    blocks.launch(**options, quiet=True, prevent_thread_lock=True, **look())
    return blocks


def look() -> dict:
    """How the page looks, for `launch`."""
    css = fill("page.css", colours=", ".join(overlay_colours()))
    return dict(theme=gradio().themes.Default(font=FONT), css=css, footer_links=[])


def gradio():
    """The module, without its telemetry; UserError where it is not installed."""
    os.environ |= dict.fromkeys(PRIVATE, "False") | {"HF_HUB_OFFLINE": "1"}  # read when imported
    try:
        import gradio
    except ImportError:
        raise UserError("the page needs Gradio: pip install -r requirements-app.txt") from None
    return gradio


def page(predictor, private: bool = True):
    """The page as gradio.Blocks, not served yet. private: the photos stay on this machine."""
    gr, run = gradio(), predictor.run
    warning = SAMPLE_WARNING if run.settings.get("data") == "sample" else ""

    def reply(paths):
        for status, html in replies(predictor, numbered(paths)):
            yield status, html, gr.File(value=None)

    def on(event, function, inputs, outputs):
        options = dict(api_name=False, concurrency_id="model", show_progress="hidden")
        event(function, inputs, outputs, **options).then(None, js=TO_THE_ANSWER)

    title = dict(title="DermAI-ISIC2018", analytics_enabled=False)
    with gr.Blocks(**title, delete_cache=(FORGET, FORGET)) as blocks:
        intro = dict(warning=warning, about=description(run), private=private)
        gr.HTML(fill("intro.html.j2", **intro), elem_id="intro")
        kind = dict(file_count="multiple", type="filepath")
        upload = gr.File(label="Photos", height=150, elem_id="photos", **kind)
        tries = examples(run, predictor.dataset)
        with gr.Row():
            buttons = [gr.Button(f"Try {name}", size="md") for name in tries]
        shown = [gr.HTML(elem_id="status"), gr.HTML(elem_id="answers")]
        on(upload.upload, reply, upload, [*shown, upload])
        for button, (name, source) in zip(buttons, tries.items(), strict=True):
            on(button.click, partial(replies, predictor, {name: source}), None, shown)
        blocks.load(None, js=ON_LOAD)
    return blocks


def replies(predictor, sources: dict):
    """Yield (status, HTML) after each answer to {name: path or bytes}; at the end with a CSV."""
    cards, answers, total = [], [], len(sources)
    html = partial(fill, "answers.html.j2", cards=cards)
    yield f"Looking at {counted(total, 'picture')} …", ""
    for number, result in enumerate(predictor.each(sources, at_once=1), 1):
        cards.append(_card(predictor, result))
        answers += [result] if isinstance(result, Answer) else []
        if number < total:
            yield f"{number} of {counted(total, 'picture')} done …", html(csv="")
    csv = table(answers).to_csv(index=False).encode() if answers else b""
    yield counts(answers, total), html(csv=csv and _inside("text/csv", csv))


def counts(answers, total: int) -> str:
    """ "1 of 3 answered, 2 refused."; a file that cannot be read counts as refused."""
    came = [answer.outcome for answer in answers] + ["refused"] * (total - len(answers))
    others = [f", {came.count(name)} {name}" for name in ("unsure", "refused") if name in came]
    return f"{came.count('answered')} of {total} answered{''.join(others)}."


def _card(predictor, result):
    """What the template needs of an answer, or of a UserError."""
    if isinstance(result, UserError):
        return {"reason": str(result)}
    images = [_embedded(image) for image in predictor.similar_images(result)]
    similar = list(zip(result.similar, images, strict=True))
    card = {"reason": "", "answer": result, "square": _embedded(result.square), "map": ""}
    if result.gradcam is not None and not result.foreign:
        card["map"] = _embedded(overlay(result.square, result.gradcam))
    return card | {"similar": similar}


def _embedded(image) -> str:
    """An image (H, W, 3) uint8 as the source of an <img>; "" for None."""
    if image is None:
        return ""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=88)
    return _inside("image/jpeg", buffer.getvalue())


def _inside(kind, data):
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
