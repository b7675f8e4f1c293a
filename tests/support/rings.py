"""Classes whose loading needs other threads, locks and imports: ways for two loads to wait for each other."""

import asyncio
import concurrent.futures
import multiprocessing.pool
import queue
import threading
import time

import ana
from ana.persist import inflight

# Half: on a busy machine a thread may want for a processor for a while, and is not to be taken for one that waits.
inflight.PATIENCE_SECONDS = 0.5
inflight.LAST_PATIENCE_SECONDS = 1.0

LOCK, SHARED_POOL = threading.RLock(), concurrent.futures.ThreadPoolExecutor(2)
LONGEST_SECONDS = 60
"""How long a thread waits for another to get somewhere: only one that hangs takes that long."""
loaded: list[str] = []
how = ""


class Config(ana.Storable):
    """What all parts have in common."""

    def __init__(self, x):
        self.x = x


class Part:
    """A part that knows the whole."""

    def __init__(self, number, config, mesh):
        self.number, self.config, self.mesh = number, config, mesh


def by_executor(work, items):
    """Work on the items in a thread pool, as most programs do."""
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        return list(pool.map(work, items))


def by_shared_executor(work, items):
    """As above, in a pool that the whole program shares."""
    return list(SHARED_POOL.map(work, items))


def by_threads(work, items):
    """One thread for each item."""
    done = {}
    threads = [threading.Thread(target=lambda item=item: done.update({item: work(item)})) for item in items]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [done[item] for item in items]


def by_thread_pool(work, items):
    """The pool of multiprocessing that has threads."""
    with multiprocessing.pool.ThreadPool(2) as pool:
        return pool.map(work, items)


def by_asyncio(work, items):
    """An event loop that hands the work to threads."""

    async def main():
        return await asyncio.gather(*(asyncio.to_thread(work, item) for item in items))

    return asyncio.run(main())


def by_queue(work, items):
    """One thread that answers by a queue in C: nobody sees who waits for whom."""
    answers = queue.SimpleQueue()

    def answer():
        for item in items:
            try:
                answers.put(work(item))
            except ana.ANAError as error:
                answers.put(error)

    threading.Thread(target=answer, daemon=True).start()
    found = [answers.get() for _ in items]
    for error in found:
        if isinstance(error, ana.ANAError):
            raise error
    return found


class Mesh(ana.Storable):
    """Sums its parts up when it is made and when it is loaded, in threads."""

    def __init__(self, config, parts):
        self.config, self.parts = config, parts

    def build(self):
        """Load all parts."""
        self.total = sum(globals()[how](lambda ref: ref.value.number * ref.value.config.x, self.parts))

    def _ana_getstate(self):
        return self.config, self.parts

    def _ana_setstate(self, s):
        self.config, self.parts = s
        self.build()


class Model(ana.Storable):
    """Needs the program's lock when it is loaded, which another thread has taken by then."""

    def __init__(self, rows):
        self.rows = rows

    def _ana_getstate(self):
        return self.rows

    def _ana_setstate(self, s):
        began.set()
        locked.wait(LONGEST_SECONDS)
        self.rows = s
        with LOCK:
            self.factor = 7
        loaded.append("model")


class Holder(ana.Storable):
    """Refers to a model."""

    def __init__(self, model):
        self.model = model


class Busy(ana.Storable):
    """Computes for a while when it is loaded."""

    def __init__(self, seconds):
        self.seconds = seconds

    def _ana_setstate(self, s):
        began.set()
        self.seconds = s["seconds"]
        end = time.monotonic() + self.seconds
        while time.monotonic() < end:
            time.sleep(0)
        loaded.append("busy")


class Sleeper(ana.Storable):
    """Sleeps when it is loaded, until another thread loads it as well."""

    def _ana_setstate(self, s):
        began.set()
        loaded.append("sleeper")
        end = time.monotonic() + LONGEST_SECONDS
        while len(loaded) < 2 and time.monotonic() < end:
            time.sleep(0.1)


began, locked = threading.Event(), threading.Event()


def at_once(*works):
    """Do each of the works in a thread of its own, each when the one before has begun to load; return the results."""
    results = {}
    threads = []
    for number, work in enumerate(works):
        thread = threading.Thread(target=lambda number=number, work=work: results.update({number: work()}), daemon=True)
        thread.start()
        threads.append(thread)
        began.wait(LONGEST_SECONDS)
    for thread in threads:
        thread.join(LONGEST_SECONDS)
    return [results.get(number) for number in range(len(works))]
