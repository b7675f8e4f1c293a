"""A TCP proxy between an NFSv3 client and its server that loses one chosen reply, or holds one chosen call.

Networks and servers fail after the server has acted and before its reply arrives. The client then sends the
call again and is told that a link exists that it made itself, or that a file is missing that it removed
itself. Here that happens on demand: `swallow LINK` drops the next reply to a LINK call and resets the
connection, so that the client has to connect again and to send the call again. The retransmission comes from
another port, so the server's cache of replies doesn't recognise it: as after a failover of the server.

`hold READ` stops the next READ call until `release`: time for another client to take the file away.

Control: connect to the Unix socket, send one line, read one line of JSON. Or by hand:

    lossy_proxy.py --listen 127.0.0.1:20049 --server 127.0.0.1:2049 --control /run/lossy.sock
    lossy_proxy.py --control /run/lossy.sock --send "swallow LINK"

Formats: RFC 5531 (remote procedure calls; section 11: record marking), RFC 1813 (NFSv3's procedures).
"""

import argparse
import asyncio
import contextlib
import json
import socket
import struct
import sys
from typing import NamedTuple

# fmt: off
PROCEDURES = (
    "NULL", "GETATTR", "SETATTR", "LOOKUP", "ACCESS", "READLINK", "READ", "WRITE", "CREATE", "MKDIR",
    "SYMLINK", "MKNOD", "REMOVE", "RMDIR", "RENAME", "LINK", "READDIR", "READDIRPLUS", "FSSTAT", "FSINFO",
    "PATHCONF", "COMMIT",
)
# fmt: on
NFS_PROGRAM, NFS_VERSION = 100003, 3
CALL, REPLY = 0, 1
LAST_FRAGMENT = 1 << 31
CALL_HEADER = struct.Struct(">6I")  # xid, message type, RPC version, program, version, procedure
REPLY_HEADER = struct.Struct(">2I")  # xid, message type
LONGEST_RECORD_BYTES = 16 << 20


class Record(NamedTuple):
    """One RPC message: as it stood on the wire, and without its record marks."""

    wire: bytes
    message: bytes


class Call(NamedTuple):
    """What the proxy needs to know of a call to the NFSv3 server."""

    xid: int
    procedure: str


async def read_record(stream: asyncio.StreamReader) -> Record | None:
    """Read the next message of a connection, put together from its fragments; None at the end."""
    wire, message, last = bytearray(), bytearray(), 0
    while not last:
        try:
            mark = await stream.readexactly(4)
        except (asyncio.IncompleteReadError, ConnectionError):
            return None
        (word,) = struct.unpack(">I", mark)
        last, size_bytes = word & LAST_FRAGMENT, word & (LAST_FRAGMENT - 1)
        if len(message) + size_bytes > LONGEST_RECORD_BYTES:
            error = f"a record of more than {LONGEST_RECORD_BYTES} bytes: this is not RPC over TCP"
            raise ValueError(error)
        fragment = await stream.readexactly(size_bytes)
        wire += mark + fragment
        message += fragment
    return Record(bytes(wire), bytes(message))


def parse_call(message: bytes) -> Call | None:
    """Return the transaction id and procedure of an NFSv3 call; None for any other message."""
    if len(message) < CALL_HEADER.size:
        return None
    xid, kind, _, program, version, procedure = CALL_HEADER.unpack_from(message)
    if (kind, program, version) != (CALL, NFS_PROGRAM, NFS_VERSION) or procedure >= len(PROCEDURES):
        return None
    return Call(xid, PROCEDURES[procedure])


def reply_xid(message: bytes) -> int | None:
    """Return the transaction id that a reply answers; None if the message is no reply."""
    if len(message) < REPLY_HEADER.size:
        return None
    xid, kind = REPLY_HEADER.unpack_from(message)
    return int(xid) if kind == REPLY else None


class Faults:
    """What goes wrong next, and what went wrong so far."""

    def __init__(self) -> None:
        self.swallow: str | None = None
        self.hold: str | None = None
        self.swallowed: list[str] = []
        self.held: str | None = None
        self.seen: dict[str, int] = {}
        self._released = asyncio.Event()

    def command(self, line: str) -> dict[str, object]:
        """Obey one line of the control socket; returns the state after it."""
        verb, _, procedure = line.strip().partition(" ")
        if verb in {"swallow", "hold"} and procedure in PROCEDURES:
            setattr(self, verb, procedure)
        elif verb == "release":
            self.hold = None
            self._released.set()
        elif verb == "clear":
            self.swallow, self.swallowed, self.seen = None, [], {}
            return self.command("release")
        elif verb != "status":
            return {"error": f"not understood: {line.strip()!r}"}
        return {"swallow": self.swallow, "swallowed": self.swallowed, "held": self.held, "seen": self.seen}

    def loses_reply_to(self, call: Call) -> bool:
        """Whether this call's reply is the one to lose; true once only."""
        self.seen[call.procedure] = self.seen.get(call.procedure, 0) + 1
        if call.procedure != self.swallow:
            return False
        self.swallow = None
        return True

    async def hold_back(self, call: Call) -> None:
        """Wait for the release if this call is the one to hold."""
        if call.procedure != self.hold:
            return
        self.hold, self.held = None, call.procedure
        self._released.clear()
        await self._released.wait()
        self.held = None


