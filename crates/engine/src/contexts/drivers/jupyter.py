"""Puts a Jupyter kernel in the place of a driver: looks for one, starts it, and translates.

Arguments: the languages that kernels may call their own, then what to become when there is no such kernel (nothing: say so). Orders and
answers are those of every driver, on descriptor 0. Kernels are talked to by ZMTP 3.0 over TCP on the loopback interface, which every kernel
knows; what is needed of that is here, so an image needs none of Jupyter's own libraries.

Whatever the kernel runs may speak in its place. It is believed as much as user code in any driver is: what is no message ends the context.
"""
import json
import os
import sys

LARGEST_SPEC = 64 * 1024
# Of several kernels of one language in one place.
USUAL = ("python3", "ir", "bash", "javascript")


class Spec:
    """What `kernel.json` says about a kernel."""

    def __init__(self, name, directory, content):
        self.name, self.directory = name, directory
        self.argv, self.env = content["argv"], content.get("env") or {}
        self.language = content["language"]
        self.by_message = content.get("interrupt_mode") == "message"
        words = [self.language, *self.argv, *self.env.values()]
        if not self.argv or not all(isinstance(word, str) and "\0" not in word for word in words):
            raise ValueError
        own = "python%d" % sys.version_info[0]
        # As Jupyter has it: the Python in which it was found.
        if self.argv[0] in ("python", own, "%s.%d" % (own, sys.version_info[1])):
            self.argv[0] = sys.executable

    def is_there(self):
        program = self.argv[0]
        places = [""] if "/" in program else os.environ.get("PATH", os.defpath).split(":")
        return any(os.access(os.path.join(place, program), os.X_OK) for place in places)


def kernel_places():
    env = os.environ
    home = env.get("HOME") or "/"
    data = env.get("JUPYTER_DATA_DIR") or os.path.join(env.get("XDG_DATA_HOME") or os.path.join(home, ".local/share"), "jupyter")
    asked = [place for place in env.get("JUPYTER_PATH", "").split(":") if place]
    own = os.path.join(sys.prefix, "share/jupyter")
    return [os.path.join(place, "kernels") for place in [*asked, data, own, "/usr/local/share/jupyter", "/usr/share/jupyter"]]


def kernels():
    """By name; those in front hide those behind."""
    found = {}
    for place in kernel_places():
        try:
            names = sorted(os.listdir(place), key=lambda name: (name not in USUAL, name))
        except OSError:
            continue
        for name in names:
            directory = os.path.join(place, name)
            try:
                with open(os.path.join(directory, "kernel.json"), "rb") as file:
                    text = file.read(LARGEST_SPEC + 1)
                if len(text) <= LARGEST_SPEC and name not in found:
                    found[name] = Spec(name, directory, json.loads(text))
            except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
                pass
    return found.values()


def find(languages):
    return next((spec for spec in kernels() if spec.language.lower() in languages and spec.is_there()), None)


languages, instead = sys.argv[1].lower().split(","), sys.argv[2:]
spec = find(languages)
if spec is None and instead:
    import signal

    # Python ignores these, and what comes would do the same.
    for name in ("SIGPIPE", "SIGXFSZ"):
        signal.signal(getattr(signal, name), signal.SIG_DFL)
    try:
        os.execvp(instead[0], instead)
    except OSError as error:
        sys.exit("%s: %s" % (instead[0], error.strerror))
if spec is None:
    os.write(0, b'{"type":"no_kernel"}\n')
    sys.exit(0)

# Not before it is known that they are needed.
import fcntl
import hashlib
import hmac
import re
import selectors
import signal
import socket
import string
import struct
import subprocess
import tempfile
import time
import uuid

# The host takes no line of more than 8 MiB.
LARGEST = 8 * 1024 * 1024 - 4096
# Nor more media types of one thing, nor longer names of them.
MOST_TYPES = 32
LONGEST_TYPE = 200
LONGEST_MESSAGE = 64 * 1024
LONGEST_TRACEBACK = 512 * 1024
# Of what a kernel says at once, in bytes and in parts.
LARGEST_FRAME = 256 * 1024 * 1024
MOST_PARTS = 1000
# Less than the host waits for a driver.
READY_WITHIN = 25
# A kernel that hangs up ends within this time.
ENDS_WITHIN = 2
# One that cannot tell whether code is complete has it run after this time.
TELLS_WITHIN = 3
QUIET_PLACE = 300
COLOURS = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")
DELIMITER = b"<IDS|MSG>"
MORE, LONG, COMMAND = 1, 2, 4


