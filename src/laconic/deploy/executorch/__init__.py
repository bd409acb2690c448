"""ExecuTorch: `.pte` files for phones and boards. `runtime` runs them, `write` asks a child for them, `convert` is the child, `placed` writes integers."""
