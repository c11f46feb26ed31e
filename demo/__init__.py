"""The demo: real sales replayed against a stock table in several ways. `python -m demo.replay`, or `make demo`."""
