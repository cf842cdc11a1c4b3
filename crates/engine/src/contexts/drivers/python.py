"""The interpreter of a context: runs code that is sent to it, and tells what came of it.

Orders come on descriptor 0, each ended by NUL: a line that says what to do and how long the code is, then the code. Answers go back on it, a
line of JSON each. What user code prints goes to descriptors 1 and 2 and is nobody's business here.
"""
import ast
import asyncio
import base64
import builtins
import codeop
import fcntl
import io
import json
import linecache
import os
import signal
import sys
import threading
import traceback
import types
import warnings
import __future__

ASYNC = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
CO_COROUTINE = 0x80
# The host takes no line of more than 8 MiB.
LARGEST = 8 * 1024 * 1024 - 4096
# So much of an error's own words, and of where it came from, is told.
LONGEST_MESSAGE = 64 * 1024
LONGEST_TRACEBACK = 512 * 1024
# The host takes no more media types of one thing, and no longer names of them.
MOST_TYPES = 32
LONGEST_TYPE = 200
# Out of the way of what programs do to descriptors by number.
QUIET_PLACE = 300

RICH = [
    ("text/html", "_repr_html_"),
    ("text/markdown", "_repr_markdown_"),
    ("text/latex", "_repr_latex_"),
    ("image/svg+xml", "_repr_svg_"),
    ("image/png", "_repr_png_"),
    ("image/jpeg", "_repr_jpeg_"),
    ("application/json", "_repr_json_"),
    ("application/javascript", "_repr_javascript_"),
    ("application/pdf", "_repr_pdf_"),
]


