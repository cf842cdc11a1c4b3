//! Many at a time.

use std::{
    sync::{
        Barrier,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::Result;

use crate::{
    figures::{Figures, heading, promise, row},
    peers::{Peer, Peers},
};

const AT_ONCE: usize = 4;
const BURST: usize = 100;
/// Runs of each peer in one block; the blocks take turns.
const BLOCK: usize = 60;
const BLOCKS: usize = 3;

/// Runs per second, a few at a time without a pause.
pub(crate) fn throughput(peers: &Peers<'_>) -> Result<()> {
    let mut took = vec![Duration::ZERO; peers.all.len()];
    for _ in 0..BLOCKS {
        for (peer, took) in peers.all.iter().zip(&mut took) {
            *took += block(peers, *peer)?;
        }
    }
    println!("\nThroughput, {AT_ONCE} at a time, {} runs each", BLOCK * BLOCKS);
    #[expect(clippy::cast_precision_loss, reason = "a few hundred")]
    let rate = |took: &Duration| (BLOCK * BLOCKS) as f64 / took.as_secs_f64();
    for (peer, took) in peers.all.iter().zip(&took) {
        println!("{:<28}{:>10.1} runs/s", peer.name(), rate(took));
    }
    let of = |wanted| peers.all.iter().zip(&took).find(|(peer, _)| **peer == wanted).map(|(_, took)| rate(took));
    if let (Some(caisson), Some(chroot)) = (of(Peer::Caisson), of(Peer::Chroot)) {
        promise("caisson / chroot", caisson / chroot, 0.9, false);
    }
    if let (Some(caisson), Some(runc)) = (of(Peer::Caisson), of(Peer::Runc)) {
        promise("caisson / runc", caisson / runc, 3.0, false);
    }
    Ok(())
}

fn block(peers: &Peers<'_>, peer: Peer) -> Result<Duration> {
    let left = AtomicUsize::new(BLOCK);
    let begin = Instant::now();
    thread::scope(|scope| {
        let one = || -> Result<()> {
            while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok() {
                peers.run(peer)?;
            }
            Ok(())
        };
        let threads: Vec<_> = (0..AT_ONCE).map(|_| scope.spawn(one)).collect();
        threads.into_iter().try_for_each(|thread| thread.join().unwrap_or_else(|_| Err(anyhow::anyhow!("a thread panicked"))))
    })?;
    Ok(begin.elapsed())
}

/// A hundred that come in the same moment.
pub(crate) fn burst(peers: &Peers<'_>) -> Result<()> {
    heading(&format!("Burst of {BURST} at once, from the common start to each answer"));
    let mut tails = Vec::new();
    for peer in &peers.all {
        let barrier = Barrier::new(BURST + 1);
        let (begin, results): (Instant, Vec<Result<Instant>>) = thread::scope(|scope| {
            let one = || {
                barrier.wait();
                peers.run(*peer)?;
                Ok(Instant::now())
            };
            let threads: Vec<_> = (0..BURST).map(|_| scope.spawn(one)).collect();
            let join = |thread: thread::ScopedJoinHandle<'_, Result<Instant>>| {
                thread.join().unwrap_or_else(|_| Err(anyhow::anyhow!("a thread panicked")))
            };
            let begin = Instant::now();
            barrier.wait();
            (begin, threads.into_iter().map(join).collect())
        });
        let failed = results.iter().filter(|result| result.is_err()).count();
        let times: Vec<Duration> = results.iter().flatten().map(|at| at.duration_since(begin)).collect();
        let figures = Figures::new(times);
        row(peer.name(), &figures);
        if let Some(Err(error)) = results.iter().find(|result| result.is_err()) {
            println!("  {failed} of {BURST} failed, such as: {error:#}");
        }
        tails.push((*peer, figures.at(99)));
    }
    let tail = |wanted| tails.iter().find(|(peer, _)| *peer == wanted).map(|(_, tail)| *tail);
    if let (Some(caisson), Some(runc)) = (tail(Peer::Caisson), tail(Peer::Runc)) {
        promise("caisson / runc, p99", caisson / runc, 0.5, true);
    }
    Ok(())
}