class Broken(Exception):
    """The kernel said something that is none of the protocol."""


class Connection:
    """One socket of the kernel, seen from the other side: ZMTP 3.0 without security, which the signatures of messages are there for."""

    def __init__(self, kind, port, identity, within):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=within)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.sendall(b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32))
        greeting = self.exactly(64)
        if greeting[0] != 0xFF or greeting[9] != 0x7F or greeting[10] < 3 or greeting[12:32].rstrip(b"\0") != b"NULL":
            raise Broken("it does not speak ZMTP 3")
        # Not together with the greeting: libzmq hangs up on whoever is ready before its own is sent.
        self.socket.sendall(frame(COMMAND, b"\x05READY" + prop(b"Socket-Type", kind) + prop(b"Identity", identity)))
        self.socket.settimeout(None)
        self.received, self.parts, self.size = bytearray(), [], 0

    def exactly(self, count):
        piece = b""
        while len(piece) < count:
            more = self.socket.recv(count - len(piece))
            if not more:
                raise ConnectionResetError
            piece += more
        return piece

    def send(self, parts):
        last = len(parts) - 1
        self.socket.sendall(b"".join(frame(MORE if n < last else 0, part) for n, part in enumerate(parts)))

    def receive(self):
        """The messages that are there now; `None` when there will be no more."""
        try:
            piece = self.socket.recv(1 << 20, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return []
        except OSError:
            return None
        if not piece:
            return None
        self.received += piece
        return self.messages()

    def messages(self):
        messages, at = [], 0
        while len(self.received) - at >= 2:
            flags = self.received[at]
            if flags & ~(MORE | LONG | COMMAND):
                raise Broken("it sent a frame of no known kind")
            head = 9 if flags & LONG else 2
            if len(self.received) - at < head:
                break
            size = struct.unpack_from(">Q", self.received, at + 1)[0] if flags & LONG else self.received[at + 1]
            if self.size + size > LARGEST_FRAME or len(self.parts) >= MOST_PARTS:
                raise Broken("it sent more than %d MiB or %d parts at once" % (LARGEST_FRAME >> 20, MOST_PARTS))
            end = at + head + size
            if len(self.received) < end:
                break
            body, at = bytes(self.received[at + head:end]), end
            if flags & COMMAND:
                continue
            self.parts.append(body)
            self.size += size
            if not flags & MORE:
                messages.append(self.parts)
                self.parts, self.size = [], 0
        del self.received[:at]
        return messages


def prop(name, value):
    return bytes([len(name)]) + name + struct.pack(">I", len(value)) + value


def frame(flags, body):
    if len(body) > 255:
        return struct.pack(">BQ", flags | LONG, len(body)) + body
    return bytes([flags, len(body)]) + body


class Channel:
    """The host: orders from it, answers to it."""

    def __init__(self):
        try:
            self.descriptor = fcntl.fcntl(0, fcntl.F_DUPFD_CLOEXEC, QUIET_PLACE)
        except OSError:
            self.descriptor = os.dup(0)
        nothing = os.open("/dev/null", os.O_RDONLY)
        os.dup2(nothing, 0)
        os.close(nothing)
        self.waiting, self.searched = bytearray(), 0

    def orders(self):
        piece = os.read(self.descriptor, 1 << 20)
        if not piece:
            os._exit(0)
        self.waiting += piece
        orders = []
        while True:
            end = self.waiting.find(b"\0", self.searched)
            if end < 0:
                self.searched = len(self.waiting)
                return orders
            head, code = bytes(self.waiting[:end]).split(b"\n", 1)
            del self.waiting[:end + 1]
            self.searched = 0
            orders.append((head.decode().split()[0], code.decode()))

    def tell(self, **message):
        write(self.descriptor, json.dumps(message).encode() + b"\n")


def write(descriptor, content):
    content = memoryview(content)
    while content:
        content = content[os.write(descriptor, content):]


def printable(text):
    return text.encode("utf-8", "backslashreplace").decode()


def cut(text, longest):
    text = printable(COLOURS.sub("", text))
    if len(text) <= longest:
        return text
    half = longest // 2
    return "%s\n[... %d characters left out ...]\n%s" % (text[:half], len(text) - 2 * half, text[-half:])


def as_text(kind, content):
    if isinstance(content, list) and all(isinstance(line, str) for line in content) and not kind.endswith("json"):
        content = "".join(content)
    if not isinstance(content, str):
        return json.dumps(content)
    # Base64 in lines.
    if kind == "application/pdf" or kind.startswith("image/") and not kind.endswith("+xml"):
        content = "".join(content.split())
    # Kernels write for terminals.
    return printable(COLOURS.sub("", content) if kind == "text/plain" else content)


def text_of(message, name):
    value = message.get(name)
    return value if isinstance(value, str) else ""


class Run:
    """Code that runs, by the identity of the request for it."""

    def __init__(self, request):
        self.request = request
        self.error = self.reply = None
        self.begun = self.idle = self.interrupted = False


class Kernel:
    def __init__(self, spec, channel):
        self.spec, self.channel = spec, channel
        self.key, self.session = uuid.uuid4().hex.encode(), uuid.uuid4().hex
        self.selector = selectors.DefaultSelector()
        self.run = self.question = self.info = self.hung_up = None
        self.heard = False
        self.orders = []
        self.signals = self.listen_for_signals()
        self.place = tempfile.mkdtemp(prefix="kernel-")
        self.process, self.connections = None, {}

    def listen_for_signals(self):
        heard, told = os.pipe()
        for end in (heard, told):
            os.set_blocking(end, False)
        signal.set_wakeup_fd(told)
        # Interrupts are for the kernel, which is of the same process group.
        for number in (signal.SIGINT, signal.SIGCHLD):
            signal.signal(number, lambda *_: None)
        self.selector.register(heard, selectors.EVENT_READ, self.on_signals)
        return heard

    def start(self):
        names = ("shell", "control", "stdin", "iopub", "hb")
        held = {name: held_port() for name in names}
        ports = {name: held[name].getsockname()[1] for name in names}
        path = os.path.join(self.place, "connection.json")
        told = {name + "_port": ports[name] for name in names}
        told.update(transport="tcp", ip="127.0.0.1", key=self.key.decode(), signature_scheme="hmac-sha256", kernel_name=self.spec.name)
        with open(path, "w", opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
            json.dump(told, file)
        values = {"{connection_file}": path, "{resource_dir}": self.spec.directory, "{prefix}": sys.prefix}
        argv = [re.sub("|".join(map(re.escape, values)), lambda found: values[found[0]], word) for word in self.spec.argv]
        if any("ipykernel" in word for word in argv):
            # What is written to descriptors arrives as it is and in time.
            argv.append("--IPKernelApp.capture_fd_output=False")
        env = dict(os.environ, JPY_PARENT_PID=str(os.getpid()))
        env.setdefault("PYDEVD_DISABLE_FILE_VALIDATION", "1")
        env.update((name, string.Template(value).safe_substitute(os.environ)) for name, value in self.spec.env.items())
        try:
            self.process = subprocess.Popen(argv, env=env, start_new_session=self.spec.by_message)
        except (OSError, ValueError) as error:
            raise Broken("it cannot be started: %s" % error)
        deadline = time.monotonic() + READY_WITHIN
        # Input is asked for where the request came from, so all have the same identity.
        for name, kind in (("iopub", b"SUB"), ("shell", b"DEALER"), ("control", b"DEALER"), ("stdin", b"DEALER")):
            while name not in self.connections:
                try:
                    identity = self.session.encode() if kind == b"DEALER" else b""
                    self.connections[name] = Connection(kind, ports[name], identity, max(0.1, deadline - time.monotonic()))
                except OSError:
                    if self.process.poll() is not None:
                        self.end()
                    if time.monotonic() > deadline:
                        raise Broken("it does not listen after %d s" % READY_WITHIN)
                    time.sleep(0.01)
            self.selector.register(self.connections[name].socket, selectors.EVENT_READ, name)
        self.connections["iopub"].send([b"\x01"])
        for port in held.values():
            port.close()

    def serve(self):
        self.wait_until_ready()
        self.selector.register(self.channel.descriptor, selectors.EVENT_READ, "orders")
        while True:
            self.step(0.2 if self.question or self.hung_up else None)
            if self.question and time.monotonic() > self.question[2]:
                self.execute(self.question[1])
            if self.run is None and self.question is None and self.orders:
                self.obey(*self.orders.pop(0))

    def wait_until_ready(self):
        deadline = time.monotonic() + READY_WITHIN
        while self.info is None or not self.heard:
            asked = time.monotonic()
            # Again, as what was published before it knew of us is lost.
            self.send("shell", "kernel_info_request", {})
            while (self.info is None or not self.heard) and time.monotonic() < asked + 1:
                self.step(0.1)
            if time.monotonic() > deadline:
                raise Broken("it did not answer within %d s" % READY_WITHIN)
        self.forget_place()
        about = self.info.get("language_info")
        about = about if isinstance(about, dict) else {}
        name, version = text_of(about, "name") or self.spec.language, text_of(about, "version")
        self.channel.tell(type="ready", version=printable("%s%s %s" % (name[:1].upper(), name[1:], version)), kernel=printable(self.spec.name))

    def step(self, timeout):
        for key, _ in self.selector.select(timeout):
            if key.data == "orders":
                self.orders += self.channel.orders()
            elif callable(key.data):
                key.data()
            else:
                self.receive(key.data)
        if self.hung_up and time.monotonic() > self.hung_up + ENDS_WITHIN:
            raise Broken("it closed its sockets")

    def receive(self, name):
        connection = self.connections[name]
        messages = connection.receive()
        if messages is None:
            self.selector.unregister(connection.socket)
            self.hung_up = self.hung_up or time.monotonic()
            return
        for parts in messages:
            self.on_message(name, *self.opened(parts))

    def on_signals(self):
        numbers = os.read(self.signals, 1024)
        if signal.SIGINT in numbers:
            if self.run is not None:
                self.run.interrupted = True
            if self.spec.by_message:
                self.send("control", "interrupt_request", {})
            # A Python kernel that awaits something notes the signal and sleeps on, until there is something to wake up for.
            self.send("shell", "kernel_info_request", {})
        if signal.SIGCHLD in numbers and self.process.poll() is not None:
            # What it said last is in the sockets.
            deadline = time.monotonic() + 1
            while time.monotonic() < deadline:
                ready = [key.data for key, _ in self.selector.select(0) if key.data in self.connections]
                if not ready:
                    break
                for name in ready:
                    self.receive(name)
            self.end()

    def end(self):
        """As the kernel has ended."""
        self.forget_place()
        code = self.process.returncode
        if code < 0:
            if -code not in (signal.SIGKILL, signal.SIGSTOP):
                signal.signal(-code, signal.SIG_DFL)
            os.kill(os.getpid(), -code)
        os._exit(code & 0xFF)

    def leave(self):
        """As code has asked for. Most kernels end by themselves then, others wait to be ended."""
        deadline = time.monotonic() + ENDS_WITHIN
        while time.monotonic() < deadline:
            self.step(0.1)
        self.process.kill()
        os._exit(0)

    def give_up(self):
        """Whatever the kernel is at, it ends here, and so does this."""
        self.forget_place()
        if self.process is not None and self.spec.by_message:
            try:
                os.killpg(self.process.pid, signal.SIGKILL)
            except OSError:
                pass
        os.killpg(0, signal.SIGKILL)

    def forget_place(self):
        try:
            os.unlink(os.path.join(self.place, "connection.json"))
            os.rmdir(self.place)
        except OSError:
            pass

    def signature(self, parts):
        return hmac.new(self.key, b"".join(parts), hashlib.sha256).hexdigest().encode()

    def send(self, name, kind, content, parent=None):
        identity = uuid.uuid4().hex
        date = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        header = {"msg_id": identity, "session": self.session, "username": "user", "date": date, "msg_type": kind, "version": "5.3"}
        parts = [json.dumps(part).encode() for part in (header, parent or {}, {}, content)]
        try:
            self.connections[name].send([DELIMITER, self.signature(parts), *parts])
        except OSError:
            # It has hung up, which is heard where it is listened to.
            pass
        return identity

    def opened(self, parts):
        if DELIMITER not in parts or len(parts) < parts.index(DELIMITER) + 6:
            raise Broken("it sent something that is no message of Jupyter's")
        at = parts.index(DELIMITER)
        if not hmac.compare_digest(parts[at + 1], self.signature(parts[at + 2:at + 6])):
            raise Broken("it sent a message with a wrong signature")
        try:
            header, parent, _, content = (json.loads(part) for part in parts[at + 2:at + 6])
        except (ValueError, RecursionError):
            raise Broken("it sent a message that is not JSON")
        if not all(isinstance(part, dict) for part in (header, parent, content)):
            raise Broken("it sent a message of the wrong shape")
        return text_of(header, "msg_type"), header, text_of(parent, "msg_id"), content

    def obey(self, order, code):
        if order == "try":
            question = self.send("shell", "is_complete_request", {"code": code})
            self.question = (question, code, time.monotonic() + TELLS_WITHIN)
        else:
            self.execute(code)

    def execute(self, code):
        self.question = None
        # There is nobody to ask. A Python kernel knows how to say that as Python does; others have an error of their own for it.
        content = {"code": code, "silent": False, "store_history": True, "user_expressions": {}, "stop_on_error": False}
        self.run = Run(self.send("shell", "execute_request", dict(content, allow_stdin=self.spec.language.lower() == "python")))

    def on_message(self, name, kind, header, parent, content):
        run = self.run if self.run is not None and self.run.request == parent else None
        if name == "iopub":
            self.heard = True
            self.on_published(kind, content, run)
        elif name == "stdin" and kind == "input_request":
            self.send("stdin", "input_reply", {"value": "\x04"}, header)
        elif name == "shell" and kind == "kernel_info_reply":
            self.info = content
        elif name == "shell" and kind == "is_complete_reply" and self.question and self.question[0] == parent:
            if text_of(content, "status") == "incomplete":
                self.question = None
                self.channel.tell(type="done", status="incomplete")
            else:
                self.execute(self.question[1])
        elif name == "shell" and kind == "execute_reply" and run:
            run.reply = content
        if run and run.idle and run.reply is not None:
            self.finish(run)

    def on_published(self, kind, content, run):
        if kind == "stream":
            descriptor = 2 if text_of(content, "name") == "stderr" else 1
            write(descriptor, text_of(content, "text").encode("utf-8", "backslashreplace"))
        elif kind in ("display_data", "update_display_data"):
            self.show("display", content.get("data"))
        elif kind == "execute_result":
            self.show("value" if run else "display", content.get("data"))
        elif kind == "error" and run:
            run.error = content
        elif kind == "status" and run and text_of(content, "execution_state") == "idle":
            run.idle = True
        if run and not run.begun and (kind == "execute_input" or self.spec.by_message):
            run.begun = True
            self.channel.tell(type="begun")

    def show(self, kind, data):
        if not isinstance(data, dict):
            return
        named = [(printable(media), as_text(media, content)) for media, content in data.items() if content is not None]
        data = dict([(media, text) for media, text in named if len(media.encode()) <= LONGEST_TYPE][:MOST_TYPES])
        omitted = {}
        # The largest go first. A character is twelve bytes at most: two escapes, where it is beyond the first plane.
        while sum(len(text) for text in data.values()) * 12 > LARGEST and len(json.dumps(data)) > LARGEST:
            largest = max(data, key=lambda key: len(data[key]))
            omitted[largest] = len(data.pop(largest))
        if data or omitted:
            self.channel.tell(type=kind, data=data, omitted=omitted)

    def finish(self, run):
        self.run = None
        reply, status = run.reply, text_of(run.reply, "status")
        payload = reply.get("payload")
        for part in payload if isinstance(payload, list) else []:
            source = part.get("source") if isinstance(part, dict) else None
            if source == "page":
                self.show("display", part.get("data"))
            elif source == "ask_exit":
                self.leave()
        error = run.error or (reply if status == "error" else None)
        if error is not None:
            lines = error.get("traceback")
            lines = [line for line in lines if isinstance(line, str)] if isinstance(lines, list) else []
            name, message = text_of(error, "ename"), text_of(error, "evalue")
            self.channel.tell(
                type="error",
                name=cut(name, 1000),
                message=cut(message, LONGEST_MESSAGE),
                traceback=cut("\n".join(lines) or "%s: %s" % (name, message), LONGEST_TRACEBACK),
            )
        stopped = run.interrupted or text_of(error or {}, "ename") == "KeyboardInterrupt"
        if status == "ok" and error is None:
            status = "ok"
        else:
            status = "interrupted" if stopped else "error"
        self.channel.tell(type="done", status=status)


def held_port():
    """A port that nobody else gets until the kernel has it: bound, not listened at, and open to whoever asks for it by its number."""
    held = socket.socket()
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    held.bind(("127.0.0.1", 0))
    return held


channel = Channel()
kernel = Kernel(spec, channel)
try:
    kernel.start()
    kernel.serve()
except Broken as error:
    channel.tell(type="lost", why="its kernel `%s` cannot be used: %s" % (printable(spec.name), printable(str(error))))
    kernel.give_up()
except OSError:
    # The host or the outputs have gone.
    kernel.give_up()