def private_channel():
    """The channel where children do not inherit it, and an empty standard input in its place."""
    try:
        channel = fcntl.fcntl(0, fcntl.F_DUPFD_CLOEXEC, QUIET_PLACE)
    except OSError:
        channel = os.dup(0)
    nothing = os.open("/dev/null", os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    return channel


class Channel:
    def __init__(self, descriptor):
        self.descriptor = descriptor
        self.owner = os.getpid()
        self.waiting = b""
        self.lock = threading.Lock()

    def order(self):
        while b"\0" not in self.waiting:
            piece = os.read(self.descriptor, 65536)
            if not piece:
                os._exit(0)
            self.waiting += piece
        whole, self.waiting = self.waiting.split(b"\0", 1)
        head, code = whole.split(b"\n", 1)
        return head.decode().split()[0], code.decode("utf-8", "surrogateescape")

    def tell(self, **message):
        # A child that went on alone has nothing to say here.
        if os.getpid() != self.owner:
            return
        line = json.dumps(message).encode() + b"\n"
        # An interrupt must not tear a line.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            with self.lock:
                while line:
                    line = line[os.write(self.descriptor, line):]
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


channel = Channel(private_channel())
os.register_at_fork(after_in_child=lambda: os.close(channel.descriptor))
os.environ.setdefault("MPLBACKEND", "Agg")
# Figures are shown all the same, at the end of the run.
warnings.filterwarnings("ignore", message=".*non-interactive, and thus cannot be shown")

main = types.ModuleType("__main__")
main.__dict__["__builtins__"] = builtins
sys.modules["__main__"] = main
sys.argv = [""]
for stream in (sys.stdout, sys.stderr):
    stream.reconfigure(line_buffering=True)
loop = asyncio.new_event_loop()
asyncio.set_event_loop(loop)
own_frames = private_channel.__code__.co_filename
running = False


def on_interrupt(_number, _frame):
    if running:
        raise KeyboardInterrupt


signal.signal(signal.SIGINT, on_interrupt)


def as_text(value):
    if isinstance(value, (bytes, bytearray, memoryview)):
        return base64.b64encode(bytes(value)).decode()
    if isinstance(value, str):
        return printable(value)
    return json.dumps(value)


def figure_png(figure):
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", bbox_inches="tight")
    return as_text(buffer.getvalue())


def is_figure(value):
    module = sys.modules.get("matplotlib.figure")
    return module is not None and isinstance(value, getattr(module, "Figure", ()))


def bundle(value):
    """What there is to see of a value, by media type."""
    data = {}
    if is_figure(value):
        data["image/png"] = figure_png(value)
    if not isinstance(value, type):
        whole = getattr(type(value), "_repr_mimebundle_", None)
        if whole is not None:
            found = attempt(lambda: value._repr_mimebundle_(include=None, exclude=None))
            if isinstance(found, tuple):
                found = found[0]
            if isinstance(found, dict):
                data.update((str(kind), as_text(shown)) for kind, shown in found.items() if shown is not None)
        for kind, name in RICH:
            if kind not in data and getattr(type(value), name, None) is not None:
                shown = attempt(getattr(value, name))
                # With what else there is to know about it.
                if isinstance(shown, tuple):
                    shown = shown[0]
                if shown is not None:
                    data[kind] = as_text(shown)
    if "text/plain" not in data:
        data["text/plain"] = printable(repr(value))
    return data


def attempt(show):
    try:
        return show()
    except Exception:
        traceback.print_exc()
        return None


def show(kind, data):
    omitted = {}
    named = [(printable(name), content) for name, content in data.items()]
    data = dict([(name, content) for name, content in named if len(name.encode()) <= LONGEST_TYPE][:MOST_TYPES])
    # The largest go first. A character is twelve bytes at most: two escapes, where it is beyond the first plane.
    while sum(len(text) for text in data.values()) * 12 > LARGEST and len(json.dumps(data)) > LARGEST:
        largest = max(data, key=lambda key: len(data[key]))
        omitted[largest] = len(data.pop(largest))
    channel.tell(type=kind, data=data, omitted=omitted)


def display(*values, **options):
    """Shows values as the last one of a run is shown. With `raw`, they are dictionaries from media types to content."""
    sys.stdout.flush()
    sys.stderr.flush()
    for value in values:
        if options.get("raw"):
            show("display", {str(kind): as_text(shown) for kind, shown in value.items()})
        else:
            show("display", bundle(value))
            close_figure(value)


builtins.display = display


def close_figure(value):
    plots = sys.modules.get("matplotlib.pyplot")
    if plots is not None and is_figure(value) and getattr(value, "number", None) is not None:
        plots.close(value)


def show_figures():
    plots = sys.modules.get("matplotlib.pyplot")
    if plots is None or not hasattr(plots, "get_fignums"):
        return
    for number in plots.get_fignums():
        figure = plots.figure(number)
        try:
            display(figure)
        finally:
            plots.close(figure)


def cut(text, longest):
    if len(text) <= longest:
        return text
    half = longest // 2
    return "%s\n[... %d characters left out ...]\n%s" % (text[:half], len(text) - 2 * half, text[-half:])


def printable(text):
    return text.encode("utf-8", "backslashreplace").decode()


def told_error(error):
    hide_own_frames(error, set())
    try:
        message = str(error)
    except BaseException as worse:
        message = "<its text cannot be had: %s>" % type(worse).__name__
    try:
        lines = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    except BaseException as worse:
        lines = "<its traceback cannot be had: %s>\n" % type(worse).__name__
    return {
        "name": printable(cut(type(error).__name__, 1000)),
        "message": printable(cut(message, LONGEST_MESSAGE)),
        "traceback": printable(cut(lines, LONGEST_TRACEBACK)),
    }


def hide_own_frames(error, seen):
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        error.__traceback__ = place = first_of_user(error.__traceback__)
        while place is not None:
            if place.tb_next is not None and place.tb_next.tb_frame.f_code is on_interrupt.__code__:
                place.tb_next = None
            place = place.tb_next
        error = error.__cause__ or error.__context__


def first_of_user(place):
    begin = place
    while place is not None:
        if place.tb_frame.f_code.co_filename.startswith("<input "):
            return place
        place = place.tb_next
    while begin is not None and begin.tb_frame.f_code.co_filename == own_frames:
        begin = begin.tb_next
    return begin


class Compiler:
    """Keeps what `from __future__ import` has asked for."""

    def __init__(self):
        self.flags = ASYNC

    def __call__(self, tree, name, mode):
        code = compile(tree, name, mode, self.flags, True)
        for feature in __future__.all_feature_names:
            self.flags |= code.co_flags & getattr(__future__, feature).compiler_flag
        return code

    def parse(self, source, name):
        return compile(source, name, "exec", self.flags | ast.PyCF_ONLY_AST, True)


compiler = Compiler()


def evaluate(code):
    result = eval(code, main.__dict__)
    if not code.co_flags & CO_COROUTINE:
        return result
    task = loop.create_task(result)
    try:
        return loop.run_until_complete(task)
    except BaseException:
        if not task.done():
            task.cancel()
            try:
                loop.run_until_complete(task)
            except BaseException:
                pass
        raise


def is_only_begun(source):
    try:
        return codeop.compile_command(source, "<input>", "single") is None
    except (SyntaxError, ValueError, OverflowError):
        return False


def run(source, number):
    name = "<input %d>" % number
    linecache.cache[name] = (len(source), None, source.splitlines(True), name)
    # What is remembered of old runs is bounded.
    linecache.cache.pop("<input %d>" % (number - 1000), None)
    tree = compiler.parse(source, name)
    last = None
    if tree.body and isinstance(tree.body[-1], ast.Expr) and not source.rstrip().endswith(";"):
        last = ast.Expression(tree.body.pop().value)
    if tree.body:
        evaluate(compiler(tree, name, "exec"))
    value = evaluate(compiler(last, name, "eval")) if last is not None else None
    if value is not None:
        builtins._ = value
        data = bundle(value)
        flush()
        show("value", data)
        close_figure(value)
    show_figures()


def flush():
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (AttributeError, OSError, ValueError):
            pass


def serve():
    global running
    number = 0
    channel.tell(type="ready", version="Python " + sys.version.split()[0])
    while True:
        order, source = channel.order()
        status = "ok"
        if order == "try" and is_only_begun(source):
            channel.tell(type="done", status="incomplete")
            continue
        number += 1
        signal.signal(signal.SIGINT, on_interrupt)
        try:
            try:
                running = True
                channel.tell(type="begun")
                run(source, number)
            finally:
                running = False
        except BaseException as error:
            running = False
            status = "interrupted" if type(error) is KeyboardInterrupt else "error"
            if os.getpid() == channel.owner:
                flush()
                channel.tell(type="error", **told_error(error))
            else:
                traceback.print_exception(type(error), error, error.__traceback__)
                status = "child"
        flush()
        if os.getpid() != channel.owner:
            os._exit(1 if status == "child" else 0)
        channel.tell(type="done", status=status)


try:
    serve()
except OSError:
    # The channel has been closed or broken by user code: the host knows what that means.
    os._exit(70)
