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
PHOTOGRAPHS = {".jpg", ".jpeg", ".webp", ".heic", ".tif", ".tiff", ".bmp", ".dcm"}
FIGURES = {".png", ".gif"}
# the sample's ids start with 9, no real one does; 0035068 shows noise
PATIENT = re.compile(r"ISIC_(?!9|0035068)\d{7}")
# what nbval leaves out when it compares
LATER = re.compile(r"\bclear_output\b|\bupdate_display\b|\bdisplay_id\b")
ADDRESS = re.compile(r"\bat 0x[0-9a-f]{6,}")
WIDGET = "application/vnd.jupyter.widget-view+json"


def of_file(path):
    """What is wrong with `path` as a file: its size, and pictures where none belong."""
    relative, suffix = path.relative_to(ROOT), path.suffix.lower()
    if path.stat().st_size > LARGEST:
        yield (
            f"{path.stat().st_size:,} bytes, {LARGEST:,} at most: large files stay out of the "
            "repository"
        )
    inside = (
        zipfile.ZipFile(path).namelist() if suffix == ".zip" and zipfile.is_zipfile(path) else []
    )
    pictures = [
        name for name in (path.name, *inside) if Path(name).suffix.lower() in PHOTOGRAPHS | FIGURES
    ]
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
        outputs = cell.get("outputs", [])
        if PATIENT.search(json.dumps(outputs)):
            yield (
                f"cell {number}: an output names a real ISIC image: run `make sync`, "
                "which runs on the sample"
            )
        tags = cell["metadata"].get("tags", [])
        if cell["cell_type"] == "code" and "nbval-ignore-output" not in tags:
            for what in not_comparable(cell, outputs):
                yield f"cell {number}: {what}: change it, or tag the cell nbval-ignore-output"


def not_comparable(cell, outputs):
    if match := LATER.search("".join(cell["source"])):
        yield f"nbval cannot compare a cell with {match[0]}"
    if any(WIDGET in output.get("data", {}) for output in outputs):
        yield "nbval cannot compare a widget (a progress bar)"
    if match := ADDRESS.search(json.dumps(outputs)):
        yield f"an address in memory ({match[0]}) is another one in each run"


def complaints(path):
    yield from of_file(path)
    if path.suffix == ".ipynb":
        yield from of_notebook(path)


def tracked():
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        print("habits: this is no git checkout, so there is nothing to check")
    return [ROOT / name for name in listed.stdout.split("\0") if name]


def main():
    paths = [Path(name).resolve() for name in sys.argv[1:]] or tracked()
    lines = [
        f"{path.relative_to(ROOT).as_posix()}: {what}"
        for path in paths
        if path.is_file()
        for what in complaints(path)
    ]
    print("".join(f"{line}\n" for line in lines), end="")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
