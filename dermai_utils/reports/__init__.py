"""What a run found, for people: figures, report.html, the model card and the first page.

folder.py      report: a run -> metrics.json, figures, Grad-CAM, report.html, model_card.md
plots.py       the charts of a run          data_plots.py  the charts of the data and its split
pictures.py    figures of photographs       maps.py        Grad-CAM of a run, checked
mistakes.py    every mistake to browse      page.py        the templates, filled
canvas.py      the paper of every figure    templates/     base.html.j2: the look of every page
"""

from dermai_utils.reports.folder import comparison, known, report
from dermai_utils.reports.page import index

__all__ = ["comparison", "index", "known", "report"]
