// The interpreter of a context: runs code that is sent to it, and tells what came of it.
//
// Orders come on descriptor 9, each ended by NUL: a line that says what to do and how long the code is, then the code. Answers go back on it, a
// line of JSON each. Code is run by Node's own REPL, so declarations last, `await` may stand anywhere, and what is only begun is known for that.
'use strict';
{
const CHANNEL = 9;
// The host takes no line of more than 8 MiB.
const LARGEST = 8 * 1024 * 1024 - 4096;
const LONGEST_MESSAGE = 64 * 1024;
const LONGEST_TRACEBACK = 512 * 1024;
// The host takes no more media types of one thing, and no longer names of them.
const MOST_TYPES = 32;
const LONGEST_TYPE = 200;
// Halves of characters are no text.
const HALF = /[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]/g;
const fs = require('fs'), net = require('net'), repl = require('repl'), util = require('util');
const { Readable, Writable } = require('stream');
const RICH = [
  ['text/html', '_repr_html_'], ['text/markdown', '_repr_markdown_'], ['text/latex', '_repr_latex_'], ['image/svg+xml', '_repr_svg_'],
  ['image/png', '_repr_png_'], ['image/jpeg', '_repr_jpeg_'], ['application/json', '_repr_json_'],
  ['application/javascript', '_repr_javascript_'], ['application/pdf', '_repr_pdf_'],
];
const pause = new Int32Array(new SharedArrayBuffer(4));

// At once, so that nothing that is printed later comes before it.
function tell(message) {
  const whole = (_key, value) => (typeof value === 'string' ? value.replace(HALF, '\ufffd') : value);
  let line = Buffer.from(JSON.stringify(message, whole) + '\n');
  while (line.length > 0) {
    try {
      line = line.subarray(fs.writeSync(CHANNEL, line));
    } catch (error) {
      // Broken by user code: the host knows what that means.
      if (error.code !== 'EAGAIN') process.reallyExit(70);
      Atomics.wait(pause, 0, 0, 1);
    }
  }
}

function asText(value) {
  if (typeof value === 'string') return value;
  if (value instanceof Uint8Array) return Buffer.from(value.buffer, value.byteOffset, value.byteLength).toString('base64');
  return JSON.stringify(value);
}

function bundle(value) {
  const data = {};
  const attempt = (look) => {
    try {
      return look();
    } catch (error) {
      console.error(error);
      return undefined;
    }
  };
  if (value !== null && typeof value === 'object') {
    const whole = attempt(() => value[Symbol.for('Jupyter.display')]);
    if (typeof whole === 'function') {
      const found = attempt(() => whole.call(value)) ?? {};
      for (const [kind, shown] of Object.entries(found)) data[kind] = asText(shown);
    }
    for (const [kind, name] of RICH) {
      if (kind in data || typeof attempt(() => value[name]) !== 'function') continue;
      const shown = attempt(() => value[name]());
      if (shown !== undefined && shown !== null) data[kind] = asText(shown);
    }
  }
  if (!('text/plain' in data)) data['text/plain'] = util.inspect(value);
  return data;
}

function show(type, shown) {
  const omitted = {};
  const named = Object.entries(shown).map(([name, content]) => [name.replace(HALF, '\ufffd'), content]);
  const data = Object.fromEntries(named.filter(([name]) => Buffer.byteLength(name) <= LONGEST_TYPE).slice(0, MOST_TYPES));
  // The largest go first.
  while (JSON.stringify(data).length * 3 > LARGEST && Buffer.byteLength(JSON.stringify(data)) > LARGEST) {
    const largest = Object.keys(data).reduce((a, b) => (data[a].length >= data[b].length ? a : b));
    omitted[largest] = data[largest].length;
    delete data[largest];
  }
  tell({ type, data, omitted });
}

globalThis.display = (...values) => {
  for (const value of values) show('display', bundle(value));
};

function cut(text, longest) {
  if (text.length <= longest) return text;
  const half = longest >> 1;
  return `${text.slice(0, half)}\n[... ${text.length - 2 * half} characters left out ...]\n${text.slice(-half)}`;
}

function toldError(thrown) {
  const text = (look) => {
    try {
      return String(look());
    } catch {
      return '<it cannot be told>';
    }
  };
  if (!util.types.isNativeError(thrown)) {
    const shown = text(() => util.inspect(thrown));
    return { name: 'thrown', message: cut(shown, LONGEST_MESSAGE), traceback: cut(`Uncaught ${shown}`, LONGEST_TRACEBACK) };
  }
  const lines = text(() => thrown.stack ?? thrown).split('\n');
  const own = lines.findIndex((line) => /^\s+at .*(\[eval\]|node:)/.test(line));
  const traceback = (own < 0 ? lines : lines.slice(0, own)).join('\n');
  return { name: text(() => thrown.name), message: cut(text(() => thrown.message), LONGEST_MESSAGE), traceback: cut(traceback, LONGEST_TRACEBACK) };
}

// What the REPL itself has to say, such as on warnings, is standard error.
const output = new Writable({
  write(piece, _encoding, done) {
    process.stderr.write(piece);
    done();
  },
});
// Errors of a run are its own affair, not that of a domain around all of them.
const noDomain = { bind: (wrapped) => wrapped, on() {}, enter() {}, exit() {}, emit() {}, add() {}, remove() {}, removeListener() {} };
const node = repl.start({
  prompt: '', input: new Readable({ read() {} }), output, terminal: false, useGlobal: true, breakEvalOnSigint: true, domain: noDomain,
});

// Its REPL looks at this when it begins to watch for interrupts, when it runs the code, and when it no longer watches. What it is told there is set
// here: an interrupt is for the code only from the second look on.
let looks = 0;
let watches = [];
let hasBegun = true;
Object.defineProperty(node, 'breakEvalOnSigint', {
  get() {
    looks += 1;
    if (looks === 2) begin();
    return watches[looks - 1] ?? true;
  },
});

// Whoever ends the last watch has the default action for interrupts, and is killed by the next one. So one more watch is held from before the code
// until the next code comes, when nobody sends any.
let holds = false;
function watch(...answers) {
  [looks, watches, hasBegun] = [0, answers, true];
  node.eval('0\n', node.context, 'watch', () => {});
}

function hold() {
  if (holds) watch(false, false, true);
  watch(true, false, false);
  holds = true;
}

// What comes while no code runs in one go is kept until a watch ends, and Node then tells its REPL.
let missed = false;
const [giveUp] = node.listeners('SIGINT');
node.removeAllListeners('SIGINT');
node.on('SIGINT', () => {
  missed = true;
});

function catchUp() {
  if (!missed) watch(true, false, true);
  if (missed) interrupt();
}

function begin() {
  if (!hasBegun) {
    hasBegun = true;
    // One that comes before the code itself runs is missed by Node.
    tell({ type: 'begun', may_miss: true });
  }
}

let number = 0;
let interrupt = () => {};

// An interrupt may stop Node's own code in the middle of a write, and then the stream waits for its end for ever.
function mend(stream) {
  const state = stream._writableState;
  for (let tries = 0; tries < 1000 && (state.writing || state.length > 0); tries += 1) {
    try {
      if (state.bufferProcessing) state.bufferProcessing = false;
      state.onwrite();
    } catch {
      return;
    }
  }
}

function evaluate(code, name) {
  return new Promise((resolve, reject) => {
    interrupt = () => {
      giveUp.call(node);
      reject(Object.assign(new Error('Script execution was interrupted by `SIGINT`'), { code: 'ERR_SCRIPT_EXECUTION_INTERRUPTED' }));
    };
    hold();
    [looks, watches, hasBegun, missed] = [0, [], false, false];
    // Listeners of the code's own are left where they are meanwhile.
    process.listenerCount = () => 0;
    try {
      node.eval(code + '\n', node.context, name, (error, value) => (error ? reject(error) : Promise.resolve(value).then(resolve, reject)));
    } finally {
      begin();
      delete process.listenerCount;
    }
  });
}

async function run(order, code) {
  let status = 'ok';
  let looking;
  try {
    number += 1;
    const evaluated = evaluate(code, `<input ${number}>`);
    looking = setInterval(catchUp, 50);
    const value = await evaluated;
    clearInterval(looking);
    if (value !== undefined) {
      show('value', bundle(value));
    }
  } catch (thrown) {
    clearInterval(looking);
    if (thrown instanceof repl.Recoverable && order === 'try') {
      number -= 1;
      status = 'incomplete';
    } else {
      const error = thrown instanceof repl.Recoverable ? thrown.err : thrown;
      status = error?.code === 'ERR_SCRIPT_EXECUTION_INTERRUPTED' ? 'interrupted' : 'error';
      if (status === 'interrupted') for (const stream of [process.stdout, process.stderr]) mend(stream);
      tell({ type: 'error', ...toldError(error) });
    }
  }
  tell({ type: 'done', status });
}

// Nobody waits for these: they are told, and the context goes on.
process.on('uncaughtException', (error) => console.error('Uncaught', error));
process.on('unhandledRejection', (reason) => console.error('Uncaught (in promise)', reason));

const channel = new net.Socket({ fd: CHANNEL, readable: true, writable: true });
let waiting = [];
channel.on('data', (piece) => {
  let from = 0;
  for (let end = piece.indexOf(0); end >= 0; end = piece.indexOf(0, from)) {
    waiting.push(piece.subarray(from, end));
    const whole = Buffer.concat(waiting).toString();
    waiting = [];
    from = end + 1;
    const line = whole.indexOf('\n');
    run(whole.slice(0, line).split(' ')[0], whole.slice(line + 1));
  }
  waiting.push(piece.subarray(from));
});
channel.on('error', () => process.reallyExit(70));
channel.on('close', () => process.reallyExit(70));
tell({ type: 'ready', version: `Node.js ${process.version}` });
}
