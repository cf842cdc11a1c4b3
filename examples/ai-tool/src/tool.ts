// The tool itself: what a model is told of it, and what it gets back.

import { tool } from 'ai';
import { z } from 'zod';

import { execute, type Sandbox } from './sandbox.js';

const LIBRARIES =
  'numpy, pandas, scipy, scikit-learn, matplotlib, seaborn, plotly, pillow, opencv (headless), ffmpeg, moviepy, pydub, weasyprint, reportlab, ' +
  'python-docx, openpyxl, python-pptx, PyPDF2, beautifulsoup4, requests';

const inputSchema = z.object({
  language: z.enum(['python', 'bash']).describe('What the code is written in'),
  code: z.string().min(1).max(50_000).describe('The whole program'),
  path: z.string().min(1).max(255).optional().describe('What the program is called; main.py or script.sh when absent'),
  files: z.array(z.string()).optional().describe("Names of the chat's files that the program reads; it finds no others"),
  timeout: z.number().int().min(5).max(300).default(60).describe('Seconds until it is ended'),
});

export interface CodeResult {
  success: boolean;
  exitCode: number;
  executionTime: number;
  stdout?: string;
  stderr?: string;
  outputFiles?: { path: string; media_type: string; size: number; url: string }[];
}

/** How an application hands out a file of a chat. */
export type LinkTo = (chatId: string, path: string) => string;

/** Runs code for the chat that a sandbox names. */
export function executeCode(sandbox: Sandbox, linkTo: LinkTo) {
  return tool({
    description:
      'Runs a program in a fresh sandbox without a network and returns what it says. Every run starts anew: only files last. Files that it ' +
      `writes into the directory where it starts, or into /tmp, are kept for the chat and shown to the user. Python has ${LIBRARIES}.`,
    inputSchema,
    execute: async ({ language, code, path, files, timeout }, { abortSignal }): Promise<CodeResult> => {
      const program = { language, code, files, timeout, path: path ?? (language === 'python' ? 'main.py' : 'script.sh') };
      const result = await execute(sandbox, program, abortSignal);
      const outputFiles = result.outputFiles.map((file) => ({ ...file, url: linkTo(sandbox.chatId, file.path) }));
      return {
        success: result.exitCode === 0,
        exitCode: result.exitCode,
        executionTime: result.executionTime,
        stdout: result.stdout || undefined,
        stderr: result.stderr || undefined,
        outputFiles: outputFiles.length > 0 ? outputFiles : undefined,
      };
    },
  });
}
