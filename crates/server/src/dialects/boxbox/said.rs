//! What a program has said, as much of it as an answer has.

use caisson_core::Stream;
use caisson_engine::{Captured, Engine, ExecutionResult};

/// Bytes of each stream.
const LONGEST: usize = 100_000;
const CUT: &str = "\n... (output truncated)";

/// One stream as text. What cannot be read of it any more is missing like what is too much.
pub(super) async fn said(engine: &Engine, result: &ExecutionResult, stream: Stream, captured: &Captured) -> String {
    let mut begin = if captured.truncated() { captured.head.to_vec() } else { [&captured.head[..], &captured.tail[..]].concat() };
    let total = captured.total_bytes;
    // An answer may carry less than is asked for here; the log has the rest.
    while begin.len() <= LONGEST && (begin.len() as u64) < total {
        match engine.output(result.execution.id, stream, begin.len() as u64, LONGEST).await {
            Ok(Some(piece)) if piece.offset == begin.len() as u64 && !piece.data.is_empty() => begin.extend_from_slice(&piece.data),
            _ => break,
        }
    }
    cut(&begin, total)
}

/// So many bytes as an answer has of `total`, whole characters, with a word about the rest.
fn cut(bytes: &[u8], total: u64) -> String {
    if bytes.len() <= LONGEST && bytes.len() as u64 == total {
        return String::from_utf8_lossy(bytes).into_owned();
    }
    let mut end = bytes.len().min(LONGEST);
    // The begin of a character has at most three bytes before its last; more of these is no text anyway.
    let goes_on = |at: usize| bytes.get(at).is_some_and(|byte| byte & 0b1100_0000 == 0b1000_0000);
    for _ in 0..3 {
        if goes_on(end) && end > 0 {
            end -= 1;
        }
    }
    String::from_utf8_lossy(&bytes[..end]).into_owned() + CUT
}

/// The text with a line behind it, which begins a line.
pub(super) fn with_line(mut text: String, line: &str) -> String {
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    text + line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_long_is_cut_between_characters() {
        let text = |bytes: &[u8]| cut(bytes, bytes.len() as u64);
        assert_eq!(text(&[b'x'; LONGEST]), "x".repeat(LONGEST));
        assert_eq!(text(&[b'x'; LONGEST + 1]), "x".repeat(LONGEST) + CUT);
        for shift in 0..4 {
            let whole = "y".repeat(shift) + &"\u{1f980}".repeat(30_000);
            let cut = text(whole.as_bytes());
            let kept = cut.strip_suffix(CUT).unwrap();
            assert!(whole.starts_with(kept) && kept.len() <= LONGEST && kept.len() > LONGEST - 4, "{shift}: {}", kept.len());
        }
        assert_eq!(text(b"\xffa"), "\u{fffd}a");
        assert_eq!(cut(b"begin", 9), format!("begin{CUT}"), "the rest is not kept");
    }

    #[test]
    fn a_line_behind_it_is_a_line() {
        for (text, expect) in [("", "end"), ("a", "a\nend"), ("a\n", "a\nend")] {
            assert_eq!(with_line(text.to_owned(), "end"), expect);
        }
    }
}
