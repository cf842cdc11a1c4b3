//! The same for one thing after the other.

use std::{ffi::OsStr, os::unix::ffi::OsStrExt, process::ExitCode};

use anyhow::Result;

use crate::{output, printable, status};

/// Does `work` for each of these and prints those it went well for. One that fails does not keep the next from its turn; the status is
/// 1 then.
pub(super) async fn each<T: AsRef<OsStr>>(names: &[T], mut work: impl AsyncFnMut(&T) -> Result<()>) -> Result<ExitCode> {
    each_says(names, async |name| {
        work(name).await?;
        Ok(printable::bytes(name.as_ref().as_bytes()))
    })
    .await
}

/// The same, where `work` says what is printed.
pub(super) async fn each_says<T>(names: &[T], mut work: impl AsyncFnMut(&T) -> Result<String>) -> Result<ExitCode> {
    let mut failed = false;
    for name in names {
        match work(name).await {
            Ok(said) => output::print(&format!("{said}\n"))?,
            Err(error) => {
                failed = true;
                status::complain(&format!("{error:#}"));
            }
        }
    }
    Ok(if failed { ExitCode::from(status::FAILURE) } else { ExitCode::SUCCESS })
}
