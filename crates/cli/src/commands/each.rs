//! The same for one thing after the other.

use std::{ffi::OsStr, os::unix::ffi::OsStrExt, process::ExitCode};

use anyhow::Result;

use crate::{output, printable, status};

/// Does `work` for each of these and prints those it went well for. One that fails does not keep the next from its turn; the status is
/// 1 then.
pub(super) async fn each<T: AsRef<OsStr>>(names: &[T], mut work: impl AsyncFnMut(&T) -> Result<()>) -> Result<ExitCode> {
    let mut failed = false;
    for name in names {
        match work(name).await {
            Ok(()) => output::print(&format!("{}\n", printable::bytes(name.as_ref().as_bytes())))?,
            Err(error) => {
                failed = true;
                status::complain(&format!("{error:#}"));
            }
        }
    }
    Ok(if failed { ExitCode::from(status::FAILURE) } else { ExitCode::SUCCESS })
}
