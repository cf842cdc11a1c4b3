//! Extended headers: records of a length, a name and a value, in front of the member they are about.

use rustix::fs::Timespec;

use crate::LeftOuts;

/// What they say of a member, where the header itself says less.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Extension {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) modified: Option<Timespec>,
    pub(super) user: Option<u64>,
    pub(super) group: Option<u64>,
    /// What this program itself left out when it packed.
    pub(super) left_out: LeftOuts,
}

/// Names of records that change what a member is in a way that is not taken.
const SPARSE: &[u8] = b"GNU.sparse.";

impl Extension {
    /// Adds the records of one more header. What is said twice counts the last time.
    pub(super) fn add(&mut self, mut records: &[u8]) -> Result<(), &'static str> {
        const BROKEN: &str = "has an extended header that cannot be read";
        while !records.is_empty() {
            let space = records.iter().take(12).position(|byte| *byte == b' ').ok_or(BROKEN)?;
            let length: usize = digits(&records[..space]).and_then(|length| length.try_into().ok()).ok_or(BROKEN)?;
            if length <= space + 1 || length > records.len() {
                return Err(BROKEN);
            }
            let (record, rest) = records.split_at(length);
            let record = record[space + 1..].strip_suffix(b"\n").ok_or(BROKEN)?;
            let equals = record.iter().position(|byte| *byte == b'=').ok_or(BROKEN)?;
            self.set(&record[..equals], &record[equals + 1..])?;
            records = rest;
        }
        Ok(())
    }

    fn set(&mut self, name: &[u8], value: &[u8]) -> Result<(), &'static str> {
        // An empty value takes back what was said before.
        let bytes = (!value.is_empty()).then(|| value.to_vec());
        match name {
            b"path" => self.path = bytes,
            b"linkpath" => self.link = bytes,
            b"size" => self.size = bytes.map(|_| digits(value).ok_or("has a size that is no number")).transpose()?,
            b"mtime" => self.modified = bytes.map(|_| time(value).ok_or("has a time that is no number")).transpose()?,
            b"uid" => self.user = bytes.map(|_| digits(value).unwrap_or(u64::MAX)),
            b"gid" => self.group = bytes.map(|_| digits(value).unwrap_or(u64::MAX)),
            super::write::LEFT_OUT => {
                let line = value.iter().position(|byte| *byte == b'\n').unwrap_or(value.len());
                self.left_out.add(value.get(line + 1..).unwrap_or_default(), String::from_utf8_lossy(&value[..line]));
            }
            _ if name.starts_with(SPARSE) => return Err(super::read::NO_SPARSE),
            // Other times, extended attributes: nothing of these is taken from any archive.
            _ => {}
        }
        Ok(())
    }

    /// Whether it says anything about a member.
    pub(super) fn is_about_a_member(&self) -> bool {
        self.path.is_some() || self.link.is_some() || self.size.is_some()
    }
}

fn digits(text: &[u8]) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0u64, |value, byte| match byte {
        b'0'..=b'9' => value.checked_mul(10)?.checked_add(u64::from(byte - b'0')),
        _ => None,
    })
}

/// Seconds since 1970 with a fraction.
fn time(text: &[u8]) -> Option<Timespec> {
    let (negative, text) = text.strip_prefix(b"-").map_or((false, text), |rest| (true, rest));
    let dot = text.iter().position(|byte| *byte == b'.');
    let (whole, fraction) = dot.map_or((text, &b""[..]), |at| (&text[..at], &text[at + 1..]));
    let seconds = i64::try_from(digits(whole)?).ok()?;
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let nanoseconds = fraction.iter().chain(b"000000000").take(9).fold(0i64, |value, byte| value * 10 + i64::from(byte - b'0'));
    Some(match (negative, nanoseconds) {
        (false, _) => Timespec { tv_sec: seconds, tv_nsec: nanoseconds },
        (true, 0) => Timespec { tv_sec: -seconds, tv_nsec: 0 },
        (true, _) => Timespec { tv_sec: -seconds - 1, tv_nsec: 1_000_000_000 - nanoseconds },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(records: &[u8]) -> Result<Extension, &'static str> {
        let mut extension = Extension::default();
        extension.add(records).map(|()| extension)
    }

    #[test]
    fn records_are_read_to_the_byte() {
        let extension = read(b"12 path=a=b\n13 path=a\nb\xff\n9 size=5\n16 comment=x y z\n").unwrap_err();
        assert_eq!(extension, "has an extended header that cannot be read", "a length that does not fit");
        let extension = read(b"12 path=a=b\n12 path=a\n\xff\n10 size=5\n17 comment=x y z\n").unwrap();
        assert_eq!((extension.path.as_deref(), extension.size), (Some(&b"a\n\xff"[..]), Some(5)));
        assert!(read(b"8 path=\n").unwrap().path.is_none());
        for bad in [&b"0 a=b\n"[..], b"99 a=b\n", b"6 a=bx", b"6 a-b\n", b"a", b"18446744073709551616 a=b\n", b"-6 a=b\n"] {
            assert!(read(bad).is_err(), "{bad:?}");
        }
        assert!(read(b"11 size=-5\n").is_err() && read(b"29 size=99999999999999999999\n").is_err());
        assert_eq!(read(b"22 GNU.sparse.major=1\n").unwrap_err(), super::super::read::NO_SPARSE);
    }

    #[test]
    fn times_have_fractions_and_signs() {
        let spec = |tv_sec, tv_nsec| Some(Timespec { tv_sec, tv_nsec });
        for (text, value) in [
            ("12", spec(12, 0)),
            ("12.5", spec(12, 500_000_000)),
            ("12.1234567899", spec(12, 123_456_789)),
            ("-1.25", spec(-2, 750_000_000)),
            ("-3", spec(-3, 0)),
            ("", None),
            ("1e9", None),
            ("1.x", None),
            ("--1", None),
        ] {
            assert_eq!(time(text.as_bytes()), value, "{text}");
        }
    }
}
