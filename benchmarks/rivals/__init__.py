"""The same agent loop on other frameworks; each module runs in `.venv-rivals`."""
