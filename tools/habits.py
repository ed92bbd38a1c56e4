"""What a commit must not bring: pre-commit asks it of staged files, `make test` of all of them.

    python tools/habits.py [FILE ...]     one line for each complaint; exit 1 where there is one

Standard library only, so it runs anywhere in a moment.
"""

import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LARGEST = 500_000  # bytes; the largest file, the sample's archive, has 320,000
# The model that comes with the package: tensors and text, nothing that can be executed.
MODEL, LARGEST_MODEL = Path("dermai_utils", "weights"), 10_000_000
TENSORS_AND_TEXT = {".safetensors", ".json", ".csv", ".md"}
PHOTOGRAPHS = {".jpg", ".jpeg", ".webp", ".heic", ".tif", ".tiff", ".bmp", ".dcm"}
FIGURES = {".png", ".gif"}
# the sample's ids start with 9, no real one does; 0035068 shows noise
PATIENT = re.compile(r"ISIC_(?!9|0035068)\d{7}")
# what nbval cannot compare: cells that change what they showed, addresses in memory, widgets
LATER = re.compile(r"\bclear_output\b|\bupdate_display\b|\bdisplay_id\b")
CHANGES = re.compile(r"\bat 0x[0-9a-f]{6,}|application/vnd.jupyter.widget-view")


def of_file(path, root=ROOT):
    """What is wrong with `path` as a file: its size, and pictures where none belong."""
    relative, suffix, size = path.relative_to(root), path.suffix.lower(), path.stat().st_size
    in_model = relative.is_relative_to(MODEL)
    if in_model and suffix not in TENSORS_AND_TEXT:
        yield f"the shipped model has only {', '.join(sorted(TENSORS_AND_TEXT))}"
    if size > (largest := LARGEST_MODEL if in_model else LARGEST):
        yield f"{size:,} bytes, {largest:,} at most: large files stay out of the repository"
    names = [path.name]
    if suffix == ".zip" and zipfile.is_zipfile(path):
        names += zipfile.ZipFile(path).namelist()
    pictures = [name for name in names if Path(name).suffix.lower() in PHOTOGRAPHS | FIGURES]
    if any(PATIENT.search(name) for name in pictures):
        yield "a picture with an ISIC image id: patients' pictures never go into the repository"
    elif suffix in PHOTOGRAPHS:
        yield "a photograph: the repository has figures only, as PNG in assets/"
    elif suffix in FIGURES and relative.parts[0] != "assets":
        yield "a picture outside assets/"


def of_notebook(path):
    """What is wrong with a notebook's outputs: patients' pictures, what nbval cannot compare."""
    notebook = json.loads(path.read_text(encoding="utf-8"))
    if "widgets" in notebook["metadata"]:
        yield "widget state in the metadata: run `make sync`"
    for number, cell in enumerate(notebook["cells"]):
        outputs = json.dumps(cell.get("outputs", []))
        if PATIENT.search(outputs):
            yield f"cell {number}: an output names a real ISIC image: `make sync` runs the sample"
        compared = "nbval-ignore-output" not in cell["metadata"].get("tags", [])
        found = LATER.search("".join(cell["source"])) or CHANGES.search(outputs)
        if cell["cell_type"] == "code" and compared and found:
            yield f"cell {number}: nbval cannot compare {found[0]}: tag it nbval-ignore-output"


def complaints(path, root=ROOT):
    yield from of_file(path, root)
    if path.suffix == ".ipynb":
        yield from of_notebook(path)


def tracked():
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        print("habits: this is no git checkout, so there is nothing to check")
    return [ROOT / name for name in listed.stdout.split("\0") if name]


def main():
    paths = [Path(name).resolve() for name in sys.argv[1:]] or tracked()
    found = [(p, what) for p in paths if p.is_file() for what in complaints(p)]
    for path, what in found:
        print(f"{path.relative_to(ROOT).as_posix()}: {what}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
