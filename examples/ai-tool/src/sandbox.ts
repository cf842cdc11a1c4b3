// The client of the service: one call, one program, one answer.

/** A file that a program has left for its chat. */
export interface OutputFile {
  /** Its name under the chat. */
  path: string;
  media_type: string;
  size: number;
}

export interface Execution {
  language: 'python' | 'bash';
  /** Where the code is written to, and so what it is called in tracebacks. */
  path: string;
  code: string;
  /** Names of files of the chat that the program finds where it starts. */
  files?: string[];
  /** Seconds. */
  timeout?: number;
}

export interface ExecutionResult {
  executionId: string;
  /** 0 when all went well, 124 when the time was over. */
  exitCode: number;
  stdout: string;
  stderr: string;
  /** Milliseconds. */
  executionTime: number;
  outputFiles: OutputFile[];
}

/** Where the service is, and whose chat it is. */
export interface Sandbox {
  url: string;
  apiKey: string;
  userId: string;
  chatId: string;
}

/** What the service answers instead of a result. */
export class SandboxError extends Error {
  constructor(
    /** Stable, such as `queue_timeout`. */
    readonly code: string,
    message: string,
    readonly status: number,
  ) {
    super(message);
    this.name = 'SandboxError';
  }
}

interface Answer {
  execution_id: string;
  exit_code: number;
  stdout: string;
  stderr: string;
  execution_time_ms: number;
  output_files: OutputFile[];
}

/** Runs a program in a sandbox of its own. Programs that fail are results; what throws is that there is none. */
export async function execute(sandbox: Sandbox, execution: Execution, signal?: AbortSignal): Promise<ExecutionResult> {
  const { timeout, ...rest } = execution;
  const response = await fetch(new URL('/execute', sandbox.url), {
    method: 'POST',
    headers: {
      'Content-Type': 'application/json',
      'X-API-Key': sandbox.apiKey,
      'X-User-ID': sandbox.userId,
      'X-Chat-ID': sandbox.chatId,
    },
    body: JSON.stringify({ ...rest, timeout_seconds: timeout }),
    signal,
  });
  if (!response.ok) {
    throw await refusal(response);
  }
  const answer = (await response.json()) as Answer;
  return {
    executionId: answer.execution_id,
    exitCode: answer.exit_code,
    stdout: answer.stdout,
    stderr: answer.stderr,
    executionTime: answer.execution_time_ms,
    outputFiles: answer.output_files,
  };
}

async function refusal(response: Response): Promise<SandboxError> {
  const text = await response.text();
  try {
    const { error, message } = JSON.parse(text) as { error: string; message: string };
    return new SandboxError(error, message, response.status);
  } catch {
    return new SandboxError('unknown', text.trim() || response.statusText, response.status);
  }
}
