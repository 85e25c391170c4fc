"""How fast parameters come to life: cases as data, one runner, rows in `results/`. See `python -m bench --help`."""
