"""ncnn: `.param` and `.bin` for phones and boards. `runtime` runs them, `write` makes them with the help of a child (`convert`), `int8` writes integers."""
