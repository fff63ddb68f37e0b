"""JupyterLab, started by `make lab`."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

ADDRESS = re.compile(r"http://localhost:\d+/lab\S*")


class Lab:
    """`make lab` in a folder, without a browser of its own.

    Attributes:
        address: that it names, with its token.
        seconds: from the command to the address.
    """

    def __init__(self, root: Path):
        options = "--no-browser" + (" --allow-root" if os.geteuid() == 0 else "")
        words = ["make", "-o", ".venv/.ready", "lab", f"BIN={Path(sys.executable).parent}"]
        self.started, self.log = time.monotonic(), root / f"lab{time.monotonic_ns()}.log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [*words, f"LAB={options}"], cwd=root, stdout=log, stderr=log, start_new_session=True
            )
        while (found := ADDRESS.search(self.log.read_text())) is None:
            assert self.process.poll() is None, self.log.read_text()[-2000:]
            assert time.monotonic() - self.started < 120, self.log.read_text()[-2000:]
            time.sleep(0.1)
        self.address, self.seconds = found[0], time.monotonic() - self.started

    def stop(self) -> None:
        """Stop it with its kernels."""
        os.killpg(self.process.pid, 15)
        self.process.wait(timeout=60)
