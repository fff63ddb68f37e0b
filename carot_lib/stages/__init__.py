"""The stages of the pipeline, run by `python -m carot_lib <stage>`."""
