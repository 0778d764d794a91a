"""A command on a terminal of its own, as a person sits at it: waited for by what it shows, never by a time."""

import fcntl
import os
import pty
import re
import select
import struct
import sys
import termios

from helpers import process

PATIENCE = 300  # seconds in which nothing at all is shown


class Terminal:
    """Words of a Python command line on a pseudo-terminal; `piped` goes through a shell that pipes its output on."""

    def __init__(self, *words: str, width: int = 80, piped: str = "", env: dict[str, str] | None = None):
        self.side, other = pty.openpty()
        fcntl.ioctl(other, termios.TIOCSWINSZ, struct.pack("HHHH", 24, width, 0, 0))
        streams = dict(stdin=other, stdout=other, stderr=other)
        settings = {"TERM": "xterm", **(env or {})}
        if piped:
            run = "import subprocess, sys; sys.exit(subprocess.call(sys.argv[1:], shell=False))"
            words = ("-c", run, "sh", "-c", f'"$0" "$@" {piped}', sys.executable, *words)
        self.running = process(*words, env=settings, **streams)
        os.close(other)
        self.shown, self.commands = "", ""

    def __enter__(self) -> "Terminal":
        return self

    def __exit__(self, *_: object) -> None:
        self.running.kill()
        os.close(self.side)

    def until(self, wanted: str) -> str:
        """What is shown up to the pattern that is waited for; colours and movements are left out."""
        text = ""
        while not re.search(wanted, text):
            assert select.select([self.side], [], [], PATIENCE)[0], f"{wanted!r} not in {self.shown!r}"
            try:
                self.shown += os.read(self.side, 10000).decode(errors="replace")
            except OSError:  # the other side is closed, so nothing more will come
                raise AssertionError(f"{wanted!r} not in {self.shown!r}, and the command has ended") from None
            text = re.sub(r"\x1b\[[\d;?]*[A-Za-z]|\r", "", self.shown)
        self.commands += "".join(re.findall(r"\x1b\[[\d;?]*[A-Za-z]", self.shown))
        self.shown = ""
        return text

    def type(self, text: str) -> None:
        """Hands over the text as fast as it is taken, and reads on what is shown, as terminals do."""
        left = text.encode()
        while left:
            readable, writable, _ = select.select([self.side], [self.side], [], PATIENCE)
            if readable:
                self.shown += os.read(self.side, 10000).decode(errors="replace")
            if writable:
                left = left[os.write(self.side, left[:500]) :]

    def ends(self) -> int:
        """The exit code, once all that it still shows has been read."""
        while select.select([self.side], [], [], PATIENCE)[0]:
            try:
                if not os.read(self.side, 10000):
                    break
            except OSError:
                break
        return self.running.wait(PATIENCE)
