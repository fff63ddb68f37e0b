"""The pipeline: one module per DVC stage, `python -m carot_lib.stages.<name>`."""
