//! What the driver of a context says: cut anywhere, it is the same messages up to the same end, and what is passed on is bounded.
#![no_main]

use caisson_engine::driver::{Lines, MAX_NAME, MAX_TYPE, MAX_TYPES, MAX_VERSION, Message};
use libfuzzer_sys::fuzz_target;

// The first byte says how long the pieces are; the rest is what it says.
fuzz_target!(|input: &[u8]| {
    let Some((&cut, said)) = input.split_first() else { return };
    let whole = read(said, said.len().max(1));
    assert_eq!(whole, read(said, usize::from(cut).max(1)));
    let (messages, _) = whole;
    assert!(messages.len() <= said.iter().filter(|byte| **byte == b'\n').count());
    for message in &messages {
        match message {
            Message::Ready { version, kernel } => {
                tame(version, MAX_VERSION);
                kernel.iter().for_each(|kernel| tame(kernel, MAX_VERSION));
            }
            Message::Lost { why } => tame(why, MAX_NAME),
            Message::Error(failure) => tame(&failure.name, MAX_NAME),
            Message::Shown(shown) => {
                assert!(shown.data.len() + shown.omitted.len() <= MAX_TYPES);
                assert!(shown.data.keys().chain(shown.omitted.keys()).all(|name| name.len() <= MAX_TYPE));
            }
            Message::Done { exit_code, .. } => assert!(exit_code.is_none_or(|code| (0..=255).contains(&code))),
            Message::NoKernel | Message::Begun { .. } => {}
        }
    }
});

fn tame(text: &str, longest: usize) {
    assert!(text.chars().count() <= longest && !text.contains(char::is_control), "{text:?}");
}

fn read(said: &[u8], length: usize) -> (Vec<Message>, Option<String>) {
    let (mut lines, mut messages) = (Lines::default(), Vec::new());
    for piece in said.chunks(length) {
        lines.push(piece);
        loop {
            match lines.next_message() {
                Ok(Some(message)) => messages.push(message),
                Ok(None) => break,
                Err(error) => return (messages, Some(error)),
            }
        }
    }
    (messages, None)
}
