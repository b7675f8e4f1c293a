"""A command in a terminal, recorded as an animated SVG: `python docs/pictures/recording.py` writes demo.svg beside it.

termtosvg (`pip install termtosvg-ng`) runs the command in a terminal of 80 columns and draws what it writes. The
animation is CSS, without JavaScript, so that it also plays as an image on a forge. It starts anew when it has ended.
"""

import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
from html import escape
from pathlib import Path

__all__ = ["record"]

COLUMNS = 80
FRAME_MS = 250
"""The shortest time between two frames: a spinner's every turn would make a large file."""
LAST_FRAME_SECONDS = 5
"""The least time for reading the last frame."""
NO_MOTION = "@media (prefers-reduced-motion: reduce) {{ #screen_view {{ animation: none; transform: {last} }} }}"


def record(command: str, rows: int, seconds: float, path: Path) -> None:
    """Type a command, run it, and write an animation that shows its output for the rest of some seconds."""
    keys = "".join(f"printf %s {shlex.quote(key)}; sleep 0.1; " for key in command)
    typed = f"printf '$ '; sleep 1; {keys} sleep 0.4; echo; exec {command}"
    with tempfile.TemporaryDirectory() as folder:
        cast = Path(folder, "recording.cast")
        shell = shlex.join(["sh", "-c", typed])
        _termtosvg("record", cast, "-c", shell, "-g", f"{COLUMNS}x{rows}")
        took = json.loads(cast.read_text(encoding="utf-8").splitlines()[-1])[0]
        pause_ms = 1000 * max(LAST_FRAME_SECONDS, seconds - took)
        _termtosvg(
            "render", cast, path, "-m", FRAME_MS, "-D", f"{pause_ms:.0f}", "-t", "window_frame", "--theme", "gjm8"
        )
    text = path.read_text(encoding="utf-8")
    last = re.findall(r"translateY\([^)]*\)", text)[-1]
    text = text.replace("<defs>", f"<title>{escape(command)}, recorded in a terminal</title><defs>", 1)
    text = text.replace("]]></style>", NO_MOTION.format(last=last) + "]]></style>", 1)
    path.write_text("".join(f"{line.rstrip()}\n" for line in text.splitlines()), encoding="utf-8")


def _termtosvg(*arguments: object) -> None:
    """Run termtosvg with an input that never ends: it stops recording at the end of its input."""
    reading, writing = os.pipe()
    command = [sys.executable, "-m", "termtosvg", *map(str, arguments)]
    try:
        subprocess.run(command, stdin=reading, capture_output=True, check=True)  # noqa: S603 - written above
    finally:
        os.close(reading)
        os.close(writing)


if __name__ == "__main__":
    record("ana demo", rows=24, seconds=20, path=Path(__file__).with_name("demo.svg"))
