"""Tries one thing that nobody in a sandbox may do: shadow, network, fork-bomb, disk, files, memory or forever.

Its last line is `refused: …` when it got nowhere and `got through: …` when it did.
"""

import os
import socket
import sys


def shadow():
    for path in ("/etc/shadow", "/proc/1/root/etc/shadow", "/proc/self/root/../etc/shadow", "/usr/../etc/shadow"):
        try:
            with open(path) as file:
                return f"got through: {path} has {len(file.read())} characters"
        except OSError as error:
            last = error
    return f"refused: {last}"


def network():
    own_port = int(sys.argv[2])
    targets = [("1.1.1.1", 53), ("169.254.169.254", 80), ("127.0.0.1", own_port), ("::1", own_port)]
    for target in targets:
        try:
            socket.create_connection(target, timeout=2).close()
            return f"got through: {target}"
        except OSError as error:
            last = error
    try:
        return f"got through: example.org is {socket.gethostbyname('example.org')}"
    except OSError:
        return f"refused: {last}; no names are resolved, and the server's own port is out of reach"


def fork_bomb():
    children = 0
    try:
        while children < 10_000:
            if os.fork() == 0:
                # A child waits for the end of the sandbox.
                while True:
                    os.read(os.pipe()[0], 1)
            children += 1
    except OSError as error:
        return f"refused: {error} after {children} processes"
    return f"got through: {children} processes"


def disk():
    written = 0
    try:
        with open("large", "wb") as file:
            while written < 10 << 30:
                written += file.write(b"\0" * (1 << 20))
                file.flush()
    except OSError as error:
        return f"refused: {error} after {written >> 20} MiB"
    return f"got through: {written >> 20} MiB"


def files():
    made = 0
    try:
        while made < 1_000_000:
            open(f"file-{made}", "w").close()
            made += 1
    except OSError as error:
        return f"refused: {error} after {made} files"
    return f"got through: {made} files"


def memory():
    kept = []
    while len(kept) < 4096:
        kept.append(b"\1" * (1 << 20))
    return f"got through: {len(kept)} MiB"


def forever():
    os.setsid() if os.getpid() != os.getsid(0) else None
    if os.fork():
        os.fork()
    while True:
        pass


print({"shadow": shadow, "network": network, "fork-bomb": fork_bomb, "disk": disk, "files": files, "memory": memory, "forever": forever}[sys.argv[1]]())
