"""What listens inside a sandbox: tells what it was asked, and misbehaves where it is asked to. One process, any number of connections."""

import asyncio
import base64
import hashlib
import json
import sys

RELEASED = asyncio.Event()
OPEN = set()
REPORTS = []


def answer(status, body, kind="application/json", more=()):
    head = [f"HTTP/1.1 {status}", f"content-type: {kind}", f"content-length: {len(body)}", "connection: close", *more]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + body


async def body_of(reader, headers):
    names = {name.lower(): value for name, value in headers}
    if names.get("transfer-encoding", "").lower() == "chunked":
        body = b""
        while size := int(await reader.readline(), 16):
            body += await reader.readexactly(size)
            await reader.readline()
        await reader.readline()
        return body
    return await reader.readexactly(int(names.get("content-length", 0)))


async def websocket(reader, writer, headers):
    names = {name.lower(): value for name, value in headers}
    key = names["sec-websocket-key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
    accept = base64.b64encode(hashlib.sha1(key.encode()).digest()).decode()
    writer.write(
        f"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n\r\n".encode()
    )
    while True:
        first, second = await reader.readexactly(2)
        length = second & 127
        if length == 126:
            length = int.from_bytes(await reader.readexactly(2), "big")
        elif length == 127:
            length = int.from_bytes(await reader.readexactly(8), "big")
        mask = await reader.readexactly(4)
        data = bytes(byte ^ mask[at % 4] for at, byte in enumerate(await reader.readexactly(length)))
        head = bytes([first, length]) if length < 126 else bytes([first, 126]) + length.to_bytes(2, "big")
        writer.write(head + data)
        await writer.drain()
        if first & 15 == 8:
            return


async def misbehave(what, writer, reader):
    if what == "endless-headers":
        writer.write(b"HTTP/1.1 200 OK\r\n")
        while True:
            writer.write(b"x-more: " + b"y" * 1000 + b"\r\n")
            await writer.drain()
    elif what == "many-headers":
        writer.write(b"HTTP/1.1 200 OK\r\n" + b"".join(b"x-%d: y\r\n" % n for n in range(200)) + b"\r\n")
    elif what == "garbage":
        writer.write(bytes(range(256)) * 100)
    elif what == "half":
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nonly this")
    elif what == "nothing":
        pass
    elif what == "lengths":
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 5\r\n\r\nhello")
    elif what == "smuggle":
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nokHTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nsecond")
    elif what == "switches":
        writer.write(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
    elif what == "early":
        # With the rest of the request unread, the kernel resets the connection.
        writer.write(answer("413 Too Large", b"too much", "text/plain"))
    elif what == "until-closed":
        writer.write(b"HTTP/1.1 200 OK\r\n\r\nfirst ")
        await writer.drain()
        await RELEASED.wait()
        writer.write(b"last")
    elif what == "slow":
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nfirst ")
        await writer.drain()
        await reader.read()
    elif what == "away":
        writer.write(answer("307 Away", b"", "text/plain", ["Location: ../../../../../keys"]))
    elif what == "never":
        await reader.read()
    elif what == "origin":
        names = ["Clear-Site-Data: \"*\"", "Strict-Transport-Security: max-age=9", "Alt-Svc: h3=\":1\"", "Service-Worker-Allowed: /", "NEL: {}"]
        names += ["Set-Cookie: s=1; Path=/; Domain=localhost", "Set-Cookie: caisson_token=ct_x", "WWW-Authenticate: Basic realm=x", "X-Request-Id: theirs"]
        names += ["Content-Security-Policy: sandbox allow-same-origin allow-scripts", "Access-Control-Allow-Origin: *", "Connection: x-hop", "X-Hop: 1"]
        writer.write(answer("200 OK", b"<p>page", "text/html", names))
    elif what == "leads":
        writer.write(answer("302 Found", b"", "text/plain", ["Location: /elsewhere?x=1"]))
    await writer.drain()


async def serve(reader, writer):
    OPEN.add(writer)
    try:
        method, target, _ = (await reader.readline()).decode().split()
        headers = []
        while line := (await reader.readline()).decode("latin-1").rstrip("\r\n"):
            name, value = line.split(":", 1)
            headers.append((name, value.strip()))
        path = target.split("?")[0]
        if path.startswith("/bad/"):
            await misbehave(path[5:], writer, reader)
        elif path == "/websocket":
            await websocket(reader, writer, headers)
        elif path == "/events":
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\ndata: first\n\n")
            await writer.drain()
            await RELEASED.wait()
            writer.write(b"data: last\n\n")
        elif path == "/ticks":
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n")
            while True:
                writer.write(b"data: tick\n\n")
                await writer.drain()
                await asyncio.sleep(0.2)
        elif path == "/release":
            RELEASED.set()
            writer.write(answer("200 OK", b"{}"))
        elif path == "/open":
            writer.write(answer("200 OK", json.dumps(len(OPEN) - 1).encode()))
        elif path == "/page/":
            writer.write(answer("200 OK", b"<!doctype html><title>page</title><script src=\"sub/script.js\"></script>", "text/html"))
        elif path == "/page/sub/script.js":
            writer.write(answer("200 OK", open("script.js", "rb").read(), "text/javascript"))
        elif path == "/page/report":
            REPORTS.append(json.loads(await body_of(reader, headers)))
            writer.write(answer("200 OK", b"{\"heard\": true}"))
        elif path == "/reports":
            writer.write(answer("200 OK", json.dumps(REPORTS).encode()))
        else:
            body = await body_of(reader, headers)
            told = {"method": method, "target": target, "headers": headers, "body": body.decode("latin-1")}
            writer.write(answer("200 OK", b"" if method == "HEAD" else json.dumps(told).encode()))
        await writer.drain()
    except (ConnectionError, asyncio.IncompleteReadError):
        pass
    finally:
        OPEN.discard(writer)
        writer.close()


async def main():
    server = await asyncio.start_server(serve, sys.argv[1], int(sys.argv[2]), backlog=2048)
    await server.serve_forever()


asyncio.run(main())
