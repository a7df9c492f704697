"""The ops: one file per family, each with its docstrings, loops and gradients side by side."""
