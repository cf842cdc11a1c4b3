// The tool in a chat: a model that is made up asks for it, the program runs in a real sandbox, and the model sees what came of it.
// `SANDBOX_URL` and `SANDBOX_API_KEY` name a server.

import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { test } from 'node:test';

import { generateText, isStepCount } from 'ai';
import { MockLanguageModelV4 } from 'ai/test';

import { SandboxError, type Sandbox } from '../src/sandbox.js';
import { executeCode, type CodeResult } from '../src/tool.js';

const linkTo = (chatId: string, path: string) => `https://chat.example/${chatId}/files/${encodeURIComponent(path)}`;

function chat(): Sandbox {
  const { SANDBOX_URL: url, SANDBOX_API_KEY: apiKey } = process.env;
  assert.ok(url && apiKey, 'SANDBOX_URL and SANDBOX_API_KEY have to be set');
  return { url, apiKey, userId: 'user-1', chatId: randomUUID() };
}

const usage = {
  inputTokens: { total: 1, noCache: 1, cacheRead: 0, cacheWrite: 0 },
  outputTokens: { total: 1, text: 1, reasoning: 0 },
};

/** Lets a model ask for the tool once and then say something. Returns what the tool gave, and what the model was told of it. */
async function asked(sandbox: Sandbox, input: Record<string, unknown>) {
  const call = { type: 'tool-call' as const, toolCallId: 'call-1', toolName: 'executeCode', input: JSON.stringify(input) };
  const model = new MockLanguageModelV4({
    doGenerate: [
      { content: [call], finishReason: { unified: 'tool-calls', raw: 'tool-calls' }, usage, warnings: [] },
      { content: [{ type: 'text', text: 'done' }], finishReason: { unified: 'stop', raw: 'stop' }, usage, warnings: [] },
    ],
  });
  const answer = await generateText({
    model,
    prompt: 'Run it.',
    tools: { executeCode: executeCode(sandbox, linkTo) },
    stopWhen: isStepCount(2),
  });
  assert.equal(answer.text, 'done');
  const first = answer.steps[0];
  assert.ok(first);
  return { parts: first.content, result: first.toolResults[0]?.output as CodeResult | undefined, told: model.doGenerateCalls[1]?.prompt };
}

test('a program that ends well is a success', async () => {
  const { result, told } = await asked(chat(), { language: 'python', code: 'print(6 * 7)' });
  assert.equal(result?.success, true);
  assert.equal(result.exitCode, 0);
  assert.equal(result.stdout, '42\n');
  assert.equal(result.stderr, undefined);
  assert.equal(result.outputFiles, undefined);
  assert.ok(Number.isInteger(result.executionTime));
  assert.ok(JSON.stringify(told).includes('42'), 'the model sees it');
});

test('files last in a chat, and nowhere else', async () => {
  const one = chat();
  const made = await asked(one, { language: 'python', code: "open('numbers.csv', 'w').write('a,b\\n1,2\\n')" });
  assert.equal(made.result?.outputFiles?.length, 1);
  assert.deepEqual(made.result.outputFiles[0], {
    path: 'numbers.csv',
    media_type: 'text/csv',
    size: 8,
    url: `https://chat.example/${one.chatId}/files/numbers.csv`,
  });
  const reads = { language: 'bash', code: 'tail -n 1 numbers.csv', files: ['numbers.csv'] };
  assert.equal((await asked(one, reads)).result?.stdout, '1,2\n');
  const elsewhere = (await asked(chat(), reads)).result;
  assert.equal(elsewhere?.success, false);
  assert.match(elsewhere.stderr ?? '', /numbers\.csv/);
});

test('what fails is no success, and says why', async () => {
  const failed = (await asked(chat(), { language: 'python', code: '1 / 0' })).result;
  assert.equal(failed?.success, false);
  assert.equal(failed.exitCode, 1);
  assert.match(failed.stderr ?? '', /main\.py.*ZeroDivisionError/s);
  const slow = (await asked(chat(), { language: 'bash', code: 'echo begun; sleep 60', timeout: 5 })).result;
  assert.equal(slow?.success, false);
  assert.equal(slow.exitCode, 124);
  assert.equal(slow.stdout, 'begun\n');
  assert.equal(slow.stderr, 'execution killed after 5 seconds');
});

test('what the model may not ask for never comes to the server', async () => {
  for (const input of [{ language: 'ruby', code: 'x' }, { language: 'python' }, { language: 'bash', code: 'x', timeout: 1 }]) {
    const { parts, result } = await asked(chat(), input);
    assert.equal(result, undefined);
    assert.ok(parts.some((part) => part.type === 'tool-error'), JSON.stringify(parts));
  }
});

test('a refusal is an error of the tool', async () => {
  const { parts, result } = await asked({ ...chat(), apiKey: 'wrong' }, { language: 'bash', code: 'true' });
  assert.equal(result, undefined);
  const failed = parts.find((part) => part.type === 'tool-error');
  assert.ok(failed?.type === 'tool-error' && failed.error instanceof SandboxError);
  assert.deepEqual([failed.error.code, failed.error.status], ['unauthorized', 401]);
});
