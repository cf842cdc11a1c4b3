//! What a run has shown so far: bounded, and followed while it grows.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use super::message::Shown;

/// What one run may show in all.
const MAX_BYTES: u64 = 16 << 20;
const MAX_COUNT: usize = 1000;

#[derive(Debug, Default)]
struct Kept {
    shown: Vec<Arc<Shown>>,
    bytes: u64,
    dropped: u64,
}

/// Where it is put in.
#[derive(Debug)]
pub(super) struct Showing {
    kept: Arc<Mutex<Kept>>,
    count: watch::Sender<usize>,
}

impl Default for Showing {
    fn default() -> Self {
        Self { kept: Arc::default(), count: watch::Sender::new(0) }
    }
}

/// Where it is read.
#[derive(Debug)]
pub struct Display {
    kept: Arc<Mutex<Kept>>,
    count: watch::Receiver<usize>,
    next: usize,
}

fn lock(kept: &Mutex<Kept>) -> MutexGuard<'_, Kept> {
    kept.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Showing {
    /// Keeps it, without its content where that is too much, and only counts it when there are too many.
    pub(super) fn push(&self, mut shown: Shown) {
        let mut kept = lock(&self.kept);
        if kept.shown.len() >= MAX_COUNT {
            kept.dropped += 1;
            return;
        }
        if kept.bytes + shown.bytes() > MAX_BYTES {
            shown = shown.without_content();
        }
        kept.bytes += shown.bytes();
        kept.shown.push(Arc::new(shown));
        let count = kept.shown.len();
        drop(kept);
        self.count.send_replace(count);
    }

    /// A reader from the beginning.
    pub(super) fn read(&self) -> Display {
        Display { kept: Arc::clone(&self.kept), count: self.count.subscribe(), next: 0 }
    }

    /// All of it, and how much more there was.
    pub(super) fn all(&self) -> (Vec<Arc<Shown>>, u64) {
        let kept = lock(&self.kept);
        (kept.shown.clone(), kept.dropped)
    }
}

impl Display {
    /// The next; `None` when nothing more will come. Cancel-safe.
    pub async fn next(&mut self) -> Option<Arc<Shown>> {
        loop {
            if let Some(shown) = self.next_available() {
                return Some(shown);
            }
            let next = self.next;
            if self.count.wait_for(|count| *count > next).await.is_err() {
                return self.next_available();
            }
        }
    }

    /// The next of what is there already.
    pub fn next_available(&mut self) -> Option<Arc<Shown>> {
        let shown = lock(&self.kept).shown.get(self.next).cloned()?;
        self.next += 1;
        Some(shown)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn of(length: usize) -> Shown {
        Shown { is_value: false, data: BTreeMap::from([("text/plain".to_owned(), "x".repeat(length))]), omitted: BTreeMap::new() }
    }

    #[tokio::test]
    async fn what_is_too_much_is_told_by_its_length_and_then_counted() {
        let showing = Showing::default();
        let mut display = showing.read();
        showing.push(of(MAX_BYTES as usize - 10));
        showing.push(of(1));
        for _ in 2..MAX_COUNT + 3 {
            showing.push(of(0));
        }
        let (all, dropped) = showing.all();
        assert_eq!((all.len(), dropped), (MAX_COUNT, 3));
        assert_eq!((all[0].data.len(), &all[1].omitted), (1, &BTreeMap::from([("text/plain".to_owned(), 1)])));
        drop(showing);
        let mut count = 0;
        while display.next().await.is_some() {
            count += 1;
        }
        assert_eq!(count, MAX_COUNT);
    }
}
