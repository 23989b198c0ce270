"""report.md and junit.xml of the samples. Written anew by `python -m tests.parity.render.golden`: look at the diff."""
