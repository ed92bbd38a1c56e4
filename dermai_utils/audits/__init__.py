"""Anybody's split or predictions -> what they share, the score, and what it may be called.

known.py      what is known of the official images     reading.py    tables of predictions, read
numbering.py  which class is which number              sharing.py    what subsets share; verdict
scores.py     scores with intervals, comparison        auditing.py   the audit of tables
inputs.py     files in: which is what                  page.py       lines, audit.json and the page
"""

from dermai_utils.audits.auditing import audit, knowledge
from dermai_utils.audits.inputs import audit_files, read_files
from dermai_utils.audits.page import lines, save, save_in

__all__ = ["audit", "audit_files", "knowledge", "lines", "read_files", "save", "save_in"]
