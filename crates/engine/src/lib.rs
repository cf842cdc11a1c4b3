//! Policy: everything that decides something about sandboxes and executions. Knows no HTTP and no kernel.

mod request;

pub use request::{
    ByteStream, Captured, ChangedFile, CreateRequest, Created, ExecRequest, ExecutionResult, InputFile, OutputChunk, Program, Progress,
    RunRequest, RunResult, SandboxUpdate, Stdin,
};
