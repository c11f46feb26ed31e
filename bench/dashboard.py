"""Draws docs/dashboard.png: `python -m bench.dashboard`, after `dev/setup.sh monitoring bench`.

A shop on a throwaway server has a normal day and a hot sale, in some minutes. The exporter and a real Prometheus watch
it with the files of monitoring/. Then the panels of dashboard.json are drawn from their own queries. Grafana is not
used: its place is taken by matplotlib, which knows the kinds of panels that the dashboard has.
"""

import argparse
import json
import math
import random
import re
import threading
import time
from contextlib import contextmanager

import psycopg

from dev.monitoring import FILES, monitored
from dev.server import Server

PICTURE = FILES.parent / "docs/dashboard.png"
WIDTH, ROW_HEIGHT, DPI = 1500, 34, 100  # of the picture and of a row of Grafana's grid, in pixels
BACKGROUND, PANEL, TEXT, FAINT = "#111217", "#181b1f", "#d8d9da", "#6e7079"
LINES = ("#73bf69", "#f2cc0c", "#8ab8ff", "#ff780a", "#f2495c", "#5794f2", "#b877d9", "#96d98d", "#fade2a")
LEVELS = {"green": "#73bf69", "orange": "#ff9830", "red": "#f2495c"}
VARIABLES = {"$database": ".*", "$stock_table": ".*", "$__rate_interval": "20s"}  # as Grafana replaces them
STEP_SECONDS = 5

ITEMS, HOT_ITEM, SOLD_OUT = 40, 7, 40
SETUP = f"""
    CREATE EXTENSION inventory_ext;
    CREATE TABLE inventory (id integer PRIMARY KEY, quantity integer) WITH (fillfactor = 90);
    INSERT INTO inventory SELECT i, CASE i WHEN {SOLD_OUT} THEN 20 ELSE 1000000 END FROM generate_series(1, {ITEMS}) i;
    SELECT attach_inventory('inventory');
    SELECT count(*) FROM audit_inventory();
"""


class Shop:
    """Sessions that sell until the end: `role(session, conn)` is one act of one of them."""

    def __init__(self, dsn):
        self.dsn, self.over, self.threads, self.numbers = dsn, threading.Event(), [], iter(range(1 << 62))

    def open(self, role, sessions):
        """Returns what ends these sessions."""
        closed = threading.Event()
        for _ in range(sessions):
            thread = threading.Thread(target=self._run, args=(role, closed), daemon=True)
            self.threads.append(thread)
            thread.start()
        return closed.set

    def close(self):
        self.over.set()
        for thread in self.threads:
            thread.join()

    def _run(self, role, closed):
        with psycopg.connect(self.dsn, autocommit=True) as conn:
            while not (self.over.is_set() or closed.is_set()):
                try:
                    role(conn, next(self.numbers))
                except psycopg.Error as error:
                    if error.sqlstate not in ("IV001", "55P03"):
                        raise


def till(conn, number):
    """Popular items more often; an order now and then, a retry of it, a sale of what is sold out."""
    time.sleep(random.uniform(0.005, 0.03))
    item = min(int(random.paretovariate(0.8)), ITEMS)
    if number % 12:
        conn.execute("SELECT decrement_item(%s, 1)", (item,))
        return
    lines = json.dumps([{"inventory_id": line, "quantity": 1} for line in {item, random.randint(1, ITEMS - 1)}])
    for _ in range(1 + (number % 96 == 0)):
        conn.execute("SELECT decrement_inventory_batch(%s, 'web', %s)", (lines, f"order {number}"))


def supplier(conn, _):
    time.sleep(random.uniform(0.3, 0.6))
    conn.execute("SELECT restock_inventory(%s, 10)", (random.randint(1, ITEMS - 1),))


def hot_sale(conn, _):
    """All want one item, and hold its lock while they do other things."""
    conn.execute("SELECT decrement_item(%s, 1), pg_sleep(0.02)", (HOT_ITEM,))


@contextmanager
def shop_of_a_day(pg, seconds):
    """(a Prometheus that has watched the day, its begin, its end)"""
    preload = {"shared_preload_libraries": "inventory_ext"} if pg == "15" else {}
    with Server(pg=pg, settings=preload) as server:
        with psycopg.connect(server.dsn(), autocommit=True) as conn:
            conn.execute("CREATE DATABASE shop")
        with psycopg.connect(server.dsn("shop"), autocommit=True) as conn:
            conn.execute(SETUP)
        with monitored(server, "shop") as prometheus:
            shop = Shop(server.dsn("shop"))
            try:
                shop.open(till, 4)
                shop.open(supplier, 1)
                time.sleep(4 * STEP_SECONDS)
                begin = time.time()
                time.sleep(seconds * 0.4)
                end_the_sale = shop.open(hot_sale, 6)
                time.sleep(seconds * 0.25)
                end_the_sale()
                time.sleep(seconds * 0.35)
                yield prometheus, begin, time.time()
            finally:
                shop.close()


