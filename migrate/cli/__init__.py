"""The command line: one module per verb. Modules import only typer and the standard library at the top."""
