"""The `gendiff` command in processes that can be killed, one or several that make one run.

A server imports everything once and forks, so a process costs a fraction of a second. A line of JSON in, a line out.
Several processes are numbered as a launcher numbers them; none starts another.
"""

from __future__ import annotations

import atexit
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from functools import cache
from pathlib import Path
from typing import Any


class Processes:
    """The server, seen from a test."""

    def __init__(self) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}  # or nothing could be forked
        self._process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        assert self._answer(120) == "ready"

    def _answer(self, seconds: float) -> Any:
        ready, _, _ = select.select([self._process.stdout], [], [], seconds)
        assert ready, "the server does not answer"
        line = self._process.stdout.readline()
        assert line, "the server is gone"
        return json.loads(line)

    def run(self, *words: Any, world: int = 1, seconds: float = 60, **job: Any) -> list[dict[str, Any]]:
        """Run the command in `world` processes; what became of each: `code`, `peak` (bytes), `out`, `err`.

        Options: `faults=[[name, rank, ...], ...]` are functions of `faults.py` for processes of that number;
        `send=[rank, signal, pattern, count]` sends a signal when there are as many files. Rank None means all.
        """
        request = {"words": [str(word) for word in words], "world": world, "seconds": seconds, **job}
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return self._answer(seconds + 30)

    def close(self) -> None:
        """End the server."""
        self._process.stdin.close()
        assert self._process.wait(30) == 0
        self._process.stdout.close()


@cache
def shared() -> Processes:
    """Return the one server of all tests."""
    processes = Processes()
    atexit.register(processes.close)
    return processes


def child(job: dict[str, Any], rank: int, port: int, logs: list[str]) -> None:
    """Be process number `rank`."""
    for descriptor, path in zip((1, 2), logs, strict=True):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
    if job["world"] > 1:
        from pytorch_lightning.utilities import rank_zero_only

        os.environ |= {"LOCAL_RANK": str(rank), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        rank_zero_only.rank = rank  # as it is when a process of this number starts
    for name, number, *arguments in job.get("faults", []):
        if number in (rank, None):
            getattr(faults, name)(*arguments)
    from gendiff.cli import main

    status = main(job["words"])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def serve(job: dict[str, Any], folder: str) -> list[dict[str, Any]]:
    """Do one job."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    logs = [[f"{folder}/{rank}.{stream}" for stream in ("out", "err")] for rank in range(job["world"])]
    running = {}
    for rank in range(job["world"]):
        process = os.fork()
        if not process:
            try:
                child(job, rank, port, logs[rank])
            finally:
                os._exit(99)
        running[process] = rank
    codes: dict[int, int] = {}
    peaks: dict[int, int] = {}
    deadline, send = time.monotonic() + job["seconds"], job.get("send")
    while running:
        for process in list(running):
            done, status, used = os.wait4(process, os.WNOHANG)
            if done:
                rank = running.pop(process)
                codes[rank], peaks[rank] = os.waitstatus_to_exitcode(status), used.ru_maxrss * 1024
        late = time.monotonic() > deadline
        if late or (send and len(list(Path(send[2]).parent.glob(Path(send[2]).name))) >= send[3]):
            for process, rank in running.items():
                if late or send[0] in (rank, None):
                    os.kill(process, signal.SIGKILL if late else send[1])
            send = None
        time.sleep(0.001)
    texts = [[Path(log).read_text() for log in pair] for pair in logs]
    return [
        {"code": codes[rank], "peak": peaks[rank], "out": texts[rank][0], "err": texts[rank][1]}
        for rank in range(job["world"])
    ]


if __name__ == "__main__":
    import faults
    import torch

    import examples
    from gendiff.cli import main
    from gendiff.train import run

    torch.set_num_threads(1)
    run._seconds_per_step = lambda *args: 0.0  # what it only says needs no time
    with tempfile.TemporaryDirectory() as folder:
        # What is loaded on first use need not be loaded by every child.
        answers, streams = os.dup(1), open(os.devnull, "w")
        os.dup2(streams.fileno(), 1)
        os.dup2(streams.fileno(), 2)
        path = examples.write(Path(folder) / "examples.sdf", 8)
        main(["train", "molecules", str(path), "--out", f"{folder}/run", "--steps", "1", "--previews", "0"])
        main(["sample", f"{folder}/run", "-n", "2", "--steps", "1", "-o", f"{folder}/shards/"])
        with os.fdopen(answers, "w") as out:
            print(json.dumps("ready"), file=out, flush=True)
            for line in sys.stdin:
                print(json.dumps(serve(json.loads(line), folder)), file=out, flush=True)
