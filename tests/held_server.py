"""tools/serve.py, held at one place while a file is locked; run by test_serving_limits.py.

  python tests/held_server.py PLACE LOCK SECONDS TOOL [FLAGS]

The tool itself, but for the seconds that it has to end in. Model or parser begin their work, say
so, and wait while somebody holds the lock; what of the room for bodies is taken is said too.
"""

import dataclasses
import fcntl
import os
import runpy
import signal
import sys

from la_tf import quiet

quiet.quiet()

from la_tf.serving import batching, bodies, protocol, served_model, server  # noqa: E402


def held(function, lock: str):
    def wait_and_call(*arguments):
        print("begun", flush=True)
        with open(lock) as file:
            fcntl.flock(file, fcntl.LOCK_SH)
        return function(*arguments)

    return wait_and_call


def hold(place: str, lock: str) -> None:
    load_model, take = served_model.load_model, batching.MemoryBudget.take

    def load_held_model(folder):
        loaded = load_model(folder)
        return dataclasses.replace(loaded, embed=held(loaded.embed, lock))

    def take_and_tell(room, size):
        take(room, size)
        print("taken", room._held, flush=True)

    if place == "model":
        served_model.load_model = load_held_model
    if place == "parser":
        protocol.parse_predict = held(protocol.parse_predict, lock)
    if place == "room":
        batching.MemoryBudget.take = take_and_tell


if __name__ == "__main__":
    place, lock, seconds, *sys.argv = sys.argv[1:]
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # also where the tests run under nohup
    server._SHUTDOWN_SECONDS = bodies._STALLED_SECONDS = float(seconds)
    bodies._SILENT_SECONDS = 3600.0
    hold(place, lock)
    sys.path[0] = os.path.dirname(sys.argv[0])
    runpy.run_path(sys.argv[0], run_name="__main__")
