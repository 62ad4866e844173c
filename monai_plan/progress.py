"""Progress bars that are bars on a terminal, and elsewhere (a log file, a notebook) a line a minute of the log."""

from __future__ import annotations

import logging
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tqdm import TqdmWarning, tqdm

__all__ = ["Progress", "hushed", "say"]

LINE_SECONDS = 60.0  # between two lines, whichever bars they are of

logger = logging.getLogger(__name__)
_HUSHED = {  # what they say is said again, by the error that follows or by the runner
    "ignite.engine.engine": logging.CRITICAL,  # "Engine run is terminating due to exception"
    "monai.data.nvimgcodec_pydicom_plugin": logging.ERROR,  # that a decoder, which no image here needs, is not there
    "monai.bundle.workflows": logging.ERROR,  # "Setting logging properties based on config", and that it does not
}


def say(line: str) -> None:
    """Print a line in the form of the log."""
    print(f"{time.strftime('%H:%M:%S')} INFO {line}", flush=True)


class Progress(tqdm):
    """``tqdm`` on a terminal. Elsewhere nothing is redrawn: every minute the latest state is logged, in one line.

    Where INFO is disabled (``logging.disable``, as ``--quiet`` does it) there is neither.
    """

    last_line = time.monotonic()
    disable: bool

    def __init__(self, *args: Any, **options: Any) -> None:
        self.as_lines = not (options.get("file") or sys.stderr).isatty()
        if logger.manager.disable >= logging.INFO:
            options["disable"] = True
        if self.as_lines:
            bar_format = options.get("bar_format") or ""
            number = "{n:.1f}" if "{n:.1f}" in bar_format else "{n_fmt}"
            options["bar_format"] = f"{{desc}}: {number} of {{total_fmt}} [{{elapsed}}<{{remaining}}{{postfix}}]"
            options["delay"] = 1e-9  # no line from its making, before Ignite has said which epoch it is
        super().__init__(*args, **options)

    def refresh(self, *args: Any, **options: Any) -> bool | None:
        """Redraw the bar; or log the line, if the last one is old enough."""
        if not self.as_lines:
            return super().refresh(*args, **options)
        if not self.disable and time.monotonic() - Progress.last_line >= LINE_SECONDS:
            Progress.last_line = time.monotonic()
            logger.info(" ".join(str(self).replace(": :", ":").split()))
        return None

    def display(self, *args: Any, **options: Any) -> bool | None:
        """Draw the bar; elsewhere than on a terminal there is none."""
        return None if self.as_lines else super().display(*args, **options)

    def close(self) -> None:
        """Leave the bar as it is, or nothing at all where there is none."""
        if not self.as_lines:
            super().close()
        elif not self.disable:
            self.disable = True
            self._decr_instances(self)


@contextmanager
def hushed(*, quiet: bool = False) -> Iterator[None]:
    """Keep libraries from saying what is said anyway; with ``quiet`` only warnings and errors are left."""
    levels = {name: logging.getLogger(name).level for name in _HUSHED}
    disabled = logging.root.manager.disable
    try:
        for name, level in _HUSHED.items():
            logging.getLogger(name).setLevel(level)
        if quiet:
            logging.disable(logging.INFO)
        with warnings.catch_warnings():
            # in a notebook, of bars that Ignite would draw with ipywidgets: here nothing is drawn there
            warnings.simplefilter("ignore", TqdmWarning)
            yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
        logging.disable(disabled)
