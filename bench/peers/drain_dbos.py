# ruff: noqa: PLW0603 - a script of one run
"""DBOS: enqueue and drain; prints one line of JSON. Runs in the peers' environment."""

import json
import sys
import threading
import time

from dbos import DBOS

URL, JOBS, SLOW, ONES = sys.argv[1], *map(int, sys.argv[2:5])
DBOS(config={"name": "bench", "system_database_url": URL, "log_level": "ERROR"})
seen: list[float] = []
lock = threading.Lock()
done = threading.Event()
left = 0


def mark() -> None:
    global left
    with lock:
        seen.append(time.perf_counter())
        left -= 1
        if left == 0:
            done.set()


@DBOS.workflow()
def noop(n: int) -> None:
    mark()


def main() -> None:
    global left
    DBOS.launch()
    queue = DBOS.register_queue("bench", worker_concurrency=50, polling_interval_sec=0.05)
    left = JOBS
    started = time.perf_counter()
    for n in range(JOBS):
        queue.enqueue(noop, n)
    enqueued = (time.perf_counter() - started) / JOBS
    done.wait(300)
    rate = (len(seen) - 1) / (seen[-1] - seen[0])
    print(json.dumps({"enqueue_one_us": enqueued * 1e6, "noop_per_s": rate}))
    sys.stdout.flush()
    DBOS.destroy()


main()
