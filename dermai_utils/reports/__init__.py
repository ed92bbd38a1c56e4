"""What a run found, for people: figures, report.html, the model card and the first page."""