def asked(target):
    promql = target["expr"]
    for variable, value in VARIABLES.items():
        promql = promql.replace(variable, value)
    return promql


def label_of(target, labels):
    return re.sub(r"{{(\w+)}}", lambda found: labels.get(found[1], ""), target["legendFormat"]).strip()


def read(prometheus, panel, begin, end):
    """[(legend, [(time, value)], labels)] of all queries of a panel."""
    found = []
    for target in panel["targets"]:
        if target.get("instant"):
            rows = [(labels, [(end, value)]) for labels, value in prometheus.query(asked(target))]
        else:
            rows = prometheus.query_range(asked(target), begin, end, STEP_SECONDS)
        drawn = [(labels, [(at, value) for at, value in points if not math.isnan(value)]) for labels, points in rows]
        found += [(label_of(target, labels), points, labels) for labels, points in drawn if points]
    return found


def with_unit(value, unit, decimals=None):
    if unit == "percentunit":
        return f"{100 * value:.{1 if decimals is None else decimals}f} %"
    if unit == "s":
        for limit, factor, name in ((1e-3, 1e6, "µs"), (1, 1e3, "ms"), (90, 1, "s"), (5400, 1 / 60, "min")):
            if abs(value) < limit:
                return f"{value * factor:.3g} {name}" if value else "0 s"
        return f"{value / 3600:.3g} h"
    number = f"{value:.{decimals}f}" if decimals is not None else f"{value:.3g}"
    return number + ("/s" if unit == "reqps" else "")


def level(panel, value):
    chosen = "green"
    for step in panel["fieldConfig"]["defaults"]["thresholds"]["steps"]:
        if step["value"] is not None and value >= step["value"]:
            chosen = step["color"]
    return LEVELS[chosen]


def draw_stat(axes, panel, series, _):
    defaults = panel["fieldConfig"]["defaults"]
    points = series[0][1] if series else []
    axes.axis("off")
    if not points:
        axes.text(0.5, 0.5, "no data", color=FAINT, ha="center", va="center", transform=axes.transAxes)
        return
    value, color = points[-1][1], level(panel, points[-1][1])
    times, values = zip(*points)
    axes.fill_between(times, values, color=color, alpha=0.15, linewidth=0)
    axes.set_ylim(0, max(2.5 * max(values), 1e-9))
    text = with_unit(value, defaults["unit"], defaults.get("decimals"))
    axes.text(0.5, 0.55, text, color=color, fontsize=19, ha="center", va="center", transform=axes.transAxes)


def draw_timeseries(axes, panel, series, firing):
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    defaults = panel["fieldConfig"]["defaults"]
    for color, (legend, points, _) in zip(LINES * 3, series):
        times, values = zip(*points)
        axes.plot(times, values, color=color, linewidth=1.1, label=legend)
        axes.fill_between(times, values, color=color, alpha=defaults["custom"]["fillOpacity"] / 100, linewidth=0)
    if defaults["custom"].get("thresholdsStyle"):
        axes.axhline(defaults["thresholds"]["steps"][1]["value"], color=LEVELS["red"], linewidth=1)
    for begin, end in firing:
        axes.axvspan(begin, end, ymin=0.985, color=LEVELS["red"], linewidth=0)
        axes.axvline(begin, color=LEVELS["red"], linewidth=0.8, linestyle=":")
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: with_unit(value, defaults["unit"])))
    axes.xaxis.set_major_locator(MaxNLocator(6, prune="both"))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda at, _: time.strftime("%H:%M:%S", time.gmtime(at))))
    axes.tick_params(colors=FAINT, labelsize=7.5, length=0)
    axes.grid(color="#2c2f36", linewidth=0.6)
    axes.legend(
        loc="upper left", bbox_to_anchor=(-0.005, -0.11), ncols=4, fontsize=7.5, frameon=False, labelcolor=TEXT,
        handlelength=1.2, columnspacing=1.2, borderpad=0,
    )  # fmt: skip


