"""One script a question; run them from the root of the project, `python -m experiments.NAME`."""
