//! Contents as git's binary patches have them: deflated, in base 85, at most 52 bytes a line with their number in front.

use std::io::Read;

use miniz_oxide::{
    MZFlush, MZStatus,
    deflate::{
        core::{CompressorOxide, create_comp_flags_from_zip_params},
        stream::deflate,
    },
};
use sha1::Digest;

use crate::{Entry, Error, Id, Side, output::Output, source::Sources};

const DIGITS: &[u8; 85] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz!#$%&()*+-;<=>?@^_`{|}~";
const LINE: usize = 52;
const CHUNK: usize = 32 << 10;
const LEVEL: i32 = 6;
/// With the head that zlib has.
const ZLIB: i32 = 15;

/// The change from one content to another, and back. An absent one is empty.
pub(crate) fn put(out: &mut Output<'_>, sources: &Sources<'_>, old: Option<&Entry>, new: Option<&Entry>) -> Result<(), Error> {
    out.put("GIT binary patch\n")?;
    literal(out, sources, new.map(|entry| (Side::New, entry)))?;
    literal(out, sources, old.map(|entry| (Side::Old, entry)))
}

fn literal(out: &mut Output<'_>, sources: &Sources<'_>, of: Option<(Side, &Entry)>) -> Result<(), Error> {
    let size = of.map_or(0, |(_, entry)| entry.size);
    out.put(format!("literal {size}\n"))?;
    let mut deflated = Deflated::new();
    if let Some((side, entry)) = of {
        let mut content = sources.open(side, entry)?;
        let mut hash = Id::begin(entry.size);
        let mut chunk = vec![0; CHUNK];
        let mut length = 0;
        loop {
            match content.read(&mut chunk) {
                Ok(0) => break,
                Ok(read) => {
                    length += read as u64;
                    hash.update(&chunk[..read]);
                    deflated.feed(out, &chunk[..read], MZFlush::None)?;
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Error::read(&entry.path, error)),
            }
        }
        if length != entry.size || Id(hash.finalize().into()) != entry.id {
            return Err(Error::changed(&entry.path, side));
        }
    }
    deflated.feed(out, &[], MZFlush::Finish)?;
    deflated.lines(out, 1)?;
    out.put("\n")
}

/// What has been deflated and has no line yet.
struct Deflated {
    compressor: Box<CompressorOxide>,
    bytes: Vec<u8>,
    room: Vec<u8>,
}

impl Deflated {
    fn new() -> Self {
        let flags = create_comp_flags_from_zip_params(LEVEL, ZLIB, 0);
        Self { compressor: Box::new(CompressorOxide::new(flags)), bytes: Vec::new(), room: vec![0; CHUNK] }
    }

    fn feed(&mut self, out: &mut Output<'_>, mut input: &[u8], flush: MZFlush) -> Result<(), Error> {
        loop {
            let step = deflate(&mut self.compressor, input, &mut self.room, flush);
            input = &input[step.bytes_consumed..];
            self.bytes.extend_from_slice(&self.room[..step.bytes_written]);
            self.lines(out, LINE)?;
            let done = match step.status {
                Ok(MZStatus::StreamEnd) => true,
                // Nothing is left to do, as far as can be without the rest.
                Ok(_) => flush == MZFlush::None && input.is_empty() && step.bytes_written < self.room.len(),
                Err(_) => flush == MZFlush::None && input.is_empty(),
            };
            if done {
                return Ok(());
            }
            if step.status.is_err() {
                return Err(Error::Write(std::io::Error::other("deflating failed")));
            }
        }
    }

    /// Writes lines as long as each gets at least so many bytes.
    fn lines(&mut self, out: &mut Output<'_>, least: usize) -> Result<(), Error> {
        let mut begin = 0;
        while self.bytes.len() - begin >= least {
            let end = self.bytes.len().min(begin + LINE);
            out.put(line(&self.bytes[begin..end]))?;
            begin = end;
        }
        self.bytes.drain(..begin);
        Ok(())
    }
}

fn line(bytes: &[u8]) -> Vec<u8> {
    let length = bytes.len() as u8;
    let mut line = vec![if length <= 26 { b'A' + length - 1 } else { b'a' + length - 27 }];
    for group in bytes.chunks(4) {
        let mut four = [0; 4];
        four[..group.len()].copy_from_slice(group);
        let mut number = u32::from_be_bytes(four);
        let mut digits = [0; 5];
        for digit in digits.iter_mut().rev() {
            *digit = DIGITS[(number % 85) as usize];
            number /= 85;
        }
        line.extend(digits);
    }
    line.push(b'\n');
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_those_of_git() {
        // What zlib makes of nothing at its fastest.
        assert_eq!(line(&[0x78, 0x01, 3, 0, 0, 0, 0, 1]), b"HcmV?d00001\n");
        assert_eq!(line(&[0; 52])[0], b'z');
        assert_eq!(line(&[0; 26])[0], b'Z');
        assert_eq!(line(&[0; 27])[0], b'a');
    }
}
