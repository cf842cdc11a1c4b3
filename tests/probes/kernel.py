"""A kernel that does whatever the code that it is sent does to the protocol. `how` says what it does before it speaks it at all."""
import hashlib
import hmac
import json
import os
import signal
import socket
import sys
import time

about, how = json.load(open(sys.argv[1])), sys.argv[2]
signal.signal(signal.SIGINT, signal.SIG_IGN)
NAMES = ("shell", "control", "stdin", "iopub", "hb")
GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32)
RAW = {
    "garbage": b"HTTP/1.1 400 Bad Request\r\n" * 10,
    "huge": GREETING + b"\2" + b"\x7f" + b"\xff" * 7,
    "odd": GREETING + b"\xf0\0",
    "silent": b"",
    "mute": GREETING,
}
if how in RAW:
    listeners = [socket.create_server(("127.0.0.1", about[name + "_port"])) for name in NAMES]
    children = [os.fork() for _ in NAMES[1:]] + [1]
    listener = listeners[children.index(0) if 0 in children else len(NAMES) - 1]
    accepted = []
    while True:
        accepted.append(listener.accept()[0])
        accepted[-1].sendall(RAW[how])

import zmq

context = zmq.Context()


def bound(name, kind):
    made = context.socket(kind)
    made.bind("tcp://127.0.0.1:%d" % about[name + "_port"])
    return made


shell, control, stdin = (bound(name, zmq.ROUTER) for name in NAMES[:3])
iopub = bound("iopub", zmq.PUB)


def send_raw(to, identities, parts, key=about["key"]):
    signature = hmac.new(key.encode(), b"".join(parts), hashlib.sha256).hexdigest().encode()
    to.send_multipart([*identities, b"<IDS|MSG>", signature, *parts])


def send(to, identities, kind, content, key=about["key"]):
    send_raw(to, identities, [json.dumps(part).encode() for part in ({"msg_type": kind}, request, {}, content)], key)


def tell(kind, content, **more):
    send(iopub, [b"topic"], kind, content, **more)


while True:
    identity, _, _, request, _, _, content = shell.recv_multipart()
    request, content = json.loads(request), json.loads(content)
    tell("status", {"execution_state": "busy"})
    if request["msg_type"] == "kernel_info_request":
        send(shell, [identity], "kernel_info_reply", {"language_info": {"name": "fake", "version": "\x1b[1m2"}})
    elif request["msg_type"] == "execute_request":
        tell("execute_input", {})
        reply = {"status": "ok"}
        exec(content["code"])
        send(shell, [identity], "execute_reply", reply)
    tell("status", {"execution_state": "idle"})
