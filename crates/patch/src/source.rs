//! Where contents come from.

use std::{fs::File, io, io::Read};

use caisson_tree::open_beneath;
use rustix::{
    fd::OwnedFd,
    fs::{FileType, OFlags, fstat, readlinkat},
};

use crate::{Entry, Error, Id, Side};

const FILE: OFlags = OFlags::RDONLY.union(OFlags::NOFOLLOW).union(OFlags::NONBLOCK).union(OFlags::NOCTTY);
const LINK: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW);

/// Gives contents. What comes is checked against the entry's size and id, so that it need not be right.
pub trait Source {
    /// The content of a file, or where a link points. Bytes beyond the entry's size are not read.
    fn open(&self, entry: &Entry) -> io::Result<Box<dyn Read + '_>>;
}

/// The tree itself.
#[derive(Debug)]
pub struct Directory(OwnedFd);

impl Directory {
    /// Of a directory that is open.
    #[must_use]
    pub fn new(root: OwnedFd) -> Self {
        Self(root)
    }
}

impl Source for Directory {
    fn open(&self, entry: &Entry) -> io::Result<Box<dyn Read + '_>> {
        if entry.is_link() {
            let link = open_beneath(&self.0, &entry.path, LINK)?;
            return Ok(Box::new(io::Cursor::new(readlinkat(&link, c"", Vec::new())?.into_bytes())));
        }
        let file = open_beneath(&self.0, &entry.path, FILE)?;
        if FileType::from_raw_mode(fstat(&file)?.st_mode) != FileType::RegularFile {
            return Err(io::Error::other("it is no ordinary file"));
        }
        Ok(Box::new(File::from(file)))
    }
}

/// The two sources, and which of them is asked.
pub(crate) struct Sources<'a> {
    pub(crate) old: &'a dyn Source,
    pub(crate) new: &'a dyn Source,
}

impl<'a> Sources<'a> {
    pub(crate) fn open(&self, side: Side, entry: &Entry) -> Result<Box<dyn Read + 'a>, Error> {
        let source = match side {
            Side::Old => self.old,
            Side::New => self.new,
        };
        match source.open(entry) {
            // It was there.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(Error::changed(&entry.path, side)),
            Err(error) => Err(Error::read(&entry.path, error)),
            Ok(content) => Ok(Box::new(content.take(entry.size))),
        }
    }

    /// The content as a whole.
    pub(crate) fn load(&self, side: Side, entry: &Entry) -> Result<Vec<u8>, Error> {
        let mut content = Vec::with_capacity(usize::try_from(entry.size).unwrap_or(0));
        self.open(side, entry)?.read_to_end(&mut content).map_err(|error| Error::read(&entry.path, error))?;
        if content.len() as u64 == entry.size && Id::of(&content) == entry.id {
            Ok(content)
        } else {
            Err(Error::changed(&entry.path, side))
        }
    }
}
