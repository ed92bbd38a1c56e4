"""Questions to a run's predictions and features: calibration, decisions, answers, baselines."""
