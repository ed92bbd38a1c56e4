"""The pieces of report.html: numbers that say where they come from, tables, figures inside the page, and the page itself."""

import base64
import html
import io
from string import Template

from PIL import Image

from dermai_utils.evaluate import UNDEFINED


def value(found, key):
    """What `key`, like parts/test/per_class/MEL/recall, leads to in `found`."""
    for name in key.split("/"):
        found = found[int(name) if isinstance(found, list) else name]
    return found


def shown(number) -> str:
    """A number as the page prints it: 3 decimals, whole ones with separators, UNDEFINED for None."""
    if number is None:
        return UNDEFINED
    return f"{number:.3f}" if isinstance(number, float) else f"{number:,}" if isinstance(number, int) else str(number)


def with_interval(row) -> str:
    """ "0.717 [0.659, 0.769]", of a dict with value, low and high."""
    return shown(None) if row["value"] is None else f"{shown(row['value'])} [{shown(row['low'])}, {shown(row['high'])}]"


def num(found, key, tag="span") -> str:
    """The number at `key` as HTML that says where it comes from."""
    return f'<{tag} data-key="{html.escape(key)}">{html.escape(shown(value(found, key)))}</{tag}>'


def interval(found, key, endings=("/value", "/low", "/high")) -> str:
    """A cell: the value and its 95 % interval, at `key` plus each of `endings`."""
    if value(found, key + endings[0]) is None:
        return num(found, key + endings[0], "td")
    middle, low, high = (num(found, key + ending) for ending in endings)
    return f"<td>{middle} <small>[{low}, {high}]</small></td>"


def rate(found, key) -> str:
    """As `interval`, where the ends stand beside the value as {key}_low and {key}_high."""
    return interval(found, key, ("", "_low", "_high"))


def table(header, rows, caption="") -> str:
    """A table that scrolls by itself where the screen is narrow. `rows`: lists of cells, text or ready-made <td>."""
    lines = ["".join(cell if str(cell).startswith("<td") else f"<td>{cell}</td>" for cell in row) for row in rows]
    head = "".join(f"<th scope=col>{name}</th>" for name in header)
    caption = f"<p class=caption>{caption}</p>" if caption else ""  # outside of what scrolls
    body = "\n".join(f"<tr>{line}</tr>" for line in lines)
    return f"{caption}<div class=wide tabindex=0><table><thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table></div>"


def figure(path, alt: str, caption: str = "") -> str:
    """The picture in `path` inside the page, or nothing where there is none; photographs as JPEG, a tenth of the size."""
    if not path.exists():
        return ""
    data, kind = path.read_bytes(), "jpeg" if path.suffix == ".jpg" else "png"
    picture = Image.open(io.BytesIO(data))
    if len(data) > 300_000 and kind == "png":
        buffer, kind = io.BytesIO(), "jpeg"
        picture.convert("RGB").save(buffer, "JPEG", quality=85)
        data = buffer.getvalue()
    shape = "broad" if picture.width > 800 else "narrow"
    source = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
    caption = f"<figcaption>{caption}</figcaption>" if caption else ""
    return f'<figure class={shape}><img alt="{html.escape(alt, quote=True)}" src="{source}">{caption}</figure>'


def section(title: str, *pieces: str) -> str:
    return f"<section><h2>{title}</h2>\n" + "\n".join(filter(None, pieces)) + "\n</section>"


def p(text: str, kind: str = "") -> str:
    return f"<p class={kind}>{text}</p>" if kind else f"<p>{text}</p>"


def pretty(name: str) -> str:
    return name.replace("_", " ").replace("auc", "AUC").replace("f1", "F1")


# The palette is that of plots.py: #0072B2 for what counts, #E69F00 for caution, #333333 for ink.
PAGE = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>DermAI-ISIC2018: report of run $run</title>
<style>
:root { color-scheme: light; }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem 1rem 4rem; max-width: 60rem; color: #333; background: #fff;
       font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 .3rem; }
h2 { font-size: 1.35rem; margin: 3rem 0 .6rem; padding-top: .8rem; border-top: 3px solid #0072B2; }
h3 { font-size: 1.08rem; margin: 2rem 0 .3rem; }
p, li { max-width: 46rem; }
.sub { color: #666; margin: 0; }
.note { border-left: 4px solid #E69F00; background: #FDF6E7; padding: .6rem .9rem; }
.hero { display: flex; align-items: center; gap: 1.2rem; flex-wrap: wrap; margin: .6rem 0; }
.hero b { font-size: 4rem; line-height: 1; color: #0072B2; font-variant-numeric: tabular-nums; }
.hero > span { line-height: 1.4; }
figure { margin: 1.2rem 0; }
img { max-width: 100%; height: auto; display: block; margin: 0 auto; }
figcaption, .caption, small { color: #666; font-size: .86rem; }
.caption { margin: 1.2rem 0 0; }
.wide { overflow-x: auto; margin: .5rem 0 1rem; }
table { border-collapse: collapse; font-size: .92rem; font-variant-numeric: tabular-nums; }
th, td { padding: .32rem .8rem .32rem 0; text-align: right; vertical-align: top; border-bottom: 1px solid #E5E5E5; }
th { border-bottom: 2px solid #333; font-weight: 600; vertical-align: bottom; }
th:first-child, td:first-child { text-align: left; }
th:not(:first-child) { max-width: 10rem; }
td small, td:not(:first-child) { white-space: nowrap; }
.mark { background: #FDF6E7; padding: 0 .35rem; border-radius: .3rem; }
summary { cursor: pointer; color: #0072B2; }
@media (max-width: 40rem) { .hero b { font-size: 3rem; } h1 { font-size: 1.4rem; } table { font-size: .84rem; }
  figure { overflow-x: auto; } .broad img { max-width: none; width: 36rem; } } /* as small as they fit, labels can't be read */
@media print { details > * { display: block; } h2 { break-after: avoid; } figure { break-inside: avoid; } }
</style>
</head>
<body>
<header>
<h1>Seven kinds of pigmented skin lesions: how well are they told apart?</h1>
<p class="sub">DermAI-ISIC2018 · run <b>$run</b> · data $data · split by $split · quoted: $part</p>
<p class="note">$disclaimer$sample</p>
</header>
<main>
$body
</main>
</body>
</html>
""")
