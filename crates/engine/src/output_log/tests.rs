//! The log against the obvious model: all bytes in one vector.

use proptest::prelude::*;

use super::*;

fn config(dir: &Path, inline_bytes: u64, log_bytes: u64) -> LogConfig {
    LogConfig { logs: dir.to_owned(), inline_bytes, log_bytes }
}

/// Bytes that say where they are.
fn bytes(from: usize, count: usize) -> Vec<u8> {
    (from..from + count).map(|n| (n.wrapping_mul(2_654_435_761) >> 11) as u8).collect()
}

fn kept(total: usize, bytes: u64) -> impl Fn(usize) -> bool {
    let window = Window::of(bytes);
    move |at| (at as u64) < window.head || at as u64 >= window.tail_start(total as u64)
}

fn check_captured(captured: &Captured, all: &[u8], inline: u64) {
    assert_eq!(captured.total_bytes, all.len() as u64);
    assert!(captured.head.len() + captured.tail.len() <= usize::try_from(inline).unwrap());
    assert!(all.starts_with(&captured.head) && all.ends_with(&captured.tail));
    assert_eq!(captured.truncated(), all.len() as u64 > inline);
    if !captured.truncated() {
        assert!(captured.tail.is_empty());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn what_is_read_is_what_was_written(
        inline in 0u64..40,
        log_bytes in 0u64..100,
        writes in prop::collection::vec((0usize..70, any::<bool>()), 0..12),
        reads in prop::collection::vec((0u64..500, 1usize..60), 1..20),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let config = config(dir.path(), inline, log_bytes);
            let id = ExecutionId::random();
            let log = OutputLog::new(&config, id, Lead::Free);
            let mut all = Vec::new();
            for (count, flush) in writes {
                let data = bytes(all.len(), count);
                log.append(Stream::Stdout, &data);
                all.extend(data);
                if flush {
                    log.write(Stream::Stdout).await;
                }
                for (offset, max) in &reads {
                    if let Some(chunk) = log.read(Stream::Stdout, *offset, *max).await.unwrap() {
                        let at = usize::try_from(chunk.offset).unwrap();
                        assert!(chunk.offset >= *offset && !chunk.data.is_empty() && chunk.data.len() <= *max);
                        assert_eq!(&chunk.data[..], &all[at..at + chunk.data.len()]);
                    } else {
                        // Only what the disk does not keep may be missing.
                        let kept = kept(all.len(), log_bytes);
                        assert!((usize::try_from(*offset).unwrap()..all.len()).all(|at| !kept(at)), "{offset} of {}", all.len());
                    }
                }
            }
            let (end, other) = log.finish().await;
            assert_eq!((end.totals.total_bytes, other.totals), (all.len() as u64, StreamTotals::default()));
            assert_eq!(end.totals.dropped_bytes, (all.len() as u64).saturating_sub(log_bytes));
            check_captured(&end.captured, &all, inline);

            // After a restart: the same from the files and the record.
            let (captured, totals) = capture_finished(&config, id, Stream::Stdout, Some(end.totals)).await.unwrap();
            assert_eq!(totals, end.totals);
            assert!(all.starts_with(&captured.head) && all.ends_with(&captured.tail));
            if log_bytes >= inline {
                assert_eq!(captured, end.captured);
            }
            let kept = kept(all.len(), log_bytes);
            let mut expected: Vec<usize> = (0..all.len()).filter(|at| kept(*at)).collect();
            expected.reverse();
            let mut offset = 0;
            while let Some(chunk) = read_finished(dir.path(), id, Stream::Stdout, Some(end.totals), offset, 7).await.unwrap() {
                for (n, byte) in chunk.data.iter().enumerate() {
                    let at = usize::try_from(chunk.offset).unwrap() + n;
                    assert_eq!((expected.pop(), *byte), (Some(at), all[at]));
                }
                offset = chunk.offset + chunk.data.len() as u64;
            }
            assert!(expected.is_empty());
        });
    }
}