class Connection:
    """One client's connection and the one to the server that belongs to it."""

    def __init__(self, faults: Faults, client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> None:
        self._faults = faults
        self._client = client
        self._server = server
        self._lost: dict[int, str] = {}

    async def forward_calls(self, stream: asyncio.StreamReader) -> None:
        """Send the client's calls on, and note whose reply is to be lost."""
        while record := await read_record(stream):
            if call := parse_call(record.message):
                await self._faults.hold_back(call)
                if self._faults.loses_reply_to(call):
                    self._lost[call.xid] = call.procedure
            self._server.write(record.wire)
            await self._server.drain()

    async def forward_replies(self, stream: asyncio.StreamReader) -> None:
        """Send the server's replies on, up to the one that is to be lost."""
        while record := await read_record(stream):
            xid = reply_xid(record.message)
            if xid is not None and xid in self._lost:
                self._faults.swallowed.append(self._lost.pop(xid))
                reset(self._client)
                return
            self._client.write(record.wire)
            await self._client.drain()


def reset(stream: asyncio.StreamWriter) -> None:
    """Close a connection with RST instead of FIN: the other side knows at once that its calls are lost."""
    connection = stream.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    stream.transport.abort()


class Proxy:
    """Listens for clients and for commands."""

    def __init__(self, server: tuple[str, int]) -> None:
        self._server = server
        self._faults = Faults()

    async def serve_client(self, calls: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        """Carry one client connection until either side ends it."""
        replies, server = await asyncio.open_connection(*self._server)
        connection = Connection(self._faults, client, server)
        directions = {
            asyncio.ensure_future(connection.forward_calls(calls)),
            asyncio.ensure_future(connection.forward_replies(replies)),
        }
        _, pending = await asyncio.wait(directions, return_when=asyncio.FIRST_COMPLETED)
        for task in pending:
            task.cancel()
        results = await asyncio.gather(*directions, return_exceptions=True)
        for writer in (client, server):
            writer.close()
        for result in results:
            if isinstance(result, Exception) and not isinstance(result, ConnectionError):
                print(f"lossy_proxy: {result!r}", file=sys.stderr)

    async def serve_control(self, lines: asyncio.StreamReader, answers: asyncio.StreamWriter) -> None:
        """Answer one command."""
        line = (await lines.readline()).decode()
        answers.write(json.dumps(self._faults.command(line)).encode() + b"\n")
        with contextlib.suppress(ConnectionError):
            await answers.drain()
        answers.close()

    async def run(self, listen: tuple[str, int], control: str) -> None:
        """Serve for ever."""
        clients = await asyncio.start_server(self.serve_client, *listen)
        commands = await asyncio.start_unix_server(self.serve_control, control)
        async with clients, commands:
            await asyncio.gather(clients.serve_forever(), commands.serve_forever())


def send(control: str, line: str) -> dict[str, object]:
    """Send a command to a running proxy; returns its state. ValueError if it doesn't understand."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(30)
        connection.connect(control)
        connection.sendall(line.encode() + b"\n")
        with connection.makefile() as answers:
            state: dict[str, object] = json.loads(answers.readline())
    if "error" in state:
        raise ValueError(state["error"])
    return state


def address(text: str) -> tuple[str, int]:
    """HOST:PORT as a pair."""
    host, _, port = text.rpartition(":")
    return host, int(port)


def main() -> int:
    """Run the proxy, or send a command to a running one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--control", required=True, metavar="SOCKET", help="path of the control socket")
    parser.add_argument("--send", metavar="COMMAND", help="swallow|hold PROCEDURE, release, clear or status")
    parser.add_argument("--listen", type=address, metavar="HOST:PORT")
    parser.add_argument("--server", type=address, metavar="HOST:PORT")
    options = parser.parse_args()
    if options.send:
        print(json.dumps(send(options.control, options.send)))
        return 0
    if not (options.listen and options.server):
        parser.error("either --send, or --listen and --server")
    asyncio.run(Proxy(options.server).run(options.listen, options.control))
    return 0


if __name__ == "__main__":
    sys.exit(main())
