//! What people at a terminal see while something takes long.

use std::{io::IsTerminal, time::Duration};

use futures::{FutureExt, future::LocalBoxFuture};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Nothing is shown before this long.
const PATIENCE: Duration = Duration::from_millis(500);
const TICK: Duration = Duration::from_millis(100);

/// Waits for `work`. At a terminal a spinner with `message` shows as soon as that takes long, and goes before this returns.
pub(crate) async fn spinner<T>(message: &'static str, work: impl Future<Output = T>) -> T {
    if std::io::stderr().is_terminal() { turning(message, work.boxed_local()).await } else { work.await }
}

async fn turning<T>(message: &'static str, mut work: LocalBoxFuture<'_, T>) -> T {
    tokio::select! {
        done = &mut work => return done,
        // The work is kept and awaited below.
        () = tokio::time::sleep(PATIENCE) => {}
    }
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
    bar.set_style(ProgressStyle::default_spinner());
    bar.set_message(message);
    bar.enable_steady_tick(TICK);
    let done = work.await;
    bar.finish_and_clear();
    done
}

/// A bar for bytes that are copied, shown like the spinner.
#[derive(Debug, Clone)]
pub(crate) struct Copying {
    bar: ProgressBar,
}

impl Copying {
    /// Of `total` bytes, where that is known.
    pub(crate) fn begin(name: &str, total: Option<u64>) -> Self {
        if !std::io::stderr().is_terminal() {
            return Self { bar: ProgressBar::hidden() };
        }
        let bar = ProgressBar::with_draw_target(total, ProgressDrawTarget::hidden()).with_message(crate::printable::text(name));
        let template = match total {
            Some(_) => "{msg}  {bytes}/{total_bytes}  {binary_bytes_per_sec}  {wide_bar}  {eta}",
            None => "{msg}  {bytes}  {binary_bytes_per_sec}",
        };
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        Self { bar }
    }

    /// So many more have been copied.
    pub(crate) fn advance(&self, bytes: usize) {
        if self.bar.is_hidden() && self.bar.elapsed() >= PATIENCE && std::io::stderr().is_terminal() {
            self.bar.set_draw_target(ProgressDrawTarget::stderr());
        }
        self.bar.inc(bytes as u64);
    }
}

/// A bar for an image that is pulled: nothing is shown where nobody looks.
#[derive(Debug)]
pub(crate) struct Pulling {
    bar: ProgressBar,
    name: String,
}

impl Pulling {
    pub(crate) fn begin(name: &str) -> Self {
        let bar = if std::io::stderr().is_terminal() { ProgressBar::new(0) } else { ProgressBar::hidden() };
        if let Ok(style) = ProgressStyle::with_template("{msg}  {bytes}/{total_bytes}  {wide_bar}") {
            bar.set_style(style);
        }
        bar.enable_steady_tick(TICK);
        let name = crate::printable::text(name);
        bar.set_message(format!("pulling {name}"));
        Self { bar, name }
    }

    /// So many bytes of all have come, and so many layers of all are unpacked.
    pub(crate) fn at(&self, (bytes, total): (u64, u64), (done, layers): (usize, usize)) {
        self.bar.set_length(total);
        self.bar.set_position(bytes);
        let what = if total > 0 && bytes == total { "unpacking" } else { "pulling" };
        self.bar.set_message(format!("{what} {}, {done} of {layers} layers done", self.name));
    }
}

impl Drop for Pulling {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

impl Drop for Copying {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
