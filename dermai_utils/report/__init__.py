"""A run -> metrics, figures, report.html and model card."""