#[tokio::test]
async fn a_log_that_cannot_be_written_says_so_and_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let not_a_directory = dir.path().join("file");
    std::fs::write(&not_a_directory, "").unwrap();
    let log = OutputLog::new(&config(&not_a_directory, 8, 100), ExecutionId::random(), Lead::Free);
    log.append(Stream::Stdout, b"0123456789");
    log.write(Stream::Stdout).await;
    log.append(Stream::Stdout, b"abcdef");
    let chunk = log.read(Stream::Stdout, 5, 100).await.unwrap().unwrap();
    assert_eq!(chunk, OutputChunk { offset: 12, data: Bytes::from_static(b"cdef") });
    let (end, _) = log.finish().await;
    assert_eq!(end.totals, StreamTotals { total_bytes: 16, dropped_bytes: 16 });
    assert_eq!((&end.captured.head[..], &end.captured.tail[..]), (&b"0123"[..], &b"cdef"[..]));
    assert!(end.incomplete.is_some());
}

#[tokio::test]
async fn a_log_that_breaks_midway_keeps_its_head() {
    let dir = tempfile::tempdir().unwrap();
    let (config, id) = (config(dir.path(), 2, 16), ExecutionId::random());
    let log = OutputLog::new(&config, id, Lead::Free);
    log.append(Stream::Stdout, b"0123456");
    log.write(Stream::Stdout).await;
    // Where the tail should be, there is something else.
    std::fs::create_dir(dir.path().join(&id.as_str()[3..5]).join(format!("{id}.stdout.tail"))).unwrap();
    log.append(Stream::Stdout, b"789abcdef");
    let (end, _) = log.finish().await;
    assert_eq!(end.totals, StreamTotals { total_bytes: 16, dropped_bytes: 9 });
    std::fs::remove_dir(dir.path().join(&id.as_str()[3..5]).join(format!("{id}.stdout.tail"))).unwrap();
    let first = read_finished(dir.path(), id, Stream::Stdout, Some(end.totals), 0, 100).await.unwrap().unwrap();
    assert_eq!(&first.data[..], b"0123456");
    assert_eq!(read_finished(dir.path(), id, Stream::Stdout, Some(end.totals), 7, 100).await.unwrap(), None);
}

#[tokio::test]
async fn without_a_record_the_head_is_what_is_known() {
    let dir = tempfile::tempdir().unwrap();
    let (config, id) = (config(dir.path(), 2, 16), ExecutionId::random());
    let log = OutputLog::new(&config, id, Lead::Free);
    log.append(Stream::Stderr, b"0123456789");
    log.write(Stream::Stderr).await;
    let (captured, totals) = capture_finished(&config, id, Stream::Stderr, None).await.unwrap();
    assert_eq!((totals.total_bytes, captured.total_bytes), (8, 8));
    assert_eq!(read_finished(dir.path(), id, Stream::Stderr, None, 3, 99).await.unwrap().unwrap().data, &b"34567"[..]);
    assert_eq!(remove(dir.path(), vec![id, ExecutionId::random()]).await, 0);
    assert_eq!(capture_finished(&config, id, Stream::Stderr, None).await.unwrap().1, StreamTotals::default());
}

#[tokio::test]
async fn followers_hear_of_every_byte_and_of_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let log = OutputLog::new(&config(dir.path(), 10, 10), ExecutionId::random(), Lead::Free);
    let mut progress = log.progress();
    assert!(!log.append(Stream::Stderr, b"abc"));
    progress.changed().await.unwrap();
    assert_eq!(*progress.borrow_and_update(), Progress { stderr_bytes: 3, ..Progress::default() });
    assert!(log.has_pending());
    assert!(log.append(Stream::Stdout, &vec![0; WRITE_AT]));
    log.finish().await;
    log.announce_end();
    assert!(progress.borrow().finished && !log.has_pending());
}
