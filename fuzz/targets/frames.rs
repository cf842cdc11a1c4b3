//! The frames of `POST /exec`: any bytes, cut anywhere, are the same frames or the same error, and never more than was sent.
#![no_main]

use bytes::BytesMut;
use caisson_wire::frame::{Decoder, Frame, FrameError, Kind, MAX_DATA, MAX_START};
use libfuzzer_sys::fuzz_target;

// The first byte says how long the pieces are; the rest is the stream.
fuzz_target!(|input: &[u8]| {
    let Some((&cut, stream)) = input.split_first() else { return };
    let (whole, error) = read(stream, stream.len().max(1));
    let (pieces, error_in_pieces) = read(stream, usize::from(cut).max(1));
    assert_eq!((&whole, &error), (&pieces, &error_in_pieces));
    let mut again = BytesMut::new();
    for frame in &whole {
        frame.encode_into(&mut again);
    }
    assert!(stream.starts_with(&again), "what was read is not what was sent");
    let rest = &stream[again.len()..];
    match (error, rest) {
        (None, rest) => assert!(rest.is_empty()),
        // Nobody waits for more than a frame of its kind may have.
        (Some(FrameError::Truncated), [kind, a, b, c, d, ..]) => {
            let output = [Kind::Stdout as u8, Kind::Stderr as u8].contains(kind);
            let announced = u32::from_be_bytes([*a, *b, *c, *d]) as usize;
            assert!(announced <= if output { MAX_DATA } else { MAX_START });
        }
        _ => {}
    }
});

fn read(stream: &[u8], length: usize) -> (Vec<Frame>, Option<FrameError>) {
    let mut decoder = Decoder::default();
    let mut frames = Vec::new();
    for piece in stream.chunks(length) {
        decoder.push(piece);
        loop {
            match decoder.next_frame() {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(error) => {
                    assert_eq!(decoder.next_frame(), Err(error), "a broken stream stays broken");
                    return (frames, Some(error));
                }
            }
        }
    }
    (frames, decoder.finish().err())
}
