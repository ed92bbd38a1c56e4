"""What only Google Colab has: results kept on Drive, a file to the browser or from it. Elsewhere: one plain line."""

import zipfile
from pathlib import Path

from dermai_utils import config, files

DRIVE = Path("/content/drive")  # where Colab's own examples mount it
KEPT_IN = "DermAI-ISIC2018"  # the folder in My Drive


def folders(keep_on_drive: bool, data: str = "") -> dict:
    """{"work_dir": a folder on Drive, "cache_dir": one that is not}, for config.load; {} where nothing is to be kept there.

    Drive is mounted only when asked. Not on Colab, refused, or not writable: one line says so and the run goes on locally.
    """
    if not keep_on_drive:
        return {}
    source = config.load(data=data).source
    try:
        work = _mounted() / KEPT_IN / source
        files.try_write(work)
    except ImportError:
        print("drive: this is not Colab, so there is no Drive to mount; results stay on this machine")
    except Exception as reason:  # google.colab has errors of its own for each way to refuse; none may stop the run
        why = (str(reason).strip() or type(reason).__name__).splitlines()[0]
        print(f"drive: not mounted ({why}); results stay on this machine and are lost with it: download them at the end")
    else:
        print(f"drive: results and checkpoints are kept in {work}")
        return {"work_dir": str(work)} | _off_drive(source)
    return {}


def _mounted():
    from google.colab import drive

    drive.mount(str(DRIVE))
    return DRIVE / "MyDrive"


def _off_drive(source):
    """Thousands of images never go to Drive, even where the repository itself lies there."""
    return {"cache_dir": str(DRIVE.with_name("cache") / source)} if config.ROOT.is_relative_to(DRIVE) else {}


def zipped(folder) -> Path:
    """`folder`.zip, beside `folder` and made anew: its files, not what is hidden."""
    folder = Path(folder)
    with (
        files.atomic(folder.with_name(f"{folder.name}.zip"), "wb") as file,
        zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as bundle,
    ):
        for path in sorted(folder.glob("[!.]*")):
            bundle.write(path, f"{folder.name}/{path.name}")
    return folder.with_name(f"{folder.name}.zip")


def download(path) -> None:
    """Have the browser save `path`; where that can't be, say where it lies."""
    try:
        from google.colab import files as browser
    except ImportError:
        print(f"download: it is on this machine already, {path}")
    else:
        browser.download(str(path))


def upload() -> dict:
    """{name: bytes} of the files that the user picks in the browser; where none comes of it, one line and {}."""
    try:
        from google.colab import files as browser
    except ImportError:
        print("upload: this is not Colab, so there is no button for it: write the picture's path into `photo`")
        return {}
    chosen = browser.upload()
    if not chosen:
        print("upload: nothing was chosen; run this cell again to choose a picture")
    return chosen
