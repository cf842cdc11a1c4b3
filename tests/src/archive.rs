//! Tar archives put together header by header, as badly as a test wants them.

/// See the module. Every method adds something behind what is there.
#[derive(Debug, Clone, Default)]
pub struct Archive(Vec<u8>);

const BLOCK: usize = 512;

impl Archive {
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    #[must_use]
    pub fn file(self, name: &[u8], content: &[u8]) -> Self {
        self.header(b'0', name, b"", 0o644, &octal(content.len() as u64)).content(content)
    }

    #[must_use]
    pub fn directory(self, name: &[u8], mode: u32) -> Self {
        self.header(b'5', name, b"", mode, &octal(0))
    }

    /// A symbolic (`2`) or hard (`1`) link.
    #[must_use]
    pub fn link(self, kind: u8, name: &[u8], target: &[u8]) -> Self {
        self.header(kind, name, target, 0o777, &octal(0))
    }

    /// Any header with a right checksum; `size` are the bytes of that field.
    #[must_use]
    pub fn header(mut self, kind: u8, name: &[u8], link: &[u8], mode: u32, size: &[u8]) -> Self {
        let mut block = [0; BLOCK];
        let mut set = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
        set(0, &name[..name.len().min(100)]);
        set(100, format!("{mode:07o}").as_bytes());
        set(108, b"0000000");
        set(116, b"0000000");
        set(124, size);
        set(136, b"07346545000");
        set(148, b"        ");
        set(156, &[kind]);
        set(157, &link[..link.len().min(100)]);
        set(257, b"ustar\x0000");
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        self.0.extend_from_slice(&block);
        self
    }

    /// What belongs to the header before, filled up to a whole block.
    #[must_use]
    pub fn content(mut self, content: &[u8]) -> Self {
        self.0.extend_from_slice(content);
        self.0.resize(self.0.len().next_multiple_of(BLOCK), 0);
        self
    }

    /// An extended header (`x`, or `g` for all that follow).
    #[must_use]
    pub fn extended(self, kind: u8, records: &[(&str, &[u8])]) -> Self {
        let mut text = Vec::new();
        for (name, value) in records {
            let rest = name.len() + value.len() + 3;
            let mut length = rest;
            while length != rest + length.to_string().len() {
                length = rest + length.to_string().len();
            }
            text.extend_from_slice(format!("{length} {name}=").as_bytes());
            text.extend_from_slice(value);
            text.push(b'\n');
        }
        self.header(kind, b"PaxHeaders/x", b"", 0o644, &octal(text.len() as u64)).content(&text)
    }

    /// A long name as GNU writes it: `L` for the next member, `K` for where its link points.
    #[must_use]
    pub fn long(self, kind: u8, name: &[u8]) -> Self {
        let text = [name, b"\0"].concat();
        self.header(kind, b"././@LongLink", b"", 0, &octal(text.len() as u64)).content(&text)
    }

    #[must_use]
    pub fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    /// The two blocks of zeros that belong behind the last member.
    #[must_use]
    pub fn end(self) -> Vec<u8> {
        self.raw(&[0; 2 * BLOCK]).0
    }

    /// Without an end.
    #[must_use]
    pub fn broken_off(self) -> Vec<u8> {
        self.0
    }
}

/// A number as it stands in a size.
#[must_use]
pub fn octal(value: u64) -> Vec<u8> {
    format!("{value:011o}").into_bytes()
}