def draw_bargauge(axes, panel, series, _):
    defaults = panel["fieldConfig"]["defaults"]
    rows = sorted(((points[-1][1], legend) for legend, points, _ in series), reverse=True)
    greatest = defaults.get("max") or max((value for value, _ in rows), default=1) or 1
    axes.axis("off")
    axes.set_xlim(0, greatest * 1.25)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    for place, (value, legend) in enumerate(rows):
        axes.barh(place, value, 0.36 if len(rows) < 5 else 0.62, color=level(panel, value), alpha=0.85)
        axes.text(-0.01 * greatest, place, legend, color=TEXT, fontsize=7.5, ha="right", va="center")
        shown = with_unit(value, defaults["unit"], defaults.get("decimals"))
        axes.text(value + 0.015 * greatest, place, shown, color=TEXT, fontsize=8, va="center")


def draw_table(axes, panel, series, _):
    rows = {}
    for legend, points, labels in series:
        key = (labels.get("database", ""), labels.get("stock_table", ""))
        rows.setdefault(key, {})[legend] = points[-1][1]
    axes.axis("off")
    axes.set_ylim(6, -0.8)
    axes.set_xlim(0, 1)
    for place, title in zip((0.01, 0.25, 0.6, 0.8), ("database", "stock_table", "time since", "discrepancies")):
        axes.text(place, -0.2, title, color="#6e9fff", fontsize=8, va="center")
    for number, ((database, table), values) in enumerate(sorted(rows.items()), start=1):
        cells = (database, table, with_unit(values["since"], "s"), with_unit(values["discrepancies"], "short"))
        for place, cell in zip((0.01, 0.25, 0.6, 0.8), cells):
            axes.text(place, number - 0.2, cell, color=TEXT, fontsize=8, va="center")


DRAW = {"stat": draw_stat, "timeseries": draw_timeseries, "bargauge": draw_bargauge, "table": draw_table}
INSIDE = {  # left, right, bottom and top of the drawing in its panel, in pixels
    "stat": (2, 2, 2, 26), "timeseries": (52, 12, 52, 34), "bargauge": (150, 8, 8, 32), "table": (8, 8, 6, 28),
}  # fmt: skip


def draw(prometheus, begin, end):
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot
    from matplotlib.patches import Rectangle

    dashboard = json.loads((FILES / "dashboard.json").read_text())
    height = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in dashboard["panels"]) * ROW_HEIGHT
    figure = pyplot.figure(figsize=(WIDTH / DPI, height / DPI), dpi=DPI, facecolor=BACKGROUND)
    alerts = dashboard["annotations"]["list"][0]["expr"]
    firing = [(points[0][0], points[-1][0]) for _, points in prometheus.query_range(alerts, begin, end, STEP_SECONDS)]
    for panel in dashboard["panels"]:
        place, kind = panel["gridPos"], panel["type"]
        left, width = place["x"] * WIDTH / 24 + 3, place["w"] * WIDTH / 24 - 6
        top, tall = place["y"] * ROW_HEIGHT + 3, place["h"] * ROW_HEIGHT - 6
        bottom = height - top - tall
        corner, size = (left / WIDTH, bottom / height), (width / WIDTH, tall / height)
        figure.patches.append(Rectangle(corner, *size, transform=figure.transFigure, facecolor=PANEL, zorder=-1))
        title = (left + 8) / WIDTH, (height - top - 8) / height
        figure.text(*title, panel["title"], color=TEXT, fontsize=9, va="top", weight="medium")
        before, after, below, above = INSIDE[kind]
        box = (left + before) / WIDTH, (bottom + below) / height
        extent = (width - before - after) / WIDTH, (tall - below - above) / height
        axes = figure.add_axes((*box, *extent), facecolor=PANEL)
        for spine in axes.spines.values():
            spine.set_visible(False)
        if kind == "timeseries":
            axes.set_xlim(begin, end)
        DRAW[kind](axes, panel, read(prometheus, panel, begin, end), firing)
    figure.savefig(PICTURE, dpi=DPI, facecolor=BACKGROUND, metadata={"Software": None})
    pyplot.close(figure)


def main():
    parser = argparse.ArgumentParser(prog="python -m bench.dashboard", description="Draws docs/dashboard.png")
    parser.add_argument("--pg", default="18", choices=("18", "15"), help="PostgreSQL version (18)")
    parser.add_argument("--seconds", type=int, default=240, help="length of the day (240)")
    args = parser.parse_args()
    with shop_of_a_day(args.pg, args.seconds) as watched:
        draw(*watched)
    print(f"{PICTURE.relative_to(FILES.parent)}: {PICTURE.stat().st_size // 1024} kB")


if __name__ == "__main__":
    main()
